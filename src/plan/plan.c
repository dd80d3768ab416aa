/* A plan of a job on one grid, or of a run on many: checked, its data read, and each method planned
 * on all stages. */
#include "mpilora/stages.h"
#include "plan/stages.h"
#include "session/session.h"

/* ---- a job --------------------------------------------------------------------------------- */

/* In the activation mode that the run would choose. */
static ml_status plan_chosen(const ml_plan *plan, ml_plan_method *out, ml_method method,
                             const plan_job *j)
{
    plan_micro all = {.micro = j->config[0].batch.micro};
    ml_activation_mode mode;
    ml_status st = plan_stages(plan, method, j, 1, &all);
    if (st != ML_OK) return st;
    bool fits = ml_session_choose_activations(&j->config[0], all.mode[0].need, &mode);
    *out = all.mode[mode];
    out->fits = fits;
    return ML_OK;
}

/* The cores of a node shared out among its ranks, one at least. */
static int share_of_cores(const ml_machine *machine, int ranks, int nodes)
{
    return (int)ml_max(1, machine->cores / ml_part_count(ranks, nodes, 0));
}

static ml_status check_grid(const ml_run_config *c, int ranks, int nodes)
{
    int tp = (int)c->parallel.tp;
    if (ranks < 1 || ranks % tp != 0)
        return ml_run_config_refuse(c, "parallel.tp",
                                    "%d does not divide %d ranks; plan for a multiple of %d", tp,
                                    ranks, tp);
    ml_status st = ml_grid_check_shape(ranks, ml_session_grid_shape(c));
    if (st != ML_OK) return st;
    if (nodes < 1 || nodes > ranks)
        return ml_fail(ML_USAGE, "--nodes: %d, expected 1 to the number of ranks, %d", nodes,
                       ranks);
    return ML_OK;
}

/* On the grid that the configuration makes of these ranks. */
static ml_status begin(ml_plan *out, const ml_run_config *c, int ranks, int nodes)
{
    *out = (ml_plan){.ranks = ranks,
                     .nodes = nodes,
                     .tp = (int)c->parallel.tp,
                     .cp = (int)c->parallel.cp,
                     .pp = (int)c->parallel.pp,
                     .numerics = c->numerics,
                     .runtime_floor_bytes = ml_memory_process_now()};
    ml_status st = check_grid(c, ranks, nodes);
    if (st == ML_OK) out->dp = ranks / out->tp / out->cp / out->pp;
    return st;
}

/* Whether the sequences can be shared out so. */
static ml_status check_shares(const ml_run_config *c, int dp, const plan_source *s)
{
    if (c->parallel.cp == 1) return ML_OK;
    ml_status st = ml_shares_check_config(c, &s->spec, true);
    return st == ML_OK ? ml_shares_check_length(c, dp, plan_source_longest(s)) : st;
}

/* Full fine-tuning of the first run, which stands beside all of them whatever can be run: where
 * numerics: grid knows it not on this grid, as it is under fast. */
static ml_status plan_full(ml_plan *out, const plan_job *j)
{
    ml_run_config c = j->config[0]; /* borrows all of it */
    const plan_job alone = {1, &c, j->source};
    ml_status st = plan_chosen(out, &out->method[1], ML_METHOD_FULL, &alone);
    if (st != ML_USAGE || c.method.name == ML_METHOD_FULL || !ml_run_config_is_exact(&c)) return st;
    ml_error_clear();
    c.numerics = ML_NUMERICS_FAST;
    return plan_chosen(out, &out->method[1], ML_METHOD_FULL, &alone);
}

static ml_status plan_all(ml_plan *out, const plan_job *j)
{
    ml_status st = ML_OK;
    const ml_run_config *c = &j->config[0];
    for (int64_t i = 0; i < j->count; i++) {
        ML_TRY(ml_session_check_replicas(&j->config[i], out->dp));
        ML_TRY(plan_source_open(&j->source[i], &j->config[i]));
        ML_TRY(ml_stages_check(&j->source[i].spec, out->pp));
        ML_TRY(check_shares(&j->config[i], out->dp, &j->source[i]));
        ML_TRY(plan_source_find_tokens(&j->source[i], &j->config[i], out->dp));
        out->tokens += j->source[i].tokens;
    }
    ML_TRY(plan_chosen(out, &out->method[0],
                       c->method.name == ML_METHOD_FULL ? ML_METHOD_LORA : c->method.name, j));
    ML_TRY(plan_full(out, j));
done:
    return st;
}

