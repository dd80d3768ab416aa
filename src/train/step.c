/* One update: accumulate over micro-batches, reduce once, clip, AdamW; and where its time goes.
 *
 * Computing is timed outside collectives, so the phases add up to the step. Time inside
 * collectives is moving data and waiting for slower ranks, which one rank cannot tell apart; but
 * the rank that all others wait for does not wait itself. So a rank's wait is its communication
 * beyond the least of all ranks. */
#include <inttypes.h>
#include <math.h>

#include "session/pipeline.h"
#include "train/run.h"

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

/* ---- passes: forward and backward of the micro-batches ------------------------------------- */

typedef struct passes {
    double loss_sum, computed;
    ml_exact losses;            /* loss_sum, where sums are exact */
    int64_t targets, chosen;    /* of the step's whole batch; chosen: learnt of the chosen
                                ones */
    double compared[PAIR_SUMS]; /* of an objective that compares pairs */
} passes;

/* Targets and tokens of the step's whole batch: every rank counts them, no rank asks another. */
static void count_batch(const run *r, int64_t first, passes *p, step_result *out)
{
    const session *s = &r->session;
    int64_t unit = ml_session_unit(s);
    bool prompts = r->config->objective.name == ML_OBJECTIVE_ORPO; /* are learnt, too */
    double since = busy_seconds(s);
    for (int64_t i = 0; i < r->config->batch.sequences * unit; i++) {
        int64_t sequence = ml_sampler_at(s->train.sampler, first * unit + i),
                targets = ml_dataset_targets(s->train.dataset, sequence, s->max_len);
        p->targets += targets;
        int64_t length = ml_dataset_length(s->train.dataset, sequence, s->max_len);
        if (i % unit == 0) p->chosen += prompts ? length - 1 : targets;
        out->tokens += length;
    }
    out->phase[ML_PHASE_DATA] += busy_seconds(s) - since;
}

/* Of objective mlm, whose targets are drawn: each replica counts those of its share. Without any
 * the step has no loss. Collective. */
static ml_status count_masked(run *r, int64_t first, passes *p, step_result *out)
{
    session *s = &r->session;
    if (!ml_run_config_masks(r->config)) return ML_OK;
    int64_t sequences = r->config->batch.sequences, dp = ml_grid_dp(s->grid),
            mine = ml_grid_dp_rank(s->grid), targets = 0;
    double since = busy_seconds(s);
    ml_status st = ml_grid_agree(
        s->grid, ml_session_count_masked(s, &s->train, first + ml_part_start(sequences, dp, mine),
                                         ml_part_count(sequences, dp, mine), &targets));
    if (st != ML_OK) return st;
    ml_grid_sum_int64(s->grid, ML_GROUP_DP, &targets, 1);
    p->targets = ml_max(1, targets);
    out->phase[ML_PHASE_DATA] += busy_seconds(s) - since;
    return ML_OK;
}

static ml_status compare_micro_batch(run *r, int64_t at, int64_t count, bool keyed, passes *p)
{
    session *s = &r->session;
    const ml_run_config *c = r->config;
    bool tokens = c->objective.name == ML_OBJECTIVE_TOKENS; /* each has its label */
    const pair_batch batch = {.first = at,
                              .count = count,
                              .backward = true,
                              .keyed = keyed,
                              .pairs = tokens ? p->targets : c->batch.sequences,
                              .tokens = p->chosen};
    ml_status st = ml_session_compare(s, &s->train, &batch, p->compared);
    ml_parameters_take(&s->parameters, s->parameters.gradient, s->parameters.local);
    if (st == ML_OK) p->computed += (double)s->packer.batch.tokens;
    return st;
}

static bool is_keyed(const ml_run_config *c)
{
    return ml_method_has_lora(c->method.name) && c->method.dropout > 0.0;
}

/* Where bits may not depend on whether a run is alone: each target weighs what it does where
 * several runs train together. Returns the scale that is left. */
static double weigh_targets(packer *p, double scale, ml_exact *losses)
{
    for (int64_t j = 0; j < p->hits; j++) p->weight[j] = (float)scale;
    p->batch.targets.weight = p->weight;
    p->batch.losses = losses;
    return 1.0;
}

