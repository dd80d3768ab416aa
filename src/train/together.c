/* Runs that train together on one copy of the frozen weights (session/together.h): every step of
 * the job is one of each run that is not at its end. A run keeps what it has alone: its directory
 * with lock, checkpoints and metrics, its data's order, its schedule, its end. One whose numbers
 * are none any more ends by itself; the others go on. */
#include <inttypes.h>

#include "mpilora/train.h"
#include "train/run.h"

typedef struct group {
    int64_t count;
    run *runs;
    session **session;
    bool *found;  /* a checkpoint, of each run */
    run **active; /* those that train, and their numbers */
    int64_t *number, actives;
    int64_t failures;
    ml_text failure; /* of the first one */
    ml_together *together;
} group;

static ml_status create(group *g, int64_t count)
{
    ml_status st = ML_OK;
    g->count = count;
    ML_NEW(g->runs, count, ML_MEM_OTHER, "runs");
    ML_NEW(g->session, count, ML_MEM_OTHER, "runs");
    ML_NEW(g->found, count, ML_MEM_OTHER, "runs");
    ML_NEW(g->active, count, ML_MEM_OTHER, "runs");
    ML_NEW(g->number, count, ML_MEM_OTHER, "runs");
    for (int64_t i = 0; i < count; i++) g->session[i] = &g->runs[i].session;
done:
    return st;
}

static void destroy(group *g)
{
    ml_together_destroy(g->together);
    for (int64_t i = g->count; g->runs && i-- > 0;) run_close(&g->runs[i]); /* the host is last */
    ml_memory_free(g->runs);
    ml_memory_free(g->session);
    ml_memory_free(g->found);
    ml_memory_free(g->active);
    ml_memory_free(g->number);
    ml_text_destroy(&g->failure);
}

/* ---- runs that leave ----------------------------------------------------------------------- */

/* The run is over, though the job is not. */
static void leave(group *g, int64_t i)
{
    prometheus_close(g->active[i]);
    for (g->actives--; i < g->actives; i++) {
        g->active[i] = g->active[i + 1];
        g->number[i] = g->number[i + 1];
    }
}

/* A run that has come to a number that is none; what it has saved stays. */
static ml_status note_failure(group *g, int64_t i, const char *why)
{
    ml_status st = ML_OK;
    run *r = g->active[i];
    ml_warn("%s%s", run_label(r), why);
    if (g->failures++ == 0) st = ml_text_printf(&g->failure, "%s%s", run_label(r), why);
    return ml_grid_agree(r->session.grid, st);
}

/* Does `act` for every run that trains. One that comes to a number that is none, or whose act says
 * *gone, leaves; the others go on. */
static ml_status for_each(group *g, ml_status (*act)(group *g, int64_t i, void *of, bool *gone),
                          void *of)
{
    for (int64_t i = 0; i < g->actives;) {
        bool gone = false;
        ml_together_choose(g->together, g->number[i]);
        ml_status st = act(g, i, of, &gone);
        if (st == ML_NUMERIC) {
            st = note_failure(g, i, ml_error_text());
            gone = true;
        }
        if (st != ML_OK) return st;
        if (gone)
            leave(g, i);
        else
            i++;
    }
    return ML_OK;
}

/* ---- start --------------------------------------------------------------------------------- */

/* What went wrong with one run, under its name where it does not begin with it. */
static ml_status of_run(const run *r, ml_status st)
{
    const char *dir = r->config->run_dir;
    if (st == ML_OK || !dir || !strncmp(ml_error_text(), dir, strlen(dir))) return st;
    return ml_fail_within(st, "%s", dir);
}

static ml_status open_sessions(group *g, const ml_run_config *config)
{
    ml_status st = ML_OK;
    for (int64_t i = 0; i < g->count; i++)
        ML_TRY(of_run(&g->runs[i], ml_run_config_check_training(&config[i])));
    ML_TRY(of_run(&g->runs[0], ml_session_open(g->session[0], g->runs[0].config, true)));
    for (int64_t i = 1; i < g->count; i++)
        ML_TRY(of_run(&g->runs[i],
                      ml_session_open_beside(g->session[i], g->runs[i].config, g->session, i)));
    for (int64_t i = 0; i < g->count; i++) run_take_settled(&g->runs[i]);
    ML_TRY(ml_together_create(&g->together, g->count, g->session));
    for (int64_t i = 0; i < g->count; i++) {
        ML_TRY(of_run(&g->runs[i], ml_grid_agree(g->session[0]->grid, run_prepare(&g->runs[i]))));
        g->session[0]->tokens = ml_max(g->session[0]->tokens, g->session[i]->tokens);
    }
done:
    return st;
}

static ml_status open_directories(group *g)
{
    ml_status st = ML_OK;
    for (int64_t i = 0; i < g->count; i++) ML_TRY(of_run(&g->runs[i], run_read_start(&g->runs[i])));
    for (int64_t i = 0; i < g->count; i++) {
        run *r = &g->runs[i];
        ML_TRY(of_run(r, run_open_directory(r, &g->found[i])));
        if (run_is_finished(r)) continue;
        g->number[g->actives] = i;
        g->active[g->actives++] = r;
    }
done:
    return st;
}

/* `of`: the bytes that all runs together were predicted to take. */
static ml_status begin(group *g, int64_t i, void *of, bool *gone)
{
    run *r = g->active[i];
    *gone = false;
    memcpy(r->predicted, of, sizeof r->predicted);
    return run_begin(r, g->found[g->number[i]]);
}

