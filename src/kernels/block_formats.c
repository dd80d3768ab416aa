/* The table of block formats and their scalar decoders, as ggml's dequantize_row_* define them: the
 * reference for the vector decoders of native/. Products are rounded before a minimum is taken off
 * (this file is compiled without contraction), as numpy does it in the gguf package. */
#include <ctype.h>
#include <math.h>

#include "kernels/quantise.h"

static void decode_f32(const uint8_t *b, float *out) { memcpy(out, b, sizeof *out); }
static void decode_f16(const uint8_t *b, float *out) { *out = ml_half_at(b); }
static void decode_bf16(const uint8_t *b, float *out)
{
    *out = ml_bf16_to_float((uint16_t)(b[0] | b[1] << 8));
}

/* ---- 32 weights ---------------------------------------------------------------------------- */

static void decode_q8_0(const uint8_t *b, float *out)
{
    float d = ml_half_at(b);
    for (int i = 0; i < 32; i++) out[i] = d * (float)(int8_t)b[2 + i];
}

static void decode_q4_0(const uint8_t *b, float *out)
{
    float d = ml_half_at(b);
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)((b[2 + i] & 15) - 8);
        out[i + 16] = d * (float)((b[2 + i] >> 4) - 8);
    }
}

static void decode_q4_1(const uint8_t *b, float *out)
{
    float d = ml_half_at(b), m = ml_half_at(b + 2);
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)(b[4 + i] & 15) + m;
        out[i + 16] = d * (float)(b[4 + i] >> 4) + m;
    }
}

/* Codes of five bits: a nibble of `q` and bit i of the 32 of `high`. */
static int five_bits(const uint8_t *q, const uint8_t *high, int i)
{
    int low = i < 16 ? q[i] & 15 : q[i - 16] >> 4;
    return low | (high[i / 8] >> (i % 8) & 1) << 4;
}

static void decode_q5_0(const uint8_t *b, float *out)
{
    float d = ml_half_at(b);
    for (int i = 0; i < 32; i++) out[i] = d * (float)(five_bits(b + 6, b + 2, i) - 16);
}

static void decode_q5_1(const uint8_t *b, float *out)
{
    float d = ml_half_at(b), m = ml_half_at(b + 2);
    for (int i = 0; i < 32; i++) out[i] = d * (float)five_bits(b + 8, b + 4, i) + m;
}

static void decode_nibbles(float d, const int8_t table[16], const uint8_t *q, float *out)
{
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)table[q[i] & 15];
        out[i + 16] = d * (float)table[q[i] >> 4];
    }
}

static void decode_iq4_nl(const uint8_t *b, float *out)
{
    decode_nibbles(ml_half_at(b), ml_iq4_values, b + 2, out);
}

static void decode_mxfp4(const uint8_t *b, float *out)
{
    decode_nibbles(ml_half_of_e8m0(b[0]), ml_fp4_doubled, b + 1, out);
}

/* ---- 256 weights: the K formats ------------------------------------------------------------ */

static void decode_q2_k(const uint8_t *b, float *out)
{
    float d = ml_half_at(b + 80), least = ml_half_at(b + 82);
    for (int i = 0; i < 256; i++) {
        int scale = b[i / 16], q = b[16 + i / 128 * 32 + i % 32] >> (2 * (i / 32 % 4)) & 3;
        out[i] = d * (float)(scale & 15) * (float)q - least * (float)(scale >> 4);
    }
}

/* The 16 six-bit scales of Q3_K less 32: low nibbles in eight bytes, two high bits in four. */
static int scale_of_q3_k(const uint8_t *scales, int j)
{
    int low = j < 8 ? scales[j] & 15 : scales[j - 8] >> 4;
    return (low | (scales[8 + j % 4] >> (2 * (j / 4)) & 3) << 4) - 32;
}

