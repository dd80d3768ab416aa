/* Many rows of x: as many rows of W as a vector has lanes are taken from their blocks into a panel
 * that stays in the first cache, four codes of each row side by side, and rows of x run over it,
 * TOKENS at a time with their sums in registers. A thread decodes a panel once for all rows of x.
 * Without vectors of bytes there is nothing to win by that, and dots.c does it all. */
#include "kernels/rounded/codes.h"

#if defined(__AVX2__)

enum { TOKENS = 8, DEPTH = 1024, DEPTH_GROUPS = DEPTH / ML_GROUP, QUADS = ML_GROUP / 4 };

typedef int32_t int_vector __attribute__((vector_size(4 * ML_LANES), aligned(4), may_alias));

/* Row r of the panel is lane r. */
typedef struct panel {
    _Alignas(64) uint8_t code[DEPTH_GROUPS][QUADS][ML_LANES][4];
    float scale[DEPTH_GROUPS][2][ML_LANES]; /* of the halves of a group */
    float offset[DEPTH_GROUPS][ML_LANES];
} panel;

/* ---- packing ------------------------------------------------------------------------------- */

/* Four dwords of the rows i, i + 4, … one below the other, a 128-bit lane of each. */
ML_INLINE void turn_quads(const __m128i row[ML_LANES], uint8_t (*out)[ML_LANES][4])
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

/* One block of all rows, `row` bytes apart; the last of `rows` stands for those that there are not.
 */
ML_INLINE void pack_block(ml_dtype dtype, const uint8_t *w, int64_t row, int64_t rows,
                          int64_t first, panel *p)
{
    const int groups = ml_block_groups(dtype);
    ml_factors factors[ML_LANES];
    for (int64_t r = 0; r < ML_LANES; r++) {
        const uint8_t *block = w + ml_min(r, rows - 1) * row;
        ml_take_factors(dtype, block, &factors[r]);
        for (int at = 0; at < ml_block_bytes(dtype); at += 64) /* of the panel after this one */
            __builtin_prefetch(block + ML_LANES * row + at);
        for (int g = 0; g < groups; g++) {
            for (int half = 0; half < (ml_has_halves(dtype) ? 2 : 1); half++)
                p->scale[first + g][half][r] =
                    factors[r].scale[ml_has_halves(dtype) ? 2 * g + half : g];
            if (ml_has_offset(dtype)) p->offset[first + g][r] = factors[r].offset[g];
        }
    }
#pragma GCC unroll 8
    for (int g = 0; g < groups; g++) {
        __m128i half[2][ML_LANES];
        for (int64_t r = 0; r < ML_LANES; r++) {
            ml_codes codes;
            ml_take_codes(dtype, w + ml_min(r, rows - 1) * row, g, ml_code_bias(dtype), &codes);
            half[0][r] = _mm256_castsi256_si128(codes.all);
            half[1][r] = _mm256_extracti128_si256(codes.all, 1);
        }
        turn_quads(half[0], p->code[first + g]);
        turn_quads(half[1], p->code[first + g] + QUADS / 2);
    }
}

ML_INLINE void pack(ml_dtype dtype, const uint8_t *w, int64_t row, int64_t rows, int64_t first,
                    int64_t count, panel *p)
{
    const int groups = ml_block_groups(dtype);
    w += first / groups * ml_block_bytes(dtype);
    for (int64_t g = 0; g < count; g += groups, w += ml_block_bytes(dtype))
        pack_block(dtype, w, row, rows, g, p);
}

static void pack_any(ml_dtype dtype, const uint8_t *w, int64_t row, int64_t rows, int64_t first,
                     int64_t count, panel *p)
{
#define PACK(constant) pack(constant, w, row, rows, first, count, p)
    ML_FOR_BLOCK_FORMAT(dtype, PACK)
#undef PACK
}

/* ---- a tile -------------------------------------------------------------------------------- */

/* What the compiler has to know of a format. */
typedef enum kind { BIASED, SIGNED, WITH_OFFSET, WITH_HALVES } kind;

ML_INLINE kind kind_of(ml_dtype dtype)
{
    return ml_has_halves(dtype)     ? WITH_HALVES
           : ml_has_offset(dtype)   ? WITH_OFFSET
           : ml_stays_signed(dtype) ? SIGNED
                                    : BIASED;
}

/* sum + four products of every lane with the same four codes of x. */
ML_INLINE int_vector multiply_quad(kind k, int_vector sum, const uint8_t w[ML_LANES][4],
                                   const int8_t *x)
{
    int32_t four;
    memcpy(&four, x, sizeof four);
#if defined(__AVX512VNNI__)
    (void)k;
    return (int_vector)_mm512_dpbusd_epi32((__m512i)sum, _mm512_load_si512(w),
                                           _mm512_set1_epi32(four));
#else
    return (int_vector)ml_dot_bytes(k == SIGNED, (__m256i)sum,
                                    _mm256_load_si256((const __m256i *)(const void *)w),
                                    _mm256_set1_epi32(four));
#endif
}

/* Rows [t, t + T) of x times the panel's groups, which are groups [first, first + count) of a row.
 */
