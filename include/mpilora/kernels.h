/* kernels: the local mathematics of one rank. No MPI, no files, no allocation after
 * ml_kernels_create.
 *
 * Letters: T tokens, d model width, f MLP width, V vocabulary (here: this rank's rows of it), H
 * query heads, K key/value heads (here: this rank's), h head dimension, r adapter rank, W a
 * weight, out × in, row-major.
 *
 * All computation is in fp32; only weights (ml_weight) and what is kept for backward may be bf16.
 * All matrices are row-major with a leading dimension ("ld", in elements). Every kernel is
 * deterministic for a given number of threads (no atomics, fixed order of summation), so that a
 * resumed run repeats a run bit by bit. OpenMP threads are used inside; none of the functions is
 * collective.
 *
 * ml_kernels is a table: ref/ fills all of it with plain loops, native/ (the same vector source
 * compiled for several instruction sets) overrides the elementwise kernels, attention and the
 * products; blas/ and onednn/ have other products.
 */
#ifndef MPILORA_KERNELS_H
#define MPILORA_KERNELS_H

#include "mpilora/base.h"
#include "mpilora/blocks.h"
#include "mpilora/version.h"

ML_BEGIN_DECLS

/* A matrix whose rows are outputs and columns inputs, W[rows, cols], contiguous: fp32, bf16, or
 * blocks, whole ones in a row. Borrowed. */
typedef struct ml_weight {
    const void *data;
    ml_dtype dtype;
    int64_t rows, cols;
} ml_weight;

/* Rows [first, first + count) of a matrix. */
typedef struct ml_rows {
    int64_t first, count;
} ml_rows;

enum { ML_SLOPE_STEPS = 196, ML_SLOPE_ZERO = 30 };
typedef enum ml_activation { ML_GELU_TANH, ML_GELU_ERF, ML_RELU, ML_SILU, ML_TANH } ml_activation;

/* Packed sequences: the own tokens of sequence i are rows start[i] … start[i+1]−1 (one at least)
 * of every T-row matrix; start[count] = T. Sequences that begin alike may share these rows: the
 * path of sequence i, its tokens by position, is the first shared[i] rows of the path of sequence
 * i − 1 followed by its own rows. So sequences that share stand next to each other (a prefix tree
 * in depth-first order, which sorting makes), shared[0] = 0, and sequence i is the root of a new
 * tree where shared[i] = 0. `shared` NULL: nobody shares.
 *
 * With `query` the matrices of queries have rows of their own: those of sequence i's own tokens
 * begin with row query[i] of q, o, lse and their gradients; −1: its tokens are keys and values
 * alone, whose queries another rank has. A sequence that is cut into pieces is such a path: each
 * piece shares all that comes before it. With pieces of whole blocks each number of attention is
 * the same bits as of the whole sequence. With `gives` backward finds the gradients of the keys of
 * those sequences alone that have 0 or more there. */
typedef struct ml_sequences {
    int64_t count;
    const int64_t *start;
    const int64_t *shared;
    const int64_t *query; /* [count]; NULL: rows of queries are those of the keys */
    int64_t queries;      /* rows, where `query` is there */
    const int64_t *gives; /* [count]; NULL: all keys have gradients */
} ml_sequences;

/* Rows of the matrices of queries; the first one of sequence i's, −1: it has none. */
static inline int64_t ml_sequences_queries(const ml_sequences *sequences)
{
    return sequences->query ? sequences->queries : sequences->start[sequences->count];
}
static inline int64_t ml_sequences_query(const ml_sequences *sequences, int64_t i)
{
    return sequences->query ? sequences->query[i] : sequences->start[i];
}

static inline bool ml_sequences_gives(const ml_sequences *sequences, int64_t i)
{
    return !sequences->gives || sequences->gives[i] >= 0;
}

static inline int64_t ml_sequences_shared(const ml_sequences *sequences, int64_t i)
{
    return sequences->shared ? sequences->shared[i] : 0;
}

/* The row that holds position `position` of sequence i's path. */
static inline int64_t ml_sequences_row(const ml_sequences *sequences, int64_t i, int64_t position)
{
    while (position < ml_sequences_shared(sequences, i)) i--;
    return sequences->start[i] + position - ml_sequences_shared(sequences, i);
}