/* Adds the gradients of the mean loss, Σ −log p, and the rows computed. */
static ml_status run_micro_batch(run *r, int64_t at, int64_t count, passes *p, step_result *out)
{
    session *s = &r->session;
    const ml_run_config *c = r->config;
    bool keyed = is_keyed(c);
    double loss, since = busy_seconds(s);
    if (ml_run_config_has_figures(c)) return compare_micro_batch(r, at, count, keyed, p);
    ml_status st =
        ml_grid_agree_in(s->grid, ML_GROUP_BATCH, ml_session_pack(s, &s->train, at, count, keyed));
    if (st != ML_OK) return st;
    out->phase[ML_PHASE_DATA] += busy_seconds(s) - since;
    if (ml_session_skips(s)) { /* the stage before waits for a gradient */
        memset(ml_model_stream(s->model), 0,
               (size_t)(s->packer.batch.tokens * s->spec->width) * sizeof(float));
        return ML_OK;
    }
    double scale = 1.0 / (double)p->targets;
    if (s->parameters.exact) scale = weigh_targets(&s->packer, scale, &p->losses);
    ml_model_loss(s->model, &s->packer.batch, true, scale, c->optim.label_smoothing, &loss);
    ml_parameters_take(&s->parameters, s->parameters.gradient, s->parameters.local);
    p->loss_sum += loss;
    p->computed += (double)s->packer.batch.tokens;
    return ML_OK;
}

/* A step may take longer than a job has left: between micro-batches all ranks look whether one of
 * them would stop, or has failed. What the step has added so far is then forgotten: parameters
 * have not changed, and the next start does the step again from its first sequence. Collective. */
static bool leaves_step(const run *r, ml_status st, step_result *out)
{
    double seen[] = {wants_to_give_up(r) ? 1.0 : 0.0, st != ML_OK ? 1.0 : 0.0};
    ml_grid_sum_double(r->session.grid, ML_GROUP_WORLD, seen, 2);
    out->given_up = seen[0] > 0.0;
    return seen[0] + seen[1] > 0.0;
}

/* As many as the replica with the most has, so that all ranks look as often. */
static int64_t count_rounds(const run *r)
{
    int64_t dp = ml_grid_dp(r->session.grid), micro = r->config->batch.micro;
    return ((r->config->batch.sequences + dp - 1) / dp + micro - 1) / micro;
}

/* One micro-batch of some kind. */
typedef ml_status micro_batch(run *r, int64_t at, int64_t count, passes *p, step_result *out);

/* The micro-batches of a replica on their way through the stages. */
typedef struct staged {
    run *r;
    int64_t at, end;
    micro_batch *one;
    bool keyed, mismatched; /* how the others pack what the last stage packs in `one` */
    passes *p;
    step_result *out;
} staged;

static int64_t staged_count(const staged *g, int64_t i)
{
    int64_t micro = g->r->config->batch.micro;
    return ml_min(micro, g->end - g->at - i * micro);
}

static ml_status pack_staged(void *of, int64_t i)
{
    const staged *g = of;
    session *s = &g->r->session;
    double since = busy_seconds(s);
    int64_t micro = g->r->config->batch.micro, unit = ml_session_unit(&g->r->session),
            first = unit * (g->at + i * micro), count = unit * staged_count(g, i);
    ml_status st = g->mismatched ? ml_session_pack_mismatched(s, &s->train, first, count)
                                 : ml_session_pack(s, &s->train, first, count, g->keyed);
    g->out->phase[ML_PHASE_DATA] += busy_seconds(s) - since;
    return ml_grid_agree_in(s->grid, ML_GROUP_BATCH, st);
}

static ml_status finish_staged(void *of, int64_t i)
{
    const staged *g = of;
    return g->one(g->r, g->at + i * g->r->config->batch.micro, staged_count(g, i), g->p, g->out);
}

static void complete_staged(void *of)
{
    const staged *g = of;
    ml_parameters *p = &g->r->session.parameters;
    ml_parameters_take(p, p->gradient, p->local);
}

