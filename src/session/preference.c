/* Objectives that compare the two answers of a pair.
 *
 * Their loss is a function of Σ log p of each answer, so its gradient is that of Σ −log p with a
 * weight for each answer. The answers' sums are found behind the layers' forward pass, the weights
 * from them, then one backward pass takes them: ml_model_weighed. Of ranks that share the tokens
 * out each has some of an answer's targets: its sums are those of all of them, and the first one
 * counts what is found. */
#include "session/pair_loss.h"
#include "session/pipeline.h"

/* The number of targets of each sequence's answer; where each position lies. */
static void count_targets(const comparison *c, int64_t first, int64_t texts)
{
    packer *p = &c->s->packer;
    for (int64_t i = 0; i < texts; i++) {
        p->text_log_p[i] = 0.0;
        p->text_targets[i] = 0;
        p->text_at[p->read[i].position - first] = i;
    }
    for (int64_t j = 0; j < p->hits; j++)
        if (p->target_place[j] >= 0) p->text_targets[p->target_text[j]]++;
    ml_grid_sum_int64(c->s->grid, ML_GROUP_CP, p->text_targets, texts);
}

/* How much a target counts in its answer's Σ log p: that of a prompt not at all, and those behind
 * the length of the pair's shorter answer ld_alpha. */
static double share_of(const comparison *c, int64_t target)
{
    const packer *p = &c->s->packer;
    int32_t text = p->target_text[target], place = p->target_place[target];
    if (place < 0) return 0.0;
    int64_t other = p->text_at[(p->read[text].position ^ 1) - 2 * c->batch->first];
    return place < p->text_targets[other] ? 1.0 : c->s->config->objective.ld_alpha;
}

static void sum_texts(const comparison *c, const float *log_p)
{
    packer *p = &c->s->packer;
    count_targets(c, 2 * c->batch->first, 2 * c->batch->count);
    for (int64_t j = 0; j < p->hits; j++)
        ml_session_add(c->s, &p->text_log_p[p->target_text[j]], share_of(c, j) * (double)log_p[j]);
    ml_grid_sum_double(c->s->grid, ML_GROUP_CP, p->text_log_p, 2 * c->batch->count);
}

static bool is_chosen(const packer *p, int64_t target)
{
    return p->read[p->target_text[target]].position % 2 == 0;
}

/* The loss on the tokens of chosen sequences. */
static void sum_tokens(const comparison *c, const float *log_p)
{
    const packer *p = &c->s->packer;
    for (int64_t j = 0; j < p->hits; j++) {
        if (!is_chosen(p, j)) continue;
        ml_session_add_figure(c->s, c->sums, PAIR_NLL, -(double)log_p[j]);
        c->sums[PAIR_TOKENS] += 1.0;
    }
}

double ml_session_reference_of(const data_source *source, int64_t position)
{
    return source->reference ? source->reference[ml_sampler_at(source->sampler, position)] : 0.0;
}

static void add_sorted(const pairs_ahead *ahead, int64_t pair, pair_value *value)
{
    int64_t at = pair - ahead->first;
    value->loss += ahead->loss[at];
    value->du += ahead->slope[2 * at];
    value->dv += ahead->slope[2 * at + 1];
}

comparison ml_comparison_counted(const comparison *c, double unheard[PAIR_SUMS])
{
    comparison counted = *c;
    memset(unheard, 0, PAIR_SUMS * sizeof *unheard);
    if (c->sums && ml_grid_cp_rank(c->s->grid) > 0) counted.sums = unheard;
    return counted;
}

