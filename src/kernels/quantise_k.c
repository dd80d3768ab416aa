/* Numbers to the blocks of Q4_K, Q5_K, Q6_K and IQ4_NL. A K block has 8 groups of 32 (16 of 16)
 * with scales of their own, which are codes themselves. A group's scale and minimum are those of
 * the least weighted squared error among some: for each candidate scale the numbers are rounded to
 * codes, and then the best scale and minimum for these codes follow from normal equations. What is
 * searched and how numbers weigh is what ggml's quantize_row_q*_K_ref do, so that errors are
 * theirs; sums may be rounded otherwise. */
#include <math.h>

#include "kernels/quantise.h"

enum { K_WEIGHTS = 256, K_GROUP = 32, K_GROUPS = 8, Q6_GROUP = 16, Q6_GROUPS = 16 };

/* The integer from `least` to `most` that is nearest to v, the even one of two. Both are below
 * 2^22. */
static inline float nearest(float v, float least, float most)
{
    const float shift = 12582912.0F; /* 1.5·2^23: what is added below its last bit is rounded off */
    v = v < least ? least : v > most ? most : v;
    return v + shift - shift;
}

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
    for (int i = 0; i < K_GROUP; i++) code[i] = nearest(inverse * (g->x[i] - g->low), 0, s->most);
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
    for (int i = 0; i < K_GROUP; i++) code[i] = nearest(inverse * (x[i] - g.low), 0, s->most);
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

/* Six-bit scales and minima into 12 bytes: what ml_k_scale_and_minimum reads. */
static void put_scales(const int scale[K_GROUPS], const int minimum[K_GROUPS], uint8_t *q)
{
    for (int j = 0; j < 4; j++) {
        q[j] = (uint8_t)(scale[j] | (scale[j + 4] >> 4) << 6);
        q[j + 4] = (uint8_t)(minimum[j] | (minimum[j + 4] >> 4) << 6);
        q[j + 8] = (uint8_t)((scale[j + 4] & 15) | (minimum[j + 4] & 15) << 4);
    }
}

/* The head of a block (d, least, 12 bytes) and the codes of all weights. */
static void put_k(const float *x, const float scales[K_GROUPS], const float offsets[K_GROUPS],
                  float highest, uint8_t *block, uint8_t code[K_WEIGHTS])
{
    int scale[K_GROUPS], minimum[K_GROUPS];
    float most = 0, deepest = 0;
    for (int j = 0; j < K_GROUPS; j++) {
        most = scales[j] > most ? scales[j] : most;
        deepest = -offsets[j] > deepest ? -offsets[j] : deepest;
    }
    for (int j = 0; j < K_GROUPS; j++) {
        scale[j] = most > 0 ? (int)nearest(63 / most * scales[j], 0, 63) : 0;
        minimum[j] = deepest > 0 ? (int)nearest(63 / deepest * -offsets[j], 0, 63) : 0;
    }
    ml_put_half(most / 63, block);
    ml_put_half(deepest / 63, block + 2);
    put_scales(scale, minimum, block + 4);
    for (int j = 0; j < K_GROUPS; j++) {
        float d = ml_half_at(block) * (float)scale[j],
              least = ml_half_at(block + 2) * (float)minimum[j];
        for (int i = K_GROUP * j; i < K_GROUP * (j + 1); i++)
            code[i] = (uint8_t)(d != 0 ? nearest((x[i] + least) / d, 0, highest) : 0);
    }
}

static void put_nibbles(const uint8_t code[K_WEIGHTS], uint8_t *q)
{
    for (int j = 0; j < K_GROUPS; j += 2)
        for (int i = 0; i < K_GROUP; i++)
            *q++ = (uint8_t)((code[K_GROUP * j + i] & 15) | code[K_GROUP * (j + 1) + i] << 4);
}

void ml_put_q4_k(const float *x, const float scale[K_GROUPS], const float offset[K_GROUPS],
                 uint8_t *block)
{
    uint8_t code[K_WEIGHTS];
    put_k(x, scale, offset, 15, block, code);
    put_nibbles(code, block + 16);
}

void ml_put_q5_k(const float *x, const float scale[K_GROUPS], const float offset[K_GROUPS],
                 uint8_t *block)
{
    uint8_t code[K_WEIGHTS], *high = block + 16;
    put_k(x, scale, offset, 31, block, code);
    memset(high, 0, K_GROUP);
    for (int i = 0; i < K_WEIGHTS; i++)
        high[i % K_GROUP] |= (uint8_t)((code[i] >> 4) << (i / K_GROUP));
    put_nibbles(code, block + 48);
}

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

/* The largest number without its sign. */
static float largest(const float *x, int n)
{
    float most = 0, value = 0;
    for (int i = 0; i < n; i++) {
        float a = fabsf(x[i]);
        value = a > most ? x[i] : value;
        most = a > most ? a : most;
    }
    return value;
}

/* The scale s = Σ w·x·code / Σ w·code² that takes most off Σ w·x² (namely s·Σ w·x·code), among 19
 * that lead the largest number to about −32; numbers weigh w = x². */
static float fit_signed(const float x[Q6_GROUP])
{
    float peak = largest(x, Q6_GROUP), best = 0, scale = 0;
    if (fabsf(peak) < 1e-15F) return 0;
    for (int step = 0; step < 19; step++) { /* the middle first: of equals it stays */
        int from_middle = step == 0 ? 0 : step < 10 ? step - 10 : step - 9;
        float inverse = -(32 + 0.1F * (float)from_middle) / peak, cx = 0, c2 = 0;
        for (int i = 0; i < Q6_GROUP; i++) {
            float code = nearest(inverse * x[i], -32, 31), w = x[i] * x[i];
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

void ml_put_q6_k(const float *x, const float scales[Q6_GROUPS], uint8_t *block)
{
    int8_t *scale = (int8_t *)(block + 192);
    uint8_t code[K_WEIGHTS];
    float peak = largest(scales, Q6_GROUPS);
    memset(block, 0, 210);
    if (fabsf(peak) < 1e-15F) return;
    float inverse = -128 / peak;
    ml_put_half(1 / inverse, block + 208);
    for (int j = 0; j < Q6_GROUPS; j++) {
        scale[j] = (int8_t)nearest(inverse * scales[j], -128, 127);
        float d = ml_half_at(block + 208) * (float)scale[j];
        for (int i = Q6_GROUP * j; i < Q6_GROUP * (j + 1); i++)
            code[i] = (uint8_t)(32 + (int)(d != 0 ? nearest(x[i] / d, -32, 31) : 0));
    }
    for (int i = 0; i < K_WEIGHTS; i++) {
        int half = i / 128, quarter = i / 32 % 4, at = i % 32;
        block[64 * half + quarter % 2 * 32 + at] |= (uint8_t)((code[i] & 15) << (quarter / 2 * 4));
        block[128 + 32 * half + at] |= (uint8_t)((code[i] >> 4) << (2 * quarter));
    }
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
    float peak = largest(x, K_GROUP), bottom = ml_iq4_values[0], best = 0, scale = 0;
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
