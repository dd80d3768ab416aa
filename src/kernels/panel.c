/* Products with a weight, made of fp32 products: a bf16 weight is widened a panel of rows at a
 * time into scratch memory that stays in the cache, so it runs at the fp32 rate from half the
 * memory; an fp32 weight is one product. */
#include "kernels/kernels_private.h"

enum { PANEL_ROWS = 256, PANEL_FLOATS_MOST = 4 << 20 };

/* Rows of a panel of a weight with `cols` columns. */
static int64_t panel_rows(int64_t rows, int64_t cols)
{
    int64_t most = ml_max(16, PANEL_FLOATS_MOST / ml_max(1, cols));
    return ml_max(1, ml_min(rows, ml_min(PANEL_ROWS, most)));
}

int64_t ml_panel_scratch_floats(const ml_kernels_options *options, int threads)
{
    (void)threads;
    if (options->weight_dtype != ML_BF16) return 0;
    int64_t most = 0;
    for (int64_t i = 0; i < options->nshapes; i++) {
        const ml_weight *w = &options->shapes[i];
        most = ml_max(most, panel_rows(w->rows, w->cols) * w->cols);
    }
    return most;
}

/* Rows that fit into this rank's scratch memory: fewer than planned, or none, where the weight was
 * not among the options' shapes. */
static int64_t step_of(const ml_kernels *k, const ml_weight *w)
{
    return ml_min(panel_rows(w->rows, w->cols),
                  ml_kernels_owner_of(k)->panel_floats / ml_max(1, w->cols));
}

static const float *widened(const ml_kernels *k, const ml_weight *w, int64_t row, int64_t rows)
{
    float *panel = ml_kernels_owner_of(k)->product_scratch;
    k->bf16_to_fp32(rows * w->cols, (const uint16_t *)w->data + row * w->cols, panel);
    return panel;
}

void ml_panel_forward(ml_sgemm sgemm, const ml_kernels *k, int64_t T, const float *x, int64_t ldx,
                      const ml_weight *w, float beta, float *y, int64_t ldy)
{
    const ml_kernels_owner *owner = ml_kernels_owner_of(k);
    if (ml_takes_small_forward(owner, T, w)) {
        ml_small_forward(owner, T, x, ldx, w, beta, y, ldy);
        return;
    }
    if (w->dtype == ML_FP32) {
        sgemm(false, true, T, w->rows, w->cols, 1, x, ldx, w->data, w->cols, beta, y, ldy);
        return;
    }
    int64_t step = step_of(k, w);
    if (step == 0) ml_kernels_reference()->weight_forward(k, T, x, ldx, w, beta, y, ldy);
    for (int64_t row = 0; step > 0 && row < w->rows; row += step) {
        int64_t rows = ml_min(step, w->rows - row);
        sgemm(false, true, T, rows, w->cols, 1, x, ldx, widened(k, w, row, rows), w->cols, beta,
              y + row, ldy);
    }
}

void ml_panel_backward(ml_sgemm sgemm, const ml_kernels *k, int64_t T, const float *dy, int64_t ldy,
                       const ml_weight *w, float beta, float *dx, int64_t ldx)
{
    if (w->dtype == ML_FP32) {
        sgemm(false, false, T, w->cols, w->rows, 1, dy, ldy, w->data, w->cols, beta, dx, ldx);
        return;
    }
    int64_t step = step_of(k, w);
    if (step == 0) ml_kernels_reference()->weight_backward(k, T, dy, ldy, w, beta, dx, ldx);
    for (int64_t row = 0; step > 0 && row < w->rows; row += step) {
        int64_t rows = ml_min(step, w->rows - row);
        sgemm(false, false, T, w->cols, rows, 1, dy + row, ldy, widened(k, w, row, rows), w->cols,
              row ? 1 : beta, dx, ldx);
    }
}
