/* Packing: a block of a matrix becomes panels of `width` lanes, [depth][width], so that the
 * register tile reads one after the other; lanes that the matrix does not have are zero. A bf16
 * matrix is widened on the way. */
#include "kernels/native/pack.h"

typedef uint32_t four_words __attribute__((vector_size(16), aligned(2),
                                           may_alias)); /* rows of bf16 may begin at any number */
typedef float four_floats __attribute__((vector_size(16), aligned(4), may_alias));

ML_INLINE void turn_words(const void *const row[4], four_words out[4])
{
    const four_words a = *(const four_words *)row[0], b = *(const four_words *)row[1],
                     c = *(const four_words *)row[2], d = *(const four_words *)row[3];
    four_words ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5),
               ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
    four_words cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5),
               cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    out[0] = __builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5);
    out[1] = __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7);
    out[2] = __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5);
    out[3] = __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7);
}

ML_INLINE void put(float *to, four_words bits) { *(four_words *)(void *)to = bits; }

ML_INLINE float element_at(const void *x, bool bf16, int64_t i)
{
    return bf16 ? ml_bf16_to_float(((const uint16_t *)x)[i]) : ((const float *)x)[i];
}

/* Four lanes: rows of the matrix that run along the depth. */
ML_INLINE void turn_four_lanes(int64_t depth, const char *x, int64_t stride, bool bf16, float *to,
                               int64_t width)
{
    const void *row[4];
    four_words turned[4];
    int64_t l = 0, step = bf16 ? 8 : 4, size = bf16 ? 2 : 4;
    for (; l + step <= depth; l += step) {
        for (int i = 0; i < 4; i++) row[i] = x + i * stride + l * size;
        turn_words(row, turned);
        for (int i = 0; i < 4; i++) {
            if (bf16) { /* a word holds two numbers of the depth, the first below */
                put(to + (l + 2 * i) * width, turned[i] << 16);
                put(to + (l + 2 * i + 1) * width, turned[i] & 0xffff0000u);
            } else
                put(to + (l + i) * width, turned[i]);
        }
    }
    for (; l < depth; l++)
        for (int i = 0; i < 4; i++) to[l * width + i] = element_at(x + i * stride, bf16, l);
}

ML_INLINE void turn(int64_t depth, int64_t lanes, const char *x, int64_t stride, bool bf16,
                    float *to, int64_t width)
{
    int64_t i = 0;
    for (; i + 4 <= lanes; i += 4)
        turn_four_lanes(depth, x + i * stride, stride, bf16, to + i, width);
    for (; i < width; i++)
        for (int64_t l = 0; l < depth; l++)
            to[l * width + i] = i < lanes ? element_at(x + i * stride, bf16, l) : 0;
}

ML_INLINE void straight(int64_t depth, int64_t lanes, const char *x, int64_t stride, bool bf16,
                        float *to, const int width)
{
    for (int64_t l = 0; l < depth; l++) {
        const char *row = x + l * stride;
        float *out = to + l * width;
        if (lanes == width && !bf16)
            memcpy(out, row, (size_t)width * sizeof *out);
        else if (lanes == width) {
#pragma omp simd
            for (int i = 0; i < width; i++) out[i] = element_at(row, bf16, i);
        } else
            for (int64_t i = 0; i < width; i++) out[i] = i < lanes ? element_at(row, bf16, i) : 0;
    }
}

void ML_NATIVE(pack_rows)(const matrix_part *part, float alpha, float *to)
{
    const char *x = part->data;
    int64_t stride = part->ld * (int64_t)sizeof(float);
    if (part->turned)
        straight(part->depth, part->lanes, x, stride, false, to, TILE_ROWS);
    else
        turn(part->depth, part->lanes, x, stride, false, to, TILE_ROWS);
    if (alpha == 1) return;
    for (int64_t i = 0; i < part->depth * TILE_ROWS; i++) to[i] *= alpha;
}

void ML_NATIVE(pack_columns)(const matrix_part *part, float *to)
{
    const char *x = part->data;
    bool bf16 = part->dtype == ML_BF16;
    int64_t stride = part->ld * (bf16 ? 2 : 4);
    if (part->turned && bf16)
        turn(part->depth, part->lanes, x, stride, true, to, TILE_COLUMNS);
    else if (part->turned)
        turn(part->depth, part->lanes, x, stride, false, to, TILE_COLUMNS);
    else if (bf16)
        straight(part->depth, part->lanes, x, stride, true, to, TILE_COLUMNS);
    else
        straight(part->depth, part->lanes, x, stride, false, to, TILE_COLUMNS);
}
