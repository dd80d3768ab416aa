/* What attention's backward begins with, D[head][t] = Σ dO∘O, of outputs that were kept in fp32, in
 * bf16 or in blocks. */
#include "kernels/native/attention.h"

ML_INLINE float dot_with_kept(int64_t h, const void *x, const bool bf16, int64_t at,
                              const float *d_o)
{
    float sum[ML_SUM_LANES] = {0};
    ML_FOR_LANES(h, sum[l] = ml_fma(kept_at(x, bf16, at + i), d_o[i], sum[l]));
    return ml_sum_of_lanes(sum);
}

/* Of o in blocks: through fp32. */
static float dot_with_blocks(int64_t h, const ml_attention_kept *kept, int64_t t, int64_t first,
                             const float *d_o)
{
    enum { PART = 256 };
    float sum[ML_SUM_LANES] = {0}, o[PART];
    const uint8_t *row = (const uint8_t *)kept->o + t * ml_dtype_bytes(kept->o_dtype, kept->ldo);
    for (int64_t at = 0; at < h; at += PART) {
        int64_t count = ml_min(PART, h - at);
        ML_NATIVE(decode_run)(kept->o_dtype, row, first + at, count, 0, o);
        ML_FOR_LANES(count, sum[l] = ml_fma(o[i], d_o[at + i], sum[l]));
    }
    return ml_sum_of_lanes(sum);
}

ML_INLINE float dot_of(const ml_attention_kept *kept, int64_t t, int64_t first, int64_t h,
                       const float *d_o)
{
    int64_t at = t * kept->ldo + first;
    if (ml_dtype_is_block(kept->o_dtype)) return dot_with_blocks(h, kept, t, first, d_o);
    return kept->o_dtype == ML_BF16 ? dot_with_kept(h, kept->o, true, at, d_o)
                                    : dot_with_kept(h, kept->o, false, at, d_o);
}

void ML_NATIVE(attention_dots)(const ml_attention_shape *shape, const ml_attention_kept *kept,
                               int64_t T, const float *d_o, int64_t lddo, float *row_dot)
{
    int64_t h = shape->head_dim, heads = shape->heads;
#pragma omp parallel for schedule(static) if (T * heads * h >= ML_PARALLEL_FROM)
    for (int64_t t = 0; t < T; t++)
        for (int64_t head = 0; head < heads; head++)
            row_dot[head * T + t] = dot_of(kept, t, head * h, h, d_o + t * lddo + head * h);
}