static ml_status accumulate_staged(run *r, int64_t at, int64_t end, micro_batch *one, passes *p,
                                   step_result *out)
{
    const ml_run_config *c = r->config;
    bool trains = one == run_micro_batch;
    staged all = {.r = r,
                  .at = at,
                  .end = end,
                  .one = one,
                  .keyed = is_keyed(c) && (trains || ml_run_config_contrasts(c)),
                  .mismatched = !trains && c->objective.name == ML_OBJECTIVE_KTO,
                  .p = p,
                  .out = out};
    const pipeline_work work = {.of = &all,
                                .count = (end - at + c->batch.micro - 1) / c->batch.micro,
                                .backward = trains,
                                .batch = &r->session.packer.batch,
                                .pack = pack_staged,
                                .finish = finish_staged,
                                .complete = complete_staged};
    return ml_session_pipeline(&r->session, &work);
}

/* This replica's share of the batch, micro-batch by micro-batch; through the stages of a pipeline
 * without a look between them, since these are at different ones. */
static ml_status accumulate(run *r, int64_t first, micro_batch *one, passes *p, step_result *out)
{
    session *s = &r->session;
    const ml_run_config *c = r->config;
    ml_status st = ML_OK;
    int64_t dp = ml_grid_dp(s->grid), mine = ml_grid_dp_rank(s->grid), rounds = count_rounds(r);
    int64_t at = first + ml_part_start(c->batch.sequences, dp, mine),
            end = at + ml_part_count(c->batch.sequences, dp, mine);
    if (ml_grid_pp(s->grid) > 1) return accumulate_staged(r, at, end, one, p, out);
    for (int64_t round = 0; round < rounds; round++, at += c->batch.micro) {
        if (round > 0 && round % r->look_every == 0 && leaves_step(r, st, out)) break;
        if (at < end && st == ML_OK) st = one(r, at, ml_min(c->batch.micro, end - at), p, out);
    }
    return st;
}

static ml_status measure_micro_batch(run *r, int64_t at, int64_t count, passes *p, step_result *out)
{
    session *s = &r->session;
    ml_status st = ml_run_config_contrasts(r->config)
                       ? ml_contrast_measure(s, &s->train, at, count, is_keyed(r->config))
                       : ml_session_measure(s, &s->train, at, count);
    (void)out;
    if (st == ML_OK) p->computed += (double)r->session.packer.batch.tokens;
    return st;
}

/* Of objective contrastive; one micro-batch of one stage finds them itself. */
static ml_status gather_vectors(run *r, int64_t first, passes *p, step_result *out)
{
    ml_status st = ML_OK;
    session *s = &r->session;
    ML_TRY(ml_grid_agree(s->grid, ml_contrast_begin(s, first, r->config->batch.sequences)));
    if (count_rounds(r) == 1 && ml_grid_pp(s->grid) == 1) return ML_OK;
    ML_TRY(ml_grid_agree(s->grid, accumulate(r, first, measure_micro_batch, p, out)));
    if (!out->given_up) ml_contrast_end(s);
done:
    return st;
}

