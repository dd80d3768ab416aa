/* shard: which part of a global tensor one tensor-parallel rank holds.
 *
 * A tensor is rows × cols, row-major (a vector is n × 1). A rank holds it whole, or some row
 * ranges (dimension 0; several ranges where a fused tensor such as q|k|v is cut inside each part),
 * or one column range (dimension 1). The local tensor is the chosen ranges one after the other,
 * contiguous, row-major.
 *
 * Neighbouring ranks of tp may hold the same part: a model with fewer key/value heads than ranks
 * has each of its heads on several of them.
 */
#ifndef MPILORA_SHARD_H
#define MPILORA_SHARD_H

#include "mpilora/base.h"

ML_BEGIN_DECLS

#define ML_SHARD_PARTS 3

typedef enum ml_shard_dim {
    ML_SHARD_WHOLE = -1,
    ML_SHARD_ROWS = 0,
    ML_SHARD_COLS = 1
} ml_shard_dim;

typedef struct ml_shard {
    ml_shard_dim dim;
    int nparts; /* 0 where whole; 1 for columns */
    struct {
        int64_t start, count;
    } part[ML_SHARD_PARTS];
    unsigned copied; /* bit i: `copies` neighbours of tp hold part i, this rank among them */
    int copies;      /* 0 where there are none */
    bool spare;      /* and one before this rank does, which writes it and counts it */
} ml_shard;

/* No row of any tensor: what a rank has of what another one holds.
 * Shapes: none.
 * Ownership: none.
 * Local.
 * Errors: none. */
static inline ml_shard ml_shard_nothing(void)
{
    return (ml_shard){.dim = ML_SHARD_ROWS, .nparts = 1};
}

/* Units (heads) [first, first + count) of a rank, which `copies` neighbours hold; `spare`: this
 * rank is not the first of them. */
typedef struct ml_unit_range {
    int64_t first, count;
    int copies;
    bool spare;
} ml_unit_range;

/* What rank `rank` of tp holds of so many units: its ml_part_count of them; or, where they `repeat`
 * and are fewer than the ranks, of which there is a multiple, the one that tp / units neighbours
 * hold.
 * Shapes: units.
 * Ownership: none.
 * Local.
 * Errors: none. */
ml_unit_range ml_shard_units(int64_t units, bool repeat, int tp, int rank);

/* Rows and columns of the local tensor.
 * Shapes: `rows`, `cols` of the global tensor in, of the local one out.
 * Ownership: borrows `shard`.
 * Local.
 * Errors: none. */
int64_t ml_shard_rows(const ml_shard *shard, int64_t rows);
int64_t ml_shard_cols(const ml_shard *shard, int64_t cols);

/* The part of `shard` inside global rows [first, first + rows), as a shard of those rows alone;
 * returns where it starts in the local tensor.
 * Shapes: rows × cols; an offset in elements.
 * Ownership: borrows `shard`; `within` is the caller's.
 * Local.
 * Errors: none. */
int64_t ml_shard_within(const ml_shard *shard, int64_t first, int64_t rows, int64_t cols,
                        ml_shard *within);

/* Copies the local part out of a global tensor (take), or into it (put).
 * Shapes: global[rows, cols], local[ml_shard_rows, ml_shard_cols], fp32, row-major.
 * Ownership: all borrowed; what is written is the caller's.
 * Local.
 * Errors: none. */
void ml_shard_take(const ml_shard *shard, int64_t rows, int64_t cols, const float *global,
                   float *local);
void ml_shard_put(const ml_shard *shard, int64_t rows, int64_t cols, const float *local,
                  float *global);

ML_END_DECLS

#endif
