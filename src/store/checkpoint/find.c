/* Finding the checkpoint to go on from: newest first; bad ones and foreign ones step aside; never
 * a silent fresh start. */
#include <inttypes.h>

#include "store/checkpoint/run_directory.h"

typedef struct search {
    ml_run_directory *run;
    const ml_checkpoint_state *state;
    int64_t *steps, count; /* committed, ascending */
    enum { UNSEEN, BAD, FOREIGN } * verdict;
    int64_t chosen;     /* index, or −1 */
    char refused[2048]; /* why the newest foreign one does not fit */
    bool is_ours;       /* it is this run's, which has changed the key: its steps are not undone */
} search;

/* ML_OK: take it; ML_USAGE: whole, but of another run; ML_INPUT with *bad: bad; any other failure
 * says nothing about it. */
static ml_status judge(search *s, int64_t step, bool *bad)
{
    ml_status st = ML_OK;
    json_t *manifest = NULL;
    ML_TRY(ml_step_check(s->run, step, &manifest, bad));
    st = ml_manifest_compare(manifest, s->state);
    if (st == ML_USAGE) s->is_ours = ml_manifest_has_changed(manifest, s->state);
    if (st != ML_OK) goto done;
    json_decref(s->run->chosen);
    s->run->chosen = manifest;
    manifest = NULL;
done:
    json_decref(manifest);
    return st;
}

/* A checkpoint that cannot be read now may be read tomorrow: it is neither taken nor moved, and an
 * older one would silently undo its steps. */
static ml_status unreadable(int64_t step, ml_status st)
{
    char reason[1024];
    snprintf(reason, sizeof reason, "%s", ml_error_text());
    return ml_fail(st,
                   "checkpoint of step %" PRId64
                   " cannot be read now, and nothing was changed: %s; try again, or move its "
                   "directory away to go on from an older one",
                   step, reason);
}

static ml_status walk_down(search *s)
{
    ml_status st = ML_OK;
    ML_NEW(s->verdict, s->count, ML_MEM_OTHER, "the list of checkpoints");
    for (int64_t i = s->count - 1; i >= 0 && s->chosen < 0; i--) {
        bool bad = false;
        st = judge(s, s->steps[i], &bad);
        if (st == ML_OK) {
            s->chosen = i;
        } else if (st == ML_USAGE) {
            s->verdict[i] = FOREIGN;
            if (!s->refused[0]) snprintf(s->refused, sizeof s->refused, "%s", ml_error_text());
            if (s->is_ours) break;
        } else if (bad) {
            s->verdict[i] = BAD;
            ml_warn("checkpoint of step %" PRId64 " is bad (%s): set aside", s->steps[i],
                    ml_error_text());
        } else {
            return unreadable(s->steps[i], st);
        }
    }
    st = ML_OK;
done:
    return st;
}

/* Oldest first, so that the newest of them are those that set-aside/ keeps. */
static ml_status move_aside(const search *s)
{
    ml_status st = ML_OK;
    for (int64_t i = 0; i < s->count; i++) {
        if (s->verdict[i] == FOREIGN && s->chosen >= 0) {
            ml_warn("checkpoint of step %" PRId64 " is of another run (%s): set aside", s->steps[i],
                    s->refused);
            ML_TRY(ml_step_set_aside(s->run, s->steps[i], "bad"));
        } else if (s->verdict[i] == BAD) {
            ML_TRY(ml_step_set_aside(s->run, s->steps[i], "bad"));
        }
    }
done:
    return st;
}

/* Nothing to go on from: right only where nothing was ever committed. */
static ml_status refuse_lost(const search *s)
{
    ml_status st = ML_OK;
    char latest[ML_DURABLE_PATH];
    bool aside, hint;
    ML_TRY(ml_durable_path(latest, "%s/latest", s->run->checkpoints));
    ML_TRY(ml_step_has_set_aside(s->run, "bad", &aside));
    ML_TRY(ml_durable_find(latest, &hint));
    if (s->count > 0 || aside)
        return ml_fail(ML_INPUT,
                       "%s: all checkpoints are bad (see set-aside/ there); restore one, or use "
                       "--fresh to start over",
                       s->run->checkpoints);
    if (hint)
        return ml_fail(ML_INPUT,
                       "%s: `latest` names a checkpoint, but none is there; restore one, or use "
                       "--fresh to start over",
                       s->run->checkpoints);
done:
    return st;
}

