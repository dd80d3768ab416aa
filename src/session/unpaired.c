/* Kahneman–Tversky optimisation (KTO, arXiv:2402.01306): answers of which each is wanted or not.
 * With u what an answer's Σ log p gained over the reference, and z ≥ 0 an estimate of how far the
 * model has moved from it, without a gradient:
 *
 *   wanted        w (1 − σ(β(u − z)))
 *   not wanted    w' (1 − σ(β(z − u)))
 *
 * z is the mean of what the answers of a step gain behind prompts that they do not belong to, or 0
 * where that is negative. The prompt of a row gets the answer of the row before it in the file;
 * the first of each `batch.sequences` rows gets that of the last of them. Of rows that were pairs
 * it is the second before (where they follow each other, not in blocks), so that a rejected
 * answer's prompt does not get its own chosen one. As this does not depend on the order of
 * training, the reference of these, too, is found once.
 *
 * Loss type apo_zero_unpaired (arXiv:2408.06266) is the same with z = 0. */
#include <math.h>

#include "session/pair_loss.h"
#include "session/session.h"

void ml_unpaired_destroy(unpaired *u)
{
    ml_memory_free(u->partner);
    ml_memory_free(u->wanted);
    ml_memory_free(u->reference);
    ml_memory_free(u->token);
    ml_memory_free(u->mask);
    *u = (unpaired){0};
}

/* ---- which answer stands behind which prompt ----------------------------------------------- */

/* Of the usable sequence `i`, in the file's order, among chunks of `chunk`. */
static int64_t partner_of(const ml_sampler *sampler, int64_t chunk, int64_t i)
{
    int64_t first = i - i % chunk, count = ml_min(chunk, ml_sampler_usable(sampler) - first),
            back = ml_sampler_alternates(sampler) ? 2 : 1;
    return first + (i - first + count - back % count) % count;
}

static int64_t prompt_length(const ml_dataset *data, int64_t sequence, int64_t max_len)
{
    return ml_dataset_length(data, sequence, max_len) - ml_dataset_targets(data, sequence, max_len);
}

int64_t ml_unpaired_longest(const ml_dataset *data, const ml_sampler *sampler, int64_t max_len,
                            int64_t chunk)
{
    int64_t longest = 0;
    for (int64_t i = 0; i < ml_sampler_usable(sampler); i++) {
        int64_t other = ml_sampler_member(sampler, partner_of(sampler, chunk, i)),
                tokens = prompt_length(data, ml_sampler_member(sampler, i), max_len) +
                         ml_dataset_targets(data, other, 0);
        longest = ml_max(longest, ml_min(tokens, max_len));
    }
    return longest;
}

static ml_status read_verdicts(const ml_dataset *data, uint8_t *wanted)
{
    ml_status st = ML_OK;
    bool pairs = ml_dataset_has_pairs(data);
    for (int64_t i = 0; i < ml_dataset_sequences(data); i++) {
        float label = i % 2 == 0 ? 1.0F : 0.0F;
        if (!pairs) ML_TRY(ml_dataset_read_label(data, i, &label));
        wanted[i] = label > 0.0F;
    }
done:
    return st;
}

ml_status ml_unpaired_prepare(session *s, data_source *source)
{
    ml_status st = ML_OK;
    unpaired *u = &source->unpaired;
    const ml_dataset *data = source->dataset;
    int64_t n = ml_dataset_sequences(data), chunk = s->config->batch.sequences;
    ml_unpaired_destroy(u);
    ML_NEW(u->partner, n, ML_MEM_OTHER, "the order of answers");
    ML_NEW(u->wanted, n, ML_MEM_OTHER, "the labels of answers");
    ML_NEW(u->token, 2 * s->max_len, ML_MEM_OTHER, "an answer");
    ML_NEW(u->mask, 2 * s->max_len, ML_MEM_OTHER, "an answer");
    ML_TRY(read_verdicts(data, u->wanted));
    for (int64_t i = 0; i < ml_sampler_usable(source->sampler); i++)
        u->partner[ml_sampler_member(source->sampler, i)] =
            ml_sampler_member(source->sampler, partner_of(source->sampler, chunk, i));
    if (ml_run_config_looks_ahead(s->config))
        u->longest = ml_unpaired_longest(data, source->sampler, s->max_len, chunk);
done:
    return st;
}

