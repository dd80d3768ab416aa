/* What the files of kernels/ share: the owner behind the public table, and the lists of paths to
 * choose from.
 *
 * A backend fills weight_forward, weight_backward and gemm; a vector path fills everything
 * else. Both are picked by ml_kernels_create (create.c, choose.c).
 */
#ifndef MPILORA_KERNELS_KERNELS_PRIVATE_H
#define MPILORA_KERNELS_KERNELS_PRIVATE_H

#include "kernels/narrow.h"
#include "kernels/product.h"
#include "kernels/rounded.h"
#include "mpilora/kernels.h"

enum { ML_MAX_PATHS = 8 };

/* Blockwise attention works on blocks of queries × blocks of keys; a thread has SLABS matrices of
 * a block of rows × the padded head dimension, SQUARES of block × block, and COLUMNS vectors of a
 * block. PAD is the widest that any form of it pads to. */
enum {
    ML_ATTENTION_BLOCK = 64,
    ML_ATTENTION_PAD = 32,
    ML_ATTENTION_SLABS = 8,
    ML_ATTENTION_SQUARES = 3,
    ML_ATTENTION_COLUMNS = 4,
    /* With relative terms besides: a pair of blocks has fewer than two blocks of distances. */
    ML_ATTENTION_RELATIVE_SLABS = 10,
    ML_ATTENTION_RELATIVE_SQUARES = 4
};

typedef struct ml_attention_scratch {
    int64_t *block_start; /* [count + 1]: blocks of all sequences before sequence i */
    float *row_dot;       /* [H, T]: D = rowsum(dO∘O) */
    float *threads;       /* thread_floats for each thread */
    int64_t thread_floats;
    int64_t tokens, heads, head_dim; /* the most that it is made for */
    bool relative;
} ml_attention_scratch;

/* D[H, T] = rowsum(dO∘O) of each head, which attention's backward begins with. */
typedef void (*ml_attention_dots)(const ml_attention_shape *shape, const ml_attention_kept *kept,
                                  int64_t T, const float *d_o, int64_t lddo, float *row_dot);

/* One block of the category workspace: the table, what it measured, and the scratch memory behind
 * it. */
typedef struct ml_kernels_owner {
    ml_kernels table; /* first, so that a pointer to the table is a pointer to its owner */
    int threads;
    bool ordered;               /* as the options say: no other products for few rows */
    ml_kernels without_backend; /* the table as the vector path left it */
    const struct ml_backend *product;
    ml_kernels_rate rates[ML_MAX_PATHS];
    int64_t nrates;
    bool recalled;                /* the rates are an earlier start's */
    void *product_state;          /* of the backend: cached primitives */
    float *product_scratch;       /* widened panels, narrowed activations */
    int64_t product_floats;       /* its size */
    int64_t panel_floats;         /* of it, for panels: at its start */
    int64_t packed_rows;          /* of native_path.c */
    ml_product_blocking blocking; /* likewise */
    const ml_narrow_set *narrow;  /* of narrow_path.c, and the rows that are narrowed at a time */
    int64_t narrow_rows;
    int64_t chunk_elements; /* of it, for each of the two chunks of onednn/matmul.c */
    ml_attention_scratch attention;
    /* From the vector path; NULL under "ref". */
    void (*small_forward)(int64_t T, const float *x, int64_t ldx, const ml_weight *w, float beta,
                          float *y, int64_t ldy);
    ml_attention_dots attention_dots;
    ml_product_function product_function;
    ml_narrow_decode decode_narrow;
    /* Where activations are rounded to 8 bits (rounded.c); else NULL. */
    const ml_rounded_set *rounded;
    const ml_fine_products *fine; /* NULL: the processor has none */
    void *rounded_rows;
    int64_t rounded_bytes; /* of rounded_rows */
    void (*exact_forward)(const ml_kernels *k, int64_t T, const float *x, int64_t ldx,
                          const ml_weight *w, float beta, float *y,
                          int64_t ldy); /* the backend's */
    double (*peak_gflops)(int threads);
    int64_t (*read_memory)(int threads, int64_t count, const ml_memory_span *spans);
} ml_kernels_owner;

static inline ml_kernels_owner *ml_kernels_owner_of(const ml_kernels *k) { return k->workspace; }

typedef struct ml_backend {
    const char *name;
    bool (*available)(ml_dtype dtype); /* can this processor and this build run it? */
    int64_t (*scratch_floats)(const ml_kernels_options *options, int threads);
    /* Fills the product entries of owner->table; product_scratch is there already. */
    ml_status (*start)(ml_kernels_owner *owner, const ml_kernels_options *options);
    void (*stop)(ml_kernels_owner *owner); /* NULL: nothing to end */
    bool rounds;                           /* activations to bf16, and weights in blocks, too */
    bool ordered;                          /* can it do what ml_kernels_options.ordered asks for? */
} ml_backend;

extern const ml_backend ml_backend_ref, ml_backend_native, ml_backend_blas, ml_backend_onednn,
    ml_backend_onednn_matmul, ml_backend_native_bf16, ml_backend_native_amx, ml_backend_onednn_bf16;

/* Overrides entries of the table; available() says whether the processor can run them. */
typedef struct ml_vector_path {
    const char *name;
    bool (*available)(void);
    void (*fill)(ml_kernels *table);
} ml_vector_path;

