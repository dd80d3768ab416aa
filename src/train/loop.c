/* A run from its start, or from its newest checkpoint, to its end: the files are prepared, then
 * steps follow each other with evaluations and saves where they are due, until the last step, a
 * signal or the end of the job's time. */
#include <inttypes.h>
#include <math.h>

#include "io/durable.h"
#include "mpilora/train.h"
#include "train/run.h"

/* ---- checkpoints --------------------------------------------------------------------------- */

/* The newest checkpoint's progress into r; *found false: a new run. */
static ml_status look_for_checkpoint(run *r, bool *found)
{
    ml_checkpoint_state state = {.identities = r->identities,
                                 .identity = r->identity,
                                 .allowed = r->options->allowed,
                                 .allow = r->options->allow,
                                 .changes = &r->changes};
    ml_status st = ml_checkpoint_find(r->directory, r->session.grid, &state, found);
    if (st != ML_OK || !*found) return st;
    r->progress = state.progress;
    r->step = r->first_step = r->saved_step = state.progress.step;
    r->tokens = state.progress.tokens;
    r->loss_first = state.progress.loss_first;
    r->loss_last = state.progress.loss_last;
    if (r->step > r->config->train.steps)
        return ml_run_config_refuse(r->config, "train.steps",
                                    "%" PRId64 ", but %s has a checkpoint of step %" PRId64
                                    " already; steps may only go up",
                                    r->config->train.steps, r->config->run_dir, r->step);
    return ML_OK;
}

/* One that an older version wrote may hold numbers that are none. */
static ml_status load_checkpoint(run *r)
{
    session *s = &r->session;
    ml_status st = ml_checkpoint_load(r->directory, s->grid, &s->parameters);
    return st == ML_OK ? reject_checkpoint(r, check_state(r)) : st;
}

/* ---- start --------------------------------------------------------------------------------- */

/* Cuts the metrics to the steps that the checkpoint holds, and writes config.yaml as resolved. */
static ml_status prepare_files(const run *r)
{
    ml_status st = ML_OK;
    ml_text path = {0}, yaml = {0};
    ML_TRY(metrics_cut(r));
    ML_TRY(ml_text_printf(&path, "%s/config.yaml", r->config->run_dir));
    ML_TRY(write_configuration(r, &yaml));
    ML_TRY(ml_durable_write(path.data, yaml.data, yaml.length, NULL));
done:
    ml_text_destroy(&path);
    ml_text_destroy(&yaml);
    return st;
}

bool run_is_finished(const run *r)
{
    return r->progress.finished && (r->step == r->config->train.steps || early_stop_reached(r));
}

/* train.epochs as steps: the last one may take sequences of the next epoch. */
static void settle_steps(run *r)
{
    double sequences =
        r->resolved.train.epochs * (double)ml_sampler_usable(r->session.train.sampler);
    if (r->resolved.train.epochs == 0.0) return;
    r->resolved.train.steps =
        ml_max(1, (int64_t)ceil(sequences / (double)(r->resolved.batch.sequences *
                                                     ml_session_unit(&r->session))));
    r->resolved.train.epochs = 0.0;
}

void run_init(run *r, const ml_run_config *config, const ml_train_options *options)
{
    r->resolved = *config;
    r->config = &r->resolved;
    r->options = options;
    deadline_start(r);
    r->saved_step = -1;
    r->look_every = 1;
    r->loss_first = r->loss_last = r->valid_loss = NAN;
    r->progress.best_loss = r->progress.stop_loss = NAN;
    r->progress.evaluated_step = -1;
}

void run_take_settled(run *r)
{
    r->resolved = *r->session.config;
    r->session.config = r->config;
}

ml_status run_prepare(run *r)
{
    ml_status st = samples_prepare(r);
    return st == ML_OK && ml_grid_rank(r->session.grid) == 0 ? prometheus_check(r) : st;
}

ml_status run_read_start(run *r)
{
    ml_status st = ML_OK;
    const session *s = &r->session;
    settle_steps(r);
    r->anew = begins_anew(r);
    ML_TRY(read_first_adapter(r));
    ML_TRY(ml_grid_agree(s->grid, r->anew ? open_original(r) : ML_OK));
    ML_TRY(ml_grid_agree(s->grid, describe_identity(r)));
    ML_TRY(check_new_paths(r));
done:
    return st;
}

ml_status run_open_directory(run *r, bool *found)
{
    ml_status st = ML_OK;
    session *s = &r->session;
    ML_TRY(ml_run_directory_open(&r->directory, r->config->run_dir, r->options->fresh, s->grid));
    if (r->options->fresh)
        ML_TRY(ml_grid_agree(s->grid, ml_grid_rank(s->grid) == 0 ? outputs_set_aside(r) : ML_OK));
    if (ml_grid_rank(s->grid) == 0 && ml_grid_size(s->grid) > 1) {
        leftovers_clean(r);
        leftovers_note(r);
    }
    ML_TRY(look_for_checkpoint(r, found));
    if (!run_is_finished(r))
        st = ml_grid_agree(s->grid, ml_grid_rank(s->grid) == 0 ? outputs_check(r) : ML_OK);
    else
        ml_log("%s: finished at step %" PRId64
               " already; nothing to do (raise train.steps, or start over with --fresh)",
               r->config->run_dir, r->step);
done:
    return st;
}

