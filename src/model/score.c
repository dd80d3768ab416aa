/* A head that scores labels: final norm and one linear layer, which every rank has whole and in
 * fp32, on those rows that the labels belong to, or on means of rows (mean.c). Between them may
 * stand a layer with an activation (BERT's pooler, RoBERTa's dense), or one with an activation and
 * a norm (transform.c). What the scores are worth is the caller's. */
#include "model/model_private.h"

/* What the scores start from, of C rows in a->n; a->unpooled ← what the layer's function took. */
static const float *score_input(const ml_model *m, int64_t C)
{
    const activations *a = &m->act;
    int64_t d = m->spec.width;
    if (!a->pooled) return transform_forward(m, C);
    whole_forward(m, &m->pool, C, d, d, a->n, a->unpooled);
    m->kernels->activation_forward(m->spec.pool_activation, C, d, a->unpooled, d, a->pooled, d);
    return a->pooled;
}

/* a->y: the gradient of what the scores start from → of what the layer before them does. */
static void pool_backward(const ml_model *m, int64_t C)
{
    const activations *a = &m->act;
    int64_t d = m->spec.width;
    m->kernels->activation_backward(m->spec.pool_activation, C, d, a->unpooled, d, a->y, d, a->y,
                                    d);
    whole_backward(m, &m->pool, C, d, d, a->n, a->y, a->unpooled);
    memcpy(a->y, a->unpooled, (size_t)(C * d) * sizeof *a->y);
}

static void scores_of(const ml_model *m, int64_t C, float *score)
{
    whole_forward(m, &m->score, C, ml_model_hidden_width(&m->spec), m->spec.labels,
                  score_input(m, C), score);
}

/* Adds to the gradients of the head where these train; a->y ← the gradient of a->n. */
static void scores_backward(const ml_model *m, int64_t C, const float *slope)
{
    whole_backward(m, &m->score, C, ml_model_hidden_width(&m->spec), m->spec.labels,
                   score_input(m, C), slope, m->act.y);
    if (m->act.pooled)
        pool_backward(m, C);
    else
        transform_backward(m, C);
}

/* ---- of rows ------------------------------------------------------------------------------- */

static void row_scores(const ml_model *m, const ml_scored_part *part)
{
    int64_t L = m->spec.labels, d = m->spec.width;
    for (int64_t first = 0; first < part->rows; first += m->act.head_chunk) {
        int64_t C = ml_min(m->act.head_chunk, part->rows - first);
        head_input(m, C, m->act.x + (part->row + first) * d);
        scores_of(m, C, part->score + first * L);
    }
}

/* The rows of a->x become the gradient of what they were. */
static void row_scores_backward(const ml_model *m, const ml_batch *batch,
                                const ml_scored_part *part)
{
    for (int64_t first = 0; first < part->rows; first += m->act.head_chunk) {
        const chunk rows = {.rows = batch->rows,
                            .first = part->row + first,
                            .count = ml_min(m->act.head_chunk, part->rows - first),
                            .predicted = true};
        const ml_pass pass = pass_over(m, batch, &rows);
        float *x = m->act.x + rows.first * m->spec.width;
        head_input(m, rows.count, x);
        scores_backward(m, rows.count, part->slope + first * m->spec.labels);
        head_input_backward(m, &pass, x);
    }
}

/* ---- of means ------------------------------------------------------------------------------ */

static void mean_scores(const ml_model *m, const ml_batch *batch, const ml_scored_part *part)
{
    int64_t L = m->spec.labels;
    for (int64_t s = 0, row = part->row; s < part->sequences; s += m->act.head_chunk) {
        int64_t C = ml_min(m->act.head_chunk, part->sequences - s);
        row = sequence_means(m, batch, part->sequence + s, C, row);
        scores_of(m, C, part->score + s * L);
    }
}

static void mean_scores_backward(const ml_model *m, const ml_batch *batch,
                                 const ml_scored_part *part)
{
    int64_t L = m->spec.labels;
    for (int64_t s = 0, row = part->row; s < part->sequences; s += m->act.head_chunk) {
        int64_t C = ml_min(m->act.head_chunk, part->sequences - s);
        (void)sequence_means(m, batch, part->sequence + s, C, row);
        scores_backward(m, C, part->slope + s * L);
        row = sequence_means_backward(m, batch, part->sequence + s, C, row);
    }
}

/* -------------------------------------------------------------------------------------------- */

void head_scores(const ml_model *m, const ml_batch *batch, const ml_scored_part *part)
{
    if (m->act.means)
        mean_scores(m, batch, part);
    else
        row_scores(m, part);
}

void head_scores_backward(const ml_model *m, const ml_batch *batch, const ml_scored_part *part)
{
    if (m->act.means)
        mean_scores_backward(m, batch, part);
    else
        row_scores_backward(m, batch, part);
}
