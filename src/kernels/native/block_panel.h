/* Rows of W in blocks as a panel that stays in the first cache: as many rows as a vector has lanes,
 * four codes of each row side by side. Products whose vectors have a row of W in each lane run over
 * it (few_panels.c, rounded/panels.c). Only where there are vectors of bytes. */
#ifndef MPILORA_KERNELS_NATIVE_BLOCK_PANEL_H
#define MPILORA_KERNELS_NATIVE_BLOCK_PANEL_H

#include "kernels/native/blocks.h"

#if defined(__AVX2__)

enum { ML_PANEL_GROUPS = 1024 / ML_GROUP, ML_PANEL_QUADS = ML_GROUP / 4 };

typedef int32_t ml_int_vector __attribute__((vector_size(4 * ML_LANES), aligned(4), may_alias));

/* Row r of the panel is lane r. */
typedef struct ml_block_panel {
    _Alignas(64) uint8_t code[ML_PANEL_GROUPS][ML_PANEL_QUADS][ML_LANES][4];
    float scale[ML_PANEL_GROUPS][2][ML_LANES]; /* of the halves of a group */
    float offset[ML_PANEL_GROUPS][ML_LANES];
} ml_block_panel;

/* Four dwords of the rows i, i + 4, … one below the other, a 128-bit lane of each. */
ML_INLINE void ml_turn_quads(const __m128i row[ML_LANES], uint8_t (*out)[ML_LANES][4])
{
#if defined(__AVX512F__)
    __m512i z[4];
    for (int i = 0; i < 4; i++) {
        z[i] = _mm512_castsi128_si512(row[i]);
        z[i] = _mm512_inserti32x4(z[i], row[i + 4], 1);
        z[i] = _mm512_inserti32x4(z[i], row[i + 8], 2);
        z[i] = _mm512_inserti32x4(z[i], row[i + 12], 3);
    }
    const __m512i a = _mm512_unpacklo_epi32(z[0], z[1]), b = _mm512_unpackhi_epi32(z[0], z[1]),
                  c = _mm512_unpacklo_epi32(z[2], z[3]), d = _mm512_unpackhi_epi32(z[2], z[3]);
    _mm512_store_si512(out[0], _mm512_unpacklo_epi64(a, c));
    _mm512_store_si512(out[1], _mm512_unpackhi_epi64(a, c));
    _mm512_store_si512(out[2], _mm512_unpacklo_epi64(b, d));
    _mm512_store_si512(out[3], _mm512_unpackhi_epi64(b, d));
#else
    __m256i z[4];
    for (int i = 0; i < 4; i++)
        z[i] = _mm256_inserti128_si256(_mm256_castsi128_si256(row[i]), row[i + 4], 1);
    const __m256i a = _mm256_unpacklo_epi32(z[0], z[1]), b = _mm256_unpackhi_epi32(z[0], z[1]),
                  c = _mm256_unpacklo_epi32(z[2], z[3]), d = _mm256_unpackhi_epi32(z[2], z[3]);
    _mm256_store_si256((__m256i *)(void *)out[0], _mm256_unpacklo_epi64(a, c));
    _mm256_store_si256((__m256i *)(void *)out[1], _mm256_unpackhi_epi64(a, c));
    _mm256_store_si256((__m256i *)(void *)out[2], _mm256_unpacklo_epi64(b, d));
    _mm256_store_si256((__m256i *)(void *)out[3], _mm256_unpackhi_epi64(b, d));
#endif
}

/* One block of all rows, `more` added to every code, `row` bytes apart; the last of `rows` stands
 * for those that there are not.
 */
ML_INLINE void ml_pack_block(ml_dtype dtype, int more, const uint8_t *w, int64_t row, int64_t rows,
                             int64_t first, ml_block_panel *p)
{
    const int groups = ml_block_groups(dtype);
    ml_factors factors[ML_LANES];
    for (int64_t r = 0; r < ML_LANES; r++) {
        const uint8_t *block = w + ml_min(r, rows - 1) * row;
        ml_take_factors(dtype, block, &factors[r]);
        for (int at = 0; at < ml_block_bytes(dtype); at += 64) /* of the panel after this one */
            __builtin_prefetch(block + ML_LANES * row + at);
        for (int g = 0; g < groups; g++) {
            for (int half = 0; half < ((dtype == ML_Q6_K) ? 2 : 1); half++)
                p->scale[first + g][half][r] =
                    factors[r].scale[(dtype == ML_Q6_K) ? 2 * g + half : g];
            if (ml_has_offset(dtype)) p->offset[first + g][r] = factors[r].offset[g];
        }
    }
#pragma GCC unroll 8
    for (int g = 0; g < groups; g++) {
        __m128i half[2][ML_LANES];
        for (int64_t r = 0; r < ML_LANES; r++) {
            ml_codes codes;
            ml_take_codes(dtype, w + ml_min(r, rows - 1) * row, g, more, &codes);
            half[0][r] = _mm256_castsi256_si128(codes.all);
            half[1][r] = _mm256_extracti128_si256(codes.all, 1);
        }
        ml_turn_quads(half[0], p->code[first + g]);
        ml_turn_quads(half[1], p->code[first + g] + ML_PANEL_QUADS / 2);
    }
}

ML_INLINE void ml_pack_panel(ml_dtype dtype, int more, const uint8_t *w, int64_t row, int64_t rows,
                             int64_t first, int64_t count, ml_block_panel *p)
{
    const int groups = ml_block_groups(dtype);
    w += first / groups * ml_block_bytes(dtype);
    for (int64_t g = 0; g < count; g += groups, w += ml_block_bytes(dtype))
        ml_pack_block(dtype, more, w, row, rows, g, p);
}

/* A lane of each of `rows` rows to its place in y. */
ML_INLINE void ml_put_lanes(int64_t rows, ml_vector sum, bool add, float *y)
{
    if (rows == ML_LANES) {
        ml_vector *to = (ml_vector *)(void *)y;
        if (add) sum += *to;
        *to = sum;
    } else
        for (int64_t r = 0; r < rows; r++) y[r] = add ? y[r] + sum[r] : sum[r];
}

#endif

#endif