/* What the rows of a matrix predict: row c the tokens token[start[c]] … token[start[c+1]−1], one
 * at least, more where sequences that share the row go on differently. Column v of the matrix
 * stands for token first + v; tokens outside its columns belong to other ranks. */
typedef struct ml_targets {
    const int64_t *start;
    const int32_t *token;
    int64_t first;
    const float *weight; /* of each target in the gradient; NULL: 1 */
} ml_targets;

/* Rows and columns of a block of the gradient of logits that is left out or is not. A narrow block
 * is empty more often; that many rows fit the register tiles of the native product. */
enum { ML_FILTER_ROWS = 6, ML_FILTER_COLUMNS = 64 };

static inline float ml_target_weight(const ml_targets *targets, int64_t i)
{
    return targets->weight ? targets->weight[i] : 1.0F;
}

/* Of all targets of row c. */
static inline float ml_target_weights(const ml_targets *targets, int64_t c)
{
    float sum = 0.0F;
    if (!targets->weight) return (float)(targets->start[c + 1] - targets->start[c]);
    for (int64_t i = targets->start[c]; i < targets->start[c + 1]; i++) sum += targets->weight[i];
    return sum;
}

/* What depends on how far apart a query and a key stand (DeBERTa's disentangled attention): the
 * score of query i and key j, before the scale, is q_i·k_j + q_i·keys[r] + k_j·queries[r] with r =
 * row[most + i − j]. */
typedef struct ml_relative {
    int64_t rows;                /* R */
    int64_t most;                /* of a distance: one less than the longest sequence, or more */
    const int32_t *row;          /* [2·most + 1], from the key furthest behind on */
    const float *keys, *queries; /* [R, H·h] with ld; NULL: no such term */
    int64_t ld;
    float *d_keys, *d_queries; /* [R, H·h] with ld: backward writes their gradients; NULL: not */
} ml_relative;

typedef struct ml_attention_shape {
    int64_t heads, kv_heads, head_dim; /* heads a multiple of kv_heads: query head j uses key head j
                                          / (heads / kv_heads) */
    float scale;                       /* usually 1/√h */
    int64_t window; /* 0: a query sees every key at or before it; w ≥ 1: the last w keys of its
                       path, itself one of them; with both_ways those at most w / 2 away */
    float cap;      /* scores s = scale·q·k become cap·tanh(s/cap); 0: they stay */
    const float *key_bias; /* [heads] rows b of key_bias_stride: the score of a query at position i
                              of its path with the key at position j gets b[j] − b[i] (ALiBi). Up
                              to ML_KEY_BIAS_BEYOND floats behind the last position may be read.
                              Not with a cap. NULL: none */
    int64_t key_bias_stride;
    bool both_ways; /* a query sees the keys behind it as well, up to the end of its sequence.
                       Sequences that share rows: see ml_attention_check */
    const ml_relative *relative; /* with both_ways and without anything else; NULL: none */
} ml_attention_shape;
enum { ML_KEY_BIAS_BEYOND = 64 };

/* What attention's forward took and gave, as it was kept for backward: q, key and value of `dtype`,
 * ML_FP32 or ML_BF16; o of `o_dtype`, one of these or ML_Q8_0, where ldo and the heads' width are
 * whole blocks of 32. */
typedef struct ml_attention_kept {
    const void *q, *key, *value, *o;
    int64_t ldq, ldkv, ldo;
    ml_dtype dtype, o_dtype;
    const float *lse;
} ml_attention_kept;

/* A norm of the heads of queries or keys, each over its own head_dim elements: RMS, or layer norm
 * where `centred`. */
typedef struct ml_headnorm {
    int64_t heads, head_dim; /* head_dim ≤ 1024 */
    bool centred, plus_one;  /* plus_one: the weight is 1 + w */
    bool own; /* each head has its own weights, [heads, head_dim]; else one for all */
    float eps;
    const float *w, *b; /* b NULL: none */
} ml_headnorm;

/* How many keys up to itself a query sees; 0: all. */
static inline int64_t ml_attention_reach(int64_t window, bool both_ways)
{
    return window > 0 && both_ways ? window / 2 + 1 : window;
}

