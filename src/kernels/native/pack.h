/* The register tile of the native product, and the packing that serves it. */
#ifndef MPILORA_KERNELS_NATIVE_PACK_H
#define MPILORA_KERNELS_NATIVE_PACK_H

#include "kernels/native/native.h"
#include "kernels/product.h"

/* The tile of C that stays in registers: rows × two vectors; the sums fill most of the 32 or 16
 * registers, two hold B, one an element of A. */
#if defined(__AVX512F__)
enum { TILE_ROWS = 12 };
#else
enum { TILE_ROWS = 6 };
#endif
enum { TILE_VECTORS = 2, TILE_COLUMNS = TILE_VECTORS * ML_LANES };

/* `lanes` rows of A or columns of B, `depth` deep. A: turned means [depth, lanes] in memory; B:
 * turned means [lanes, depth]. */
typedef struct matrix_part {
    const char *data;
    ml_dtype dtype;
    int64_t ld, lanes, depth;
    bool turned;
} matrix_part;

void ML_NATIVE(pack_rows)(const matrix_part *part, float alpha,
                          float *to); /* alpha·A → [depth][TILE_ROWS] */
void ML_NATIVE(pack_columns)(const matrix_part *part, float *to); /* B → [depth][TILE_COLUMNS] */

#endif
