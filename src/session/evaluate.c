/* Mean loss over a data set, without gradients. */
#include "session/pipeline.h"
#include "session/predictions.h"

bool ml_session_is_stopped(const session *s, const evaluation_stop *stop)
{
    double wanted = stop && stop->wanted(stop->of) ? 1.0 : 0.0;
    if (stop) ml_grid_sum_double(s->grid, ML_GROUP_WORLD, &wanted, 1);
    return wanted > 0.0;
}

/* Adds one micro-batch: Σ −log p and the number of its targets, or a pair's sums; with `sums` NULL
 * what pairs need to be known before. */
static ml_status add_loss(session *s, int64_t at, int64_t count, double *sums)
{
    double loss;
    if (!sums) return ml_session_measure(s, &s->valid, at, count);
    if (ml_run_config_has_figures(s->config)) {
        const pair_batch batch = {.first = at, .count = count};
        return ml_session_compare(s, &s->valid, &batch, sums);
    }
    ml_status st =
        ml_grid_agree_in(s->grid, ML_GROUP_BATCH, ml_session_pack(s, &s->valid, at, count, false));
    if (st != ML_OK || ml_session_skips(s)) return st;
    s->packer.batch.losses = s->losses;
    ml_model_loss(s->model, &s->packer.batch, false, 0.0, 0.0, &loss);
    sums[0] += loss;
    sums[1] += (double)s->packer.hits;
    return ML_OK;
}

typedef struct adding {
    session *s;
    double *sums;
} adding;

static ml_status add_one(void *of, int64_t at, int64_t count)
{
    const adding *a = of;
    return add_loss(a->s, at, count, a->sums);
}

/* [at, end): of one stage a micro-batch, else several. */
static ml_status add_round(session *s, int64_t at, int64_t end, double *sums)
{
    adding all = {s, sums};
    const pipeline_part part = {.s = s,
                                .source = &s->valid,
                                .at = at,
                                .end = end,
                                .micro = s->config->batch.micro,
                                .mismatched =
                                    !sums && s->config->objective.name == ML_OBJECTIVE_KTO,
                                .of = &all,
                                .one = add_one};
    return ml_grid_pp(s->grid) > 1 ? ml_session_pipeline_part(&part)
                                   : add_loss(s, at, end - at, sums);
}

/* This replica's sequences. All replicas go through as many rounds, also after a fault, since they
 * ask each other before each. */
static ml_status add_losses(session *s, const evaluation_stop *stop, double *sums)
{
    ml_status st = ML_OK;
    int64_t n = ml_sampler_usable(s->valid.sampler) / ml_run_config_unit(s->config),
            dp = ml_grid_dp(s->grid), mine = ml_grid_dp_rank(s->grid),
            round = ml_session_pipeline_round(s, s->config->batch.micro);
    int64_t first = ml_part_start(n, dp, mine), end = first + ml_part_count(n, dp, mine);
    int64_t most = ml_part_count(n, dp, 0);
    for (int64_t done = 0; done < most; done += round) {
        int64_t at = first + done;
        if (ml_session_is_stopped(s, stop))
            return ml_fail(ML_STOPPED, "the evaluation was interrupted");
        if (at < end && (st == ML_OK || ml_grid_pp(s->grid) > 1)) {
            ml_status own = add_round(s, at, ml_min(at + round, end), sums);
            st = st == ML_OK ? own : st;
        }
    }
    return st;
}

static ml_status look_ahead(session *s, const evaluation_stop *stop)
{
    ml_status st = ML_OK;
    int64_t count = ml_sampler_usable(s->valid.sampler) / ml_run_config_unit(s->config);
    ML_TRY(ml_grid_agree(s->grid, ml_session_begin_ahead(s, 0, count)));
    ML_TRY(ml_grid_agree(s->grid, add_losses(s, stop, NULL)));
    ml_session_end_ahead(s, &s->valid);
done:
    return st;
}

/* Whether what the head says of each label is kept, for figures that no sum gives. */
static bool predicts(const session *s)
{
    return ml_run_config_scores_labels(s->config) && ml_run_config_unit(s->config) == 1;
}

static ml_status take_figures(session *s, predictions *p, const char *path, ml_figures *out)
{
    ml_status st = ML_OK;
    predictions_gather(p, s->grid);
    st = predictions_judge(p, out);
    if (st == ML_OK && path && ml_grid_world_rank() == 0) st = predictions_write(p, path);
    return ml_grid_agree(s->grid, st);
}

