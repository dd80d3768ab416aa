/* A head that scores labels: final norm and one linear layer, which every rank has whole and in
 * fp32, on those rows that the labels belong to. Between them may stand a layer with tanh (BERT's
 * pooler, RoBERTa's dense). What the scores are worth is the caller's. */
#include <math.h>

#include "model/model_private.h"

/* y[C, out] ← x[C, in]·Wᵀ + b */
static void forward(const ml_model *m, const whole_linear *w, int64_t C, int64_t in, int64_t out,
                    const float *x, float *y)
{
    const ml_kernels *k = m->kernels;
    k->gemm(k, false, true, C, out, in, 1.0F, x, in, w->weight, in, 0.0F, y, out);
    if (w->bias) k->add_bias(C, out, w->bias, y, out);
}

/* dx ← dy·W; adds to the gradients of weight and bias where these train. */
static void backward(const ml_model *m, const whole_linear *w, int64_t C, int64_t in, int64_t out,
                     const float *x, const float *dy, float *dx)
{
    const ml_kernels *k = m->kernels;
    if (w->weight_gradient)
        k->gemm(k, true, false, out, in, C, 1.0F, dy, out, x, in, 1.0F, w->weight_gradient, in);
    if (w->bias_gradient) k->sum_rows(C, out, dy, out, w->bias_gradient);
    k->gemm(k, false, false, C, in, out, 1.0F, dy, out, w->weight, in, 0.0F, dx, in);
}

/* What the scores start from, of C rows of x; a->unpooled ← what the layer's function took. */
static const float *score_input(const ml_model *m, int64_t C, const float *x)
{
    const activations *a = &m->act;
    int64_t d = m->spec.width;
    head_input(m, C, x);
    if (!a->pooled) return a->n;
    forward(m, &m->pool, C, d, d, a->n, a->unpooled);
    if (m->spec.family->pool_gelu)
        m->kernels->activation_forward(ML_GELU_ERF, C, d, a->unpooled, d, a->pooled, d);
    else
        for (int64_t i = 0; i < C * d; i++) a->pooled[i] = tanhf(a->unpooled[i]);
    return a->pooled;
}

/* a->y: the gradient of what the scores start from → of what the layer before them does. */
static void pool_backward(const ml_model *m, int64_t C)
{
    const activations *a = &m->act;
    int64_t d = m->spec.width;
    if (m->spec.family->pool_gelu)
        m->kernels->activation_backward(ML_GELU_ERF, C, d, a->unpooled, d, a->y, d, a->y, d);
    else
        for (int64_t i = 0; i < C * d; i++) a->y[i] *= 1.0F - a->pooled[i] * a->pooled[i];
    backward(m, &m->pool, C, d, d, a->n, a->y, a->unpooled);
    memcpy(a->y, a->unpooled, (size_t)(C * d) * sizeof *a->y);
}

void head_scores(const ml_model *m, const ml_batch *batch, float *score)
{
    int64_t L = m->spec.labels, e = ml_model_embed_width(&m->spec), d = m->spec.width;
    for (int64_t first = 0; first < batch->rows; first += m->act.head_chunk) {
        int64_t C = ml_min(m->act.head_chunk, batch->rows - first);
        forward(m, &m->score, C, e, L, score_input(m, C, m->act.x + first * d), score + first * L);
    }
}

/* Adds to the gradients of head and final norm where these train; the rows of a->x become the
 * gradient of what they were. */
static void chunk_backward(const ml_model *m, const ml_pass *pass, const float *slope)
{
    const activations *a = &m->act;
    int64_t C = pass->tokens, L = m->spec.labels, e = ml_model_embed_width(&m->spec),
            d = m->spec.width;
    float *x = a->x + pass->first * d;
    backward(m, &m->score, C, e, L, score_input(m, C, x), slope, a->y);
    if (a->pooled) pool_backward(m, C);
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
