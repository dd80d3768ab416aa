/* Numbers to the blocks of Q4_K, Q5_K, Q6_K and IQ4_NL. A K block has 8 groups of 32 (16 of 16)
 * with scales of their own, which are codes themselves. A group's scale and minimum are those of
 * the least weighted squared error among some: for each candidate scale the numbers are rounded to
 * codes, and then the best scale and minimum for these codes follow from normal equations. What is
 * searched and how numbers weigh is what ggml's quantize_row_q*_K_ref do, so that errors are
 * theirs; sums may be rounded otherwise. */
#include <math.h>

#include "kernels/quantise_put.h"

/* ---- a group with a scale and a minimum: x ≈ scale·code + offset, offset ≤ 0 --------------- */

typedef struct fit {
    float scale, offset;
} fit;

/* How the search runs: codes 0 … most, and candidates (most + first + step·i)/(high − low) for the
 * inverse scale. */
typedef struct search {
    float most, first, step;
    int steps;
} search;

typedef struct group {
    const float *x;
    float weight[K_GROUP], low, high, sum_w, sum_wx;
} group;

/* Codes by the inverse scale, and what the normal equations need of them. */
static bool solve(const group *g, const search *s, float inverse, float code[K_GROUP], fit *out)
{
    float c1 = 0, c2 = 0, cx = 0;
    for (int i = 0; i < K_GROUP; i++)
        code[i] = ml_nearest_code(inverse * (g->x[i] - g->low), 0, s->most);
    for (int i = 0; i < K_GROUP; i++) {
        float w = g->weight[i] * code[i];
        c1 += w;
        c2 += w * code[i];
        cx += w * g->x[i];
    }
    float determinant = g->sum_w * c2 - c1 * c1;
    if (!(determinant > 0)) return false;
    out->scale = (g->sum_w * cx - g->sum_wx * c1) / determinant;
    out->offset = (c2 * g->sum_wx - c1 * cx) / determinant;
    if (out->offset > 0) *out = (fit){cx / c2, 0};
    return true;
}

static float error_of(const group *g, const float code[K_GROUP], fit f)
{
    float error = 0;
    for (int i = 0; i < K_GROUP; i++) {
        float d = f.scale * code[i] + f.offset - g->x[i];
        error += g->weight[i] * (d * d);
    }
    return error;
}

static void weigh(group *g)
{
    float squares = 0;
    g->low = 0;
    g->high = g->x[0];
    for (int i = 0; i < K_GROUP; i++) {
        squares += g->x[i] * g->x[i];
        g->low = g->x[i] < g->low ? g->x[i] : g->low;
        g->high = g->x[i] > g->high ? g->x[i] : g->high;
    }
    float typical = sqrtf(squares / K_GROUP);
    g->sum_w = g->sum_wx = 0;
    for (int i = 0; i < K_GROUP; i++) {
        g->weight[i] = typical + fabsf(g->x[i]);
        g->sum_w += g->weight[i];
        g->sum_wx += g->weight[i] * g->x[i];
    }
}

static fit fit_group(const float *x, const search *s)
{
    group g = {.x = x};
    float code[K_GROUP];
    weigh(&g);
    float range = g.high - g.low;
    if (!(range > 0)) return (fit){0, g.low};
    float inverse = s->most / range;
    fit best = {1 / inverse, g.low}, f;
    for (int i = 0; i < K_GROUP; i++)
        code[i] = ml_nearest_code(inverse * (x[i] - g.low), 0, s->most);
    float least = error_of(&g, code, best);
    for (int i = 0; i <= s->steps; i++) {
        inverse = (s->first + s->step * (float)i + s->most) / (g.high - g.low);
        if (!solve(&g, s, inverse, code, &f)) continue;
        float error = error_of(&g, code, f);
        if (error < least) {
            least = error;
            best = f;
            g.low = f.offset; /* the next ones count from there */
        }
    }
    return best;
}

/* ---- Q4_K and Q5_K ------------------------------------------------------------------------- */

