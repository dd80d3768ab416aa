/* Q4_K, Q5_K, Q6_K and IQ4_NL for one instruction set: as many groups as a register has lanes are
 * searched side by side, a lane each, so that every sum runs in the order of kernels/quantise_k.c
 * and the bytes are the same. Where lanes decide differently, both answers are made and one is
 * kept. This file is compiled without contraction, too. */
#include <math.h>

#include "kernels/native/quantise.h"
#include "kernels/quantise_put.h"

#define ML_TEXT_(x) #x
#define ML_TEXT(x) ML_TEXT_(x)

/* A register, no more: a wider type would be kept in memory between any two operations. */
#if defined(__AVX512F__)
enum { LANES = 16 };
#elif defined(__AVX2__)
enum { LANES = 8 };
#else
enum { LANES = 4 };
#endif
typedef float lanes __attribute__((vector_size(4 * LANES)));
typedef int32_t words __attribute__((vector_size(4 * LANES)));

ML_INLINE lanes spread(float v) { return v - (lanes){0}; }

/* clamp: NaN stays. look_up: of the 16 numbers of a table. */
#if defined(__AVX512F__)
#include <immintrin.h>
ML_INLINE lanes choose(words yes, lanes a, lanes b)
{
    return _mm512_mask_blend_ps(_mm512_movepi32_mask((__m512i)yes), b, a);
}
ML_INLINE lanes clamp(lanes v, lanes least, lanes most)
{
    return _mm512_min_ps(most, _mm512_max_ps(least, v));
}
ML_INLINE lanes root(lanes v) { return _mm512_sqrt_ps(v); }
ML_INLINE lanes look_up(words code, const float table[16])
{
    return _mm512_permutexvar_ps((__m512i)code, _mm512_loadu_ps(table));
}
#elif defined(__AVX2__)
#include <immintrin.h>
ML_INLINE lanes choose(words yes, lanes a, lanes b) { return _mm256_blendv_ps(b, a, (__m256)yes); }
ML_INLINE lanes clamp(lanes v, lanes least, lanes most)
{
    return _mm256_min_ps(most, _mm256_max_ps(least, v));
}
ML_INLINE lanes root(lanes v) { return _mm256_sqrt_ps(v); }
ML_INLINE lanes look_up(words code, const float table[16])
{
    return choose(code > 7, _mm256_permutevar8x32_ps(_mm256_loadu_ps(table + 8), (__m256i)code),
                  _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), (__m256i)code));
}
#else
ML_INLINE lanes choose(words yes, lanes a, lanes b)
{
    return (lanes)((yes & (words)a) | (~yes & (words)b));
}
ML_INLINE lanes clamp(lanes v, lanes least, lanes most)
{
    v = choose(v < least, least, v);
    return choose(v > most, most, v);
}
ML_INLINE lanes root(lanes v)
{
    for (int l = 0; l < LANES; l++) v[l] = sqrtf(v[l]);
    return v;
}
ML_INLINE lanes look_up(words code, const float table[16])
{
    lanes out;
    for (int l = 0; l < LANES; l++) out[l] = table[code[l]];
    return out;
}
#endif

ML_INLINE lanes magnitude(lanes v) { return (lanes)((words)v & 0x7fffffff); }

/* The nearest integer, the even one of two. */
ML_INLINE lanes nearest(lanes v, lanes least, lanes most)
{
    const float shift = 12582912.0F;
    return clamp(v, least, most) + shift - shift;
}

/* x[i] of lane l: number i of group l. */
ML_INLINE void turn(const float *x, int group, lanes *out)
{
    for (int l = 0; l < LANES; l++)
        for (int i = 0; i < group; i++) out[i][l] = x[group * l + i];
}

/* ---- a group of 32 with a scale and a minimum ---------------------------------------------- */

typedef struct search {
    float most, first, step;
    int steps;
} search;

typedef struct groups {
    lanes x[K_GROUP], weight[K_GROUP], code[K_GROUP], low, high, sum_w, sum_wx;
} groups;

ML_INLINE void weigh(groups *g)
{
    lanes squares = {0};
    g->low = squares;
    g->high = g->x[0];
    for (int i = 0; i < K_GROUP; i++) {
        squares += g->x[i] * g->x[i];
        g->low = choose(g->x[i] < g->low, g->x[i], g->low);
        g->high = choose(g->x[i] > g->high, g->x[i], g->high);
    }
    lanes typical = root(squares / (float)K_GROUP);
    g->sum_w = g->sum_wx = (lanes){0};
    for (int i = 0; i < K_GROUP; i++) {
        g->weight[i] = typical + magnitude(g->x[i]);
        g->sum_w += g->weight[i];
        g->sum_wx += g->weight[i] * g->x[i];
    }
}

