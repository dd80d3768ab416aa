/* One update: accumulate over micro-batches, reduce once, clip, AdamW; and where its time goes.
 *
 * Computing is timed outside collectives, so the phases add up to the step. Time inside
 * collectives is moving data and waiting for slower ranks, which one rank cannot tell apart; but
 * the rank that all others wait for does not wait itself. So a rank's wait is its communication
 * beyond the least of all ranks. */
#include <math.h>

#include "train/passes.h"

/* ---- where the time goes ------------------------------------------------------------------- */

const char *ml_phase_name(ml_phase phase)
{
    static const char *const names[ML_PHASES] = {"forward",   "backward", "comm",
                                                 "optimizer", "data",     "other"};
    return names[phase];
}

double busy_seconds(const session *s) { return ml_seconds() - ml_grid_comm_seconds(s->grid); }

step_clock step_clock_start(const session *s)
{
    return (step_clock){ml_seconds(),
                        ml_grid_comm_seconds(s->grid),
                        ml_model_forward_seconds(s->model),
                        ml_model_backward_seconds(s->model),
                        ml_grid_piped_bytes(s->grid),
                        ml_grid_row_bytes(s->grid)};
}

void step_clock_stop(const step_clock *clock, const session *s, step_result *out)
{
    double named = 0.0;
    out->phase[ML_PHASE_FORWARD] = ml_model_forward_seconds(s->model) - clock->forward;
    out->phase[ML_PHASE_BACKWARD] = ml_model_backward_seconds(s->model) - clock->backward;
    out->phase[ML_PHASE_COMM] = ml_grid_comm_seconds(s->grid) - clock->comm;
    out->seconds = ml_seconds() - clock->started;
    out->piped_bytes = ml_grid_piped_bytes(s->grid) - clock->piped;
    out->gathered_bytes = ml_grid_row_bytes(s->grid) - clock->gathered;
    for (int p = 0; p < ML_PHASE_OTHER; p++) named += out->phase[p];
    out->phase[ML_PHASE_OTHER] = out->seconds > named ? out->seconds - named : 0.0;
}

/* ---- around the passes --------------------------------------------------------------------- */

void clear_gradients(session *s, step_result *out)
{
    double since = busy_seconds(s);
    ml_parameters_clear(&s->parameters);
    out->phase[ML_PHASE_OPTIMIZER] += busy_seconds(s) - since;
}

void reduce_gradients(session *s, const gradient_trace *trace, step_result *out)
{
    double since = busy_seconds(s);
    if (s->peft) ml_peft_before_sum(s->peft);
    if (trace) trace_gradients(s, false, trace->before);
    out->reduction = ml_parameters_reduce(&s->parameters, s->grid);
    if (trace) trace_gradients(s, true, trace->after);
    out->grad_norm = ml_parameters_gradient_norm(&s->parameters, s->grid, s->kernels);
    out->phase[ML_PHASE_OPTIMIZER] += busy_seconds(s) - since;
}

void update_parameters(session *s, int64_t done, step_result *out)
{
    const ml_run_config *c = s->config;
    ml_parameters *p = &s->parameters;
    double since = busy_seconds(s);
    out->lr =
        c->optim.lr * ml_schedule_factor(c->optim.schedule, done, c->optim.warmup, c->train.steps);
    const ml_adamw step = {.lr = out->lr,
                           .beta1 = c->optim.beta1,
                           .beta2 = c->optim.beta2,
                           .eps = c->optim.eps,
                           .decay = c->optim.weight_decay,
                           .grad_scale = ml_clip_factor(c->optim.clip_norm, out->grad_norm),
                           .t = done + 1};
    ml_parameters_update(p, s->grid, s->kernels, &step);
    if (s->peft) ml_peft_after_update(s->peft);
    out->phase[ML_PHASE_OPTIMIZER] += busy_seconds(s) - since;
}

/* ---- the step ------------------------------------------------------------------------------ */

/* Rounds between two looks of the next step, by what this one took on world rank 0: a look costs
 * little, but one replica waits in it for another. */
static int64_t rounds_between_looks(const run *r, double seconds)
{
    static const double apart = 0.2;
    double rounds = ceil(apart * (double)passes_rounds(r) / fmax(seconds, 1e-6));
    return (int64_t)fmin(rounds, 1e6);
}