static void fit_block(const float *x, const search *s, float scale[K_GROUPS],
                      float offset[K_GROUPS])
{
    for (int j = 0; j < K_GROUPS; j++) {
        fit f = fit_group(x + K_GROUP * j, s);
        scale[j] = f.scale;
        offset[j] = f.offset;
    }
}

void ml_quantise_q4_k(const float *x, uint8_t *block)
{
    static const search s = {15, -1.0F, 0.1F, 20};
    float scale[K_GROUPS], offset[K_GROUPS];
    fit_block(x, &s, scale, offset);
    ml_put_q4_k(x, scale, offset, block);
}

void ml_quantise_q5_k(const float *x, uint8_t *block)
{
    static const search s = {31, -0.5F, 0.1F, 15};
    float scale[K_GROUPS], offset[K_GROUPS];
    fit_block(x, &s, scale, offset);
    ml_put_q5_k(x, scale, offset, block);
}

/* ---- Q6_K: a signed scale a group of 16, codes from −32 to 31 ------------------------------- */

/* The scale s = Σ w·x·code / Σ w·code² that takes most off Σ w·x² (namely s·Σ w·x·code), among 19
 * that lead the largest number to about −32; numbers weigh w = x². */
static float fit_signed(const float x[Q6_GROUP])
{
    float peak = ml_peak_of(x, Q6_GROUP), best = 0, scale = 0;
    if (fabsf(peak) < 1e-15F) return 0;
    for (int step = 0; step < 19; step++) { /* the middle first: of equals it stays */
        int from_middle = step == 0 ? 0 : step < 10 ? step - 10 : step - 9;
        float inverse = -(32 + 0.1F * (float)from_middle) / peak, cx = 0, c2 = 0;
        for (int i = 0; i < Q6_GROUP; i++) {
            float code = ml_nearest_code(inverse * x[i], -32, 31), w = x[i] * x[i];
            cx += w * x[i] * code;
            c2 += w * code * code;
        }
        if (c2 > 0 && cx * cx > best * c2) {
            scale = cx / c2;
            best = scale * cx;
        }
    }
    return scale;
}

void ml_quantise_q6_k(const float *x, uint8_t *block)
{
    float scales[Q6_GROUPS];
    for (int j = 0; j < Q6_GROUPS; j++) scales[j] = fit_signed(x + Q6_GROUP * j);
    ml_put_q6_k(x, scales, block);
}

/* ---- IQ4_NL: one scale a block, codes of a table that is denser in the middle --------------- */

/* The place of the nearest number, of two the upper. */
static int nearest_in_table(float v)
{
    int code = 0;
    for (int k = 0; k < 15; k++)
        code += v >= 0.5F * (float)(ml_iq4_values[k] + ml_iq4_values[k + 1]);
    return code;
}

/* As Q6_K's groups: the scale that takes most off Σ w·x², w = x², among 16 that lead the largest
 * number to about one end of the table or the negated end. */
static float fit_to_table(const float x[K_GROUP])
{
    float peak = ml_peak_of(x, K_GROUP), bottom = ml_iq4_values[0], best = 0, scale = 0;
    if (fabsf(peak) < 1e-15F) return 0;
    for (int step = 0; step < 16; step++) {
        float inverse = step == 0 ? 1 / (-peak / bottom) : ((float)(step - 8) + bottom) / peak;
        float cx = 0, c2 = 0;
        for (int i = 0; i < K_GROUP; i++) {
            float value = ml_iq4_values[nearest_in_table(inverse * x[i])], w = x[i] * x[i];
            cx += w * value * x[i];
            c2 += w * value * value;
        }
        if (step == 0 || (c2 > 0 && cx * cx > best * c2)) {
            scale = cx / c2;
            best = scale * cx;
        }
    }
    return scale;
}

void ml_quantise_iq4_nl(const float *x, uint8_t *block)
{
    float scale = fit_to_table(x), inverse = scale != 0 ? 1 / scale : 0;
    ml_put_half(scale, block);
    for (int i = 0; i < 16; i++)
        block[2 + i] = (uint8_t)(nearest_in_table(inverse * x[i]) |
                                 nearest_in_table(inverse * x[i + 16]) << 4);
}
