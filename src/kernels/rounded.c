/* The product of weights in blocks with activations of 8 bits, in the place of a backend's: which
 * instructions, where the rounded rows lie. */
#include "kernels/rounded.h"

#include "kernels/kernels_private.h"

enum { ROWS_MOST = 512 }; /* rounded at a time */

const ml_rounded_set *const ml_rounded_sets[] = {
#ifdef MPILORA_NATIVE_X86
    &ml_rounded_set_avx512vnni, &ml_rounded_set_avx2,
#endif
    &ml_rounded_set_generic, &ml_rounded_set_reference, NULL};

/* What is wider than a vector path that is forced is not taken. */
const ml_rounded_set *ml_rounded_set_for(const char *vector_path)
{
    bool narrow = !strcmp(vector_path, "generic"), reference = !strcmp(vector_path, "ref"),
         wide = !strcmp(vector_path, "avx512");
    if (reference) return &ml_rounded_set_reference;
    for (const ml_rounded_set *const *p = ml_rounded_sets; *p; p++) {
        bool widest = !strcmp((*p)->name, "avx512vnni"), plain = !strcmp((*p)->name, "generic");
        if ((widest && !wide) || (narrow && !plain) || !(*p)->available()) continue;
        return *p;
    }
    return &ml_rounded_set_reference;
}

int64_t ml_rounded_row_bytes(int64_t cols)
{
    int64_t groups = cols / 32;
    return cols + groups * (int64_t)(2 * sizeof(float) + 2 * sizeof(int16_t) + 2 * sizeof(int32_t));
}

ml_rounded ml_rounded_lay_out(int64_t T, int64_t cols, void *scratch)
{
    int64_t groups = cols / 32;
    ml_rounded out = {.cols = cols, .groups = groups, .code = scratch};
    out.scale = (float *)(void *)(out.code + T * cols);
    out.sum = out.scale + T * groups;
    out.start = (int32_t *)(void *)(out.sum + T * groups);
    out.half = (int16_t *)(void *)(out.start + 2 * T * groups);
    return out;
}

int64_t ml_rounded_scratch_bytes(const ml_kernels_options *options)
{
    int64_t most = 0;
    if (!options->rounded) return 0;
    for (int64_t i = 0; i < options->nshapes; i++) most = ml_max(most, options->shapes[i].cols);
    return ml_round_up(ml_min(ROWS_MOST, options->tokens) * ml_rounded_row_bytes(most), 64);
}

static void weight_forward(const ml_kernels *k, int64_t T, const float *x, int64_t ldx,
                           const ml_weight *w, float beta, float *y, int64_t ldy)
{
    const ml_kernels_owner *owner = ml_kernels_owner_of(k);
    int64_t fit = owner->rounded_bytes / ml_max(1, ml_rounded_row_bytes(w->cols));
    if (!ml_dtype_is_block(w->dtype) || fit == 0) {
        owner->exact_forward(k, T, x, ldx, w, beta, y, ldy);
        return;
    }
    for (int64_t t = 0, n; t < T; t += n) {
        n = ml_min(fit, T - t);
        const ml_rounded rows = ml_rounded_lay_out(n, w->cols, owner->rounded_rows);
        owner->rounded->round(w->dtype, 0, n, x + t * ldx, ldx, &rows);
        owner->rounded->multiply(n, &rows, w, beta, y + t * ldy, ldy);
    }
}

/* ---- few rows as they are ------------------------------------------------------------------- */

int64_t ml_fine_row_bytes(int64_t cols)
{
    return 3 * cols + cols / 4 * (int64_t)sizeof(int32_t) +
           cols / 32 * (int64_t)(2 * sizeof(float));
}

ml_fine ml_fine_lay_out(int64_t T, int64_t cols, void *scratch)
{
    int8_t *digits = scratch;
    ml_fine out = {.cols = cols, .groups = cols / 32};
    for (int i = 0; i < 3; i++) out.digit[i] = digits + i * T * cols;
    out.start = (int32_t *)(void *)(digits + 3 * T * cols);
    out.scale = (float *)(void *)(out.start + T * cols / 4);
    out.sum = out.scale + T * out.groups;
    return out;
}

void ml_small_forward(const ml_kernels_owner *owner, int64_t T, const float *x, int64_t ldx,
                      const ml_weight *w, float beta, float *y, int64_t ldy)
{
    const ml_fine_products *fine = owner->fine;
    int64_t room = ml_min(owner->product_floats * (int64_t)sizeof(float), ML_SMALL_SCRATCH);
    if (!fine || T > ML_FINE_TOKENS || !ml_dtype_is_block(w->dtype) || w->dtype == ML_Q8_0 ||
        w->dtype == ML_IQ4_NL || T * ml_fine_row_bytes(w->cols) > room) {
        owner->small_forward(T, x, ldx, w, beta, y, ldy);
        return;
    }
    const ml_fine rows = ml_fine_lay_out(T, w->cols, owner->product_scratch);
    fine->round(w->dtype, T, x, ldx, &rows);
    fine->multiply(T, &rows, w, beta, y, ldy);
}

void ml_rounded_start(ml_kernels_owner *owner, const ml_kernels_options *options, void *scratch)
{
    const ml_rounded_set *set = ml_rounded_set_for(owner->table.vector_path);
    owner->fine = set->fine && set->fine->multiply ? set->fine : NULL;
    if (!options->rounded) return;
    owner->rounded = set;
    owner->rounded_rows = scratch;
    owner->rounded_bytes = ml_rounded_scratch_bytes(options);
    owner->exact_forward = owner->table.weight_forward;
    owner->table.weight_forward = weight_forward;
}