/* The positions that a query at `position` of a path of `length` sees: first … end − 1. */
static inline int64_t ml_attention_first(const ml_attention_shape *shape, int64_t position)
{
    int64_t reach = ml_attention_reach(shape->window, shape->both_ways);
    return reach > 0 && position >= reach ? position - reach + 1 : 0;
}
static inline int64_t ml_attention_end(const ml_attention_shape *shape, int64_t position,
                                       int64_t length)
{
    if (!shape->both_ways) return position + 1;
    return shape->window > 0 ? ml_min(length, position + shape->window / 2 + 1) : length;
}

/* Pairs of a query and a key that it sees, in a sequence of n: Σ_{i < n} min(i + 1, window), all
 * n·(n + 1)/2 with window 0; with both_ways as many before the diagonal as behind it. What
 * attention's work is proportional to. */
static inline double ml_attention_pairs(double n, int64_t window, bool both_ways)
{
    double reach = (double)ml_attention_reach(window, both_ways),
           w = reach > 0.0 && reach < n ? reach : n, causal = w * (w + 1.0) / 2.0 + (n - w) * w;
    return both_ways ? 2.0 * causal - n : causal;
}

/* Rotary embedding turns the first `rotated` elements of each head, in pairs: i and i +
 * rotated/2, or where `neighbours` 2i and 2i + 1. The rest of the head stays as it is. */
typedef struct ml_rope_shape {
    int64_t heads, head_dim, rotated;
    bool neighbours;
} ml_rope_shape;

/* Step of torch.optim.AdamW: p ← p·(1 − lr·decay); m, v moments; p ← p − lr/c1 · m/(√(v/c2) + eps)
 * with c1 = 1 − β1^t, c2 = 1 − β2^t. The gradient is multiplied by grad_scale first (clipping). */
typedef struct ml_adamw {
    double lr, beta1, beta2, eps, decay, grad_scale;
    int64_t t; /* from 1 */
} ml_adamw;

typedef struct ml_kernels ml_kernels;
struct ml_kernels {
    const char *backend;     /* e.g. "native", "onednn-bf16": who multiplies the weights */
    const char *vector_path; /* e.g. "avx2": who does the rest */

    /* ---- products with a weight: Y[T, rows] = beta·Y + X[T, cols]·Wᵀ and dX[T, cols] = beta·dX +
     * dY[T, rows]·W (beta 0 or 1; with 0 the old content is never read). A bf16 W is widened in
     * panels inside or multiplied as it is (see backend); blocks are decoded as they are packed. */
    void (*weight_forward)(const ml_kernels *k, int64_t T, const float *x, int64_t ldx,
                           const ml_weight *w, float beta, float *y, int64_t ldy);
    void (*weight_backward)(const ml_kernels *k, int64_t T, const float *dy, int64_t ldy,
                            const ml_weight *w, float beta, float *dx, int64_t ldx);
    /* Of some of W's columns, whole blocks of them: Y[T, rows] = beta·Y + X[T, count]·W[:, first …
     * first + count)ᵀ. By "native", and by the reference for every other backend. */
    void (*columns_forward)(const ml_kernels *k, int64_t T, const float *x, int64_t ldx,
                            const ml_weight *w, int64_t first, int64_t count, float beta, float *y,
                            int64_t ldy);
    /* And of some of its rows, one or more runs of them: dX[T, cols] = beta·dX + Σ over the runs of
     * dY[:, run]·W[run, :]. */
    void (*rows_backward)(const ml_kernels *k, int64_t T, const float *dy, int64_t ldy,
                          const ml_weight *w, int count, const ml_rows *run, float beta, float *dx,
                          int64_t ldx);
    /* weight_backward where much of dY is blocks of zeros as xent_filter leaves them, which are
     * passed over. By "native"; NULL of every other backend. */
    void (*sparse_backward)(const ml_kernels *k, int64_t T, const float *dy, int64_t ldy,
                            const ml_weight *w, float beta, float *dx, int64_t ldx);

