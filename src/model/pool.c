/* Vectors of texts: v_t = Σ_r n_r / R_t over the R_t rows of text t, n what a head would start
 * from; back, dn_r = Σ_t dv_t / R_t over the texts that row r belongs to.
 * Every rank of a tp group has the whole rows and does all of it. */
#include "model/model_private.h"

/* y += a·x */
static void add_scaled(int64_t n, float a, const float *x, float *y)
{
    for (int64_t i = 0; i < n; i++) y[i] += a * x[i];
}

void pool_vectors(const ml_model *m, const ml_batch *batch, const ml_text_vectors *v)
{
    int64_t d = ml_model_hidden_width(&m->spec);
    const int64_t *start = batch->targets.start;
    memset(v->vector, 0, (size_t)(v->texts * d) * sizeof *v->vector);
    for (int64_t first = 0; first < batch->rows; first += m->act.head_chunk) {
        int64_t C = ml_min(m->act.head_chunk, batch->rows - first);
        head_input(m, C, m->act.x + first * m->spec.width);
        for (int64_t c = 0; c < C; c++)
            for (int64_t j = start[first + c]; j < start[first + c + 1]; j++)
                add_scaled(d, v->share[v->text[j]], m->act.n + c * d, v->vector + v->text[j] * d);
    }
}

void pool_vectors_backward(const ml_model *m, const ml_batch *batch, const ml_text_vectors *v)
{
    const activations *a = &m->act;
    int64_t d = ml_model_hidden_width(&m->spec);
    const int64_t *start = batch->targets.start;
    for (int64_t first = 0; first < batch->rows; first += a->head_chunk) {
        const chunk rows = {.rows = batch->rows,
                            .first = first,
                            .count = ml_min(a->head_chunk, batch->rows - first),
                            .predicted = true};
        const ml_pass pass = pass_over(m, batch, &rows);
        float *x = a->x + first * m->spec.width;
        head_input(m, rows.count, x);
        memset(a->y, 0, (size_t)(rows.count * d) * sizeof *a->y);
        for (int64_t c = 0; c < rows.count; c++)
            for (int64_t j = start[first + c]; j < start[first + c + 1]; j++)
                add_scaled(d, v->share[v->text[j]], v->slope + v->text[j] * d, a->y + c * d);
        head_input_backward(m, &pass, x);
    }
}