ml_status run_begin(run *r, bool found)
{
    ml_status st = ML_OK;
    session *s = &r->session;
    note_paths(r);
    bool pissa = ml_run_config_is_pissa(r->config);
    if (pissa) ML_TRY(start_pissa(r, found));
    if (found)
        ML_TRY(load_checkpoint(r));
    else if (!pissa)
        ML_TRY(ml_grid_agree(s->grid, initial_values(r)));
    if (!found && ml_run_config_is_loftq(r->config)) ML_TRY(start_loftq(r));
    ml_adapter_destroy(&r->first);
    ml_peft_after_update(s->peft);
    ML_TRY(find_reference(r, found));
    ML_TRY(ml_grid_agree(s->grid, ml_grid_rank(s->grid) == 0 ? prepare_files(r) : ML_OK));
    ML_TRY(ml_grid_agree(s->grid, trace_create(r)));
    ML_TRY(ml_grid_agree(s->grid, waits_create(r)));
    ML_TRY(metrics_open(r));
    if (ml_grid_rank(s->grid) == 0) progress_table(r);
    r->reduction.payload_bytes =
        ml_gradient_bytes(s->parameters.exact) *
        s->parameters
            .global; /* known before the first step, which may have been done by an earlier start */
    if (found) ml_log("%sresumed from step %" PRId64, run_label(r), r->step);
    for (int64_t i = 0; i < r->changes.count; i++) {
        const ml_checkpoint_change *c = &r->changes.items[i];
        ml_log("%s: %s up to step %" PRId64 ", then %s", c->key, c->from, c->step, c->to);
    }
    r->save_time = ml_seconds();
done:
    return st;
}

static ml_status start(run *r)
{
    ml_status st = ML_OK;
    session *s = &r->session;
    bool found = false;
    const char *product, *vector;
    ML_TRY(ml_run_config_check_training(r->config));
    ML_TRY(ml_session_open(s, r->config, true));
    run_take_settled(r);
    ML_TRY(ml_session_attach_method(s));
    ML_TRY(ml_grid_agree(s->grid, run_prepare(r)));
    ML_TRY(run_read_start(r));
    ML_TRY(run_open_directory(r, &found));
    if (run_is_finished(r)) return ML_OK;
    choose_paths(r, found, &product, &vector);
    ml_session_predict(s, product, vector, r->predicted);
    if (!found) ML_TRY(ml_grid_agree(s->grid, choose_start_tokens(r)));
    ML_TRY(ml_session_build(s, true, product, vector));
    ML_TRY(run_begin(r, found));
    ML_TRY(print_binding(s));
done:
    return st;
}

/* ---- steps --------------------------------------------------------------------------------- */

static bool is_due(int64_t step, int64_t every) { return every > 0 && step % every == 0; }

/* Whether nothing else comes before the next step, whose sum says then whether the line of this one
 * was written: an exchange between ranks less. The same on all ranks. */
static bool next_is_a_step(const run *r, const step_result *result)
{
    const ml_run_config *c = r->config;
    return !r->among_others && !run_is_done(r) && !result->stop && !result->saved &&
           !result->save && !is_due(r->step, c->train.eval_every) &&
           !is_due(r->step, c->train.save_every.steps) && !is_due(r->step, samples_every(r));
}

/* What a step leaves behind. Collective. */
static ml_status note_step(run *r, const step_result *result)
{
    if (r->step == 0) r->loss_first = result->loss;
    r->step++;
    r->loss_last = result->loss;
    r->tokens += result->tokens;
    r->timed_tokens += result->tokens;
    r->seconds += result->seconds;
    r->deadline.step = fmax(r->deadline.step, result->seconds);
    waits_add(r);
    for (int p = 0; p < ML_PHASES; p++) r->phase[p] += result->phase[p];
    r->piped_bytes += result->piped_bytes;
    r->gathered_bytes += result->gathered_bytes;
    r->reduction = result->reduction;
    progress_step(r, result);
    r->line = metrics_step(r, result);
    return next_is_a_step(r, result) ? ML_OK : ml_grid_agree(r->session.grid, r->line);
}

static bool asked_to_stop(const void *of) { return wants_to_stop(of); }

/* *stop where the run is to end before the evaluation does: it is done again by the next start. */
static ml_status evaluate(run *r, bool *stop)
{
    evaluation_result result;
    const evaluation_stop interruption = {asked_to_stop, r};
    if (!r->session.valid.dataset) return ML_OK;
    ml_status st = ml_session_evaluate(&r->session, &interruption, NULL, &result);
    if (st == ML_OK) r->valid_loss = result.loss;
    if (st == ML_STOPPED) {
        *stop = true;
        return ML_OK;
    }
    if (st == ML_OK) st = reject_checkpoint(r, check_evaluation(r));
    if (st == ML_OK)
        st = ml_grid_agree(r->session.grid, metrics_evaluation(r, r->valid_loss, &result));
    if (st != ML_OK) return st;
    r->progress.evaluated_step = r->step;
    early_stop_note(r);
    bool best = r->valid_loss < r->progress.best_loss || isnan(r->progress.best_loss);
    if (best && r->step > 0) { /* nothing is kept of what was there before the first step */
        r->progress.best_loss = r->valid_loss;
        r->progress.best_step = r->step;
        r->best_is_new = true;
    }
    progress_evaluation(r, &result.figures);
    return st;
}