    /* ---- C[m, n] = alpha·op(A)·op(B) + beta·C, fp32; op(A) is m × k: A is [m, k], or [k, m]
     * where ta; the same for B. */
    void (*gemm)(const ml_kernels *k, bool ta, bool tb, int64_t m, int64_t n, int64_t kk,
                 float alpha, const float *a, int64_t lda, const float *b, int64_t ldb, float beta,
                 float *c, int64_t ldc);

    /* ---- norms over rows of d. Forward keeps the statistics (mean, rstd = 1/√(var + eps) or
     * 1/√(mean square + eps)), [T] each. y = (x − mean)·rstd·w + b, b may be NULL; RMS: y =
     * x·rstd·w, with `plus_one` x·rstd·(1 + w).
     * Backward: dx (+)= …; dw, db (+)= sums over T, each may be NULL. `add`: dx += instead of =,
     * where dx is not dy. */
    void (*layernorm_forward)(int64_t T, int64_t d, const float *x, const float *w, const float *b,
                              float eps, float *y, float *mean, float *rstd);
    void (*layernorm_backward)(int64_t T, int64_t d, const float *x, const float *w,
                               const float *mean, const float *rstd, const float *dy, float *dx,
                               bool add, float *dw, float *db);
    void (*rmsnorm_forward)(int64_t T, int64_t d, const float *x, const float *w, bool plus_one,
                            float eps, float *y, float *rstd);
    void (*rmsnorm_backward)(int64_t T, int64_t d, const float *x, const float *w, bool plus_one,
                             const float *rstd, const float *dy, float *dx, bool add, float *dw);

    /* ---- norms over each head of x[T, heads·h], ldx, in place (Qwen3's q_norm and k_norm).
     * Backward: x as it was before; dy ← dx in place; dw, db (each may be NULL) += sums over T, and
     * over the heads that share them, in an order that does not depend on the threads. */
    void (*headnorm_forward)(const ml_headnorm *norm, int64_t T, float *x, int64_t ldx);
    void (*headnorm_backward)(const ml_headnorm *norm, int64_t T, const float *x, int64_t ldx,
                              float *dy, int64_t lddy, float *dw, float *db);

    /* ---- an RMS norm over rows that are cut over ranks, n elements here (OLMo 2's q_norm and
     * k_norm), in steps between which the caller sums over the ranks:
     *   wide_squares   sum[t] = Σ x²
     *   wide_forward   x ← x·rstd[t]·w
     *   wide_products  sum[t] = Σ dy·w·x·rstd[t], x as it was before
     *   wide_backward  dy ← rstd·(dy·w − x·rstd·average[t]), average the sum over all ranks by the
     *                  whole width; dw (may be NULL) += Σ_T dy·x·rstd */
    void (*wide_squares)(int64_t T, int64_t n, const float *x, int64_t ldx, float *sum);
    void (*wide_forward)(int64_t T, int64_t n, float *x, int64_t ldx, const float *w,
                         const float *rstd);
    void (*wide_products)(int64_t T, int64_t n, const float *x, int64_t ldx, const float *w,
                          const float *rstd, const float *dy, int64_t lddy, float *sum);
    void (*wide_backward)(int64_t T, int64_t n, const float *x, int64_t ldx, const float *w,
                          const float *rstd, const float *average, float *dy, int64_t lddy,
                          float *dw);

    /* ---- rotary embedding (Su et al. 2021) in place on x[T, heads·h], ldx; each pair (a, b) →
     * (a·cos − b·sin, b·cos + a·sin) with cos, sin [positions, rotated/2]; inverse: sin negated
     * (the backward). */
    void (*rope)(const ml_rope_shape *shape, int64_t T, float *x, int64_t ldx,
                 const int32_t *position, const float *cosine, const float *sine, bool inverse);