ML_INLINE lanes error_of(const groups *g, lanes scale, lanes offset)
{
    lanes error = {0};
    for (int i = 0; i < K_GROUP; i++) {
        lanes d = scale * g->code[i] + offset - g->x[i];
        error += g->weight[i] * (d * d);
    }
    return error;
}

/* Codes by the inverse scale, and the scale and offset that are best for them; which lanes have
 * such. */
ML_INLINE words solve(groups *g, lanes most, lanes inverse, lanes *scale, lanes *offset)
{
    lanes c1 = {0}, c2 = {0}, cx = {0}, zero = {0};
    for (int i = 0; i < K_GROUP; i++) {
        lanes code = nearest(inverse * (g->x[i] - g->low), zero, most), w = g->weight[i] * code;
        g->code[i] = code;
        c1 += w;
        c2 += w * code;
        cx += w * g->x[i];
    }
    lanes determinant = g->sum_w * c2 - c1 * c1;
    *scale = (g->sum_w * cx - g->sum_wx * c1) / determinant;
    *offset = (c2 * g->sum_wx - c1 * cx) / determinant;
    words above = *offset > zero;
    *scale = choose(above, cx / c2, *scale);
    *offset = choose(above, zero, *offset);
    return determinant > zero;
}

ML_INLINE void fit_groups(groups *g, const search *s, lanes *scale, lanes *offset)
{
    weigh(g);
    lanes range = g->high - g->low, zero = {0}, most = spread(s->most), bottom = g->low;
    words flat = ~(range > zero);
    lanes inverse = most / range, best_scale = 1.0F / inverse, best_offset = g->low;
    for (int i = 0; i < K_GROUP; i++)
        g->code[i] = nearest(inverse * (g->x[i] - g->low), zero, most);
    lanes least = error_of(g, best_scale, best_offset);
    for (int i = 0; i <= s->steps; i++) {
        lanes a, b;
        inverse = (s->first + s->step * (float)i + s->most) / (g->high - g->low);
        words good = solve(g, most, inverse, &a, &b);
        lanes error = error_of(g, a, b);
        good &= error < least;
        least = choose(good, error, least);
        best_scale = choose(good, a, best_scale);
        best_offset = choose(good, b, best_offset);
        g->low = choose(good, b, g->low);
    }
    *scale = choose(flat, zero, best_scale);
    *offset = choose(flat, bottom, best_offset);
}

/* Groups are lanes: those of K_TOGETHER blocks. */
enum { K_TOGETHER = (LANES + K_GROUPS - 1) / K_GROUPS };

ML_INLINE void quantise_k(const float *x, const search *s, uint8_t *out, int64_t bytes,
                          void (*put)(const float *x, const float scale[K_GROUPS],
                                      const float offset[K_GROUPS], uint8_t *block))
{
    float scales[K_GROUPS * K_TOGETHER], offsets[K_GROUPS * K_TOGETHER];
    for (int first = 0; first < K_GROUPS * K_TOGETHER; first += LANES) {
        groups g;
        lanes scale, offset;
        turn(x + K_GROUP * first, K_GROUP, g.x);
        fit_groups(&g, s, &scale, &offset);
        memcpy(scales + first, &scale, sizeof scale);
        memcpy(offsets + first, &offset, sizeof offset);
    }
    for (int b = 0; b < K_TOGETHER; b++)
        put(x + K_WEIGHTS * b, scales + K_GROUPS * b, offsets + K_GROUPS * b, out + bytes * b);
}

/* ---- Q6_K: 16 groups of 16 are one block ---------------------------------------------------- */

ML_INLINE lanes largest(const lanes *x, int n)
{
    lanes most = {0}, value = most;
    for (int i = 0; i < n; i++) {
        lanes a = magnitude(x[i]);
        words more = a > most;
        value = choose(more, x[i], value);
        most = choose(more, a, most);
    }
    return value;
}

/* The scales of as many groups as there are lanes. */
ML_INLINE lanes fit_signed(const float *x)
{
    lanes g[Q6_GROUP], weight[Q6_GROUP], best = {0}, scale = best, zero = best;
    turn(x, Q6_GROUP, g);
    lanes peak = largest(g, Q6_GROUP);
    words tiny = magnitude(peak) < 1e-15F;
    for (int i = 0; i < Q6_GROUP; i++) weight[i] = g[i] * g[i];
    for (int step = 0; step < 19; step++) {
        int from_middle = step == 0 ? 0 : step < 10 ? step - 10 : step - 9;
        lanes inverse = -(32 + 0.1F * (float)from_middle) / peak, cx = zero, c2 = zero;
        for (int i = 0; i < Q6_GROUP; i++) {
            lanes code = nearest(inverse * g[i], spread(-32), spread(31)), w = weight[i];
            cx += w * g[i] * code;
            c2 += w * code * code;
        }
        words better = (c2 > zero) & (cx * cx > best * c2);
        scale = choose(better, cx / c2, scale);
        best = choose(better, scale * cx, best);
    }
    return choose(tiny, zero, scale);
}

