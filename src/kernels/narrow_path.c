/* The backends "native-bf16" and "native-amx": weights in bf16 and in blocks by the project's own
 * product with AVX-512's or AMX's bf16 instructions, and attention with them; all other products by
 * the backend "native", or by oneDNN where it is there. Both products work in the same scratch
 * memory, one after the other. */
#include "kernels/kernels_private.h"
#include "kernels/narrow.h"

static int64_t narrow_rows(const ml_kernels_options *options, int64_t most)
{
    enum { TILE = 32 };
    return ml_round_up(ml_max(1, ml_min(options->tokens, most)), TILE);
}

/* Of packed A, with its rows, and of every thread's packed B and sums. */
static int64_t floats_of(const ml_kernels_options *options, int threads, int64_t a, int64_t b,
                         int64_t sums)
{
    return ml_max(ml_backend_native.scratch_floats(options, threads),
                  a / 2 + threads * (b / 2 + sums));
}

static int64_t floats_bf16(const ml_kernels_options *options, int threads)
{
    return floats_of(options, threads, narrow_rows(options, ML_NARROW_ROWS) * ML_NARROW_DEPTH,
                     ML_NARROW_PART * ML_NARROW_COLUMNS, 0);
}

static int64_t floats_amx(const ml_kernels_options *options, int threads)
{
    const int64_t rows = narrow_rows(options, ML_NARROW_TILE_ROWS);
    return floats_of(options, threads, rows * ML_NARROW_TILE_DEPTH,
                     ML_NARROW_TILE_PART * ML_NARROW_TILE_COLUMNS, rows * ML_NARROW_TILE_COLUMNS);
}

#if defined(MPILORA_NATIVE_X86)

static void multiply(const ml_kernels_owner *owner, ml_narrow_product product)
{
    const ml_narrow_set *set = owner->narrow;
    uint16_t *packed_a = (uint16_t *)(void *)owner->product_scratch;
    uint32_t *packed_b = (uint32_t *)(void *)(packed_a + owner->narrow_rows * set->depth);
    float *sums = (float *)(packed_b + owner->threads * (set->part / 2) * set->columns);
    const ml_narrow_scratch scratch = {packed_a, packed_b, sums, owner->narrow_rows,
                                       owner->threads};
    product.decode = owner->decode_narrow;
    if (product.m > 0 && product.n > 0) set->product(&product, &scratch);
}

/* fp32: a matrix that is trained. */
static bool is_narrow(const ml_kernels_owner *owner, const ml_weight *w)
{
    return w->dtype == ML_BF16 || (ml_dtype_is_block(w->dtype) && owner->decode_narrow);
}

static void weight_forward(const ml_kernels *k, int64_t T, const float *x, int64_t ldx,
                           const ml_weight *w, float beta, float *y, int64_t ldy)
{
    const ml_kernels_owner *owner = ml_kernels_owner_of(k);
    if (!is_narrow(owner, w) || ml_takes_small_forward(owner, T, w)) {
        ml_native_forward(k, T, x, ldx, w, beta, y, ldy);
        return;
    }
    multiply(owner, (ml_narrow_product){.m = T,
                                        .n = w->rows,
                                        .k = w->cols,
                                        .beta = beta,
                                        .b_turned = true,
                                        .a = x,
                                        .lda = ldx,
                                        .b = w->data,
                                        .b_dtype = w->dtype,
                                        .ldb = w->cols,
                                        .c = y,
                                        .ldc = ldy});
}

static void weight_backward(const ml_kernels *k, int64_t T, const float *dy, int64_t ldy,
                            const ml_weight *w, float beta, float *dx, int64_t ldx)
{
    const ml_kernels_owner *owner = ml_kernels_owner_of(k);
    if (!is_narrow(owner, w)) {
        ml_native_backward(k, T, dy, ldy, w, beta, dx, ldx);
        return;
    }
    multiply(owner, (ml_narrow_product){.m = T,
                                        .n = w->cols,
                                        .k = w->rows,
                                        .beta = beta,
                                        .a = dy,
                                        .lda = ldy,
                                        .b = w->data,
                                        .b_dtype = w->dtype,
                                        .ldb = w->cols,
                                        .c = dx,
                                        .ldc = ldx});
}

static ml_status start(const ml_narrow_set *set, ml_narrow_attention_forward *forward,
                       ml_narrow_attention_backward *backward, ml_kernels_owner *owner,
                       const ml_kernels_options *options)
{
    ml_status st = ml_backend_native.start(owner, options);
    if (st != ML_OK) return st;
    owner->narrow = set;
    owner->narrow_rows = narrow_rows(options, set->rows);
    owner->table.weight_forward = weight_forward;
    owner->table.weight_backward = weight_backward;
#if defined(MPILORA_HAS_ONEDNN)
    owner->table.gemm = ml_onednn_gemm;
#endif
    if (!owner->attention_dots) return ML_OK; /* vector path "ref" has none */
    owner->table.attention_forward = forward;
    owner->table.attention_backward = backward;
    return ML_OK;
}

static ml_status start_bf16(ml_kernels_owner *owner, const ml_kernels_options *options)
{
    return start(&ml_narrow_set_avx512bf16, ml_attention_forward_avx512bf16,
                 ml_attention_backward_avx512bf16, owner, options);
}

static ml_status start_amx(ml_kernels_owner *owner, const ml_kernels_options *options)
{
    return start(&ml_narrow_set_amx, ml_attention_forward_amx, ml_attention_backward_amx, owner,
                 options);
}

static bool has_bf16(ml_dtype dtype)
{
    return dtype != ML_FP32 && ml_narrow_set_avx512bf16.available();
}

static bool has_amx(ml_dtype dtype) { return dtype != ML_FP32 && ml_narrow_set_amx.available(); }

#else

static ml_status start_bf16(ml_kernels_owner *owner, const ml_kernels_options *options)
{
    return ml_backend_native.start(owner, options);
}

#define start_amx start_bf16

static bool has_bf16(ml_dtype dtype)
{
    (void)dtype;
    return false;
}

#define has_amx has_bf16

#endif

const ml_backend ml_backend_native_bf16 = {"native-bf16", has_bf16, floats_bf16, start_bf16,
                                           NULL,          true,     false};
const ml_backend ml_backend_native_amx = {"native-amx", has_amx, floats_amx, start_amx,
                                          NULL,         true,    false};
