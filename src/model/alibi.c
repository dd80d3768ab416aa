/* ALiBi (Press et al. 2022): what the scores of each head get by the position of their key, as a
 * table that every attention kernel adds. Counted from the query, as there, or
 * from the beginning, as in BLOOM and Falcon, a softmax is the same: the kernels count from the
 * query, so that large positions lose nothing. */
#include <math.h>

#include "model/model_private.h"

double ml_alibi_slope(int64_t heads, int64_t head)
{
    int64_t whole = 1;
    while (2 * whole <= heads) whole *= 2;
    if (head < whole) return pow(2.0, -8.0 * (double)(head + 1) / (double)whole);
    return pow(2.0, -4.0 * (double)(2 * (head - whole) + 1) / (double)whole);
}

int64_t alibi_stride(int64_t positions) { return ml_round_up(positions + ML_KEY_BIAS_BEYOND, 16); }

static float narrowed(float x) { return ml_bf16_to_float(ml_bf16_from_float(x)); }

/* transformers has the product of slope and position in the model's dtype; Falcon's, and its
 * factors, always in bf16, and divides it by √head_dim with the scores. */
static float bias_at(const ml_model *m, float slope, int64_t position)
{
    float p = (float)position;
    if (m->spec.positions == ML_POSITIONS_ALIBI_SCALED)
        return (float)ml_model_attention_scale(&m->spec) * narrowed(narrowed(slope) * narrowed(p));
    return m->dtype == ML_BF16 ? narrowed(narrowed(slope) * narrowed(p)) : slope * p;
}

void fill_alibi(const ml_model *m, int64_t positions, float *bias)
{
    int64_t stride = alibi_stride(positions);
    for (int64_t head = 0; head < m->heads; head++) {
        float slope = (float)ml_alibi_slope(m->spec.heads, m->tp_rank * m->heads + head);
        for (int64_t p = 0; p < stride; p++) bias[head * stride + p] = bias_at(m, slope, p);
    }
}
