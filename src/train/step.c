/* One update: accumulate over micro-batches, reduce once, clip, AdamW. */
#include <inttypes.h>
#include <math.h>

#include "train/run.h"

/* Targets and tokens of the step's whole batch: every rank counts them, no rank asks another. */
static void count_batch(const run *r, int64_t first, int64_t *targets, step_result *out)
{
    const session *s = &r->session;
    double since = busy_seconds(s);
    *targets = 0;
    for (int64_t i = 0; i < r->config->batch.sequences; i++) {
        int64_t sequence = ml_sampler_at(s->train.sampler, first + i);
        *targets += ml_dataset_targets(s->train.dataset, sequence, s->max_len);
        out->tokens += ml_dataset_length(s->train.dataset, sequence, s->max_len);
    }
    out->phase[ML_PHASE_DATA] += busy_seconds(s) - since;
}

/* This replica's share of the batch, micro-batch by micro-batch: gradients of the mean loss, Σ
 * −log p, and the rows computed. */
static ml_status accumulate(run *r, int64_t first, int64_t targets, double *loss_sum,
                            double *computed, step_result *out)
{
    session *s = &r->session;
    const ml_run_config *c = r->config;
    int64_t dp = ml_grid_dp(s->grid), mine = ml_grid_dp_rank(s->grid);
    int64_t at = first + ml_part_start(c->batch.sequences, dp, mine),
            end = at + ml_part_count(c->batch.sequences, dp, mine);
    *loss_sum = *computed = 0.0;
    for (; at < end; at += c->batch.micro) {
        bool keyed = ml_method_has_lora(c->method.name) && c->method.dropout > 0.0;
        double since = busy_seconds(s);
        ml_status st = ml_grid_agree_in(
            s->grid, ML_GROUP_TP,
            pack_sequences(s, &s->train, at, ml_min(c->batch.micro, end - at), keyed));
        if (st != ML_OK) return st;
        out->phase[ML_PHASE_DATA] += busy_seconds(s) - since;
        double loss;
        ml_model_loss(s->model, &s->packer.batch, true, 1.0 / (double)targets,
                      c->optim.label_smoothing, &loss);
        *loss_sum += loss;
        *computed += (double)s->packer.batch.tokens;
    }
    return ML_OK;
}

ml_status run_step(run *r, step_result *out)
{
    session *s = &r->session;
    step_clock clock = step_clock_start(s);
    int64_t first = r->step * r->config->batch.sequences, targets;
    enum { LOSS, COMPUTED, STOP, SAVED, SAVE, SUMS };
    double sums[SUMS] = {0.0};
    *out = (step_result){0};
    count_batch(r, first, &targets, out);
    clear_gradients(s, out);
    ml_status st =
        ml_grid_agree(s->grid, accumulate(r, first, targets, &sums[LOSS], &sums[COMPUTED], out));
    if (st != ML_OK) return st;
    if (ml_grid_tp_rank(s->grid) != 0) sums[LOSS] = sums[COMPUTED] = 0.0;
    sums[STOP] = wants_to_stop(r) ? 1.0 : 0.0;
    sums[SAVED] = save_has_ended(r) ? 1.0 : 0.0;
    sums[SAVE] = save_time_has_come(r) ? 1.0 : 0.0;
    ml_grid_sum_double(s->grid, ML_GROUP_WORLD, sums, SUMS);
    out->loss = sums[LOSS] / (double)targets;
    out->computed_tokens = (int64_t)sums[COMPUTED];
    out->stop = sums[STOP] > 0.0;
    out->saved = sums[SAVED] > 0.0;
    out->save = sums[SAVE] > 0.0;
    reduce_gradients(s, out);
    if (!isfinite(out->loss) || !isfinite(out->grad_norm)) return explain_nonfinite(r, out);
    update_parameters(s, r->step, out);
    step_clock_stop(&clock, s, out);
    find_wait(s, out);
    return ML_OK;
}
