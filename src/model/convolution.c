/* The convolution of DeBERTa-v2's larger models: behind the first layer
 *   x = norm(x + a(W·[neighbours of the embedding] + b)),
 * each token with the `kernel` tokens around it, zeros beyond its sequence. The neighbours are laid
 * side by side, column i·kernel + t the i-th element of neighbour t, so that it is a product with
 * the stored weight as it is; in chunks of the tokens. Every rank of tp has all of it. */
#include "model/model_private.h"

/* The tokens of one sequence among those of a chunk. */
typedef struct stretch {
    int64_t sequence, first, end; /* tokens of the batch */
} stretch;

static bool next_stretch(const ml_batch *batch, const chunk *c, stretch *s)
{
    const int64_t *start = batch->sequences.start;
    int64_t from = s->end < c->first ? c->first : s->end;
    if (from == c->first + c->count) return false;
    while (start[s->sequence + 1] <= from) s->sequence++;
    s->first = from;
    s->end = ml_min(start[s->sequence + 1], c->first + c->count);
    return true;
}

/* Rows of neighbours ← the input, or the input's gradient += that of the rows. */
static void move_neighbours(const ml_model *m, const ml_batch *batch, const chunk *c, bool back,
                            float *input, float *columns)
{
    int64_t d = m->spec.width, kernel = m->spec.conv_kernel;
    for (stretch s = {0}; next_stretch(batch, c, &s);) {
        int64_t begin = batch->sequences.start[s.sequence],
                end = batch->sequences.start[s.sequence + 1];
        for (int64_t token = s.first; token < s.end; token++)
            for (int64_t t = 0; t < kernel; t++) {
                int64_t from = token + t - kernel / 2;
                bool inside = from >= begin && from < end;
                float *column = columns + (token - c->first) * d * kernel + t;
                float *x = inside ? input + from * d : NULL;
                for (int64_t i = 0; !back && i < d; i++) column[i * kernel] = x ? x[i] : 0.0F;
                for (int64_t i = 0; back && x && i < d; i++) x[i] += column[i * kernel];
            }
    }
}

/* What goes into the activation, of a chunk. */
static void multiply(const ml_model *m, const ml_batch *batch, const chunk *c, float *out)
{
    const convolution *v = &m->act.convolution;
    const ml_pass pass = {.kernels = m->kernels, .tokens = c->count, .first = c->first};
    move_neighbours(m, batch, c, false, v->input, v->columns);
    ml_linear_forward(&m->conv, &pass, v->columns, out);
}

void convolution_keep(ml_model *m, int64_t T)
{
    activations *a = &m->act;
    memcpy(a->convolution.input, a->x, (size_t)(T * m->spec.width) * sizeof *a->x);
}

void convolution_forward(ml_model *m, const ml_batch *batch, bool backward)
{
    activations *a = &m->act;
    int64_t d = m->spec.width;
    for (chunk c = {.rows = batch->tokens}; next_chunk(m, &c);) {
        float *x = a->x + c.first * d;
        multiply(m, batch, &c, a->y);
        m->kernels->activation_forward(m->spec.conv_activation, c.count, d, a->y, d, a->n, d);
        m->kernels->add(c.count * d, a->n, x);
        if (backward) save_rows(m, a->convolution.sum, c.first * d, x, c.count * d);
        memcpy(x, norm_forward(m, &m->conv_norm, c.count, x, a->n, a->mean, a->rstd),
               (size_t)(c.count * d) * sizeof *x);
    }
}

/* Of a chunk: dx through the activation and the product. */
static void branch_backward(ml_model *m, const ml_batch *batch, const chunk *c, const float *dx)
{
    activations *a = &m->act;
    const convolution *v = &a->convolution;
    int64_t d = m->spec.width;
    const ml_pass pass = {.kernels = m->kernels, .tokens = c->count, .first = c->first};
    multiply(m, batch, c, a->n);
    m->kernels->activation_backward(m->spec.conv_activation, c->count, d, a->n, d, dx, d, a->y, d);
    ml_linear_backward(&m->conv, &pass, v->columns, a->y, v->d_columns);
    move_neighbours(m, batch, c, true, v->d_input, v->d_columns);
}

void convolution_backward(ml_model *m, const ml_batch *batch, bool below)
{
    activations *a = &m->act;
    const convolution *v = &a->convolution;
    int64_t d = m->spec.width, T = batch->tokens;
    if (below) { /* what the first layer starts from is the embedding */
        const float *x = saved_rows(m, a->layers[0].x1, 0, v->input, T * d);
        if (x != v->input) memcpy(v->input, x, (size_t)(T * d) * sizeof *x);
        memset(v->d_input, 0, (size_t)(T * d) * sizeof *v->d_input);
    }
    for (chunk c = {.rows = T}; next_chunk(m, &c);) {
        float *dx = a->x + c.first * d;
        const float *sum = saved_rows(m, v->sum, c.first * d, a->wide_x, c.count * d);
        norm_forward(m, &m->conv_norm, c.count, sum, a->n, a->mean, a->rstd);
        norm_backward(m, &m->conv_norm, c.count, sum, a->mean, a->rstd, dx, a->y, false);
        memcpy(dx, a->y, (size_t)(c.count * d) * sizeof *dx);
        if (below) branch_backward(m, batch, &c, dx);
    }
}

void convolution_add(ml_model *m, int64_t T)
{
    m->kernels->add(T * m->spec.width, m->act.convolution.d_input, m->act.x);
}