/* The derivatives of a pair's loss, and its figures. `chosen` and `rejected`: in p->read. */
static void compare_pair(const comparison *c, int64_t pair, int64_t chosen, int64_t rejected)
{
    const ml_run_config *config = c->s->config;
    packer *p = &c->s->packer;
    double *sums = c->sums, a = p->text_log_p[chosen], b = p->text_log_p[rejected];
    const pair_point at = {a - ml_session_reference_of(c->source, 2 * pair),
                           b - ml_session_reference_of(c->source, 2 * pair + 1),
                           (double)p->text_targets[chosen], (double)p->text_targets[rejected]};
    pair_value value = ml_pair_loss_at(config, &at);
    bool mean = ml_pair_loss_is_mean(config);
    if (ml_run_config_looks_ahead(config)) add_sorted(&c->s->ahead, pair, &value);
    double beta = config->objective.beta, up = beta * at.u / (mean ? at.n : 1.0),
           down = beta * at.v / (mean ? at.m : 1.0);
    p->text_slope[chosen] = value.du;
    p->text_slope[rejected] = value.dv;
    ml_session_add_figure(c->s, sums, PAIR_LOSS, value.loss);
    sums[PAIR_RIGHT] += up > down ? 1.0 : 0.0;
    ml_session_add_figure(c->s, sums, PAIR_REWARD_CHOSEN, up);
    ml_session_add_figure(c->s, sums, PAIR_REWARD_REJECTED, down);
    ml_session_add_figure(c->s, sums, PAIR_LOG_P_CHOSEN, a / (mean ? at.n : 1.0));
    ml_session_add_figure(c->s, sums, PAIR_LOG_P_REJECTED, b / (mean ? at.m : 1.0));
    sums[PAIRS] += 1.0;
}

static void keep_sums(const comparison *c, int64_t texts)
{
    const packer *p = &c->s->packer;
    const pairs_ahead *ahead = &c->s->ahead;
    if (ml_grid_cp_rank(c->s->grid) > 0) return; /* all ranks' are summed */
    for (int64_t i = 0; i < texts; i++) {
        int64_t position = p->read[i].position;
        if (c->keep)
            c->keep[ml_sampler_at(c->source->sampler, position)] = p->text_log_p[i];
        else
            ahead->log_p[position - 2 * ahead->first] = p->text_log_p[i];
    }
}

static void weigh_pairs(const comparison *c, const float *log_p)
{
    packer *p = &c->s->packer;
    double unheard[PAIR_SUMS];
    const comparison counted = ml_comparison_counted(c, unheard);
    sum_texts(c, log_p);
    if (!c->sums) {
        keep_sums(c, 2 * c->batch->count);
        return;
    }
    for (int64_t k = 0; k < c->batch->count; k++)
        compare_pair(&counted, c->batch->first + k, p->text_at[2 * k], p->text_at[2 * k + 1]);
    sum_tokens(c, log_p);
    if (!c->batch->backward) return;
    double tokens = ml_run_config_token_weight(c->s->config) / (double)c->batch->tokens;
    for (int64_t j = 0; j < p->hits; j++) {
        double slope = p->text_slope[p->target_text[j]] * share_of(c, j);
        p->weight[j] = (float)(-slope / (double)c->batch->pairs + (is_chosen(p, j) ? tokens : 0.0));
    }
}

/* ---- a micro-batch ------------------------------------------------------------------------- */

ml_status ml_comparison_pack(const comparison *c)
{
    const pair_batch *b = c->batch;
    int64_t unit = ml_run_config_unit(c->s->config);
    return c->mismatched
               ? ml_session_pack_mismatched(c->s, c->source, b->first, b->count)
               : ml_session_pack(c->s, c->source, unit * b->first, unit * b->count, b->keyed);
}

void ml_comparison_weigh(const comparison *c, const float *log_p)
{
    if (c->s->config->objective.name == ML_OBJECTIVE_KTO)
        ml_unpaired_weigh(c, log_p);
    else
        weigh_pairs(c, log_p);
}

static void weigh(void *self, const float *log_p) { ml_comparison_weigh(self, log_p); }

static ml_status run_batch(comparison *c)
{
    session *s = c->s;
    packer *p = &s->packer;
    const ml_weighing weighing = {weigh, c};
    ml_status st = ml_grid_agree_in(s->grid, ML_GROUP_BATCH, ml_comparison_pack(c));
    if (st != ML_OK) return st;
    p->batch.targets.weight = p->weight;
    ml_model_weighed(s->model, &p->batch, c->batch->backward, p->log_p, &weighing);
    return ML_OK;
}

ml_status ml_session_compare(session *s, const data_source *source, const pair_batch *batch,
                             double sums[PAIR_SUMS])
{
    if (ml_run_config_contrasts(s->config)) return ml_contrast_compare(s, source, batch, sums);
    if (ml_run_config_scores_labels(s->config)) return ml_session_score(s, source, batch, sums);
    comparison c = {.s = s, .source = source, .batch = batch, .sums = sums};
    return run_batch(&c);
}