/* Σ −log p of the step's batch; `rounded`: as sums of doubles have it. Collective. */
static double whole_loss(const session *s, passes *p, double rounded)
{
    if (!s->parameters.exact) return rounded;
    if (ml_grid_tp_rank(s->grid) != 0) p->losses = (ml_exact){{0}, 0};
    ml_grid_sum_exact(s->grid, ML_GROUP_WORLD, &p->losses);
    return ml_exact_to_double(&p->losses);
}

/* Under loss.filter: what the grid has left out. Collective. */
static void find_filtered(const run *r, step_result *out)
{
    const session *s = &r->session;
    if (r->config->loss.filter == 0.0) return;
    const ml_filtered own = ml_model_take_filtered(s->model);
    int64_t blocks[] = {own.blocks, own.zeros};
    out->filtered_most = own.lost;
    ml_grid_sum_int64(s->grid, ML_GROUP_WORLD, blocks, 2);
    ml_grid_max_double(s->grid, ML_GROUP_WORLD, &out->filtered_most, 1);
    out->filtered = (double)blocks[1] / (double)ml_max(1, blocks[0]);
}

/* What the passes of this rank have found → the step's results and the update. One sum behind that
 * of the gradients says all that ranks have to know of each other before it: whether all passes
 * went well and the line of the step before was written, what anybody was asked, how long each has
 * been waiting until then. Collective. */
ml_status step_end(run *r, passes *p, ml_status local, const step_clock *clock, step_result *out)
{
    session *s = &r->session;
    local = ml_session_check_base(s, local == ML_OK ? r->line : local);
    reduce_gradients(s, &r->trace, out);
    step_result so_far = *out;
    step_clock_stop(clock, s, &so_far);
    int64_t count;
    double *sums = waits_say(r, &so_far, &count);
    if (ml_grid_tp_rank(s->grid) == 0) {
        sums[SUM_LOSS] = p->loss_sum;
        sums[SUM_COMPUTED] = p->computed;
        memcpy(sums + SUM_COMPARED, p->compared, sizeof p->compared);
    }
    sums[SUM_FAILED] = local == ML_OK ? 0.0 : 1.0;
    sums[SUM_STOP] = wants_to_stop(r) ? 1.0 : 0.0;
    sums[SUM_SAVED] = save_has_ended(r) ? 1.0 : 0.0;
    sums[SUM_SAVE] = save_time_has_come(r) ? 1.0 : 0.0;
    sums[SUM_SECONDS] = ml_grid_rank(s->grid) == 0 ? so_far.seconds : 0.0;
    ml_grid_sum_double(s->grid, ML_GROUP_WORLD, sums, count);
    if (sums[SUM_FAILED] > 0.0) return ml_grid_agree(s->grid, local);
    memcpy(out->compared, sums + SUM_COMPARED, sizeof out->compared);
    ml_session_join_figures(out->compared);
    out->loss = ml_run_config_has_figures(r->config)
                    ? ml_session_pair_loss(s, out->compared)
                    : whole_loss(s, p, sums[SUM_LOSS]) / (double)p->targets;
    out->computed_tokens = (int64_t)sums[SUM_COMPUTED];
    out->stop = sums[SUM_STOP] > 0.0;
    out->saved = sums[SUM_SAVED] > 0.0;
    out->save = sums[SUM_SAVE] > 0.0;
    r->look_every = rounds_between_looks(r, sums[SUM_SECONDS]);
    find_filtered(r, out);
    ml_status st = trace_step(r);
    if (st != ML_OK) return st;
    if (!isfinite(out->loss) || !isfinite(out->grad_norm)) return explain_nonfinite(r, out);
    update_parameters(s, r->step, out);
    step_clock_stop(clock, s, out);
    waits_find(r, out);
    return ML_OK;
}

ml_status run_step(run *r, step_result *out)
{
    session *s = &r->session;
    step_clock clock = step_clock_start(s);
    int64_t first = r->step * r->config->batch.sequences;
    passes p = {0};
    *out = (step_result){0};
    passes_count(r, first, &p, out);
    clear_gradients(s, out);
    ml_status st = passes_count_masked(r, first, &p, out);
    if (st == ML_OK) st = passes_look_ahead(r, first, &p, out);
    if (st != ML_OK || out->given_up) return st;
    st = passes_run(r, first, &p, out);
    return out->given_up ? ml_grid_agree(s->grid, st) : step_end(r, &p, st, &clock, out);
}
