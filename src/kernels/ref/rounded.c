/* The reference of products with activations of 8 bits: the rounding as ggml's C code has it, and
 * sums in double of weights that block_formats.c decodes. */
#include "kernels/rounded.h"

#include <math.h>

#include "mpilora/blocks.h"

static void round_block(int64_t n, bool signed_most, const float *x, int8_t *code, float *scale)
{
    float most = 0, at_most = 0;
    bool finite = true;
    for (int64_t i = 0; i < n; i++) {
        finite = finite && isfinite(x[i]);
        if (fabsf(x[i]) <= most) continue;
        most = fabsf(x[i]);
        at_most = x[i];
    }
    float factor = most > 0 ? 127.0F / most : 0;
    if (!finite || !isfinite(factor)) factor = 0;
    if (signed_most && at_most > 0) factor = -factor;
    for (int64_t i = 0; i < n; i++) code[i] = factor == 0 ? 0 : (int8_t)nearbyintf(x[i] * factor);
    *scale = !finite ? NAN : signed_most && at_most > 0 ? -most / 127.0F : most / 127.0F;
}

static void round_rows(ml_dtype dtype, int64_t first, int64_t T, const float *x, int64_t ldx,
                       const ml_rounded *out)
{
    const int64_t block = ml_max(32, ml_block_format_of(dtype)->weights);
    for (int64_t t = 0; t < T; t++)
        for (int64_t i = 0; i < out->cols; i += block) {
            float scale;
            round_block(block, block > 32, x + t * ldx + i, out->code + (first + t) * out->cols + i,
                        &scale);
            for (int64_t g = i / 32; g < (i + block) / 32; g++)
                out->scale[(first + t) * out->groups + g] = scale;
        }
}

static void multiply(int64_t T, const ml_rounded *x, const ml_weight *w, float beta, float *y,
                     int64_t ldy)
{
    float piece[ML_BLOCK_WEIGHTS_MOST];
    for (int64_t t = 0; t < T; t++)
        for (int64_t row = 0; row < w->rows; row++) {
            double sum = beta != 0 ? (double)y[t * ldy + row] : 0;
            for (int64_t at = 0; at < w->cols; at += 32) {
                double group = 0;
                ml_dtype_decode(w->dtype, w->data, row * w->cols + at, 32, piece);
                for (int64_t i = 0; i < 32; i++)
                    group += (double)piece[i] * (double)x->code[t * x->cols + at + i];
                sum += group * (double)x->scale[t * x->groups + at / 32];
            }
            y[t * ldy + row] = (float)sum;
        }
}

static bool available(void) { return true; }

const ml_rounded_set ml_rounded_set_reference = {"ref", available, round_rows, multiply, NULL};
