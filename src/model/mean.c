/* Means over the tokens of sequences, behind the final norm, which ModernBERT may score labels on.
 * The rows of the batch are the tokens that count; sequences longer than a chunk go piece by piece.
 */
#include "model/model_private.h"

/* The rows of a sequence: up to, not with, this one. */
static int64_t end_of(const ml_batch *batch, int64_t sequence, int64_t row)
{
    int64_t end = batch->sequences.start[sequence + 1];
    while (row < batch->rows && batch->row[row] < end) row++;
    return row;
}

static void add_rows(const ml_model *m, int64_t first, int64_t end, float *mean)
{
    const activations *a = &m->act;
    int64_t d = m->spec.width;
    float share = 1.0F / (float)(end - first);
    memset(mean, 0, (size_t)d * sizeof *mean);
    for (int64_t at = first, n; at < end; at += n) {
        n = ml_min(a->head_chunk, end - at);
        head_input(m, n, a->x + at * d);
        for (int64_t i = 0; i < n; i++) m->kernels->add(d, a->n + i * d, mean);
    }
    m->kernels->scale(d, share, mean, mean);
}

int64_t sequence_means(const ml_model *m, const ml_batch *batch, int64_t sequence, int64_t count,
                       int64_t row)
{
    const activations *a = &m->act;
    int64_t d = m->spec.width;
    for (int64_t c = 0, end; c < count; c++, row = end) {
        end = end_of(batch, sequence + c, row);
        add_rows(m, row, end, a->means + c * d);
    }
    memcpy(a->n, a->means, (size_t)(count * d) * sizeof *a->n);
    return row;
}

/* Each token has its share of the gradient of the mean. */
static void spread(const ml_model *m, const ml_batch *batch, int64_t first, int64_t end,
                   const float *d_mean)
{
    const activations *a = &m->act;
    int64_t d = m->spec.width;
    float share = 1.0F / (float)(end - first);
    for (int64_t at = first, n; at < end; at += n) {
        n = ml_min(a->head_chunk, end - at);
        const chunk rows = {.rows = batch->rows, .first = at, .count = n, .predicted = true};
        const ml_pass pass = pass_over(m, batch, &rows);
        head_input(m, n, a->x + at * d);
        for (int64_t i = 0; i < n; i++) m->kernels->scale(d, share, d_mean, a->y + i * d);
        head_input_backward(m, &pass, a->x + at * d);
    }
}

int64_t sequence_means_backward(const ml_model *m, const ml_batch *batch, int64_t sequence,
                                int64_t count, int64_t row)
{
    const activations *a = &m->act;
    int64_t d = m->spec.width;
    memcpy(a->d_means, a->y, (size_t)(count * d) * sizeof *a->d_means);
    for (int64_t c = 0, end; c < count; c++, row = end) {
        end = end_of(batch, sequence + c, row);
        spread(m, batch, row, end, a->d_means + c * d);
    }
    return row;
}
