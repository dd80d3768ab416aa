/* y = x·Wᵀ for some rows of x, too few for the packed panels of product.c to pay: a panel of W's
 * codes (block_panel.h) is made once, and TOKENS rows of x at a time run over it with their sums in
 * registers. A weight is what decode.c makes of it, bit for bit. */
#include "kernels/native/block_panel.h"

#if defined(__AVX2__)

enum { TOKENS = 8 };

static void pack_any(ml_dtype dtype, const uint8_t *w, int64_t row, int64_t rows, int64_t first,
                     int64_t count, ml_block_panel *p)
{
#define PACK(constant) ml_pack_panel(constant, 0, w, row, rows, first, count, p)
    ML_FOR_BLOCK_FORMAT(dtype, PACK)
#undef PACK
}

/* What the compiler has to know of a format. */
typedef enum kind { PLAIN, WITH_OFFSET, WITH_HALVES } kind;

/* T rows of x, at their column of the panel's first group, times `count` of the panel's groups. */
ML_INLINE void multiply_tile(kind k, const int T, const ml_block_panel *p, const float *x,
                             int64_t ldx, int64_t count, ml_vector sum[TOKENS])
{
    ml_vector all[TOKENS];
#pragma GCC unroll 8
    for (int i = 0; i < T; i++) all[i] = (ml_vector){0};
    for (int64_t g = 0; g < count; g++, x += ML_GROUP)
        for (int q = 0; q < ML_PANEL_QUADS; q++) {
            const ml_int_vector codes = *(const ml_int_vector *)(const void *)p->code[g][q];
            const int half = k == WITH_HALVES && q >= ML_PANEL_QUADS / 2;
            const ml_vector scale = *(const ml_vector *)(const void *)p->scale[g][half];
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++) {
                const ml_int_vector code = (ml_int_vector)(codes << (24 - 8 * j)) >> 24;
                ml_vector w = __builtin_convertvector(code, ml_vector) * scale;
                if (k == WITH_OFFSET) w += *(const ml_vector *)(const void *)p->offset[g];
#pragma GCC unroll 8
                for (int i = 0; i < T; i++) all[i] += w * x[i * ldx + 4 * q + j];
            }
        }
#pragma GCC unroll 8
    for (int i = 0; i < T; i++) sum[i] = all[i];
}

typedef void tile_function(const ml_block_panel *p, const float *x, int64_t ldx, int64_t count,
                           ml_vector sum[TOKENS]);

#define TILE(kind, T)                                                                   \
    static void tile_##kind##_##T(const ml_block_panel *p, const float *x, int64_t ldx, \
                                  int64_t count, ml_vector sum[TOKENS])                 \
    {                                                                                   \
        multiply_tile(kind, T, p, x, ldx, count, sum);                                  \
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

TILES(PLAIN)
TILES(WITH_OFFSET)
TILES(WITH_HALVES)

static tile_function *const tiles[][TOKENS] = {NAMES(PLAIN), NAMES(WITH_OFFSET),
                                               NAMES(WITH_HALVES)};

void ML_NATIVE(few_panels)(int64_t T, const float *x, int64_t ldx, const ml_weight *w,
                           int64_t first, int64_t count, float beta, float *y, int64_t ldy)
{
    ml_block_panel p;
    ml_vector sum[TOKENS];
    const ml_dtype dtype = w->dtype;
    const int64_t all = w->cols / ML_GROUP,
                  row = all / ml_block_groups(dtype) * ml_block_bytes(dtype);
    tile_function *const *of_kind = tiles[dtype == ML_Q6_K       ? WITH_HALVES
                                          : ml_has_offset(dtype) ? WITH_OFFSET
                                                                 : PLAIN];
    for (int64_t r = first, rows; r < first + count; r += rows) {
        rows = ml_min(ML_LANES, first + count - r);
        for (int64_t g = 0, groups; g < all; g += groups) {
            groups = ml_min(ML_PANEL_GROUPS, all - g);
            pack_any(dtype, (const uint8_t *)w->data + r * row, row, rows, g, groups, &p);
            for (int64_t t = 0, n; t < T; t += n) {
                const int64_t tiles_left = (T - t + TOKENS - 1) / TOKENS;
                n = (T - t + tiles_left - 1) / tiles_left; /* of about the same size */
                of_kind[n - 1](&p, x + t * ldx + g * ML_GROUP, ldx, groups, sum);
                for (int64_t i = 0; i < n; i++)
                    ml_put_lanes(rows, sum[i], beta != 0 || g > 0, y + (t + i) * ldy + r);
            }
        }
    }
}

#endif