    /* ---- activations, rows of n; plain: y = a(x); backward dx = dy·a'(x) (dx may be dy).
     * Gated: y = a(gate)·up; backward dgate = dy·up·a'(gate), dup = dy·a(gate) (dgate, dup may not
     * be dy). gate, up, dgate, dup use ldg. */
    void (*activation_forward)(ml_activation a, int64_t T, int64_t n, const float *x, int64_t ldx,
                               float *y, int64_t ldy);
    void (*activation_backward)(ml_activation a, int64_t T, int64_t n, const float *x, int64_t ldx,
                                const float *dy, int64_t lddy, float *dx, int64_t lddx);
    /* All that the backward of a plain activation takes from x, in 8 bits: code[T, n] =
     * ML_SLOPE_STEPS·a'(x) rounded, + ML_SLOPE_ZERO, which is exact for 0 and 1 and off by 0.0026
     * at the most (every a' here lies in [−0.153, 1.148]); dx = dy·(code − ML_SLOPE_ZERO) /
     * ML_SLOPE_STEPS (dx may be dy). */
    void (*slopes_forward)(ml_activation a, int64_t T, int64_t n, const float *x, int64_t ldx,
                           uint8_t *code);
    void (*slopes_backward)(int64_t T, int64_t n, const uint8_t *code, const float *dy,
                            int64_t lddy, float *dx, int64_t lddx);
    void (*gated_forward)(ml_activation a, int64_t T, int64_t n, const float *gate, const float *up,
                          int64_t ldg, float *y, int64_t ldy);
    void (*gated_backward)(ml_activation a, int64_t T, int64_t n, const float *gate,
                           const float *up, int64_t ldg, const float *dy, int64_t lddy,
                           float *dgate, float *dup, int64_t lddg);

    /* ---- attention along the path of each sequence (never across to another), blockwise with a
     * running softmax (Dao et al. 2022). Query i sees the keys j of its path with i − window < j ≤
     * i by position on the path, so that a window may reach into shared rows; window 0: all j ≤ i.
     * With both_ways: |i − j| ≤ window / 2, window 0 all keys of its sequence. A window that no
     * path outgrows gives the bits of none. q[T, H·h] ldq; k,
     * v[T, K·h] ldkv; o[T, H·h] ldo; lse[H, T] = log Σ exp(scale·q·k). Backward writes (not adds)
     * dq, dk, dv, of which dq, or dk and dv, may be NULL where nobody wants them (not with relative
     * terms); D = rowsum(dO∘O); parallel over (sequence, head) and over blocks; fp32
     * accumulators. Work proportional to the blocks in which a query sees a key. Workspace comes
     * from ml_kernels_create. */
    void (*attention_forward)(const ml_kernels *k, const ml_attention_shape *shape,
                              const ml_sequences *sequences, const float *q, int64_t ldq,
                              const float *key, const float *value, int64_t ldkv, float *o,
                              int64_t ldo, float *lse);
    void (*attention_backward)(const ml_kernels *k, const ml_attention_shape *shape,
                               const ml_sequences *sequences, const ml_attention_kept *kept,
                               const float *d_o, int64_t lddo, float *dq, int64_t lddq, float *dk,
                               float *dv, int64_t lddkv);
    /* One new token, at position n − 1, against a cache: q[H·h]; the key and the value of position
     * j < n are row row[j] of [rows, K·h] with ldkv; o[H·h]. Only the window's positions are read,
     * of `row` too. For generation, which goes one way: not with both_ways. */
    void (*attention_decode)(const ml_kernels *k, const ml_attention_shape *shape, int64_t n,
                             const int32_t *row, const float *q, const float *key,
                             const float *value, int64_t ldkv, float *o);

    /* ---- vocabulary-parallel cross-entropy over a chunk of C rows, logits z[C, V] (this rank's V
     * columns), n_c targets in row c. The caller reduces rowmax (max) and sum and picked (sum)
     * over the ranks between the calls.
     * xent_max: rowmax[c] = max_v z. xent_sum: sum[c] = Σ exp(z − rowmax); picked[c] = Σ z[target]
     * over the targets among these columns. xent_backward: z ← scale·(n_c·(exp(z − rowmax)/sum −
     * smoothing/V_all) − (1 − smoothing)·[how often v is a target]), in place; where targets have
     * weights, n_c is their sum, and a target counts as often as it weighs. */
    void (*xent_max)(int64_t C, int64_t V, const float *z, int64_t ldz, float *rowmax);
    void (*xent_sum)(int64_t C, int64_t V, const float *z, int64_t ldz, const float *rowmax,
                     const ml_targets *targets, float *sum, float *picked);
    void (*xent_backward)(int64_t C, int64_t V, float *z, int64_t ldz, const float *rowmax,
                          const float *sum, const ml_targets *targets, float smoothing,
                          int64_t V_all, float scale);
    /* xent_backward without smoothing, of which blocks of ML_FILTER_ROWS × ML_FILTER_COLUMNS, from
     * row and column 0 on, become zeros where each probability exp(z − rowmax)/sum is below `least`
     * and no target lies. lost[c]: the sum of those of row c that did; it may not overlap with
     * `sum`. Returns how many blocks did. (Wijmans et al. 2024, arXiv:2411.09009.) */
    int64_t (*xent_filter)(int64_t C, int64_t V, float *z, int64_t ldz, const float *rowmax,
                           const float *sum, const ml_targets *targets, float scale, float least,
                           float *lost);