static void decode_q3_k(const uint8_t *b, float *out)
{
    float d = ml_half_at(b + 108);
    for (int i = 0; i < 256; i++) {
        int low = b[32 + i / 128 * 32 + i % 32] >> (2 * (i / 32 % 4)) & 3,
            high = b[i % 32] >> (i / 32) & 1;
        out[i] = d * (float)scale_of_q3_k(b + 96, i / 16) * (float)(low - (high ? 0 : 4));
    }
}

static void decode_q4_k(const uint8_t *b, float *out)
{
    float d = ml_half_at(b), least = ml_half_at(b + 2);
    for (int j = 0; j < 8; j++) {
        const uint8_t *q = b + 16 + j / 2 * 32;
        int scale, minimum;
        ml_k_scale_and_minimum(b + 4, j, &scale, &minimum);
        float s = d * (float)scale, m = least * (float)minimum;
        for (int i = 0; i < 32; i++)
            out[32 * j + i] = s * (float)(j % 2 ? q[i] >> 4 : q[i] & 15) - m;
    }
}

static void decode_q5_k(const uint8_t *b, float *out)
{
    float d = ml_half_at(b), least = ml_half_at(b + 2);
    for (int j = 0; j < 8; j++) {
        const uint8_t *q = b + 48 + j / 2 * 32, *high = b + 16;
        int scale, minimum;
        ml_k_scale_and_minimum(b + 4, j, &scale, &minimum);
        float s = d * (float)scale, m = least * (float)minimum;
        for (int i = 0; i < 32; i++) {
            int low = j % 2 ? q[i] >> 4 : q[i] & 15;
            out[32 * j + i] = s * (float)(low | (high[i] >> j & 1) << 4) - m;
        }
    }
}

static void decode_q6_k(const uint8_t *b, float *out)
{
    const int8_t *scale = (const int8_t *)(b + 192);
    float d = ml_half_at(b + 208);
    for (int j = 0; j < 16; j++) { /* groups of 16 */
        const int half = j / 8, quarter = j / 2 % 4, at = j % 2 * 16;
        const uint8_t *low = b + 64 * half + quarter % 2 * 32 + at,
                      *high = b + 128 + 32 * half + at;
        const float s = d * (float)scale[j];
#pragma omp simd
        for (int i = 0; i < 16; i++)
            out[16 * j + i] = s * (float)(((low[i] >> (quarter / 2 * 4) & 15) |
                                           (high[i] >> (2 * quarter) & 3) << 4) -
                                          32);
    }
}

static void decode_iq4_xs(const uint8_t *b, float *out)
{
    float d = ml_half_at(b);
    for (int j = 0; j < 8; j++) {
        int low = b[4 + j / 2] >> (j % 2 * 4) & 15, high = (b[2] | b[3] << 8) >> (2 * j) & 3;
        decode_nibbles(d * (float)((low | high << 4) - 32), ml_iq4_values, b + 8 + 16 * j,
                       out + 32 * j);
    }
}

/* ---- the table ----------------------------------------------------------------------------- */

static const ml_block_format formats[] = {
    {ML_FP32, "F32", 0, 1, 4, decode_f32, NULL, {-1, -1}},
    {ML_BF16, "F16", 1, 1, 2, decode_f16, NULL, {-1, -1}},
    {ML_BF16, "BF16", 30, 1, 2, decode_bf16, NULL, {-1, -1}},
    {ML_Q8_0, "Q8_0", 8, 32, 34, decode_q8_0, ml_quantise_q8_0, {0, -1}},
    {ML_Q4_0, "Q4_0", 2, 32, 18, decode_q4_0, ml_quantise_q4_0, {0, -1}},
    {ML_Q4_1, "Q4_1", 3, 32, 20, decode_q4_1, ml_quantise_q4_1, {0, 2}},
    {ML_Q5_0, "Q5_0", 6, 32, 22, decode_q5_0, ml_quantise_q5_0, {0, -1}},
    {ML_Q5_1, "Q5_1", 7, 32, 24, decode_q5_1, ml_quantise_q5_1, {0, 2}},
    {ML_BF16, "Q2_K", 10, 256, 84, decode_q2_k, NULL, {80, 82}},
    {ML_BF16, "Q3_K", 11, 256, 110, decode_q3_k, NULL, {108, -1}},
    {ML_Q4_K, "Q4_K", 12, 256, 144, decode_q4_k, ml_quantise_q4_k, {0, 2}},
    {ML_Q5_K, "Q5_K", 13, 256, 176, decode_q5_k, ml_quantise_q5_k, {0, 2}},
    {ML_Q6_K, "Q6_K", 14, 256, 210, decode_q6_k, ml_quantise_q6_k, {208, -1}},
    {ML_IQ4_NL, "IQ4_NL", 20, 32, 18, decode_iq4_nl, ml_quantise_iq4_nl, {0, -1}},
    {ML_BF16, "IQ4_XS", 23, 256, 136, decode_iq4_xs, NULL, {0, -1}},
    {ML_MXFP4, "MXFP4", 39, 32, 17, decode_mxfp4, ml_quantise_mxfp4, {-1, -1}},
};
enum { FORMATS = sizeof formats / sizeof *formats };