ML_INLINE void quantise_q6_k(const float *x, uint8_t *block)
{
    float scales[Q6_GROUPS];
    for (int first = 0; first < Q6_GROUPS; first += LANES) {
        lanes scale = fit_signed(x + Q6_GROUP * first);
        memcpy(scales + first, &scale, sizeof scale);
    }
    ml_put_q6_k(x, scales, block);
}

/* ---- IQ4_NL: a lane a block ----------------------------------------------------------------- */

/* Numbers in units of the scale to the nearest of the table, the upper of two: its value, and its
 * place, counted by the middles that are not above it. */
ML_INLINE words nearest_in_table(lanes v)
{
    words code = {0};
    for (int k = 0; k < 15; k++)
        code -= v >= spread(0.5F * (float)(ml_iq4_values[k] + ml_iq4_values[k + 1]));
    return code;
}

ML_INLINE void quantise_iq4_nl(const float *x, uint8_t *out)
{
    lanes g[K_GROUP], zero = {0}, scale = zero, best = zero;
    words all[K_GROUP];
    float table[16];
    for (int k = 0; k < 16; k++) table[k] = ml_iq4_values[k];
    turn(x, K_GROUP, g);
    lanes peak = largest(g, K_GROUP), bottom = spread(ml_iq4_values[0]);
    words tiny = magnitude(peak) < 1e-15F;
    for (int step = 0; step < 16; step++) { /* the first leads the peak to the negated end */
        lanes inverse = step == 0 ? 1.0F / (-peak / bottom) : ((float)(step - 8) + bottom) / peak,
              cx = zero, c2 = zero;
        for (int i = 0; i < K_GROUP; i++) {
            lanes w = g[i] * g[i], value = look_up(nearest_in_table(inverse * g[i]), table);
            cx += w * value * g[i];
            c2 += w * value * value;
        }
        words better = step == 0 ? c2 == c2 : (c2 > zero) & (cx * cx > best * c2);
        scale = choose(better, cx / c2, scale);
        best = choose(better, scale * cx, best);
    }
    scale = choose(tiny, zero, scale);
    lanes inverse = choose(scale != zero, 1.0F / scale, zero);
    for (int i = 0; i < K_GROUP; i++) all[i] = nearest_in_table(inverse * g[i]);
    for (int l = 0; l < LANES; l++) {
        uint8_t *block = out + 18 * l;
        ml_put_half(scale[l], block);
        for (int i = 0; i < 16; i++) block[2 + i] = (uint8_t)(all[i][l] | all[i + 16][l] << 4);
    }
}

/* ---- all ------------------------------------------------------------------------------------ */

static const search of_q4_k = {15, -1.0F, 0.1F, 20}, of_q5_k = {31, -0.5F, 0.1F, 15};

int64_t ML_NATIVE(quantise_search)(const ml_block_format *f, const float *x, int64_t count,
                                   uint8_t *out)
{
    int64_t together = f->number == ML_GGUF_Q6_K     ? 1
                       : f->number == ML_GGUF_IQ4_NL ? LANES
                                                     : K_TOGETHER,
            done = count / together * together;
    for (int64_t i = 0; i < done; i += together) {
        const float *from = x + f->weights * i;
        uint8_t *to = out + f->bytes * i;
        switch (f->number) {
        case ML_GGUF_Q4_K:
            quantise_k(from, &of_q4_k, to, f->bytes, ml_put_q4_k);
            break;
        case ML_GGUF_Q5_K:
            quantise_k(from, &of_q5_k, to, f->bytes, ml_put_q5_k);
            break;
        case ML_GGUF_Q6_K:
            quantise_q6_k(from, to);
            break;
        case ML_GGUF_IQ4_NL:
            quantise_iq4_nl(from, to);
            break;
        default:
            return 0;
        }
    }
    return done;
}

const ml_vector_quantiser ML_NATIVE(vector_quantiser) = {
    ML_TEXT(ML_NATIVE_NAME), ML_NATIVE(quantise_plain), ML_NATIVE(quantise_search)};
