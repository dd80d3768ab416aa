/* Numbers to blocks, as ggml's quantize_row_*_ref and the gguf package do it: the same bytes. Each
 * takes the block's largest number (or its two ends) to the end of the codes and rounds. A product
 * is rounded before 0.5 is added (this file is compiled without contraction). What searches is in
 * quantise_k.c; native/quantise_*.c make the same bytes with vector instructions, and these
 * functions stay for what is left over, and as their reference. */
#include <math.h>

#include "kernels/quantise.h"

/* 1/d, 0 where there is nothing to divide or d is too small to matter: its fp16 is 0 then. */
static float inverse(float d)
{
    float i = d != 0 ? 1.0F / d : 0;
    return isfinite(i) ? i : 0;
}

/* The number that is largest without its sign, the first of several. */
static float largest(const float *x)
{
    float most = 0, value = 0;
    for (int i = 0; i < 32; i++) {
        float a = fabsf(x[i]);
        value = a > most ? x[i] : value;
        most = a > most ? a : most;
    }
    return value;
}

static void ends(const float *x, float *low, float *high)
{
    *low = *high = x[0];
    for (int i = 1; i < 32; i++) {
        *low = x[i] < *low ? x[i] : *low;
        *high = x[i] > *high ? x[i] : *high;
    }
}

/* ⌊(x − from)·scale + half⌋, at most `most`: what it is rounded from is never below 0. */
static void round_up_from(const float *x, float from, float scale, float half, int most,
                          uint8_t code[32])
{
    for (int i = 0; i < 32; i++) {
        int q = (int)((x[i] - from) * scale + half);
        code[i] = (uint8_t)(q < most ? q : most);
    }
}

/* Codes around the middle one, which is 0, with the largest number at code 0; the factor. */
static float codes_by_largest(const float *x, int codes, uint8_t code[32])
{
    float half = (float)(codes / 2), d = largest(x) / -half;
    round_up_from(x, 0, inverse(d), half + 0.5F, codes - 1, code);
    return d;
}

/* Codes from the lowest number to the highest; the factor, and the lowest number. */
static float codes_by_ends(const float *x, int codes, uint8_t code[32], float *low)
{
    float high;
    ends(x, low, &high);
    float d = (high - *low) / (float)(codes - 1);
    round_up_from(x, *low, inverse(d), 0.5F, codes - 1, code);
    return d;
}

/* Of a format whose scales are searched for: quantise_k.c. */
static bool is_searched(const ml_block_format *f)
{
    return f->weights > 32 || f->dtype == ML_IQ4_NL;
}

static void put_nibbles(const uint8_t code[32], uint8_t *q)
{
    for (int i = 0; i < 16; i++) q[i] = (uint8_t)((code[i] & 15) | (code[i + 16] & 15) << 4);
}

static void put_fifth_bits(const uint8_t code[32], uint8_t *high)
{
    memset(high, 0, 4);
    for (int i = 0; i < 32; i++) high[i / 8] |= (uint8_t)((code[i] >> 4 & 1) << (i % 8));
}

void ml_quantise_q8_0(const float *x, uint8_t *block)
{
    float d = fabsf(largest(x)) / 127, scale = inverse(d);
    ml_put_half(d, block);
    for (int i = 0; i < 32; i++) {
        float v = x[i] * scale;
        block[2 + i] = (uint8_t)(int8_t)(v < 0 ? -(int)(0.5F - v) : (int)(v + 0.5F));
    }
}

void ml_quantise_q4_0(const float *x, uint8_t *block)
{
    uint8_t code[32];
    ml_put_half(codes_by_largest(x, 16, code), block);
    put_nibbles(code, block + 2);
}

void ml_quantise_q4_1(const float *x, uint8_t *block)
{
    uint8_t code[32];
    float low;
    ml_put_half(codes_by_ends(x, 16, code, &low), block);
    ml_put_half(low, block + 2);
    put_nibbles(code, block + 4);
}

void ml_quantise_q5_0(const float *x, uint8_t *block)
{
    uint8_t code[32];
    ml_put_half(codes_by_largest(x, 32, code), block);
    put_fifth_bits(code, block + 2);
    put_nibbles(code, block + 6);
}

void ml_quantise_q5_1(const float *x, uint8_t *block)
{
    uint8_t code[32];
    float low;
    ml_put_half(codes_by_ends(x, 32, code, &low), block);
    ml_put_half(low, block + 2);
    put_fifth_bits(code, block + 4);
    put_nibbles(code, block + 8);
}

/* The scale has the exponent of the largest number less 2, since codes end at 6; a code is the
 * nearest of the table, the first of two. */
