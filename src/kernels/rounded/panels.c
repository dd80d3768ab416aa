/* Many rows of x: as many rows of W as a vector has lanes are taken from their blocks into a panel
 * that stays in the first cache, four codes of each row side by side, and rows of x run over it,
 * TOKENS at a time with their sums in registers. A thread decodes a panel once for all rows of x.
 * Without vectors of bytes there is nothing to win by that, and dots.c does it all. */
#include "kernels/native/block_panel.h"
#include "kernels/rounded/codes.h"

#if defined(__AVX2__)

enum { TOKENS = 8 };

static void pack_any(ml_dtype dtype, const uint8_t *w, int64_t row, int64_t rows, int64_t first,
                     int64_t count, ml_block_panel *p)
{
#define PACK(constant) \
    ml_pack_panel(constant, ml_code_bias(constant), w, row, rows, first, count, p)
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
ML_INLINE ml_int_vector multiply_quad(kind k, ml_int_vector sum, const uint8_t w[ML_LANES][4],
                                      const int8_t *x)
{
    int32_t four;
    memcpy(&four, x, sizeof four);
#if defined(__AVX512VNNI__)
    (void)k;
    return (ml_int_vector)_mm512_dpbusd_epi32((__m512i)sum, _mm512_load_si512(w),
                                              _mm512_set1_epi32(four));
#else
    return (ml_int_vector)ml_dot_bytes(k == SIGNED, (__m256i)sum,
                                       _mm256_load_si256((const __m256i *)(const void *)w),
                                       _mm256_set1_epi32(four));
#endif
}

/* Rows [t, t + T) of x times the panel's groups, which are groups [first, first + count) of a row.
 */
ML_INLINE void multiply_tile(kind k, const int T, const ml_block_panel *p, const ml_rounded *x,
                             int64_t t, int64_t first, int64_t count, ml_vector sum[TOKENS])
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
            ml_int_vector dot[TOKENS];
#pragma GCC unroll 8
            for (int i = 0; i < T; i++) {
                dot[i] = (ml_int_vector){0};
                if (k == BIASED || k == WITH_HALVES)
                    dot[i] += start[i * G * parts + g * parts + part];
            }
#pragma GCC unroll 8
            for (int q = part * ML_PANEL_QUADS / parts; q < (part + 1) * ML_PANEL_QUADS / parts;
                 q++)
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

typedef void tile_function(const ml_block_panel *p, const ml_rounded *x, int64_t t, int64_t first,
                           int64_t count, ml_vector sum[TOKENS]);

#define TILE(kind, T)                                                                      \
    static void tile_##kind##_##T(const ml_block_panel *p, const ml_rounded *x, int64_t t, \
                                  int64_t first, int64_t count, ml_vector sum[TOKENS])     \
    {                                                                                      \
        multiply_tile(kind, T, p, x, t, first, count, sum);                                \
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

void ML_NATIVE(rounded_panels)(int64_t T, const ml_rounded *x, const ml_weight *w, int64_t first,
                               int64_t count, float beta, float *y, int64_t ldy)
{
    ml_block_panel p;
    ml_vector sum[TOKENS];
    const int64_t row = x->groups / ml_block_groups(w->dtype) * ml_block_bytes(w->dtype);
    tile_function *const *of_kind = tiles[kind_of(w->dtype)];
    for (int64_t r = first, rows; r < first + count; r += rows) {
        rows = ml_min(ML_LANES, first + count - r);
        for (int64_t g = 0, groups; g < x->groups; g += groups) {
            groups = ml_min(ML_PANEL_GROUPS, x->groups - g);
            pack_any(w->dtype, (const uint8_t *)w->data + r * row, row, rows, g, groups, &p);
            for (int64_t t = 0, n; t < T; t += n) {
                n = ml_min(TOKENS, T - t);
                of_kind[n - 1](&p, x, t, g, groups, sum);
                for (int64_t i = 0; i < n; i++)
                    ml_put_lanes(rows, sum[i], beta != 0 || g > 0, y + (t + i) * ldy + r);
            }
        }
    }
}

#endif