extern const ml_vector_path ml_vector_path_generic, ml_vector_path_avx2,
    ml_vector_path_avx512; /* the last two on x86-64 only */

/* choose.c. ml_backend.available of a backend that every processor can run, with every weight or
 * with those that are in no blocks. */
bool ml_backend_anywhere(ml_dtype dtype);
bool ml_backend_without_blocks(ml_dtype dtype);
/* Names: NULL and "auto" choose. */
ml_status ml_choose_backend(ml_kernels_owner *owner,
                            const ml_kernels_options *options) ML_NODISCARD;
ml_status ml_choose_vector_path(ml_kernels *table, const ml_kernels_options *options) ML_NODISCARD;
const ml_backend *ml_backend_find(const char *name); /* NULL: this build has none of the name */
int64_t ml_product_scratch_floats(const ml_kernels_options *options,
                                  int threads); /* the most that a path which may be chosen needs */

/* remember.c: owner->rates from an earlier start; false: there are none for these options. And
 * keeps them for the next. */
bool ml_rates_recall(ml_kernels_owner *owner, const ml_kernels_options *options);
void ml_rates_keep(const ml_kernels_owner *owner, const ml_kernels_options *options);

/* measure.c. *right: does the table compute what the reference does, on a small part of the run's
 * first shape? */
ml_status ml_check_products(const ml_kernels *k, const ml_kernels_options *options,
                            bool *right) ML_NODISCARD;

/* attention_scratch.c */
int64_t ml_attention_scratch_bytes(const ml_kernels_options *options, int threads);
bool ml_attention_fits(const ml_attention_scratch *scratch, const ml_attention_shape *shape,
                       const ml_sequences *sequences);
void ml_attention_scratch_place(ml_attention_scratch *scratch, const ml_kernels_options *options,
                                void *memory);

/* panel.c: products with a weight as plain fp32 products, a panel of its rows at a time. `sgemm`
 * is the fp32 product of the path. */
typedef void (*ml_sgemm)(bool ta, bool tb, int64_t m, int64_t n, int64_t k, float alpha,
                         const float *a, int64_t lda, const float *b, int64_t ldb, float beta,
                         float *c, int64_t ldc);
/* Up to so many tokens ml_small_forward (rounded.c) reads the weight directly, one in blocks for
 * more. It may write into the first ML_SMALL_SCRATCH bytes of product_scratch. */
enum { ML_SMALL_TOKENS = 4, ML_SMALL_BLOCK_TOKENS = 32, ML_SMALL_SCRATCH = 512 << 10 };
void ml_small_forward(const ml_kernels_owner *owner, int64_t T, const float *x, int64_t ldx,
                      const ml_weight *w, float beta, float *y, int64_t ldy);
static inline bool ml_takes_small_forward(const ml_kernels_owner *owner, int64_t T,
                                          const ml_weight *w)
{
    return owner->small_forward && !owner->ordered &&
           T <= (ml_dtype_is_block(w->dtype) ? ML_SMALL_BLOCK_TOKENS : ML_SMALL_TOKENS);
}

int64_t ml_panel_scratch_floats(const ml_kernels_options *options, int threads);
void ml_panel_forward(ml_sgemm sgemm, const ml_kernels *k, int64_t T, const float *x, int64_t ldx,
                      const ml_weight *w, float beta, float *y, int64_t ldy);
void ml_panel_backward(ml_sgemm sgemm, const ml_kernels *k, int64_t T, const float *dy, int64_t ldy,
                       const ml_weight *w, float beta, float *dx, int64_t ldx);

/* The fp32 products of the BLAS and of oneDNN. */
void ml_blas_sgemm(bool ta, bool tb, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
                   int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc);
void ml_onednn_sgemm(bool ta, bool tb, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
                     int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc);
void ml_onednn_gemm(const ml_kernels *kernels, bool ta, bool tb, int64_t m, int64_t n, int64_t k,
                    float alpha, const float *a, int64_t lda, const float *b, int64_t ldb,
                    float beta, float *c, int64_t ldc); /* the entry of the table */

/* native_path.c: the products of "native". */
void ml_native_forward(const ml_kernels *k, int64_t T, const float *x, int64_t ldx,
                       const ml_weight *w, float beta, float *y, int64_t ldy);
void ml_native_backward(const ml_kernels *k, int64_t T, const float *dy, int64_t ldy,
                        const ml_weight *w, float beta, float *dx, int64_t ldx);

/* processor.c: calls `each` with every line that the system has of the first processor, which
 * begins with a name of so many bytes, until it fails. Local. */
typedef ml_status ml_processor_line(void *self, const char *line, size_t name);
ml_status ml_processor_lines(ml_processor_line *each, void *self) ML_NODISCARD;

/* What OpenBLAS calls the kernel that it took for this processor; NULL: another BLAS. */
const char *ml_blas_kernel(void);

/* ref/: each file fills its entries. */
void ml_reference_products(ml_kernels *table);
void ml_reference_norms(ml_kernels *table);
void ml_reference_exponentials(ml_kernels *table);
void ml_reference_attention(ml_kernels *table);
void ml_reference_vectors(ml_kernels *table);

#endif