/* The step that `latest` names, or −1. It was committed: if its manifest is gone, it was lost, for
 * what is deleted is older. */
static int64_t named_step(const ml_run_directory *run)
{
    enum { LONGEST = 64 };
    char path[ML_DURABLE_PATH], *text = NULL;
    int64_t length;
    long long step = -1;
    if (ml_durable_path(path, "%s/latest", run->checkpoints) != ML_OK ||
        ml_durable_read(path, LONGEST, &text, &length) != ML_OK)
        return -1;
    if (sscanf(text, "step-%lld", &step) != 1) step = -1;
    ml_memory_free(text);
    return step;
}

/* What killed saves left: directories without a manifest, temporary files beside one. */
static ml_status clean_up(const ml_run_directory *run)
{
    ml_status st = ML_OK;
    char path[ML_DURABLE_PATH];
    int64_t *steps = NULL, count = 0, named = named_step(run);
    ML_TRY(ml_steps_list(run, false, &steps, &count));
    for (int64_t i = 0; i < count; i++) {
        if (steps[i] == named) {
            ml_warn("checkpoint of step %" PRId64 " has lost its %s: set aside", steps[i],
                    ml_manifest_name);
            ML_TRY(ml_step_set_aside(run, steps[i], "bad"));
        } else {
            ML_TRY(ml_step_remove(run, steps[i]));
        }
    }
    ml_memory_free(steps);
    steps = NULL;
    ML_TRY(ml_steps_list(run, true, &steps, &count));
    for (int64_t i = 0; i < count; i++) {
        ML_TRY(ml_step_path(run, steps[i], "", path));
        ML_TRY(ml_durable_clean(path));
    }
done:
    ml_memory_free(steps);
    return st;
}

static ml_status find_here(ml_run_directory *run, const ml_checkpoint_state *state,
                           ml_checkpoint_progress *progress, bool *found)
{
    ml_status st = ML_OK;
    search s = {.run = run, .state = state, .chosen = -1};
    ML_TRY(ml_steps_list(run, true, &s.steps, &s.count));
    ML_TRY(walk_down(&s));
    ML_TRY(move_aside(&s));
    if (s.chosen >= 0) {
        ml_manifest_progress(run->chosen, progress);
        if (state->changes) ML_TRY(ml_manifest_changes(run->chosen, state, state->changes));
    } else if (s.refused[0]) {
        st = ml_fail(ML_USAGE, "%s", s.refused);
        goto done;
    } else {
        ML_TRY(refuse_lost(&s));
    }
    ML_TRY(clean_up(run));
    *found = s.chosen >= 0;
done:
    ml_memory_free(s.verdict);
    ml_memory_free(s.steps);
    return st;
}

ml_status ml_checkpoint_find(ml_run_directory *run, const ml_grid *grid, ml_checkpoint_state *state,
                             bool *found)
{
    struct {
        ml_checkpoint_progress progress;
        bool found;
    } message = {.progress = state->progress};
    ml_status st =
        ml_grid_rank(grid) == 0 ? find_here(run, state, &message.progress, &message.found) : ML_OK;
    st = ml_grid_agree(grid, st);
    if (st != ML_OK) return st;
    ml_grid_broadcast(grid, ML_GROUP_WORLD, 0, &message, (int64_t)sizeof message);
    *found = message.found;
    if (message.found) state->progress = message.progress;
    return ML_OK;
}

ml_status ml_checkpoint_reject(ml_run_directory *run, const ml_grid *grid, int64_t step)
{
    return ml_grid_agree(grid,
                         ml_grid_rank(grid) == 0 ? ml_step_set_aside(run, step, "bad") : ML_OK);
}
