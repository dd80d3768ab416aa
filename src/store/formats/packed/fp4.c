/* Numbers of 4 bits (E2M1) of compressed-tensors and ModelOpt, the even one in the low half of a
 * byte: MXFP4, with a power of two for 32 of them, and NVFP4, with an FP8 scale for 16 of them and
 * a factor of the whole matrix, by which compressed-tensors divides the scale and ModelOpt
 * multiplies it. Either comes out in bf16. */
#include <inttypes.h>

#include "store/formats/packed/packed.h"

static ml_status open_fp4(packed_matrix *m, const packed_config *config)
{
    ml_status st = ML_OK;
    static const float sizes[8] = {0, 0.5F, 1, 1.5F, 2, 3, 4, 6};
    bool nv = m->part[PACKED_FACTOR].entry;
    (void)config;
    m->group = nv ? 16 : 32;
    if (m->cols % m->group != 0)
        return ml_fail(ML_INPUT, "%s: %s: rows of %" PRId64 " are no multiple of %" PRId64,
                       m->shards->directory, m->name, m->cols, m->group);
    m->groups = m->cols / m->group;
    ML_TRY(packed_expect(m, PACKED_CODES, "U8", m->rows, m->cols / 2));
    ML_TRY(packed_expect(m, PACKED_SCALES, nv ? "F8_E4M3" : "U8 F8_E8M0", m->rows, m->groups));
    if (nv) ML_TRY(packed_expect_one(m, PACKED_FACTOR, "F32"));
    for (int i = 0; i < 16; i++) m->value[i] = i < 8 ? sizes[i] : -sizes[i - 8];
    if (m->layout->method == PACKED_MODELOPT) m->value[8] = 0; /* whose zero has no sign */
    m->rounding = ML_BF16;
    m->kept = nv ? ML_FP32 : ML_MXFP4;
done:
    return st;
}

static ml_status codes(const packed_matrix *m, int64_t first, int64_t count, uint8_t *out)
{
    int64_t bytes = count * m->cols / 2;
    uint8_t *half = out + bytes; /* read behind, then spread from the front */
    ml_status st = packed_read(m, PACKED_CODES, first * m->cols / 2, bytes, half);
    for (int64_t i = 0; i < bytes && st == ML_OK; i++) {
        uint8_t pair = half[i];
        out[2 * i] = pair & 15;
        out[2 * i + 1] = pair >> 4;
    }
    return st;
}

static ml_status scales(const packed_matrix *m, int64_t first, int64_t count, float *out)
{
    return packed_numbers(m, PACKED_SCALES, first * m->groups, count * m->groups, out);
}

static ml_status factored_scales(const packed_matrix *m, int64_t first, int64_t count, float *out)
{
    ml_status st = ML_OK;
    float factor;
    bool divides = m->layout->method == PACKED_COMPRESSED;
    ML_TRY(packed_numbers(m, PACKED_FACTOR, 0, 1, &factor));
    ML_TRY(scales(m, first, count, out));
    for (int64_t i = 0; i < count * m->groups; i++)
        out[i] = divides ? out[i] / factor : out[i] * factor;
done:
    return st;
}

const packed_layout packed_fp4_layouts[] = {
    {PACKED_NAMED("NVFP4"), .method = PACKED_COMPRESSED, .codes_type = "U8",
     .part = {[PACKED_CODES] = "weight_packed",
              [PACKED_SCALES] = "weight_scale",
              [PACKED_FACTOR] = "weight_global_scale",
              [PACKED_REST] = "input_global_scale"},
     .optional = 1U << PACKED_REST, .open = open_fp4, .codes = codes, .scales = factored_scales},
    {PACKED_NAMED("MXFP4"), .method = PACKED_COMPRESSED, .codes_type = "U8",
     .part = {[PACKED_CODES] = "weight_packed",
              [PACKED_SCALES] = "weight_scale",
              [PACKED_REST] = "input_global_scale"},
     .optional = 1U << PACKED_REST, .open = open_fp4, .codes = codes, .scales = scales},
    {PACKED_NAMED("NVFP4 of ModelOpt"), .method = PACKED_MODELOPT, .codes_type = "U8",
     .part = {[PACKED_CODES] = "weight",
              [PACKED_SCALES] = "weight_scale",
              [PACKED_FACTOR] = "weight_scale_2",
              [PACKED_BEFORE] = "pre_quant_scale",
              [PACKED_REST] = "input_scale"},
     .optional = 1U << PACKED_REST | 1U << PACKED_BEFORE, .open = open_fp4, .codes = codes,
     .scales = factored_scales},
    {0}};
