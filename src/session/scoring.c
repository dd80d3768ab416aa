/* Objectives on the scores of a head for labels: the mean over rows, or over pairs.
 *
 * classify, tokens: cross-entropy of the softmax of a row's scores; of several bits the mean over
 * them of the cross-entropy of each one's σ. regress: (score − label)².
 *
 * reward: a pair's loss is −log σ(c − r) + k·(c + r)², c and r the scores of the chosen and of the
 * rejected answer on their last tokens, k objective.center_rewards (Bradley and Terry 1952; Ouyang
 * et al. 2022, arXiv:2203.02155; Eisenstein et al. 2023, arXiv:2312.09244). */
#include <math.h>

#include "session/predictions.h"
#include "session/session.h"

static double log_sigmoid(double x) { return fmin(x, 0.0) - log1p(exp(-fabs(x))); }
static double sigmoid(double x) { return exp(log_sigmoid(x)); }

/* Scores are those of rows that have a label, in their order: where means are scored there are
 * other rows. */
static bool is_scored(const packer *p, int64_t row)
{
    return p->target_start[row + 1] > p->target_start[row];
}

static int64_t count_scores(const packer *p)
{
    int64_t scores = 0;
    for (int64_t r = 0; r < p->batch.rows; r++) scores += is_scored(p, r);
    return scores;
}

enum { ELSEWHERE = -1 };

/* text_at: where in p->read a position is, counted from the first; text_targets: the place of each
 * text's score, which texts that are the same may share; text_log_p: that score, which one of the
 * ranks that share the tokens out has. */
static void find_scores(const scoring *c, const float *score)
{
    packer *p = &c->s->packer;
    int64_t at = 0, first = 2 * c->batch->first, texts = 2 * c->batch->count;
    for (int64_t i = 0; i < texts; i++) {
        p->text_at[p->read[i].position - first] = i;
        p->text_targets[i] = ELSEWHERE;
        p->text_log_p[i] = 0.0;
    }
    for (int64_t r = 0; r < p->batch.rows; r++) {
        for (int64_t j = p->target_start[r]; j < p->target_start[r + 1]; j++) {
            p->text_targets[p->target_text[j]] = at;
            p->text_log_p[p->target_text[j]] = (double)score[at];
        }
        at += is_scored(p, r);
    }
    ml_grid_sum_double(c->s->grid, ML_GROUP_CP, p->text_log_p, texts);
}

static void add_to(float *slope, int64_t place, double more)
{
    if (place != ELSEWHERE) slope[place] += (float)more;
}

static void judge_pair(const scoring *c, int64_t pair, float *slope)
{
    const packer *p = &c->s->packer;
    int64_t chosen = p->text_at[2 * pair], rejected = p->text_at[2 * pair + 1];
    double up = p->text_log_p[chosen], down = p->text_log_p[rejected],
           center = c->s->config->objective.center_rewards, sum = up + down;
    double wrong = sigmoid(down - up), share = 1.0 / (double)c->batch->pairs;
    add_to(slope, p->text_targets[chosen], (2.0 * center * sum - wrong) * share);
    add_to(slope, p->text_targets[rejected], (2.0 * center * sum + wrong) * share);
    if (ml_grid_cp_rank(c->s->grid) > 0) return; /* the first of the sharers counts */
    ml_session_add_figure(c->s, c->sums, PAIR_LOSS, center * sum * sum - log_sigmoid(up - down));
    c->sums[PAIR_RIGHT] += up > down ? 1.0 : 0.0;
    ml_session_add_figure(c->s, c->sums, PAIR_REWARD_CHOSEN, up);
    ml_session_add_figure(c->s, c->sums, PAIR_REWARD_REJECTED, down);
    c->sums[PAIRS] += 1.0;
}

/* ---- labels -------------------------------------------------------------------------------- */

/* One row against one label, whose loss counts `share` of the batch's. */
typedef struct row {
    int64_t labels;
    const float *score;
    float *slope;
    double share;
} row;

static void add_slope(const row *r, int64_t i, double slope)
{
    r->slope[i] += (float)(slope * r->share);
}