ML_INLINE void multiply_tile(kind k, const int T, const panel *p, const ml_rounded *x, int64_t t,
                             int64_t first, int64_t count, ml_vector sum[TOKENS])
{
    const int parts = k == WITH_HALVES ? 2 : 1;
    const int64_t G = x->groups, cols = x->cols;
    const int8_t *code = x->code + t * cols + first * ML_GROUP;
    const int32_t *start = x->start + (t * G + first) * parts;
    const float *scale = x->scale + t * G + first, *sums = x->sum + t * G + first;
    ml_vector all[TOKENS];
#pragma GCC unroll 8
    for (int i = 0; i < T; i++) all[i] = (ml_vector){0};
    for (int64_t g = 0; g < count; g++)
#pragma GCC unroll 2
        for (int part = 0; part < parts; part++) {
            int_vector dot[TOKENS];
#pragma GCC unroll 8
            for (int i = 0; i < T; i++) {
                dot[i] = (int_vector){0};
                if (k == BIASED || k == WITH_HALVES)
                    dot[i] += start[i * G * parts + g * parts + part];
            }
#pragma GCC unroll 8
            for (int q = part * QUADS / parts; q < (part + 1) * QUADS / parts; q++)
#pragma GCC unroll 8
                for (int i = 0; i < T; i++)
                    dot[i] = multiply_quad(k, dot[i], p->code[g][q],
                                           code + i * cols + g * ML_GROUP + q * 4);
            const ml_vector s = *(const ml_vector *)(const void *)p->scale[g][part];
#pragma GCC unroll 8
            for (int i = 0; i < T; i++)
                all[i] += __builtin_convertvector(dot[i], ml_vector) * s * scale[i * G + g];
            if (k != WITH_OFFSET) continue;
            const ml_vector o = *(const ml_vector *)(const void *)p->offset[g];
#pragma GCC unroll 8
            for (int i = 0; i < T; i++) all[i] += o * sums[i * G + g];
        }
#pragma GCC unroll 8
    for (int i = 0; i < T; i++) sum[i] = all[i];
}

typedef void tile_function(const panel *p, const ml_rounded *x, int64_t t, int64_t first,
                           int64_t count, ml_vector sum[TOKENS]);

#define TILE(kind, T)                                                                            \
    static void tile_##kind##_##T(const panel *p, const ml_rounded *x, int64_t t, int64_t first, \
                                  int64_t count, ml_vector sum[TOKENS])                          \
    {                                                                                            \
        multiply_tile(kind, T, p, x, t, first, count, sum);                                      \
    }
#define TILES(kind) \
    TILE(kind, 1)   \
    TILE(kind, 2)   \
    TILE(kind, 3)   \
    TILE(kind, 4)   \
    TILE(kind, 5)   \
    TILE(kind, 6)   \
    TILE(kind, 7)   \
    TILE(kind, 8)
#define NAMES(kind)                                                                          \
    {                                                                                        \
        tile_##kind##_1, tile_##kind##_2, tile_##kind##_3, tile_##kind##_4, tile_##kind##_5, \
            tile_##kind##_6, tile_##kind##_7, tile_##kind##_8                                \
    }

TILES(BIASED)
TILES(SIGNED)
TILES(WITH_OFFSET)
TILES(WITH_HALVES)

static tile_function *const tiles[][TOKENS] = {NAMES(BIASED), NAMES(SIGNED), NAMES(WITH_OFFSET),
                                               NAMES(WITH_HALVES)};

/* ---- the product --------------------------------------------------------------------------- */

static void put(int64_t rows, ml_vector sum, bool add, float *y)
{
    if (rows == ML_LANES) {
        ml_vector *to = (ml_vector *)(void *)y;
        if (add) sum += *to;
        *to = sum;
    } else
        for (int64_t r = 0; r < rows; r++) y[r] = add ? y[r] + sum[r] : sum[r];
}

void ML_NATIVE(rounded_panels)(int64_t T, const ml_rounded *x, const ml_weight *w, int64_t first,
                               int64_t count, float beta, float *y, int64_t ldy)
{
    panel p;
    ml_vector sum[TOKENS];
    const int64_t row = x->groups / ml_block_groups(w->dtype) * ml_block_bytes(w->dtype);
    tile_function *const *of_kind = tiles[kind_of(w->dtype)];
    for (int64_t r = first, rows; r < first + count; r += rows) {
        rows = ml_min(ML_LANES, first + count - r);
        for (int64_t g = 0, groups; g < x->groups; g += groups) {
            groups = ml_min(DEPTH_GROUPS, x->groups - g);
            pack_any(w->dtype, (const uint8_t *)w->data + r * row, row, rows, g, groups, &p);
            for (int64_t t = 0, n; t < T; t += n) {
                n = ml_min(TOKENS, T - t);
                of_kind[n - 1](&p, x, t, g, groups, sum);
                for (int64_t i = 0; i < n; i++)
                    put(rows, sum[i], beta != 0 || g > 0, y + (t + i) * ldy + r);
            }
        }
    }
}

#endif
