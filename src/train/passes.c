/* Forward and backward of a step's micro-batches: those of this replica's share of the batch, one
 * after the other or through the stages of a pipeline, and before them what the objective has to
 * know of the whole batch. */
#include "train/passes.h"

#include "session/pipeline.h"

/* ---- what the batch has -------------------------------------------------------------------- */

batch_share passes_share(const run *r, int64_t first)
{
    const ml_grid *g = r->session.grid;
    int64_t sequences = r->config->batch.sequences, dp = ml_grid_dp(g), mine = ml_grid_dp_rank(g),
            at = first + ml_part_start(sequences, dp, mine);
    return (batch_share){at, at + ml_part_count(sequences, dp, mine)};
}

/* Targets and tokens of the step's whole batch: every rank counts them, no rank asks another. */
void passes_count(const run *r, int64_t first, passes *p, step_result *out)
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
ml_status passes_count_masked(run *r, int64_t first, passes *p, step_result *out)
{
    session *s = &r->session;
    if (!ml_run_config_masks(r->config)) return ML_OK;
    const batch_share share = passes_share(r, first);
    int64_t targets = 0;
    double since = busy_seconds(s);
    ml_status st = ml_grid_agree(
        s->grid, ml_session_count_masked(s, &s->train, share.at, share.end - share.at, &targets));
    if (st != ML_OK) return st;
    ml_grid_sum_int64(s->grid, ML_GROUP_DP, &targets, 1);
    p->targets = ml_max(1, targets);
    out->phase[ML_PHASE_DATA] += busy_seconds(s) - since;
    return ML_OK;
}

/* ---- a micro-batch ------------------------------------------------------------------------- */

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
    ml_peft_take_gradients(s->peft, &s->parameters);
    if (st == ML_OK) p->computed += (double)s->packer.batch.tokens;
    return st;
}

bool passes_are_keyed(const ml_run_config *c)
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
    bool keyed = passes_are_keyed(c);
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
    ml_peft_take_gradients(s->peft, &s->parameters);
    p->loss_sum += loss;
    p->computed += (double)s->packer.batch.tokens;
    return ML_OK;
}

static ml_status measure_micro_batch(run *r, int64_t at, int64_t count, passes *p, step_result *out)
{
    session *s = &r->session;
    ml_status st = ml_run_config_contrasts(r->config)
                       ? ml_contrast_measure(s, &s->train, at, count, passes_are_keyed(r->config))
                       : ml_session_measure(s, &s->train, at, count);
    (void)out;
    if (st == ML_OK) p->computed += (double)r->session.packer.batch.tokens;
    return st;
}

/* ---- all of a replica ---------------------------------------------------------------------- */

/* A step may take longer than a job has left: between micro-batches all ranks look whether one of
 * them would stop, or has failed. What the step has added so far is then forgotten: parameters
 * have not changed, and the next start does the step again from its first sequence. Collective. */
bool passes_are_left(const run *r, ml_status st, step_result *out)
{
    double seen[] = {wants_to_give_up(r) ? 1.0 : 0.0, st != ML_OK ? 1.0 : 0.0};
    ml_grid_sum_double(r->session.grid, ML_GROUP_WORLD, seen, 2);
    out->given_up = seen[0] > 0.0;
    return seen[0] + seen[1] > 0.0;
}

/* As many as the replica with the most has, so that all ranks look as often. */
int64_t passes_rounds(const run *r)
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
    session *s = &g->r->session;
    ml_peft_take_gradients(s->peft, &s->parameters);
}

static ml_status accumulate_staged(run *r, batch_share share, micro_batch *one, passes *p,
                                   step_result *out)
{
    const ml_run_config *c = r->config;
    bool trains = one == run_micro_batch;
    staged all = {.r = r,
                  .at = share.at,
                  .end = share.end,
                  .one = one,
                  .keyed = passes_are_keyed(c) && (trains || ml_run_config_contrasts(c)),
                  .mismatched = !trains && c->objective.name == ML_OBJECTIVE_KTO,
                  .p = p,
                  .out = out};
    const pipeline_work work = {.of = &all,
                                .count =
                                    (share.end - share.at + c->batch.micro - 1) / c->batch.micro,
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
    ml_status st = ML_OK;
    const batch_share share = passes_share(r, first);
    int64_t at = share.at, micro = r->config->batch.micro, rounds = passes_rounds(r);
    if (ml_grid_pp(r->session.grid) > 1) return accumulate_staged(r, share, one, p, out);
    for (int64_t round = 0; round < rounds; round++, at += micro) {
        if (round > 0 && round % r->look_every == 0 && passes_are_left(r, st, out)) break;
        if (at < share.end && st == ML_OK) st = one(r, at, ml_min(micro, share.end - at), p, out);
    }
    return st;
}

/* ---- before the gradients ------------------------------------------------------------------ */

/* Of objective contrastive; one micro-batch of one stage finds them itself. */
static ml_status gather_vectors(run *r, int64_t first, passes *p, step_result *out)
{
    ml_status st = ML_OK;
    session *s = &r->session;
    ML_TRY(ml_grid_agree(s->grid, ml_contrast_begin(s, first, r->config->batch.sequences)));
    if (passes_rounds(r) == 1 && ml_grid_pp(s->grid) == 1) return ML_OK;
    ML_TRY(ml_grid_agree(s->grid, accumulate(r, first, measure_micro_batch, p, out)));
    if (!out->given_up) ml_contrast_end(s);
done:
    return st;
}

/* What the objective has to know of the whole batch before its gradients. */
ml_status passes_look_ahead(run *r, int64_t first, passes *p, step_result *out)
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

ml_status passes_run(run *r, int64_t first, passes *p, step_result *out)
{
    return accumulate(r, first, run_micro_batch, p, out);
}
