/* Blocks of 32 whose scale follows from their largest number or their two ends, for one instruction
 * set: kernels/quantise.c with loops that become vector code, and the same bytes. Largest numbers
 * are found as integers, whose order does not depend on the order of comparisons, and a tie goes to
 * the first as there. This file is compiled without contraction, too. */
#include <math.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "kernels/native/quantise.h"

enum { N = 32 };

typedef struct block32 {
    uint32_t magnitude[N]; /* bits without the sign */
    uint32_t most;
} block32;

/* False where a number is not finite or no block can hold it. Bits are taken one by one: a block
 * that is copied in pieces of half a register stalls where it is read whole. */
ML_INLINE bool weigh(const float *x, block32 *b)
{
    uint32_t most = 0;
    for (int i = 0; i < N; i++) {
        uint32_t m = b->magnitude[i] = ml_bits_of_float(x[i]) & 0x7fffffffU;
        most = m > most ? m : most;
    }
    b->most = most;
    return ml_float_of_bits(most) <= 3.4e38F;
}

/* The first of the numbers that are largest without their sign; 0 where all are. */
ML_INLINE float largest(const float *x, const block32 *b)
{
    int at = N;
    for (int i = 0; i < N; i++) {
        int here = b->magnitude[i] == b->most ? i : N;
        at = here < at ? here : at;
    }
    return b->most ? x[at] : 0;
}

ML_INLINE float first_equal(const float *x, float value)
{
    int at = N;
    for (int i = 0; i < N; i++) {
        int here = x[i] == value ? i : N;
        at = here < at ? here : at;
    }
    return x[at]; /* -0 and 0 are equal: the one that comes first */
}

ML_INLINE void ends(const float *x, float *low, float *high)
{
    int32_t least = INT32_MAX, most = INT32_MIN;
    for (int i = 0; i < N; i++) {
        int32_t bits = (int32_t)ml_bits_of_float(x[i]),
                key = bits ^ (int32_t)((uint32_t)(bits >> 31) >> 1); /* ordered as numbers */
        least = key < least ? key : least;
        most = key > most ? key : most;
    }
    least ^= (int32_t)((uint32_t)(least >> 31) >> 1);
    most ^= (int32_t)((uint32_t)(most >> 31) >> 1);
    *low = first_equal(x, ml_float_of_bits((uint32_t)least));
    *high = first_equal(x, ml_float_of_bits((uint32_t)most));
}

ML_INLINE float inverse(float d)
{
    float i = d != 0 ? 1.0F / d : 0;
    return isfinite(i) ? i : 0;
}

ML_INLINE void round_up_from(const float *x, float from, float scale, float half, int most,
                             int32_t code[N])
{
    for (int i = 0; i < N; i++) {
        int32_t q = (int32_t)((x[i] - from) * scale + half);
        code[i] = q < most ? q : most;
    }
}

ML_INLINE void put_nibbles(const int32_t code[N], uint8_t *q)
{
    int32_t both[16];
    for (int i = 0; i < 16; i++) both[i] = (code[i] & 15) | (code[i + 16] & 15) << 4;
#pragma omp simd
    for (int i = 0; i < 16; i++) q[i] = (uint8_t)both[i];
}

ML_INLINE void put_fifth_bits(const int32_t code[N], uint8_t *out)
{
    uint32_t high = 0;
    for (int i = 0; i < N; i++) high |= (uint32_t)(code[i] >> 4 & 1) << i;
    for (int i = 0; i < 4; i++) out[i] = (uint8_t)(high >> (8 * i));
}

/* fp16 into the block; what it says; false where that is Inf. */
ML_INLINE bool put_scale(float value, uint8_t *to, float *said)
{
    ml_put_half(value, to);
    *said = ml_half_at(to);
    return (to[1] & 0x7c) != 0x7c;
}

/* What a block's numbers decode to, as the decoders of block_formats.c round. */
ML_INLINE void decode(const int32_t code[N], float d, int zero, float least, float back[N])
{
    for (int i = 0; i < N; i++) back[i] = d * (float)(code[i] - zero) + least;
}

/* What they lose, lane by lane in the order of the numbers. */
#if defined(__AVX2__)
ML_INLINE void lose(const float *x, const float back[N], ml_loss *loss)
{
    for (int l = 0; l < ML_LOSS_LANES; l += 4) {
        __m256d lost = _mm256_loadu_pd(loss->lost + l), whole = _mm256_loadu_pd(loss->whole + l);
        for (int i = l; i < N; i += ML_LOSS_LANES) {
            __m256d w = _mm256_cvtps_pd(_mm_loadu_ps(x + i)),
                    e = _mm256_cvtps_pd(_mm_loadu_ps(back + i)) - w;
            lost += e * e;
            whole += w * w;
        }
        _mm256_storeu_pd(loss->lost + l, lost);
        _mm256_storeu_pd(loss->whole + l, whole);
    }
}
#else
ML_INLINE void lose(const float *x, const float back[N], ml_loss *loss)
{
    for (int i = 0; i < N; i += ML_LOSS_LANES)
        for (int l = 0; l < ML_LOSS_LANES; l++) {
            double w = (double)x[i + l], e = (double)back[i + l] - w;
            loss->lost[l] += e * e;
            loss->whole[l] += w * w;
        }
}
#endif