/* Cross-entropy. */
static double judge_class(const row *r, int64_t label, bool *right)
{
    double most = -INFINITY, sum = 0.0;
    for (int64_t i = 0; i < r->labels; i++) most = fmax(most, (double)r->score[i]);
    for (int64_t i = 0; i < r->labels; i++) sum += exp((double)r->score[i] - most);
    int64_t best = 0;
    for (int64_t i = 0; i < r->labels; i++) {
        if (r->score[i] > r->score[best]) best = i;
        add_slope(r, i, exp((double)r->score[i] - most) / sum - (i == label ? 1.0 : 0.0));
    }
    *right = best == label;
    return log(sum) + most - (double)r->score[label];
}

/* The mean over the bits of the cross-entropy of each. */
static double judge_bits(const row *r, const float *bit, bool *right)
{
    double loss = 0.0, n = (double)r->labels;
    *right = true;
    for (int64_t i = 0; i < r->labels; i++) {
        double s = (double)r->score[i], b = (double)bit[i];
        loss -= (b * log_sigmoid(s) + (1.0 - b) * log_sigmoid(-s)) / n;
        add_slope(r, i, (sigmoid(s) - b) / n);
        *right = *right && (s > 0.0) == (b > 0.5);
    }
    return loss;
}

static double judge_number(const row *r, double number)
{
    double off = (double)r->score[0] - number;
    add_slope(r, 0, 2.0 * off);
    return off * off;
}

/* The j-th label of the micro-batch, which belongs to a row. */
static void judge_label(const scoring *c, const row *r, int64_t j)
{
    const packer *p = &c->s->packer;
    const packed_sequence *sequence = &p->read[p->target_text[j]];
    const float *label = sequence->label;
    bool right = false;
    double loss = 0.0;
    switch (c->kind) {
    case ML_LABEL_CLASS:
        loss = judge_class(r, (int64_t)*label, &right);
        break;
    case ML_LABEL_TOKENS:
        loss = judge_class(r, p->target[j], &right);
        break;
    case ML_LABEL_BITS:
        loss = judge_bits(r, label, &right);
        break;
    case ML_LABEL_NUMBER:
        loss = judge_number(r, (double)*label);
        break;
    case ML_LABEL_NONE: /* of pairs, and of another objective's answers */
    case ML_LABEL_WANTED:
        break;
    }
    if (c->s->predictions)
        predictions_take(c->s->predictions, sequence->position, ml_max(0, p->target_place[j]),
                         r->score, r->labels);
    ml_session_add_figure(c->s, c->sums, PAIR_LOSS, loss);
    c->sums[PAIR_RIGHT] += right ? 1.0 : 0.0;
    c->sums[PAIRS] += 1.0;
}

/* ---- a micro-batch ------------------------------------------------------------------------- */

void ml_scoring_judge(void *self, const float *score, float *slope)
{
    const scoring *c = self;
    packer *p = &c->s->packer;
    int64_t labels = ml_model_get_spec(c->s->model)->labels, at = 0;
    memset(slope, 0, (size_t)(count_scores(p) * labels) * sizeof *slope);
    if (c->kind == ML_LABEL_NONE) {
        find_scores(c, score);
        for (int64_t k = 0; k < c->batch->count; k++) judge_pair(c, k, slope);
        return;
    }
    for (int64_t i = 0; i < p->batch.rows; i++) {
        const row r = {labels, score + at * labels, slope + at * labels,
                       1.0 / (double)c->batch->pairs};
        at += is_scored(p, i);
        for (int64_t j = p->target_start[i]; j < p->target_start[i + 1]; j++) judge_label(c, &r, j);
    }
}

scoring ml_scoring_of(session *s, const data_source *source, const pair_batch *batch,
                      double sums[PAIR_SUMS])
{
    return (scoring){
        .s = s, .batch = batch, .sums = sums, .kind = ml_dataset_label_kind(source->dataset)};
}

ml_status ml_scoring_pack(const scoring *c, const data_source *source)
{
    int64_t unit = ml_run_config_unit(c->s->config);
    return ml_session_pack(c->s, source, unit * c->batch->first, unit * c->batch->count,
                           c->batch->keyed);
}

ml_status ml_session_score(session *s, const data_source *source, const pair_batch *batch,
                           double sums[PAIR_SUMS])
{
    packer *p = &s->packer;
    scoring c = ml_scoring_of(s, source, batch, sums);
    const ml_judging judging = {ml_scoring_judge, &c};
    ml_status st = ml_grid_agree_in(s->grid, ML_GROUP_BATCH, ml_scoring_pack(&c, source));
    if (st != ML_OK) return st;
    ml_model_score(s->model, &p->batch, batch->backward, p->score, p->slope, &judging);
    return ML_OK;
}