comparison ml_comparison_ahead(session *s, const data_source *source, const pair_batch *batch)
{
    return (comparison){.s = s,
                        .source = source,
                        .batch = batch,
                        .mismatched = s->config->objective.name == ML_OBJECTIVE_KTO};
}

ml_status ml_session_measure(session *s, const data_source *source, int64_t first, int64_t count)
{
    const pair_batch batch = {.first = first, .count = count};
    comparison c = ml_comparison_ahead(s, source, &batch);
    return run_batch(&c);
}

double ml_session_pair_loss(const session *s, const double sums[PAIR_SUMS])
{
    double tokens = ml_run_config_token_weight(s->config), loss = sums[PAIR_LOSS] / sums[PAIRS];
    return tokens > 0.0 ? loss + tokens * sums[PAIR_NLL] / sums[PAIR_TOKENS] : loss;
}

/* ---- before the first step ------------------------------------------------------------------ */

typedef struct referring {
    session *s;
    data_source *source;
    bool mismatched;
    double *out;
} referring;

static ml_status refer_one(void *of, int64_t at, int64_t count)
{
    const referring *r = of;
    const pair_batch batch = {.first = at, .count = count};
    comparison c = {.s = r->s,
                    .source = r->source,
                    .batch = &batch,
                    .keep = r->out,
                    .mismatched = r->mismatched};
    return run_batch(&c);
}

/* This replica's pairs, or rows. All replicas go through as many rounds, since they ask each other
 * before each. */
static ml_status refer_part(session *s, data_source *source, const evaluation_stop *stop,
                            bool mismatched, double *out)
{
    ml_status st = ML_OK;
    int64_t n = ml_sampler_usable(source->sampler) / ml_run_config_unit(s->config),
            dp = ml_grid_dp(s->grid), mine = ml_grid_dp_rank(s->grid),
            micro = ml_run_config_micro(s->config, (int)dp);
    int64_t first = ml_part_start(n, dp, mine), end = first + ml_part_count(n, dp, mine);
    referring all = {s, source, mismatched, out};
    int64_t round = ml_session_pipeline_round(s, micro);
    for (int64_t done = 0; done < ml_part_count(n, dp, 0); done += round) {
        const pipeline_part part = {.s = s,
                                    .source = source,
                                    .at = first + done,
                                    .end = ml_min(first + done + round, end),
                                    .micro = micro,
                                    .mismatched = mismatched,
                                    .of = &all,
                                    .one = refer_one};
        if (ml_session_is_stopped(s, stop))
            return ml_fail(ML_STOPPED, "interrupted before the first step, nothing was trained");
        if (part.at >= part.end || (st != ML_OK && ml_grid_pp(s->grid) == 1)) continue;
        ml_status own = ml_grid_pp(s->grid) > 1 ? ml_session_pipeline_part(&part)
                                                : refer_one(&all, part.at, part.end - part.at);
        st = st == ML_OK ? own : st;
    }
    return st;
}

static ml_status refer(session *s, data_source *source, const evaluation_stop *stop,
                       bool mismatched, double **out)
{
    ml_status st = ML_OK;
    int64_t sequences = ml_dataset_sequences(source->dataset);
    if (!*out) ML_NEW(*out, sequences, ML_MEM_OTHER, "the reference's log-probabilities");
    memset(*out, 0, (size_t)sequences * sizeof **out);
done:
    st = ml_grid_agree(s->grid, st);
    if (st == ML_OK) st = ml_session_agree(s, refer_part(s, source, stop, mismatched, *out));
    if (st == ML_OK) ml_grid_sum_double(s->grid, ML_GROUP_DP, *out, sequences);
    if (st == ML_OK) ml_grid_sum_double(s->grid, ML_GROUP_PIPE, *out, sequences);
    return st;
}

ml_status ml_session_refer(session *s, data_source *source, const evaluation_stop *stop)
{
    ml_status st = refer(s, source, stop, false, &source->reference);
    if (st == ML_OK && ml_session_refers_mismatched(s))
        st = refer(s, source, stop, true, &source->unpaired.reference);
    return st;
}

bool ml_session_refers_mismatched(const session *s)
{
    return s->config->objective.name == ML_OBJECTIVE_KTO && ml_run_config_looks_ahead(s->config);
}
