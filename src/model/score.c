/* A head that scores labels: final norm and one linear layer, which every rank has whole and in
 * fp32, on those rows that the labels belong to. What the scores are worth is the caller's. */
#include "model/model_private.h"

/* a->n: what the layer starts from, of a chunk; score ← a->n·Wᵀ + b */
static void chunk_scores(const ml_model *m, int64_t first, int64_t C, float *score)
{
    const activations *a = &m->act;
    const ml_kernels *k = m->kernels;
    int64_t L = m->spec.labels, e = ml_model_embed_width(&m->spec);
    head_input(m, C, a->x + first * m->spec.width);
    k->gemm(k, false, true, C, L, e, 1.0F, a->n, e, m->score.weight, e, 0.0F, score, L);
    if (m->score.bias) k->add_bias(C, L, m->score.bias, score, L);
}

void head_scores(const ml_model *m, const ml_batch *batch, float *score)
{
    for (int64_t first = 0; first < batch->rows; first += m->act.head_chunk) {
        int64_t C = ml_min(m->act.head_chunk, batch->rows - first);
        chunk_scores(m, first, C, score + first * m->spec.labels);
    }
}

/* Adds to the gradients of head and final norm where these train; the rows of a->x become the
 * gradient of what they were. */
static void chunk_backward(const ml_model *m, const ml_pass *pass, const float *slope)
{
    const activations *a = &m->act;
    const ml_kernels *k = m->kernels;
    const whole_linear *w = &m->score;
    int64_t C = pass->tokens, L = m->spec.labels, e = ml_model_embed_width(&m->spec);
    float *x = a->x + pass->first * m->spec.width;
    head_input(m, C, x);
    if (w->weight_gradient)
        k->gemm(k, true, false, L, e, C, 1.0F, slope, L, a->n, e, 1.0F, w->weight_gradient, e);
    if (w->bias_gradient) k->sum_rows(C, L, slope, L, w->bias_gradient);
    k->gemm(k, false, false, C, e, L, 1.0F, slope, L, w->weight, e, 0.0F, a->y, e);
    head_input_backward(m, pass, x);
}

void head_scores_backward(const ml_model *m, const ml_batch *batch, const float *slope)
{
    for (int64_t first = 0; first < batch->rows; first += m->act.head_chunk) {
        const chunk rows = {.rows = batch->rows,
                            .first = first,
                            .count = ml_min(m->act.head_chunk, batch->rows - first),
                            .predicted = true};
        const ml_pass pass = pass_over(m, batch, &rows);
        chunk_backward(m, &pass, slope + first * m->spec.labels);
    }
}
