/* Vectors of texts: v_t = Σ_r n_r / R_t over the R_t rows of text t, n what the norm behind the
 * last layer makes of a row; back, dn_r = Σ_t dv_t / R_t over the texts that row r belongs to.
 * Every rank of a tp group has the whole rows and does all of it. */
#include "model/model_private.h"

/* y += a·x */
static void add_scaled(int64_t n, float a, const float *x, float *y)
{
    for (int64_t i = 0; i < n; i++) y[i] += a * x[i];
}

/* The normed states of C rows from `first` on; with the norm's own figures, which the way back
 * needs. */
static const float *normed(const ml_model *m, int64_t first, int64_t C)
{
    const activations *a = &m->act;
    return norm_forward(m, &m->final_norm, C, a->x + first * m->spec.width, a->n, a->mean, a->rstd);
}

void pool_vectors(const ml_model *m, const ml_batch *batch, const ml_text_vectors *v)
{
    int64_t d = m->spec.width;
    const int64_t *start = batch->targets.start;
    memset(v->vector, 0, (size_t)(v->texts * d) * sizeof *v->vector);
    for (int64_t first = 0; first < batch->rows; first += m->act.head_chunk) {
        int64_t C = ml_min(m->act.head_chunk, batch->rows - first);
        const float *n = normed(m, first, C);
        for (int64_t c = 0; c < C; c++)
            for (int64_t j = start[first + c]; j < start[first + c + 1]; j++)
                add_scaled(d, v->share[v->text[j]], n + c * d, v->vector + v->text[j] * d);
    }
}

void pool_vectors_backward(const ml_model *m, const ml_batch *batch, const ml_text_vectors *v)
{
    const activations *a = &m->act;
    int64_t d = m->spec.width;
    const int64_t *start = batch->targets.start;
    for (int64_t first = 0; first < batch->rows; first += a->head_chunk) {
        int64_t C = ml_min(a->head_chunk, batch->rows - first);
        (void)normed(m, first, C);
        memset(a->y, 0, (size_t)(C * d) * sizeof *a->y);
        for (int64_t c = 0; c < C; c++)
            for (int64_t j = start[first + c]; j < start[first + c + 1]; j++)
                add_scaled(d, v->share[v->text[j]], v->slope + v->text[j] * d, a->y + c * d);
        head_norm_backward(m, C, a->y, a->x + first * d);
    }
}