    /* ---- vectors of n */
    void (*add)(int64_t n, const float *x, float *y);                 /* y += x */
    void (*scale)(int64_t n, float factor, const float *x, float *y); /* y = factor·x; y may be x */
    void (*multiply)(int64_t n, const float *x, float *y);            /* y = x·y, each by each */
    void (*soft_cap)(int64_t n, float cap, float *x,
                     float *slope); /* x ← cap·tanh(x/cap); slope, where it is not NULL, the
                                       derivative 1 − tanh² */
    void (*add_bias)(int64_t T, int64_t n, const float *bias, float *y,
                     int64_t ldy); /* each row of y += bias */
    void (*sum_rows)(int64_t T, int64_t n, const float *x, int64_t ldx,
                     float *sum); /* sum[n] += Σ_T x (a bias's gradient) */
    void (*fp32_to_bf16)(int64_t n, const float *x, uint16_t *y); /* to bf16, nearest even */
    void (*bf16_to_fp32)(int64_t n, const uint16_t *x, float *y);
    double (*sum_squares)(int64_t n, const float *x); /* in double; Inf or NaN where x has one */
    void (*adamw)(const ml_adamw *step, int64_t n, float *p, const float *grad, float *m, float *v);

    void *workspace; /* private to the implementation */
};

/* What may be chosen among: bit i stands for the i-th path that this program was built with. */
typedef struct ml_kernels_paths {
    unsigned backends, vector_paths;
} ml_kernels_paths;

typedef struct ml_kernels_options {
    const char *backend;     /* NULL or "auto": measured; else forced: "ref", "native", "blas",
                                     "native-amx", "onednn-bf16", …; the environment variable
                                     MPILORA_PRODUCT_PATH overrides it */
    const char *vector_path; /* NULL or "auto"; "ref", "generic", "avx2", "avx512";
                                MPILORA_VECTOR_PATH overrides it */
    const ml_kernels_paths *among; /* NULL: all that this processor has. Borrowed */
    bool recall; /* rates that an earlier start has kept are taken in the place of new ones */
    bool keep;   /* rates that are measured are kept for later starts */
    ml_dtype weight_dtype; /* of the weights that will be multiplied */
    bool exact;            /* weights in blocks and activations are not rounded to bf16 */
    bool ordered; /* a row of a product has the same bits whatever rows are multiplied with it, and
                     whatever part of the outputs this rank has: "native", or "ref" */
    bool rounded; /* weight_forward with weights in blocks takes activations rounded to 8 bits, as
                     ggml rounds them, and integer dot products; for passes without backward */
    int64_t tokens;          /* the largest T */
    int64_t attended;        /* the largest T of attention, where that is larger */
    const ml_weight *shapes; /* data NULL: the rows × cols that will be multiplied; measured and
                                used to size the workspace */
    int64_t nshapes;
    int64_t head_dim, heads,
        kv_heads;  /* of this rank, to size the attention workspace; 0: no attention */
    bool relative; /* attention has relative terms */
} ml_kernels_options;

typedef struct ml_kernels_spread {
    double median, least, most;
} ml_kernels_spread;

/* One a candidate path: the rates that ml_kernels_measure found, in GF/s; 0 where nothing was
 * measured. */
typedef struct ml_kernels_rate {
    const char *path;
    ml_kernels_spread forward, backward;
} ml_kernels_rate;

