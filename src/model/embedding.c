/* Token and position embedding, both cut by rows over tp: each rank adds the rows that it holds,
 * one sum makes the whole. */
#include "model/model_private.h"

/* Row `index` of a slot held by this rank, multiplied by `factor`, onto x; nothing where another
 * rank holds it. */
static void add_row(const ml_model *m, int64_t slot_index, int64_t first, int64_t count,
                    int64_t index, float factor, float *x)
{
    if (index < first || index >= first + count) return;
    const ml_model_slot *slot = &m->slots[slot_index];
    int64_t d = m->spec.width, at = (index - first) * d;
    if (slot->dtype == ML_BF16) {
        const uint16_t *row = (const uint16_t *)slot->data + at;
        for (int64_t j = 0; j < d; j++) x[j] += factor * ml_bf16_to_float(row[j]);
    } else {
        const float *row = (const float *)slot->data + at;
        for (int64_t j = 0; j < d; j++) x[j] += factor * row[j];
    }
}

void ml_model_embed(const ml_model *m, int64_t count, const int32_t *token, float *out)
{
    int64_t d = m->spec.width;
    float factor = (float)ml_model_embed_multiplier(&m->spec);
    memset(out, 0, (size_t)(count * d) * sizeof *out);
    for (int64_t i = 0; i < count; i++)
        add_row(m, m->embed_slot, m->vocab_first, m->vocab_count, token[i], factor, out + i * d);
    if (m->grid) ml_grid_sum_float(m->grid, ML_GROUP_TP, out, count * d);
}

void embed_forward(ml_model *m, const ml_batch *batch)
{
    int64_t d = m->spec.width, T = batch->tokens;
    float factor = (float)ml_model_embed_multiplier(&m->spec);
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < T; t++) {
        float *x = m->act.x + t * d;
        memset(x, 0, (size_t)d * sizeof *x);
        add_row(m, m->embed_slot, m->vocab_first, m->vocab_count, batch->token[t], factor, x);
        if (m->position_slot >= 0)
            add_row(m, m->position_slot, m->position_first, m->position_count, m->act.position[t],
                    1.0F, x);
    }
    if (m->grid) ml_grid_sum_float(m->grid, ML_GROUP_TP, m->act.x, T * d);
}

static void add_gradient(const ml_model *m, int64_t slot_index, int64_t first, int64_t count,
                         int64_t index, float factor, const float *dx)
{
    if (index < first || index >= first + count) return;
    float *row = m->slots[slot_index].gradient + (index - first) * m->spec.width;
    for (int64_t j = 0; j < m->spec.width; j++) row[j] += factor * dx[j];
}

/* In the order of the tokens, by one thread: the same bits every time. */
void embed_backward(ml_model *m, const ml_batch *batch)
{
    int64_t d = m->spec.width;
    float factor = (float)ml_model_embed_multiplier(&m->spec);
    for (int64_t t = 0; t < batch->tokens; t++) {
        const float *dx = m->act.x + t * d;
        if (m->slots[m->embed_slot].gradient)
            add_gradient(m, m->embed_slot, m->vocab_first, m->vocab_count, batch->token[t], factor,
                         dx);
        if (m->position_slot >= 0 && m->slots[m->position_slot].gradient)
            add_gradient(m, m->position_slot, m->position_first, m->position_count,
                         m->act.position[t], 1.0F, dx);
    }
}
