/* The backend "native": the project's own product, with the instructions of the vector path.
 * A bf16 weight is widened while it is packed. */
#include "kernels/kernels_private.h"
#include "kernels/product.h"

static int64_t packed_rows(const ml_kernels_options *options)
{
    enum { LEAST = 120, TILE = 12 };
    return ml_round_up(ml_max(LEAST, ml_min(options->tokens, ML_PRODUCT_ROWS)), TILE);
}

static int64_t scratch_floats(const ml_kernels_options *options, int threads)
{
    return ML_PRODUCT_DEPTH * (packed_rows(options) + (int64_t)threads * ML_PRODUCT_COLUMNS);
}

static void multiply(const ml_kernels *k, const ml_product *product)
{
    const ml_kernels_owner *owner = ml_kernels_owner_of(k);
    const ml_product_scratch scratch = {
        owner->product_scratch, owner->product_scratch + ML_PRODUCT_DEPTH * owner->packed_rows,
        owner->packed_rows, owner->threads, owner->blocking};
    if (product->m > 0 && product->n > 0) owner->product_function(product, &scratch);
}

static void columns_forward(const ml_kernels *k, int64_t T, const float *x, int64_t ldx,
                            const ml_weight *w, int64_t first, int64_t count, float beta, float *y,
                            int64_t ldy)
{
    multiply(k, &(ml_product){.m = T,
                              .n = w->rows,
                              .k = count,
                              .alpha = 1,
                              .beta = beta,
                              .a = x,
                              .lda = ldx,
                              .b = (const char *)w->data + ml_dtype_bytes(w->dtype, first),
                              .b_dtype = w->dtype,
                              .b_turned = true,
                              .ldb = w->cols,
                              .c = y,
                              .ldc = ldy});
}

void ml_native_forward(const ml_kernels *k, int64_t T, const float *x, int64_t ldx,
                       const ml_weight *w, float beta, float *y, int64_t ldy)
{
    const ml_kernels_owner *owner = ml_kernels_owner_of(k);
    if (ml_takes_small_forward(owner, T, w)) {
        ml_small_forward(owner, T, x, ldx, w, beta, y, ldy);
        return;
    }
    columns_forward(k, T, x, ldx, w, 0, w->cols, beta, y, ldy);
}

static ml_product backward_of(int64_t T, const float *dy, int64_t ldy, const ml_weight *w,
                              float beta, float *dx, int64_t ldx)
{
    return (ml_product){.m = T,
                        .n = w->cols,
                        .k = w->rows,
                        .alpha = 1,
                        .beta = beta,
                        .a = dy,
                        .lda = ldy,
                        .b = w->data,
                        .b_dtype = w->dtype,
                        .ldb = w->cols,
                        .c = dx,
                        .ldc = ldx};
}

void ml_native_backward(const ml_kernels *k, int64_t T, const float *dy, int64_t ldy,
                        const ml_weight *w, float beta, float *dx, int64_t ldx)
{
    const ml_product product = backward_of(T, dy, ldy, w, beta, dx, ldx);
    multiply(k, &product);
}

static void sparse_backward(const ml_kernels *k, int64_t T, const float *dy, int64_t ldy,
                            const ml_weight *w, float beta, float *dx, int64_t ldx)
{
    ml_product product = backward_of(T, dy, ldy, w, beta, dx, ldx);
    product.sparse = true;
    multiply(k, &product);
}

static void rows_backward(const ml_kernels *k, int64_t T, const float *dy, int64_t ldy,
                          const ml_weight *w, int count, const ml_rows *run, float beta, float *dx,
                          int64_t ldx)
{
    ml_product product = backward_of(T, dy, ldy, w, beta, dx, ldx);
    product.k = 0;
    for (int i = 0; i < count; i++) product.k += run[i].count;
    product.runs = count;
    product.run = run;
    multiply(k, &product);
}

static void gemm(const ml_kernels *k, bool ta, bool tb, int64_t m, int64_t n, int64_t kk,
                 float alpha, const float *a, int64_t lda, const float *b, int64_t ldb, float beta,
                 float *c, int64_t ldc)
{
    multiply(k, &(ml_product){.m = m,
                              .n = n,
                              .k = kk,
                              .alpha = alpha,
                              .beta = beta,
                              .a_turned = ta,
                              .b_turned = tb,
                              .a = a,
                              .lda = lda,
                              .b = b,
                              .b_dtype = ML_FP32,
                              .ldb = ldb,
                              .c = c,
                              .ldc = ldc});
}

static ml_status start(ml_kernels_owner *owner, const ml_kernels_options *options)
{
    char processor[ML_PROCESSOR_NAME];
    owner->packed_rows = packed_rows(options);
    if (!owner->product_function)
        owner->product_function = ml_product_generic; /* vector path "ref" */
    owner->table.weight_forward = ml_native_forward;
    owner->table.weight_backward = ml_native_backward;
    owner->table.columns_forward = columns_forward;
    owner->table.rows_backward = rows_backward;
    owner->table.sparse_backward = sparse_backward;
    owner->table.gemm = gemm;
    return ml_kernels_blocking(owner->table.vector_path, processor, &owner->blocking);
}

const ml_backend ml_backend_native = {
    "native", ml_backend_anywhere, scratch_floats, start, NULL, false, true};