/* The paths that this processor and build can run with weights of this type. The environment
 * variable MPILORA_WITHOUT_PATHS (names with commas between them) leaves some out, as if the
 * processor lacked them.
 * Shapes: none.
 * Ownership: names are static.
 * Local.
 * Errors: none. */
ml_kernels_paths ml_kernels_available(ml_dtype dtype);

/* Whether both names (NULL and "auto": any) are among these paths.
 * Shapes: none.
 * Ownership: all borrowed.
 * Local.
 * Errors: none. */
bool ml_kernels_paths_have(const ml_kernels_paths *paths, const char *backend,
                           const char *vector_path);

/* Whether attention of this shape may run over these sequences: a query that sees what stands
 * behind it has no place in a prefix tree, where several sequences go on from one row; relative
 * terms go with both_ways and with as many key heads as query heads, and neither with a window, a
 * cap or a bias nor with sequences that are longer than they have distances.
 * Shapes: none.
 * Ownership: all borrowed.
 * Local.
 * Errors: ML_USAGE naming the first sequence that shares rows, or is too long, or what else. */
ml_status ml_attention_check(const ml_attention_shape *shape,
                             const ml_sequences *sequences) ML_NODISCARD;

/* Creates the table for this processor and these shapes: the first of the vector paths that it has
 * (the widest), and "native" unless another backend is clearly faster, so that the same command
 * takes the same one: in the order of the build's list, a backend takes the place of the one
 * before where the medians of ml_kernels_measure say 1.3 times as fast, or more, in both
 * directions; a model without a product of 1e8 operations keeps the first, since there is less to
 * win than noise makes of a rate. This takes < 1 s, and nothing where a backend is forced, or
 * where rates are recalled: they are kept by processor, libraries, shapes and threads in
 * $XDG_CACHE_HOME/mpilora, by default ~/.cache/mpilora; a warning says where they cannot be. The
 * chosen one is checked against ref/ on a small product (a library that computes wrong results is
 * left out with a warning). To give all ranks one path, create on rank 0 among those that all
 * have, broadcast its backend and vector_path, and force these on the others.
 * Shapes: as ml_kernels_options says.
 * Ownership: *out is the caller's, who ends it with ml_kernels_destroy.
 * Local.
 * Errors: ML_USAGE naming the paths that there are, where a forced one is not among them;
 * ML_RESOURCE. */
ml_status ml_kernels_create(ml_kernels **out, const ml_kernels_options *options) ML_NODISCARD;

/* Ends a table; NULL is fine.
 * Shapes: none.
 * Ownership: takes `kernels`.
 * Local.
 * Errors: none. */
void ml_kernels_destroy(ml_kernels *kernels);

/* How much ml_kernels_measure multiplies: shapes are cut to these sizes and a product to `flops`
 * (0: not); at least `rounds` rounds after one that warms up, then until `seconds` have passed.
 * With `one_thread` the times are what the processor worked for this process, so that others on
 * its cores count little; else all threads work, and times are those of the clock. */
typedef struct ml_kernels_effort {
    int64_t shapes, tokens, cols;
    double flops, seconds;
    int rounds;
    bool one_thread;
} ml_kernels_effort;

/* Rates of `count` tables on options->shapes with options->tokens tokens: every round runs each
 * table once in each direction, every second round in reverse order. rates[i].path is left alone.
 * Shapes: tables[count], rates[count], GF/s.
 * Ownership: all borrowed.
 * Local.
 * Errors: ML_RESOURCE. */
ml_status ml_kernels_measure(const ml_kernels_options *options, const ml_kernels_effort *effort,
                             int64_t count, const ml_kernels *const *tables,
                             ml_kernels_rate *rates) ML_NODISCARD;

/* The measured rates of `kernels`, of one thread; returns their number. *recalled (may be NULL):
 * they are those of an earlier start.
 * Shapes: GF/s.
 * Ownership: borrowed from `kernels`.
 * Local.
 * Errors: none. */
int64_t ml_kernels_rates(const ml_kernels *kernels, const ml_kernels_rate **rates, bool *recalled);