/* What the objective has to know of the whole batch before its gradients. */
static ml_status look_ahead(run *r, int64_t first, passes *p, step_result *out)
{
    ml_status st = ML_OK;
    session *s = &r->session;
    if (ml_run_config_contrasts(r->config)) return gather_vectors(r, first, p, out);
    if (!ml_run_config_looks_ahead(r->config)) return ML_OK;
    ML_TRY(ml_grid_agree(s->grid, ml_session_begin_ahead(s, first, r->config->batch.sequences)));
    ML_TRY(ml_grid_agree(s->grid, accumulate(r, first, measure_micro_batch, p, out)));
    if (!out->given_up) ml_session_end_ahead(s, &s->train);
done:
    return st;
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
    double rounds = ceil(apart * (double)count_rounds(r) / fmax(seconds, 1e-6));
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

/* What the passes of this rank have found → the step's results and the update. Collective. */
static ml_status end_step(run *r, passes *p, const step_clock *clock, step_result *out)
{
    session *s = &r->session;
    enum { LOSS, COMPUTED, STOP, SAVED, SAVE, SECONDS, COMPARED, SUMS = COMPARED + PAIR_SUMS };
    double sums[SUMS] = {0.0};
    if (ml_grid_tp_rank(s->grid) == 0) {
        sums[LOSS] = p->loss_sum;
        sums[COMPUTED] = p->computed;
        memcpy(sums + COMPARED, p->compared, sizeof p->compared);
    }
    sums[STOP] = wants_to_stop(r) ? 1.0 : 0.0;
    sums[SAVED] = save_has_ended(r) ? 1.0 : 0.0;
    sums[SAVE] = save_time_has_come(r) ? 1.0 : 0.0;
    sums[SECONDS] = ml_grid_rank(s->grid) == 0 ? ml_seconds() - clock->started : 0.0;
    ml_grid_sum_double(s->grid, ML_GROUP_WORLD, sums, SUMS);
    memcpy(out->compared, sums + COMPARED, sizeof out->compared);
    out->loss = ml_run_config_has_figures(r->config)
                    ? ml_session_pair_loss(s, out->compared)
                    : whole_loss(s, p, sums[LOSS]) / (double)p->targets;
    out->computed_tokens = (int64_t)sums[COMPUTED];
    out->stop = sums[STOP] > 0.0;
    out->saved = sums[SAVED] > 0.0;
    out->save = sums[SAVE] > 0.0;
    r->look_every = rounds_between_looks(r, sums[SECONDS]);
    reduce_gradients(s, &r->trace, out);
    ml_status st = trace_step(r);
    if (st != ML_OK) return st;
    if (!isfinite(out->loss) || !isfinite(out->grad_norm)) return explain_nonfinite(r, out);
    update_parameters(s, r->step, out);
    step_clock_stop(clock, s, out);
    waits_find(r, out->phase[ML_PHASE_COMM]);
    if (ml_grid_pp(s->grid) > 1) ml_grid_max_int64(s->grid, ML_GROUP_WORLD, &out->piped_bytes, 1);
    if (ml_grid_cp(s->grid) > 1)
        ml_grid_max_int64(s->grid, ML_GROUP_WORLD, &out->gathered_bytes, 1);
    return ML_OK;
}

ml_status run_step(run *r, step_result *out)
{
    session *s = &r->session;
    step_clock clock = step_clock_start(s);
    int64_t first = r->step * r->config->batch.sequences;
    passes p = {0};
    *out = (step_result){0};
    count_batch(r, first, &p, out);
    clear_gradients(s, out);
    ml_status st = count_masked(r, first, &p, out);
    if (st == ML_OK) st = look_ahead(r, first, &p, out);
    if (st != ML_OK || out->given_up) return st;
    st = ml_grid_agree(s->grid, accumulate(r, first, run_micro_batch, &p, out));
    return st != ML_OK || out->given_up ? st : end_step(r, &p, &clock, out);
}

/* ---- steps of several runs ------------------------------------------------------------------ */

/* A member's part of the step of its run on this rank. */
typedef struct share {
    int64_t at, end;
    passes p;
} share;

static share share_of(const run *r)
{
    const session *s = &r->session;
    int64_t sequences = r->config->batch.sequences, dp = ml_grid_dp(s->grid),
            mine = ml_grid_dp_rank(s->grid),
            at = r->step * sequences + ml_part_start(sequences, dp, mine);
    return (share){.at = at, .end = at + ml_part_count(sequences, dp, mine)};
}

/* Passes over what all members have; `ahead`: what an objective has to know of the whole batch
 * before. */
typedef struct shared_passes {
    const step_group *g;
    share *shares;
    bool ahead;
} shared_passes;

/* The i-th micro-batch of every run that has as many. */
static void choose_parts(void *of, int64_t i, ml_together_part *part)
{
    const shared_passes *s = of;
    const step_group *g = s->g;
    for (int64_t k = 0; k < g->members; k++) part[k] = (ml_together_part){0};
    for (int64_t k = 0; k < g->count; k++) {
        const ml_run_config *c = g->run[k]->config;
        share *own = &s->shares[k];
        int64_t at = own->at + i * c->batch.micro;
        bool by_rows = ml_run_config_has_figures(c) && c->objective.name != ML_OBJECTIVE_TOKENS;
        part[g->member[k]] =
            (ml_together_part){.first = at,
                               .count = ml_max(0, ml_min(c->batch.micro, own->end - at)),
                               .targets = by_rows ? c->batch.sequences : own->p.targets,
                               .tokens = own->p.chosen,
                               .keyed = is_keyed(c),
                               .losses = &own->p.losses,
                               .compared = own->p.compared};
    }
}

static void take_parts(void *of, const ml_together_part *part)
{
    const shared_passes *s = of;
    for (int64_t k = 0; k < s->g->count; k++) {
        s->shares[k].p.loss_sum += part[s->g->member[k]].loss;
        s->shares[k].p.computed += part[s->g->member[k]].computed;
    }
}

/* As many as the run of this rank with the most has; on any rank: count_rounds. */
static int64_t count_passes(const shared_passes *s)
{
    int64_t most = 0;
    for (int64_t k = 0; k < s->g->count; k++) {
        const ml_run_config *c = s->g->run[k]->config;
        const share *own = &s->shares[k];
        if (s->ahead && !ml_run_config_looks_ahead(c)) continue;
        most = ml_max(most, (own->end - own->at + c->batch.micro - 1) / c->batch.micro);
    }
    return most;
}

/* Until no run on any replica has a micro-batch left. */
static ml_status share_passes(const step_group *g, share *shares, bool ahead, step_result *out)
{
    ml_status st = ML_OK;
    shared_passes all = {g, shares, ahead};
    ml_together_part *part = NULL;
    int64_t rounds = 0, look_every = g->run[0]->look_every;
    for (int64_t i = 0; i < g->count; i++) rounds = ml_max(rounds, count_rounds(g->run[i]));
    ML_NEW(part, g->members, ML_MEM_OTHER, "a step of several runs");
    ml_together_passes passes = {&all, 0, ahead, part, choose_parts, take_parts};
    if (ml_grid_pp(g->run[0]->session.grid) > 1) {
        passes.count = count_passes(&all);
        st = ml_together_staged(g->together, &passes);
        goto done;
    }
    for (int64_t round = 0; round < rounds; round++) {
        if (round > 0 && round % look_every == 0 && leaves_step(g->run[0], st, out)) break;
        if (st == ML_OK) st = ml_together_pass(g->together, &passes, round);
    }
done:
    ml_memory_free(part);
    return st;
}

/* As look_ahead of a run by itself. Collective. */
static ml_status look_ahead_together(const step_group *g, share *shares, step_result *out)
{
    ml_status st = ML_OK;
    bool any = false;
    for (int64_t i = 0; i < g->count; i++) {
        const run *r = g->run[i];
        session *s = &g->run[i]->session;
        if (!ml_run_config_looks_ahead(r->config)) continue;
        any = true;
        int64_t sequences = r->config->batch.sequences;
        ML_TRY(ml_grid_agree(s->grid, ml_session_begin_ahead(s, r->step * sequences, sequences)));
    }
    if (!any) return ML_OK;
    ML_TRY(ml_grid_agree(g->run[0]->session.grid, share_passes(g, shares, true, out)));
    for (int64_t i = 0; i < g->count && !out->given_up; i++) {
        session *s = &g->run[i]->session;
        if (ml_run_config_looks_ahead(s->config)) ml_session_end_ahead(s, &s->train);
    }
done:
    return st;
}

ml_status run_steps_together(const step_group *g, step_result *out, ml_text *failed)
{
    ml_status st = ML_OK;
    share *shares = NULL;
    const session *s = &g->run[0]->session;
    step_clock clock = step_clock_start(s);
    ML_NEW(shares, g->count, ML_MEM_OTHER, "a step of several runs");
    for (int64_t i = 0; i < g->count; i++) {
        run *r = g->run[i];
        out[i] = (step_result){0};
        ml_text_destroy(&failed[i]);
        shares[i] = share_of(r);
        count_batch(r, r->step * r->config->batch.sequences, &shares[i].p, &out[i]);
        clear_gradients(&r->session, &out[i]);
        ML_TRY(count_masked(r, r->step * r->config->batch.sequences, &shares[i].p, &out[i]));
    }
    ML_TRY(look_ahead_together(g, shares, &out[0]));
    if (!out[0].given_up) ML_TRY(ml_grid_agree(s->grid, share_passes(g, shares, false, &out[0])));
    for (int64_t i = 0; i < g->count; i++) {
        out[i].given_up = out[0].given_up;
        if (out[0].given_up) continue;
        st = reject_checkpoint(g->run[i], end_step(g->run[i], &shares[i].p, &clock, &out[i]));
        if (st == ML_NUMERIC) /* the text of another run's failure would take its place */
            st = ml_grid_agree(s->grid, ml_text_printf(&failed[i], "%s", ml_error_text()));
        if (st != ML_OK) goto done;
    }
done:
    ml_memory_free(shares);
    return st;
}
