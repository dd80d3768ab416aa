/* A save from begin to settle: which way it goes, and its two halves. */
#include "store/checkpoint/state_file.h"

/* An adapter's state is one file where it fits: gathered, so that it is the same bytes from any
 * grid, and held in memory while a thread writes it. */
static const int64_t largest_gathered = (int64_t)1000 << 20;

static bool is_gathered(const ml_parameters *p, bool full)
{
    int64_t floats = 0;
    for (int64_t i = 0; i < p->count; i++) floats += p->items[i].rows * p->items[i].cols;
    return !full && ml_checkpoint_bytes(floats) <= largest_gathered;
}

int64_t ml_checkpoint_bytes(int64_t global)
{
    return ML_STATE_KINDS * (int64_t)sizeof(float) * global;
}

int ml_checkpoint_writers(const ml_parameters *p, bool full, int tp)
{
    return is_gathered(p, full) ? 1 : tp;
}

int64_t ml_checkpoint_memory(const ml_parameters *p, bool full, int tp, int tp_rank)
{
    if (is_gathered(p, full)) return tp_rank == 0 ? ml_save_gathered_memory(p) : 0;
    return ml_save_parts_memory(p, tp, tp_rank);
}

/* Files that are not held in memory are written when this returns: a state beyond one file would
 * be held as a whole. */
ml_status ml_checkpoint_begin(ml_run_directory *run, const ml_grid *grid,
                              const ml_parameters *parameters, const ml_checkpoint_state *state,
                              int64_t keep, bool beside)
{
    ml_status st = ML_OK;
    double since = ml_seconds();
    bool gathered = is_gathered(parameters, state->full), writer = ml_grid_rank(grid) == 0,
         committed = false;
    ml_save s = {.run = run, .grid = grid, .p = parameters, .state = state};
    if (run->saving)
        return ml_fail(ML_INTERNAL, "a save was begun before the one before it was settled");
    ML_TRY(ml_grid_agree(grid, writer ? ml_writing_create(&s.writing, run, state, keep) : ML_OK));
    if (writer) committed = ml_writing_is_committed(s.writing);
    ml_grid_broadcast(grid, ML_GROUP_WORLD, 0, &committed, (int64_t)sizeof committed);
    if (!committed) ML_TRY(gathered ? ml_save_gathered(&s) : ml_save_parts(&s));
    run->saving = true;
    run->writing = s.writing;
    if (writer) ml_writing_start(s.writing, beside && gathered && !committed);
    s.writing = NULL;
    run->waited = ml_seconds() - since;
done:
    if (s.writing) st = ml_writing_end(s.writing, st, NULL);
    return st;
}

bool ml_checkpoint_has_ended(const ml_run_directory *run)
{
    return run->writing && ml_writing_has_ended(run->writing);
}

ml_status ml_checkpoint_settle(ml_run_directory *run, const ml_grid *grid,
                               ml_checkpoint_report *report)
{
    ml_status st = ML_OK;
    double since = ml_seconds();
    ml_checkpoint_report own = {0};
    if (report) *report = own;
    if (!run->saving) return ML_OK;
    if (run->writing) st = ml_writing_end(run->writing, ML_OK, &own);
    run->writing = NULL;
    run->saving = false;
    st = ml_grid_agree(grid, st);
    if (st != ML_OK) return st;
    ml_grid_broadcast(grid, ML_GROUP_WORLD, 0, &own, (int64_t)sizeof own);
    own.waited = run->waited + ml_seconds() - since;
    if (report) *report = own;
    return ML_OK;
}

ml_status ml_checkpoint_save(ml_run_directory *run, const ml_grid *grid,
                             const ml_parameters *parameters, const ml_checkpoint_state *state,
                             int64_t keep, ml_checkpoint_report *report)
{
    ml_status st = ml_checkpoint_begin(run, grid, parameters, state, keep, false);
    return st == ML_OK ? ml_checkpoint_settle(run, grid, report) : st;
}