/* The fp32 multiply-add rate that all threads of this rank reach on registers alone, measured now
 * (some 10 ms) with the instructions of the vector path; 0 under "ref".
 * Shapes: GF/s.
 * Ownership: borrows `kernels`.
 * Local.
 * Errors: none. */
double ml_kernels_peak_gflops(const ml_kernels *kernels);

/* How the native product divides its work, which changes no bit of a result. */
typedef struct ml_product_blocking {
    int64_t rows_in_l2;      /* of packed A, that meet all columns of a task before the next */
    int64_t group_columns;   /* of B in one task: whole cache lines of every row */
    int64_t tasks_a_thread;  /* at least, where the product is large enough */
    int64_t least_task_rows; /* fewer make packing B too dear */
} ml_product_blocking;
enum { ML_PROCESSOR_NAME = 96 };

/* That of this processor with the instructions of a vector path, by the table in
 * src/kernels/blocking.c or as the environment (MPILORA_BLOCKING) says; and the processor's name in
 * the table.
 * Shapes: none.
 * Ownership: `processor` and `out` are filled.
 * Local.
 * Errors: ML_USAGE where the environment says nothing that can be done. */
ml_status ml_kernels_blocking(const char *vector_path, char processor[ML_PROCESSOR_NAME],
                              ml_product_blocking *out) ML_NODISCARD;

/* Time that all threads of this rank take to read these pieces once, each thread its part of every
 * piece; 0 under "ref".
 * Shapes: spans[count]; seconds.
 * Ownership: all borrowed.
 * Local.
 * Errors: none. */
double ml_kernels_read_seconds(const ml_kernels *kernels, int64_t count,
                               const ml_memory_span *spans);

/* Bytes of workspace that ml_kernels_create will account for (category workspace) for the path
 * that needs most among those that "auto" may choose, or for the forced one; allocates nothing.
 * `threads`: OpenMP threads of the rank.
 * Shapes: bytes.
 * Ownership: borrows `options`.
 * Local.
 * Errors: none. */
int64_t ml_kernels_workspace_bytes(const ml_kernels_options *options, int threads);

/* The `rank` largest singular values of w and their vectors, w ≈ left·diag(sigma)·right, by LAPACK
 * in double precision on one rank; `alone`: by one thread, so that their number changes no bit.
 * Shapes: w[rows, cols], left[rows, rank], sigma[rank], right[rank, cols]; rank ≤ rows, cols.
 * Ownership: all borrowed.
 * Local.
 * Errors: ML_USAGE beyond LAPACK's 32-bit counts (rows × cols < 2³¹); ML_NUMERIC where it does not
 * converge; ML_RESOURCE. */
ml_status ml_svd_leading(int64_t rows, int64_t cols, const float *w, int64_t rank, bool alone,
                         float *left, float *sigma, float *right) ML_NODISCARD;

/* Bytes (category other) that ml_svd_leading holds for a moment.
 * Shapes: bytes.
 * Ownership: none.
 * Local.
 * Errors: none. */
int64_t ml_svd_bytes(int64_t rows, int64_t cols);

/* The reference table alone: plain loops, always built, needs no workspace.
 * Shapes: none.
 * Ownership: a constant of the library, never destroyed.
 * Local.
 * Errors: none. */
const ml_kernels *ml_kernels_reference(void);

enum { ML_KERNELS_LIBRARIES = 3 };

/* Finds the libraries that products, decompositions and threads come from: BLAS, OpenMP, and oneDNN
 * where it was built in. Returns their number.
 * Shapes: out[ML_KERNELS_LIBRARIES].
 * Ownership: `out` is the caller's.
 * Local.
 * Errors: none. */
int ml_kernels_libraries(ml_library out[ML_KERNELS_LIBRARIES]);

enum { ML_KERNELS_VECTOR_PATHS = 8 };

/* The vector paths that this build has and this processor runs, the widest first, ended by NULL:
 * "avx512", "avx2", "generic".
 * Shapes: names[ML_KERNELS_VECTOR_PATHS].
 * Ownership: the names are static.
 * Local.
 * Errors: none. */
void ml_kernels_vector_paths(const char *names[ML_KERNELS_VECTOR_PATHS]);

ML_END_DECLS

#endif