static int64_t find_answer(const uint8_t *mask, int64_t length)
{
    int64_t at = 0;
    while (at < length && !mask[at]) at++;
    return at;
}

ml_status ml_unpaired_read(const session *s, const data_source *source, int64_t sequence,
                           int32_t *token, uint8_t *mask, int64_t *length)
{
    ml_status st = ML_OK;
    const unpaired *u = &source->unpaired;
    const ml_dataset *data = source->dataset;
    int64_t other = u->partner[sequence], whole = ml_dataset_length(data, other, 2 * s->max_len);
    ML_TRY(ml_dataset_read(data, sequence, s->max_len, token, mask));
    ML_TRY(ml_dataset_read(data, other, 2 * s->max_len, u->token, u->mask));
    int64_t prompt = find_answer(mask, ml_dataset_length(data, sequence, s->max_len)),
            from = find_answer(u->mask, whole), count = ml_min(whole - from, s->max_len - prompt);
    memcpy(token + prompt, u->token + from, (size_t)count * sizeof *token);
    memset(mask + prompt, 1, (size_t)count);
    *length = prompt + count;
done:
    return st;
}

/* ---- what the answers are worth ------------------------------------------------------------ */

static void judge(const comparison *j, int64_t text, int64_t sequence)
{
    const ml_run_config *c = j->s->config;
    packer *p = &j->s->packer;
    double *sums = j->sums, b = c->objective.beta,
           u = p->text_log_p[text] - j->source->reference[sequence],
           z = ml_run_config_looks_ahead(c) ? j->s->ahead.moved : 0.0;
    bool wanted = j->source->unpaired.wanted[sequence];
    const pair_value value = wanted ? ml_unpaired_loss(b, u - z) : ml_unpaired_loss(-b, u - z);
    double weight = wanted ? c->objective.desirable_weight : c->objective.undesirable_weight;
    p->text_slope[text] = weight * value.du;
    ml_session_add_figure(j->s, sums, PAIR_LOSS, weight * value.loss);
    ml_session_add_figure(j->s, sums, wanted ? PAIR_REWARD_CHOSEN : PAIR_REWARD_REJECTED, b * u);
    ml_session_add_figure(j->s, sums, wanted ? PAIR_LOG_P_CHOSEN : PAIR_LOG_P_REJECTED,
                          p->text_log_p[text]);
    sums[PAIR_WANTED] += wanted ? 1.0 : 0.0;
    ml_session_add_figure(j->s, sums, PAIR_MOVED, z);
    sums[PAIRS] += 1.0;
}

void ml_unpaired_weigh(const comparison *j, const float *log_p)
{
    packer *p = &j->s->packer;
    double unheard[PAIR_SUMS];
    const comparison counted = ml_comparison_counted(j, unheard);
    bool counts = ml_grid_cp_rank(j->s->grid) == 0;
    for (int64_t i = 0; i < j->batch->count; i++) p->text_log_p[i] = 0.0;
    for (int64_t t = 0; t < p->hits; t++)
        ml_session_add(j->s, &p->text_log_p[p->target_text[t]], (double)log_p[t]);
    ml_grid_sum_double(j->s->grid, ML_GROUP_CP, p->text_log_p, j->batch->count);
    for (int64_t i = 0; i < j->batch->count; i++) {
        int64_t sequence = ml_sampler_at(j->source->sampler, p->read[i].position);
        if (j->sums)
            judge(&counted, i, sequence);
        else if (counts && j->keep)
            j->keep[sequence] = p->text_log_p[i];
        else if (counts)
            ml_session_add(j->s, &j->s->ahead.moved,
                           p->text_log_p[i] - j->source->unpaired.reference[sequence]);
    }
    for (int64_t t = 0; j->batch->backward && t < p->hits; t++)
        p->weight[t] = (float)(-p->text_slope[p->target_text[t]] / (double)j->batch->pairs);
}

void ml_unpaired_end_ahead(session *s)
{
    pairs_ahead *a = &s->ahead;
    ml_grid_sum_double(s->grid, ML_GROUP_DP, &a->moved, 1);
    ml_grid_sum_double(s->grid, ML_GROUP_PIPE, &a->moved, 1); /* the last stage's, others' 0 */
    a->moved = fmax(0.0, a->moved / (double)a->count);
}