void ml_quantise_mxfp4(const float *x, uint8_t *block)
{
    uint8_t code[32] = {0};
    float least[32], most = fabsf(largest(x));
    float e = most > 0 ? floorf(log2f(most)) - 2 + 127 : 0;
    block[0] = (uint8_t)(e > 0 ? e : 0);
    float d = ml_half_of_e8m0(block[0]);
    for (int i = 0; i < 32; i++) least[i] = fabsf(x[i]);
    for (int c = 1; c < 16; c++)
        for (int i = 0; i < 32; i++) {
            float far = fabsf(d * (float)ml_fp4_doubled[c] - x[i]);
            code[i] = far < least[i] ? (uint8_t)c : code[i];
            least[i] = far < least[i] ? far : least[i];
        }
    put_nibbles(code, block + 1);
}

/* ---- arrays of blocks ---------------------------------------------------------------------- */

/* Finite, and in formats whose search multiplies squares not so large that these overflow. */
static bool all_fit(const ml_block_format *f, const float *x, int64_t count)
{
    const float most = is_searched(f) ? 65536.0F : 3.4e38F;
    bool fit = true;
    for (int64_t i = 0; i < count * f->weights; i++) fit &= fabsf(x[i]) <= most; /* not NaN */
    return fit;
}

static void lose(const ml_block_format *f, const float *x, const uint8_t *block, int64_t count,
                 ml_loss *loss)
{
    float back[ML_BLOCK_WEIGHTS_MOST];
    for (int64_t i = 0; i < count; i++) {
        f->decode(block + i * f->bytes, back);
        for (int64_t j = 0; j < f->weights; j += ML_LOSS_LANES)
#pragma omp simd
            for (int l = 0; l < ML_LOSS_LANES; l++) {
                const double w = (double)x[i * f->weights + j + l], d = (double)back[j + l] - w;
                loss->lost[l] += d * d;
                loss->whole[l] += w * w;
            }
    }
}

/* One after the other; the first bad one, or count. */
static int64_t quantise_slowly(const ml_block_format *f, const float *x, int64_t count,
                               uint8_t *out, ml_loss *loss)
{
    for (int64_t i = 0; i < count; i++) {
        const float *from = x + i * f->weights;
        if (!all_fit(f, from, 1)) return i;
        f->quantise(from, out + i * f->bytes);
        if (ml_block_find_bad(f, out + i * f->bytes, 1) == 0) return i;
        lose(f, from, out + i * f->bytes, 1, loss);
    }
    return count;
}

/* One thread's; the first bad one, or count. Where the vector functions stop, one block goes the
 * slow way, which finds out what is the matter. */
static int64_t quantise_blocks(const ml_vector_quantiser *vector, const ml_block_format *f,
                               const float *x, int64_t count, uint8_t *out, ml_loss *loss)
{
    if (is_searched(f)) {
        int64_t done = all_fit(f, x, count) ? vector->search(f, x, count, out) : 0;
        int64_t bad = ml_block_find_bad(f, out, done);
        lose(f, x, out, bad >= 0 ? bad : done, loss);
        if (bad >= 0) return bad;
        return done +
               quantise_slowly(f, x + done * f->weights, count - done, out + done * f->bytes, loss);
    }
    for (int64_t at = 0; at < count; at++) {
        at += vector->plain(f, x + at * f->weights, count - at, out + at * f->bytes, loss);
        if (at < count &&
            quantise_slowly(f, x + at * f->weights, 1, out + at * f->bytes, loss) == 0)
            return at;
    }
    return count;
}

int64_t ml_block_quantise(const ml_block_format *f, const float *x, int64_t count, void *out,
                          ml_block_error *error)
{
    enum { PART = 4096 }; /* weights: what stays in a core's own cache */
    const ml_vector_quantiser *vector = ml_choose_vector_quantiser();
    int64_t bad = count, step = PART / f->weights, parts = (count + step - 1) / step;
    double lost = 0, whole = 0;
#pragma omp parallel for schedule(static) reduction(min : bad) reduction(+ : lost, whole)
    for (int64_t p = 0; p < parts; p++) {
        ml_loss loss = {0};
        int64_t first = p * step, n = ml_min(step, count - first);
        int64_t good = quantise_blocks(vector, f, x + first * f->weights, n,
                                       (uint8_t *)out + first * f->bytes, &loss);
        if (good < n) bad = ml_min(bad, first + good);
        for (int l = 0; l < ML_LOSS_LANES; l++) {
            lost += loss.lost[l];
            whole += loss.whole[l];
        }
    }
    error->lost += lost;
    error->whole += whole;
    return bad < count ? bad : -1;
}
