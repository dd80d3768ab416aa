/* Sums as integers: nothing is rounded before the end, so that the order cannot matter. */
#include "mpilora/exact.h"

#include <math.h>

/* ---- floats in 128 bits -------------------------------------------------------------------- */

/* An addend of exponent field e is its 24 bits · 2^(e − 150), so these bits shifted by e − 150 +
 * ML_FIXED_BELOW: between −60 + 1 and ML_FIXED_TOP + 66. */
enum { MANTISSA = 23, OFFSET = 150 - ML_FIXED_BELOW, LEAST_REFUSED = 127 + ML_FIXED_TOP };

/* |x|, of exponent field e. */
static ml_fixed magnitude(uint32_t bits, int e)
{
    uint64_t m = bits & ((UINT32_C(1) << MANTISSA) - 1);
    if (e > 0)
        m |= UINT64_C(1) << MANTISSA;
    else
        e = 1; /* subnormal */
    int shift = e - OFFSET;
    if (shift < 0) return (ml_fixed){m >> -shift, 0};
    if (shift >= 64) return (ml_fixed){0, (int64_t)(m << (shift - 64))};
    return (ml_fixed){m << shift, (int64_t)(m >> 1 >> (63 - shift))};
}

static ml_fixed negative(ml_fixed a)
{
    return (ml_fixed){~a.low + 1, (int64_t)(~(uint64_t)a.high + (a.low == 0))};
}

/* |sum| < 2^ML_FIXED_TOP */
static bool has_room(ml_fixed sum)
{
    const int64_t limit = INT64_C(1) << (ML_FIXED_TOP + ML_FIXED_BELOW - 64);
    return sum.high < limit && sum.high >= -limit;
}

static bool take_one(float *x, ml_fixed *sum)
{
    uint32_t bits;
    memcpy(&bits, x, sizeof bits);
    int e = (int)(bits >> MANTISSA & 0xff);
    if (bits << 1 == 0) return true; /* most of what is taken once more */
    if (e < LEAST_REFUSED) {
        ml_fixed addend = magnitude(bits, e);
        ml_fixed total = ml_fixed_add(*sum, bits >> 31 ? negative(addend) : addend);
        if (has_room(total)) {
            *sum = total;
            *x = 0.0F;
            return true;
        }
    }
    *x = NAN;
    return false;
}

int64_t ml_fixed_take(int64_t n, float *x, ml_fixed *sum)
{
    enum { PARALLEL_FROM = 1 << 14 };
    int64_t refused = 0;
#pragma omp parallel for schedule(static) reduction(+ : refused) if (n >= PARALLEL_FROM)
    for (int64_t i = 0; i < n; i++) refused += !take_one(&x[i], &sum[i]);
    return refused;
}

/* Of 64 bits whose first one is set, with those behind them in one: rounded to nearest once, since
 * the last of 64 is below what a float or a double keeps. */
static uint64_t with_rest(uint64_t bits, bool rest) { return bits | (rest ? 1 : 0); }

float ml_fixed_to_float(ml_fixed sum)
{
    bool below = sum.high < 0;
    if (below) sum = negative(sum);
    uint64_t high = (uint64_t)sum.high;
    if (high == 0 && sum.low == 0) return 0.0F;
    int zeros = high ? __builtin_clzll(high) : 64 + __builtin_clzll(sum.low);
    uint64_t top = zeros >= 64 ? sum.low << (zeros - 64)
                               : high << zeros | (zeros > 0 ? sum.low >> (64 - zeros) : 0);
    bool rest = zeros < 64 && sum.low << zeros != 0;
    float x = ldexpf((float)with_rest(top, rest), 64 - zeros - ML_FIXED_BELOW);
    return below ? -x : x;
}

/* ---- doubles in all their bits ------------------------------------------------------------- */

enum { DIGIT = 32, SUMMED = ML_EXACT_DIGITS - 1, NOT_FINITE = ML_EXACT_DIGITS - 1, LEAST = 1074 };

static const int64_t base = INT64_C(1) << DIGIT;

/* Rounded towards −∞, so that what stays is in [0, base). */
static int64_t carry_of(int64_t digit)
{
    int64_t carry = digit / base;
    return digit % base < 0 ? carry - 1 : carry;
}

void ml_exact_settle(ml_exact *s)
{
    for (int i = 0; i < SUMMED - 1; i++) {
        int64_t carry = carry_of(s->digit[i]);
        s->digit[i] -= carry * base;
        s->digit[i + 1] += carry;
    }
    s->added = 0;
}

void ml_exact_add(ml_exact *s, double x)
{
    enum { MOST = 1 << 28 }; /* a digit gains less than 2^34 each time */
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    int e = (int)(bits >> 52 & 0x7ff);
    uint64_t m = bits & ((UINT64_C(1) << 52) - 1);
    if (e == 0x7ff) {
        s->digit[NOT_FINITE]++;
        return;
    }
    if (e > 0)
        m |= UINT64_C(1) << 52;
    else
        e = 1;
    int at = (e - 1) / DIGIT, shift = (e - 1) % DIGIT;
    uint64_t low = (m & (uint64_t)(base - 1)) << shift, high = m >> DIGIT << shift;
    int64_t part[] = {(int64_t)(low & (uint64_t)(base - 1)),
                      (int64_t)(low >> DIGIT) + (int64_t)(high & (uint64_t)(base - 1)),
                      (int64_t)(high >> DIGIT)};
    for (int i = 0; i < 3; i++) s->digit[at + i] += bits >> 63 ? -part[i] : part[i];
    if (++s->added >= MOST) ml_exact_settle(s);
}

void ml_exact_add_squares(ml_exact *s, int64_t n, const float *x)
{
    /* 48 bits: the square of a float is a double. */
    for (int64_t i = 0; i < n; i++) ml_exact_add(s, (double)x[i] * (double)x[i]);
}

/* Of a sum that is not negative, settled, whose digit `top` is the first that is not zero. */
static double round_digits(const ml_exact *s, int top)
{
    uint64_t next = top >= 2 ? (uint64_t)s->digit[top - 2] : 0;
    uint64_t bits = (uint64_t)s->digit[top] << DIGIT | (top >= 1 ? (uint64_t)s->digit[top - 1] : 0);
    int zeros = __builtin_clzll(bits);
    uint64_t shifted = next << zeros;
    bool rest = (shifted & (uint64_t)(base - 1)) != 0;
    for (int i = top - 3; i >= 0 && !rest; i--) rest = s->digit[i] != 0;
    return ldexp((double)with_rest(bits << zeros | shifted >> DIGIT, rest),
                 DIGIT * (top - 1) - zeros - LEAST);
}

double ml_exact_to_double(const ml_exact *sum)
{
    ml_exact s = *sum;
    double sign = 1.0;
    if (s.digit[NOT_FINITE] != 0) return NAN;
    ml_exact_settle(&s);
    if (s.digit[SUMMED - 1] < 0) {
        sign = -1.0;
        for (int i = 0; i < SUMMED; i++) s.digit[i] = -s.digit[i];
        ml_exact_settle(&s);
    }
    for (int top = SUMMED - 1; top >= 0; top--)
        if (s.digit[top] != 0) return sign * round_digits(&s, top);
    return 0.0;
}