/* The one that belongs between two steps, unless it was done before this start. */
static ml_status evaluate_where_due(run *r, bool *stop)
{
    const ml_run_config *c = r->config;
    bool due = r->step > 0 ? r->step < c->train.steps && is_due(r->step, c->train.eval_every)
                           : c->train.eval_first;
    return due && !*stop && r->progress.evaluated_step != r->step ? evaluate(r, stop) : ML_OK;
}

/* The run's last checkpoint is finish's. */
static ml_status save_where_due(run *r, bool due)
{
    bool best = r->config->train.keep_best && r->best_is_new;
    return r->step < r->config->train.steps && (due || best) ? save_beside(r) : ML_OK;
}

/* Where the step behind was given up, no sum has said yet whether this one's line was written. */
ml_status run_stop(run *r)
{
    ml_status st = ml_grid_agree(r->session.grid, r->line);
    if (st == ML_OK) st = r->saved_step == r->step ? save_wait(r) : save_now(r, false);
    if (st != ML_OK) return st;
    progress_end(r);
    return ml_fail(ML_STOPPED,
                   "stopped by %s after saving step %" PRId64 " of %" PRId64
                   " in %s; the same command goes on from there",
                   deadline_is_near(r, 1) ? "its time limit" : "a signal", r->step,
                   r->config->train.steps, r->config->run_dir);
}

/* Collective. */
static bool anyone_stops(const run *r)
{
    double seen = wants_to_stop(r) ? 1.0 : 0.0;
    ml_grid_sum_double(r->session.grid, ML_GROUP_WORLD, &seen, 1);
    return seen > 0.0;
}

bool run_is_done(const run *r)
{
    return r->step >= r->config->train.steps || early_stop_reached(r);
}

ml_status run_before_steps(run *r, bool *stop)
{
    *stop = anyone_stops(r);
    ml_status st = evaluate_where_due(r, stop);
    return st == ML_OK ? save_where_due(r, false) : st;
}

ml_status run_after_step(run *r, const step_result *result, bool *stop)
{
    ml_status st = ML_OK;
    ML_TRY(note_step(r, result));
    *stop = result->stop;
    ML_TRY(evaluate_where_due(r, stop));
    ML_TRY(samples_where_due(r));
    if (result->saved) ML_TRY(save_wait(r));
    ML_TRY(save_where_due(r, result->save || is_due(r->step, r->config->train.save_every.steps)));
done:
    return st;
}

static ml_status steps(run *r)
{
    ml_status st = ML_OK;
    bool stop;
    ML_TRY(run_before_steps(r, &stop));
    while (!run_is_done(r) && !stop) {
        step_result result;
        ML_TRY(reject_checkpoint(r, run_step(r, &result)));
        if (result.given_up) break;
        ML_TRY(run_after_step(r, &result, &stop));
    }
    if (!run_is_done(r)) return run_stop(r);
done:
    return st;
}

/* The checkpoint first, so that a run killed from here on repeats no step; it is marked finished
 * when everything else is written. */
ml_status run_finish(run *r)
{
    ml_status st = ML_OK;
    bool stop = false;
    if (r->saved_step != r->step) ML_TRY(save_now(r, false));
    progress_end(r);
    bool known = r->progress.evaluated_step == r->step && !isnan(r->valid_loss);
    if (!known) ML_TRY(evaluate(r, &stop));
    if (stop) return run_stop(r);
    ML_TRY(write_result(r));
    ML_TRY(write_best(r));
    ML_TRY(summary_write(r));
    ML_TRY(save_now(r, true));
    progress_summary(r);
done:
    return st;
}

void run_close(run *r)
{
    if (r->directory && ml_grid_rank(r->session.grid) == 0) leftovers_forget(r);
    ml_run_directory_close(r->directory); /* first: a save under way syncs the metrics */
    metrics_close(r);
    trace_destroy(r);
    waits_destroy(r);
    ml_session_close(&r->session);
    ml_adapter_destroy(&r->first);
    close_original(r);
    ml_memory_free(r->start_token);
    ml_checkpoint_changes_destroy(&r->changes);
}

ml_status ml_train_run(const ml_run_config *config, const ml_train_options *options)
{
    ml_status st = ML_OK;
    run *r = NULL;
    ml_train_catch_signals();
    ML_NEW(r, 1, ML_MEM_OTHER, "a run");
    run_init(r, config, options);
    ML_TRY(start(r));
    if (run_is_finished(r)) goto done;
    ML_TRY(steps(r));
    ML_TRY(run_finish(r));
done:
    if (r) run_close(r);
    ml_memory_free(r);
    return st;
}