const int8_t ml_iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                  1,    13,   25,  38,  53,  69,  89,  113};
const int8_t ml_fp4_doubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

const ml_block_format *ml_block_format_of(ml_dtype dtype)
{
    const char *name = ml_dtype_name(dtype);
    return ml_block_format_named(dtype == ML_FP32 ? "F32" : name);
}

const ml_block_format *ml_block_format_numbered(int64_t number)
{
    for (int i = 0; i < FORMATS; i++)
        if (formats[i].number == number) return &formats[i];
    return NULL;
}

const ml_block_format *ml_block_format_named(const char *name)
{
    for (int i = 0; i < FORMATS; i++) {
        const char *a = formats[i].name, *b = name;
        while (*a && tolower((unsigned char)*a) == tolower((unsigned char)*b)) a++, b++;
        if (!*a && !*b) return &formats[i];
    }
    return NULL;
}

bool ml_dtype_is_block(ml_dtype dtype) { return dtype > ML_BF16; }

int64_t ml_dtype_bytes(ml_dtype dtype, int64_t count)
{
    if (!ml_dtype_is_block(dtype)) return count * (int64_t)ml_dtype_size(dtype);
    const ml_block_format *f = ml_block_format_of(dtype);
    return count / f->weights * f->bytes;
}

void ml_dtype_decode(ml_dtype dtype, const void *data, int64_t first, int64_t count, float *out)
{
    const ml_block_format *f = ml_block_format_of(dtype);
    const uint8_t *block = (const uint8_t *)data + first / f->weights * f->bytes;
    float edge[ML_BLOCK_WEIGHTS_MOST];
    int64_t skipped = first % f->weights;
    while (count > 0) {
        int64_t n = ml_min(f->weights - skipped, count);
        bool whole = n == f->weights;
        f->decode(block, whole ? out : edge);
        if (!whole) memcpy(out, edge + skipped, (size_t)n * sizeof *out);
        block += f->bytes;
        out += n;
        count -= n;
        skipped = 0;
    }
}

/* Of a block: exponent bits that are all ones say Inf or NaN in fp16, 255 says NaN in E8M0, whose
 * largest exponents also overflow fp32 with some codes. */
static bool is_bad(const ml_block_format *f, const uint8_t *block)
{
    enum { SAFE_E8M0 = 252 };
    if (f->number == 39 && block[0] > SAFE_E8M0) {
        float out[ML_BLOCK_WEIGHTS_MOST];
        f->decode(block, out);
        for (int64_t i = 0; i < f->weights; i++)
            if (!isfinite(out[i])) return true;
        return block[0] == 255;
    }
    for (int i = 0; i < 2; i++)
        if (f->scales[i] >= 0 && (block[f->scales[i] + 1] & 0x7c) == 0x7c) return true;
    return false;
}

int64_t ml_block_find_bad(const ml_block_format *f, const void *blocks, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        if (is_bad(f, (const uint8_t *)blocks + i * f->bytes)) return i;
    return -1;
}