ML_INLINE bool by_largest(const float *x, int codes, uint8_t *out, ml_loss *loss)
{
    block32 b;
    int32_t code[N];
    float back[N], half = (float)(codes / 2), said;
    if (!weigh(x, &b)) return false;
    float d = largest(x, &b) / -half;
    if (!put_scale(d, out, &said)) return false;
    round_up_from(x, 0, inverse(d), half + 0.5F, codes - 1, code);
    if (codes == 32) put_fifth_bits(code, out + 2);
    put_nibbles(code, out + (codes == 32 ? 6 : 2));
    decode(code, said, codes / 2, 0, back);
    lose(x, back, loss);
    return true;
}

ML_INLINE bool by_ends(const float *x, int codes, uint8_t *out, ml_loss *loss)
{
    block32 b;
    int32_t code[N];
    float back[N], low, high, said, least;
    if (!weigh(x, &b)) return false;
    ends(x, &low, &high);
    float d = (high - low) / (float)(codes - 1);
    bool fits = put_scale(d, out, &said);
    if (!put_scale(low, out + 2, &least) || !fits) return false;
    round_up_from(x, low, inverse(d), 0.5F, codes - 1, code);
    if (codes == 32) put_fifth_bits(code, out + 4);
    put_nibbles(code, out + (codes == 32 ? 8 : 4));
    decode(code, said, 0, least, back);
    lose(x, back, loss);
    return true;
}

ML_INLINE bool q8_0(const float *x, uint8_t *out, ml_loss *loss)
{
    block32 b;
    int32_t code[N];
    float back[N], said;
    if (!weigh(x, &b)) return false;
    float d = ml_float_of_bits(b.most) / 127, scale = inverse(d);
    if (!put_scale(d, out, &said)) return false;
    for (int i = 0; i < N; i++) {
        float v = x[i] * scale;
        code[i] = (int32_t)(v + (v < 0 ? -0.5F : 0.5F));
    }
    for (int i = 0; i < N; i++) out[2 + i] = (uint8_t)code[i];
    decode(code, said, 0, 0, back);
    lose(x, back, loss);
    return true;
}

/* ⌊log₂ most⌋ as the float function rounds it: next to a power of two that is the next one. */
ML_INLINE int exponent_of(uint32_t most)
{
    bool plain = most >> 23 != 0 && (most & 0x7fffff) < 0x7ff000;
    return plain ? (int)(most >> 23) - 127 : (int)floorf(log2f(ml_float_of_bits(most)));
}

/* A code counts the middles between neighbours of the table that lie below the number: its nearest,
 * the first of two, as comparing all distances gives it, since those next to a middle are exact. */
ML_INLINE bool mxfp4(const float *x, uint8_t *out, ml_loss *loss)
{
    enum { SAFE_E8M0 = 252 };
    static const float middle[7] = {0.5F, 1.5F, 2.5F, 3.5F, 5, 7, 10};
    static const float value[8] = {0, 1, 2, 3, 4, 6, 8, 12};
    block32 b;
    int32_t code[N];
    float back[N];
    if (!weigh(x, &b)) return false;
    int e = b.most ? exponent_of(b.most) - 2 + 127 : 0;
    if (e > SAFE_E8M0) return false;
    out[0] = (uint8_t)(e > 0 ? e : 0);
    float d = ml_half_of_e8m0(out[0]);
    for (int i = 0; i < N; i++) {
        float a = ml_float_of_bits(b.magnitude[i]), v = 0;
        int32_t c = 0;
        for (int k = 0; k < 7; k++) {
            bool above = a > d * middle[k];
            c += above;
            v = above ? value[k + 1] : v;
        }
        bool below = x[i] < 0;
        code[i] = c && below ? c + 8 : c;
        back[i] = d * (below ? -v : v);
    }
    put_nibbles(code, out + 1);
    lose(x, back, loss);
    return true;
}

ML_INLINE bool quantise_one(int number, const float *x, uint8_t *out, ml_loss *loss)
{
    return number == ML_GGUF_Q8_0   ? q8_0(x, out, loss)
           : number == ML_GGUF_Q4_0 ? by_largest(x, 16, out, loss)
           : number == ML_GGUF_Q4_1 ? by_ends(x, 16, out, loss)
           : number == ML_GGUF_Q5_0 ? by_largest(x, 32, out, loss)
           : number == ML_GGUF_Q5_1 ? by_ends(x, 32, out, loss)
                                    : mxfp4(x, out, loss);
}

ML_INLINE int64_t all(int number, int64_t bytes, const float *x, int64_t count, uint8_t *out,
                      ml_loss *loss)
{
    for (int64_t i = 0; i < count; i++)
        if (!quantise_one(number, x + N * i, out + bytes * i, loss)) return i;
    return count;
}

static int64_t one_by_one(const ml_block_format *f, const float *x, int64_t count, uint8_t *out,
                          ml_loss *loss)
{
    return ml_plain_formats(all, f, x, count, out, loss);
}

int64_t ML_NATIVE(quantise_plain)(const ml_block_format *f, const float *x, int64_t count,
                                  uint8_t *out, ml_loss *loss)
{
    enum { SIXTEEN = 16 };
    for (int64_t i = 0, n, done; i < count; i += n) {
        i += ML_NATIVE(quantise_sixteen)(f, x + N * i, count - i, out + f->bytes * i, loss);
        n = ml_min(SIXTEEN, count - i);
        done = one_by_one(f, x + N * i, n, out + f->bytes * i, loss);
        if (done < n) return i + done;
    }
    return count;
}