/* With the predictions of all labels, on every rank; `path`: of the file that they go to. */
static ml_status evaluate_labels(session *s, const evaluation_stop *stop, const char *path,
                                 double *sums, ml_figures *out)
{
    ml_status st = ML_OK;
    predictions p = {0};
    ML_TRY(ml_grid_agree(s->grid,
                         predictions_create(&p, s->valid.dataset, s->valid.sampler, s->max_len)));
    s->predictions = &p;
    ML_TRY(ml_session_agree(s, add_losses(s, stop, sums)));
    ML_TRY(take_figures(s, &p, path, out));
done:
    s->predictions = NULL;
    predictions_destroy(&p);
    return st;
}

static ml_status measure_one(void *of, int64_t at, int64_t count)
{
    session *s = of;
    return ml_contrast_measure(s, &s->valid, at, count, false);
}

/* The vectors of [at, end), all micro-batches of this replica. */
static ml_status measure_vectors(session *s, int64_t at, int64_t end)
{
    ml_status st = ML_OK;
    int64_t micro = s->config->batch.micro;
    const pipeline_part part = {.s = s,
                                .source = &s->valid,
                                .at = at,
                                .end = end,
                                .micro = micro,
                                .of = s,
                                .one = measure_one};
    if (ml_grid_pp(s->grid) > 1) return ml_session_pipeline_part(&part);
    for (; st == ML_OK && at < end; at += micro) st = measure_one(s, at, ml_min(micro, end - at));
    return st;
}

/* As many rows as a step has, in the file's order, are each other's negatives, on any grid. */
static ml_status evaluate_vectors(session *s, const evaluation_stop *stop, double *sums)
{
    ml_status st = ML_OK;
    int64_t n = ml_sampler_usable(s->valid.sampler) / ml_session_unit(s), dp = ml_grid_dp(s->grid),
            mine = ml_grid_dp_rank(s->grid);
    for (int64_t at = 0; at < n; at += s->config->batch.sequences) {
        int64_t count = ml_min(s->config->batch.sequences, n - at);
        int64_t first = at + ml_part_start(count, dp, mine), own = ml_part_count(count, dp, mine);
        if (ml_session_is_stopped(s, stop))
            return ml_fail(ML_STOPPED, "the evaluation was interrupted");
        ML_TRY(ml_grid_agree(s->grid, ml_contrast_begin(s, at, count)));
        ML_TRY(ml_grid_agree(s->grid, measure_vectors(s, first, first + own)));
        ml_contrast_end(s);
        ml_contrast_add(s, first, own, sums);
    }
done:
    return st;
}

/* As sums[0], but exactly. Collective. */
static double sum_losses(const session *s, ml_exact *losses)
{
    ml_grid_sum_exact(s->grid, ML_GROUP_DP, losses);
    ml_grid_sum_exact(s->grid, ML_GROUP_PIPE, losses);
    return ml_exact_to_double(losses);
}

ml_status ml_session_evaluate(session *s, const evaluation_stop *stop, const char *path,
                              evaluation_result *out)
{
    double sums[PAIR_SUMS] = {0.0};
    ml_exact losses = {{0}, 0};
    ml_status st = ml_run_config_looks_ahead(s->config) ? look_ahead(s, stop) : ML_OK;
    out->figures.count = 0;
    if (ml_run_config_is_exact(s->config)) s->losses = &losses;
    if (st == ML_OK && ml_run_config_contrasts(s->config))
        st = evaluate_vectors(s, stop, sums);
    else if (st == ML_OK && predicts(s))
        st = evaluate_labels(s, stop, path, sums, &out->figures);
    else if (st == ML_OK)
        st = add_losses(s, stop, sums);
    s->losses = NULL;
    st = ml_session_agree(s, st);
    if (st != ML_OK) return st;
    ml_grid_sum_double(s->grid, ML_GROUP_DP, sums, PAIR_SUMS);
    ml_grid_sum_double(s->grid, ML_GROUP_PIPE, sums, PAIR_SUMS); /* the last stage's, others' 0 */
    ml_session_join_figures(sums);
    bool compares = ml_run_config_has_figures(s->config);
    if (ml_run_config_is_exact(s->config) && !compares) sums[0] = sum_losses(s, &losses);
    if (!compares && sums[1] == 0.0)
        return ml_fail(ML_INPUT,
                       "%s: objective mlm has chosen no token of its texts, so there is nothing to "
                       "predict; raise objective.mask_probability, or take more texts",
                       s->config->data.valid);
    out->loss = compares ? ml_session_pair_loss(s, sums) : sums[0] / sums[1];
    out->targets = (int64_t)sums[compares ? PAIRS : 1];
    memcpy(out->compared, sums, sizeof sums);
    if (!ml_run_config_contrasts(s->config)) return ML_OK;
    out->figures.name[0] = "accuracy";
    out->figures.value[0] = sums[PAIR_RIGHT] / sums[PAIRS];
    out->figures.count = 1;
    return ML_OK;
}
