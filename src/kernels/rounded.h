/* Products of weights in blocks with activations that are rounded to 8 bits: integer dot products
 * on the blocks. Activations are rounded as ggml rounds them: with weights in blocks of 32 in
 * blocks of 32 (the codes of its Q8_0 and Q8_1), with the K formats in blocks of 256 (Q8_K); the
 * factor of a block stays fp32. rounded/ is compiled once for each instruction set that has such
 * dot products; ref/rounded.c is the reference.
 *
 * Letters: T rows of x, G groups of 32 in a row. */
#ifndef MPILORA_KERNELS_ROUNDED_H
#define MPILORA_KERNELS_ROUNDED_H

#include "mpilora/kernels.h"

/* Rows of x: x[t][i] ≈ scale[t][i / 32] · code[t][i]. Borrowed, as the rows are laid out below. */
typedef struct ml_rounded {
    int64_t cols, groups; /* of a row; groups = cols / 32 */
    int8_t *code;         /* [T][cols], −127 … 127 */
    float *scale;         /* [T][groups]; NaN where x was not finite */
    float *sum;           /* [T][groups] scale · Σ codes */
    int16_t *half;        /* [T][2·groups] Σ of 16 codes */
    int32_t *start;       /* [T][2·groups] what sums of products start from */
} ml_rounded;

/* Rows of x that are not rounded to 8 bits: x[t][i] ≈ scale[t][i / 32]·v[t][i] with v of 24 bits as
 * three digits, laid out below. rounded/fine.c says why. */
typedef struct ml_fine {
    int64_t cols, groups;
    int8_t *digit[3]; /* [T][cols]: v = 2^16·v₀ + 2^8·v₁ + v₂ */
    int32_t *start;   /* [T][cols / 4] what sums of products start from */
    float *scale;     /* [T][groups]; NaN where x was not finite */
    float *sum;       /* [T][groups] scale · Σ v */
} ml_fine;

enum { ML_FINE_TOKENS = 2 }; /* with more, multiply-adds in fp32 are faster */

/* Products of up to ML_FINE_TOKENS rows with weights whose codes have at most 6 bits: all block
 * formats but Q8_0 and IQ4_NL. Members are NULL where there are no vectors of bytes. */
typedef struct ml_fine_products {
    void (*round)(ml_dtype dtype, int64_t T, const float *x, int64_t ldx, const ml_fine *out);
    void (*multiply)(int64_t T, const ml_fine *x, const ml_weight *w, float beta, float *y,
                     int64_t ldy); /* all threads */
} ml_fine_products;

/* One instruction set. */
typedef struct ml_rounded_set {
    const char *name;
    bool (*available)(void);
    /* Rows [first, first + T) of `out` from x[T][ldx], for weights of this format. */
    void (*round)(ml_dtype dtype, int64_t first, int64_t T, const float *x, int64_t ldx,
                  const ml_rounded *out);
    /* y[T][ldy] ← beta ≠ 0 ? y + x·Wᵀ : x·Wᵀ; all threads. */
    void (*multiply)(int64_t T, const ml_rounded *x, const ml_weight *w, float beta, float *y,
                     int64_t ldy);
    const ml_fine_products *fine; /* NULL: none */
} ml_rounded_set;

extern const ml_rounded_set ml_rounded_set_reference, ml_rounded_set_generic, ml_rounded_set_avx2,
    ml_rounded_set_avx512vnni; /* the last two on x86-64 only */

/* All that this build has, the widest first, ended by NULL. */
extern const ml_rounded_set *const ml_rounded_sets[];

/* The widest that this processor has under a vector path. */
const ml_rounded_set *ml_rounded_set_for(const char *vector_path);

struct ml_kernels_owner;

/* Scratch memory, and the product in the place of the backend's for weights in blocks. */
int64_t ml_rounded_scratch_bytes(const ml_kernels_options *options);
void ml_rounded_start(struct ml_kernels_owner *owner, const ml_kernels_options *options,
                      void *scratch);

/* Rows of `cols` activations laid out in `scratch`, ml_rounded_row_bytes(cols) each. */
int64_t ml_rounded_row_bytes(int64_t cols);
ml_rounded ml_rounded_lay_out(int64_t T, int64_t cols, void *scratch);

/* Rows of `cols` activations in 24 bits laid out in `scratch`, ml_fine_row_bytes(cols) each. */
int64_t ml_fine_row_bytes(int64_t cols);
ml_fine ml_fine_lay_out(int64_t T, int64_t cols, void *scratch);

#endif
