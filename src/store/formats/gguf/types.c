/* GGUF's storage types, a block at a time to fp32 (as ggml's dequantize_row_* define them). */
#include "store/formats/gguf/gguf.h"

static float half(const uint8_t *bytes)
{
    return ml_half_to_float((uint16_t)(bytes[0] | bytes[1] << 8));
}

static void decode_f32(const uint8_t *b, float *out) { memcpy(out, b, sizeof *out); }
static void decode_f16(const uint8_t *b, float *out) { *out = half(b); }
static void decode_bf16(const uint8_t *b, float *out)
{
    *out = ml_bf16_to_float((uint16_t)(b[0] | b[1] << 8));
}

static void decode_q4_0(const uint8_t *b, float *out)
{
    float d = half(b);
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)((b[2 + i] & 15) - 8);
        out[i + 16] = d * (float)((b[2 + i] >> 4) - 8);
    }
}

static void decode_q4_1(const uint8_t *b, float *out)
{
    float d = half(b), m = half(b + 2);
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)(b[4 + i] & 15) + m;
        out[i + 16] = d * (float)(b[4 + i] >> 4) + m;
    }
}

static void decode_q8_0(const uint8_t *b, float *out)
{
    float d = half(b);
    for (int i = 0; i < 32; i++) out[i] = d * (float)(int8_t)b[2 + i];
}

/* The 6-bit scale and minimum number j of the 12 packed bytes. */
static void scale_and_minimum(const uint8_t *q, int j, float *scale, float *minimum)
{
    int d = j < 4 ? q[j] & 63 : (q[j + 4] & 15) | (q[j - 4] >> 6) << 4;
    int m = j < 4 ? q[j + 4] & 63 : q[j + 4] >> 4 | (q[j] >> 6) << 4;
    *scale = (float)d;
    *minimum = (float)m;
}

static void decode_q4_k(const uint8_t *b, float *out)
{
    float d = half(b), least = half(b + 2);
    const uint8_t *scales = b + 4, *q = b + 16;
    for (int group = 0; group < 4; group++, q += 32) {
        float s1, m1, s2, m2;
        scale_and_minimum(scales, 2 * group, &s1, &m1);
        scale_and_minimum(scales, 2 * group + 1, &s2, &m2);
        for (int i = 0; i < 32; i++) {
            *(out + i) = d * s1 * (float)(q[i] & 15) - least * m1;
            *(out + i + 32) = d * s2 * (float)(q[i] >> 4) - least * m2;
        }
        out += 64;
    }
}

static void decode_q6_k(const uint8_t *b, float *out)
{
    const uint8_t *low = b, *high = b + 128;
    const int8_t *scale = (const int8_t *)(b + 192);
    float d = half(b + 208);
    for (int part = 0; part < 2; part++, out += 128, low += 64, high += 32, scale += 8) {
        for (int i = 0; i < 32; i++) {
            int s = i / 16;
            int q1 = (low[i] & 15) | (high[i] & 3) << 4,
                q2 = (low[i + 32] & 15) | (high[i] >> 2 & 3) << 4;
            int q3 = low[i] >> 4 | (high[i] >> 4 & 3) << 4,
                q4 = low[i + 32] >> 4 | (high[i] >> 6 & 3) << 4;
            out[i] = d * (float)scale[s] * (float)(q1 - 32);
            out[i + 32] = d * (float)scale[s + 2] * (float)(q2 - 32);
            out[i + 64] = d * (float)scale[s + 4] * (float)(q3 - 32);
            out[i + 96] = d * (float)scale[s + 6] * (float)(q4 - 32);
        }
    }
}

const gguf_type *gguf_type_of(int64_t number)
{
    static const gguf_type types[] = {
        {0, "F32", 1, 4, decode_f32},        {1, "F16", 1, 2, decode_f16},
        {30, "BF16", 1, 2, decode_bf16},     {2, "Q4_0", 32, 18, decode_q4_0},
        {3, "Q4_1", 32, 20, decode_q4_1},    {8, "Q8_0", 32, 34, decode_q8_0},
        {12, "Q4_K", 256, 144, decode_q4_k}, {14, "Q6_K", 256, 210, decode_q6_k}};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (types[i].number == number) return &types[i];
    return NULL;
}