ml_status ml_plan_create_on(ml_plan *out, const ml_run_config *c, int ranks, int nodes,
                            const ml_machine *machine, int threads, const ml_model_spec *model)
{
    ml_run_config own = *c; /* borrows all of it */
    plan_source s = {.model = model, .machine = machine, .settles = &own};
    const plan_job j = {1, &own, &s};
    ml_status st = begin(out, c, ranks, nodes);
    if (st != ML_OK) return st;
    if (machine) {
        out->threads = threads > 0 ? threads : share_of_cores(machine, ranks, nodes);
        out->measured_threads = machine->threads;
    }
    st = plan_all(out, &j);
    plan_source_close(&s);
    return st;
}

ml_status ml_plan_create(ml_plan *out, const ml_run_config *c, int ranks, int nodes)
{
    return ml_plan_create_on(out, c, ranks, nodes, NULL, 0, NULL);
}

ml_status ml_plan_create_together(ml_plan *out, int64_t count, const ml_run_config *config,
                                  int ranks, int nodes, const ml_model_spec *model)
{
    ml_status st = ML_OK;
    plan_source *sources = NULL;
    ML_TRY(begin(out, config, ranks, nodes));
    for (int64_t i = 0; i < count; i++)
        for (int64_t k = 0; k <= i; k++)
            ML_TRY(ml_run_config_check_together(&config[k], &config[i]));
    ML_NEW(sources, count, ML_MEM_OTHER, "what is read for a plan");
    for (int64_t i = 0; i < count; i++) sources[i].model = model;
    ML_TRY(plan_all(out, &(plan_job){count, config, sources}));
done:
    for (int64_t i = 0; sources && i < count; i++) plan_source_close(&sources[i]);
    ml_memory_free(sources);
    return st;
}

/* ---- one run on many grids ----------------------------------------------------------------- */

struct plan_run {
    ml_run_config config; /* borrows all of it; the data may choose its objective */
    plan_source source;
};

ml_status plan_run_open(plan_run **out, const ml_run_config *c, const ml_machine *machine,
                        const ml_model_spec *model)
{
    ml_status st = ML_OK;
    plan_run *run = NULL;
    ML_NEW(run, 1, ML_MEM_OTHER, "a plan");
    run->config = *c;
    run->source = (plan_source){.model = model, .machine = machine, .settles = &run->config};
    ML_TRY(plan_source_open(&run->source, &run->config));
    *out = run;
    run = NULL;
done:
    plan_run_close(run);
    return st;
}

void plan_run_close(plan_run *run)
{
    if (!run) return;
    plan_source_close(&run->source);
    ml_memory_free(run);
}

const ml_model_spec *plan_run_spec(const plan_run *run) { return &run->source.spec; }

int64_t plan_run_shares_most(const plan_run *run)
{
    ml_run_config c = run->config;
    c.parallel.cp = 2;
    if (ml_shares_check_config(&c, &run->source.spec, true) == ML_OK)
        return ml_shares_most(&c, plan_source_longest(&run->source));
    ml_error_clear();
    return 1;
}

ml_status plan_run_on(plan_run *run, ml_plan *grid, ml_method method, int64_t count,
                      plan_micro *micro)
{
    int64_t possible = 0;
    ml_run_config c = run->config;
    grid->dp = grid->ranks / grid->tp / grid->cp / grid->pp;
    grid->threads = share_of_cores(run->source.machine, grid->ranks, grid->nodes);
    c.parallel.tp = grid->tp;
    c.parallel.cp = grid->cp;
    c.parallel.pp = grid->pp;
    for (; possible < count; possible++) {
        plan_micro *next = &micro[possible];
        c.batch.micro = next->micro;
        if (plan_source_find_tokens(&run->source, &c, grid->dp) == ML_OK) continue;
        snprintf(next->why, sizeof next->why, "%.*s", ML_PLAN_WHY - 1, ml_error_text());
        ml_error_clear();
        break;
    }
    c.batch.micro = micro[0].micro;
    return possible == 0
               ? ML_OK
               : plan_stages(grid, method, &(plan_job){1, &c, &run->source}, possible, micro);
}
