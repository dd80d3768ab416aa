/* The backend "native-bf16": weights in bf16 by the project's own product with bf16 instructions;
 * everything else by the backend "native", or by oneDNN where it is there. */
#include "kernels/kernels_private.h"
#include "kernels/narrow.h"

static int64_t narrow_rows(const ml_kernels_options *options)
{
    return ml_max(1, ml_min(options->tokens, ML_NARROW_ROWS));
}

static int64_t narrow_floats(const ml_kernels_options *options, int threads)
{
    return ML_NARROW_DEPTH / 2 * (narrow_rows(options) + (int64_t)threads * ML_NARROW_COLUMNS);
}

/* What "native" needs lies in front. */
static int64_t scratch_floats(const ml_kernels_options *options, int threads)
{
    return ml_round_up(ml_backend_native.scratch_floats(options, threads), 16) +
           narrow_floats(options, threads);
}

#if defined(MPILORA_NATIVE_X86)

static void multiply(const ml_kernels_owner *owner, const ml_narrow_product *product)
{
    uint16_t *packed_a = (uint16_t *)(void *)(owner->product_scratch + owner->narrow_start);
    const ml_narrow_scratch scratch = {
        packed_a, (uint32_t *)(void *)(packed_a + owner->narrow_rows * ML_NARROW_DEPTH),
        owner->narrow_rows, owner->threads};
    if (product->m > 0 && product->n > 0) ml_narrow_product_avx512bf16(product, &scratch);
}

static void weight_forward(const ml_kernels *k, int64_t T, const float *x, int64_t ldx,
                           const ml_weight *w, float beta, float *y, int64_t ldy)
{
    const ml_kernels_owner *owner = ml_kernels_owner_of(k);
    if (w->dtype != ML_BF16 || T <= ML_SMALL_TOKENS) {
        ml_native_forward(k, T, x, ldx, w, beta, y, ldy);
        return;
    }
    multiply(owner, &(ml_narrow_product){.m = T,
                                         .n = w->rows,
                                         .k = w->cols,
                                         .beta = beta,
                                         .b_turned = true,
                                         .a = x,
                                         .lda = ldx,
                                         .b = w->data,
                                         .ldb = w->cols,
                                         .c = y,
                                         .ldc = ldy});
}

static void weight_backward(const ml_kernels *k, int64_t T, const float *dy, int64_t ldy,
                            const ml_weight *w, float beta, float *dx, int64_t ldx)
{
    const ml_kernels_owner *owner = ml_kernels_owner_of(k);
    if (w->dtype != ML_BF16) {
        ml_native_backward(k, T, dy, ldy, w, beta, dx, ldx);
        return;
    }
    multiply(owner, &(ml_narrow_product){.m = T,
                                         .n = w->cols,
                                         .k = w->rows,
                                         .beta = beta,
                                         .a = dy,
                                         .lda = ldy,
                                         .b = w->data,
                                         .ldb = w->cols,
                                         .c = dx,
                                         .ldc = ldx});
}

static ml_status start(ml_kernels_owner *owner, const ml_kernels_options *options)
{
    ml_status st = ml_backend_native.start(owner, options);
    if (st != ML_OK) return st;
    owner->narrow_rows = narrow_rows(options);
    owner->narrow_start =
        ml_round_up(ml_backend_native.scratch_floats(options, owner->threads), 16);
    owner->table.weight_forward = weight_forward;
    owner->table.weight_backward = weight_backward;
#if defined(MPILORA_HAS_ONEDNN)
    owner->table.gemm = ml_onednn_gemm;
#endif
    return ML_OK;
}

static bool available(ml_dtype dtype)
{
    return dtype == ML_BF16 && ml_narrow_available_avx512bf16();
}

#else

static ml_status start(ml_kernels_owner *owner, const ml_kernels_options *options)
{
    return ml_backend_native.start(owner, options);
}

static bool available(ml_dtype dtype)
{
    (void)dtype;
    return false;
}

#endif

const ml_backend ml_backend_native_bf16 = {"native-bf16", available, scratch_floats, start,
                                           NULL,          true,      false};