/* The paths of the first run that has a checkpoint are all runs'. */
static ml_status build(group *g)
{
    ml_status st = ML_OK;
    int64_t bytes[ML_MEM_CATEGORIES] = {0}, chosen = 0;
    const char *product, *vector;
    for (int64_t i = g->actives; i-- > 0;)
        if (g->found[g->number[i]]) chosen = i;
    choose_paths(g->active[chosen], g->found[g->number[chosen]], &product, &vector);
    ml_together_predict(g->together, product, vector, bytes);
    ML_TRY(ml_together_build(g->together, product, vector));
    ML_TRY(for_each(g, begin, bytes));
    ML_TRY(print_binding(g->session[0]));
done:
    return st;
}

/* ---- steps --------------------------------------------------------------------------------- */

/* What a step has left for the runs that took part in it, in their order. */
typedef struct outcome {
    const step_result *result;
    const ml_text *failed;
    bool *stop;
} outcome;

/* The end of a run's steps. Where a signal comes meanwhile the run is saved and stays with the
 * others, who are to be saved as well. */
static ml_status finish(run *r, bool *stop, bool *gone)
{
    ml_status st = run_finish(r);
    *gone = st == ML_OK;
    if (st != ML_STOPPED) return st;
    ml_error_clear();
    *stop = true;
    return ML_OK;
}

/* After a step: what is due for run i, which may come to its end with it. */
static ml_status go_on(group *g, int64_t i, void *of, bool *gone)
{
    ml_status st = ML_OK;
    outcome *o = of;
    run *r = g->active[i];
    const step_result *result = o->result++;
    const ml_text *failed = o->failed++;
    bool stops = false;
    if (failed->length > 0) return ml_fail(ML_NUMERIC, "%s", failed->data);
    st = run_after_step(r, result, &stops);
    *o->stop = *o->stop || stops;
    return st == ML_OK && run_is_done(r) ? finish(r, o->stop, gone) : st;
}

static ml_status one_step(group *g, step_result *result, ml_text *failed, bool *stop)
{
    ml_status st = ML_OK;
    const step_group all = {g->actives, g->count, g->active, g->number, g->together};
    outcome of = {result, failed, stop};
    ML_TRY(run_steps_together(&all, result, failed));
    if (result[0].given_up)
        *stop = true;
    else
        ML_TRY(for_each(g, go_on, &of));
done:
    return st;
}

/* What belongs before the first step of this start; `of`: whether to stop. */
static ml_status before_steps(group *g, int64_t i, void *of, bool *gone)
{
    bool *stop = of, stops = false;
    *gone = false;
    ml_status st = run_before_steps(g->active[i], &stops);
    *stop = *stop || stops;
    return st;
}

/* A run whose steps were all done by an earlier start; `of`: whether to stop. */
static ml_status finish_done(group *g, int64_t i, void *of, bool *gone)
{
    return run_is_done(g->active[i]) ? finish(g->active[i], of, gone) : ML_OK;
}

/* Saves all of them, also where one cannot be saved, whose status and text are those of the job. */
static ml_status stop_all(group *g)
{
    ml_status st = ML_STOPPED;
    ml_text why = {0};
    for (int64_t i = 0; i < g->actives; i++) {
        ml_together_choose(g->together, g->number[i]);
        ml_status own = run_stop(g->active[i]);
        if (own == ML_STOPPED || st != ML_STOPPED) continue;
        st = own;
        if (ml_text_printf(&why, "%s", ml_error_text()) != ML_OK) break;
    }
    if (why.length > 0) st = ml_fail(st, "%s", why.data);
    ml_text_destroy(&why);
    return st;
}

static ml_status steps(group *g)
{
    ml_status st = ML_OK;
    ml_text *failed = NULL;
    step_result *result = NULL;
    bool stop = false;
    ML_NEW(result, g->count, ML_MEM_OTHER, "steps");
    ML_NEW(failed, g->count, ML_MEM_OTHER, "steps");
    ML_TRY(for_each(g, before_steps, &stop));
    if (!stop) ML_TRY(for_each(g, finish_done, &stop));
    while (g->actives > 0 && !stop) ML_TRY(one_step(g, result, failed, &stop));
    if (stop && g->actives > 0) ML_TRY(stop_all(g));
done:
    for (int64_t i = 0; failed && i < g->count; i++) ml_text_destroy(&failed[i]);
    ml_memory_free(result);
    ml_memory_free(failed);
    return st;
}

ml_status ml_train_together(int64_t count, const ml_run_config *config,
                            const ml_train_options *options)
{
    ml_status st = ML_OK;
    group g = {0};
    ml_train_catch_signals();
    ML_TRY(create(&g, count));
    for (int64_t i = 0; i < count; i++) {
        run_init(&g.runs[i], &config[i], &options[i]);
        g.runs[i].among_others = true;
    }
    ML_TRY(open_sessions(&g, config));
    ML_TRY(open_directories(&g));
    if (g.actives == 0) goto done;
    ML_TRY(build(&g));
    ML_TRY(steps(&g));
    if (g.failures > 0)
        st = ml_fail(ML_NUMERIC, "%" PRId64 " of %" PRId64 " runs ended early: %s", g.failures,
                     count, g.failure.data);
done:
    destroy(&g);
    return st;
}
