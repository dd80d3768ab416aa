/* NF4 and FP4 of bitsandbytes: codes of 4 bits of all weights of a matrix one after the other, the
 * even one in the high half of a byte; blocks run over rows' ends, and the last one is short. A
 * weight is map[code] · absmax[block] in fp32, rounded to the type that the matrix had. Nested, the
 * absmax values are codes of 8 bits themselves, less their mean.
 *
 * What the bytes are typed as says nothing: for FSDP they may be called bf16 or fp32. */
#include <inttypes.h>
#include <math.h>

#include "io/json.h"
#include "store/formats/packed/packed.h"

enum { STATE_MOST = 4096, PIECE = 1 << 20 };

/* ---- opening ------------------------------------------------------------------------------- */

static const ml_json_key state_keys[] = {
    {"quant_type", ML_JSON_TEXT},
    {"blocksize", ML_JSON_INTEGER},
    {"dtype", ML_JSON_TEXT},
    {"shape", ML_JSON_ARRAY},
    {"shape[]", ML_JSON_INTEGER},
    {"nested_blocksize", ML_JSON_INTEGER},
    {"nested_dtype", ML_JSON_TEXT},
    {"nested_offset", ML_JSON_INTEGER | ML_JSON_REAL},
    {NULL, 0},
};

static bool is_word(const json_t *o, const char *key, const char *word)
{
    const char *found = json_string_value(json_object_get(o, key));
    return found && !strcmp(found, word);
}

static int64_t number_of(const json_t *o, const char *key)
{
    return json_integer_value(json_object_get(o, key));
}

static ml_status take_dtype(packed_matrix *m, const json_t *o)
{
    m->half = is_word(o, "dtype", "float16");
    m->rounding = is_word(o, "dtype", "bfloat16") ? ML_BF16 : ML_FP32;
    if (m->half || m->rounding == ML_BF16 || is_word(o, "dtype", "float32")) return ML_OK;
    return ml_fail(ML_INPUT, "dtype: expected bfloat16, float16 or float32");
}

static ml_status take_state(packed_matrix *m, const json_t *o)
{
    ml_status st = ML_OK;
    const json_t *shape = json_object_get(o, "shape");
    int64_t rows = json_integer_value(json_array_get(shape, 0)),
            cols = json_integer_value(json_array_get(shape, 1));
    const char *type = strrchr(m->layout->part[PACKED_STATE], '_') + 1;
    ML_TRY(ml_json_check(o, state_keys));
    ML_TRY(take_dtype(m, o));
    if (!is_word(o, "quant_type", type))
        return ml_fail(ML_INPUT, "quant_type: expected \"%s\", which its name has", type);
    if (json_array_size(shape) != 2 || rows != m->rows || cols != m->cols)
        return ml_fail(ML_INPUT,
                       "shape: [%" PRId64 ", %" PRId64 "], expected [%" PRId64 ", %" PRId64 "]",
                       rows, cols, m->rows, m->cols);
    m->group = number_of(o, "blocksize");
    m->nested_group = number_of(o, "nested_blocksize");
    m->nested_offset = (float)json_number_value(json_object_get(o, "nested_offset"));
    if (m->group < 2 || m->group > 1 << 20 || m->group % 2 != 0)
        return ml_fail(ML_INPUT, "blocksize: %" PRId64 ", expected an even number", m->group);
    if (!isfinite(m->nested_offset)) return ml_fail(ML_INPUT, "nested_offset: not finite");
done:
    return st;
}

static ml_status read_state(packed_matrix *m)
{
    ml_status st = ML_OK;
    const ml_safetensors_entry *e = m->part[PACKED_STATE].entry;
    char text[STATE_MOST];
    json_t *o = NULL;
    if (e->bytes > STATE_MOST || strcmp(e->dtype, "U8") != 0)
        return ml_fail(ML_INPUT, "%s: %s: expected JSON of at most %d bytes", m->shards->directory,
                       e->name, STATE_MOST);
    ML_TRY(packed_read(m, PACKED_STATE, 0, e->bytes, text));
    st = ml_json_read(&o, m->shards->directory, text, e->bytes);
    if (st == ML_OK) st = take_state(m, o);
    if (st != ML_OK) st = ml_fail_within(st, "%s: %s", m->shards->directory, e->name);
done:
    json_decref(o);
    return st;
}

static ml_status open_nf4(packed_matrix *m, const packed_config *config)
{
    ml_status st = ML_OK;
    const ml_safetensors_entry *codes = m->part[PACKED_CODES].entry;
    (void)config;
    ML_TRY(read_state(m));
    int64_t weights = m->rows * m->cols, blocks = (weights + m->group - 1) / m->group;
    bool nested = m->part[PACKED_NESTED_SCALES].entry;
    if (codes->bytes != (weights + 1) / 2)
        return ml_fail(ML_INPUT,
                       "%s: %s has %" PRId64 " bytes, expected %" PRId64 ": two weights of %" PRId64
                       " x %" PRId64 " in each",
                       m->shards->directory, codes->name, codes->bytes, (weights + 1) / 2, m->rows,
                       m->cols);
    ML_TRY(packed_expect(m, PACKED_SCALES, nested ? "U8" : "F32", blocks, -1));
    ML_TRY(packed_expect(m, PACKED_MAP, "F32", 16, -1));
    ML_TRY(packed_numbers(m, PACKED_MAP, 0, 16, m->value));
    if (!nested) {
        m->nested_group = 0;
        return ML_OK;
    }
    if (m->nested_group < 1)
        return ml_fail(ML_INPUT, "%s: %s: nested_blocksize is missing", m->shards->directory,
                       m->part[PACKED_STATE].entry->name);
    ML_TRY(packed_expect(m, PACKED_NESTED_SCALES, "F32",
                         (blocks + m->nested_group - 1) / m->nested_group, -1));
    if (!m->part[PACKED_NESTED_MAP].entry)
        return ml_fail(ML_INPUT, "%s: tensor %s.%s is missing", m->shards->directory, m->name,
                       m->layout->part[PACKED_NESTED_MAP]);
    ML_TRY(packed_expect(m, PACKED_NESTED_MAP, "F32", 256, -1));
done:
    return st;
}

/* ---- rows ---------------------------------------------------------------------------------- */

/* absmax of blocks [first, first + count). */
static ml_status read_nested(const packed_matrix *m, int64_t first, int64_t count, float *out)
{
    ml_status st = ML_OK;
    uint8_t *codes = NULL;
    float map[256], *scales = NULL;
    int64_t group = m->nested_group, begin = first / group,
            groups = (first + count - 1) / group - begin + 1;
    ML_NEW(codes, count, ML_MEM_OTHER, "scales");
    ML_NEW(scales, groups, ML_MEM_OTHER, "scales of scales");
    ML_TRY(packed_numbers(m, PACKED_NESTED_MAP, 0, 256, map));
    ML_TRY(packed_numbers(m, PACKED_NESTED_SCALES, begin, groups, scales));
    ML_TRY(packed_read(m, PACKED_SCALES, first, count, codes));
    for (int64_t i = 0; i < count; i++) {
        float scaled = map[codes[i]] * scales[(first + i) / group - begin];
        out[i] = scaled + m->nested_offset;
    }
done:
    ml_memory_free(codes);
    ml_memory_free(scales);
    return st;
}

/* Weights [first, first + count) of the matrix, of which `codes` and `scales` begin with the byte
 * and the block of the first. */
static ml_status decode(const packed_matrix *m, int64_t first, int64_t count, const uint8_t *codes,
                        const float *scales, float *out)
{
    for (int64_t i = 0; i < count; i++) {
        int64_t at = first + i, block = at / m->group;
        uint8_t pair = codes[at / 2 - first / 2];
        float scale = scales[block - first / m->group];
        if (!isfinite(scale)) return packed_bad_scale(m, at / m->cols, block);
        out[i] = packed_rounded(m, m->value[at % 2 ? pair & 15 : pair >> 4] * scale);
        if (!isfinite(out[i])) return packed_bad_weight(m, at / m->cols, at % m->cols);
    }
    return ML_OK;
}

static ml_status rows_of_nf4(const packed_matrix *m, int64_t first, int64_t count, float *out)
{
    ml_status st = ML_OK;
    uint8_t *codes = NULL;
    float *scales = NULL;
    int64_t total = count * m->cols, step = ml_min(PIECE, total);
    ML_NEW(codes, step / 2 + 1, ML_MEM_OTHER, "codes of weights");
    ML_NEW(scales, step / m->group + 2, ML_MEM_OTHER, "scales of weights");
    for (int64_t at = 0, n; at < total; at += n) {
        int64_t begin = first * m->cols + at;
        n = ml_min(step, total - at);
        int64_t byte = begin / 2, bytes = (begin + n - 1) / 2 - byte + 1, block = begin / m->group,
                blocks = (begin + n - 1) / m->group - block + 1;
        ML_TRY(packed_read(m, PACKED_CODES, byte, bytes, codes));
        ML_TRY(m->nested_group ? read_nested(m, block, blocks, scales)
                               : packed_numbers(m, PACKED_SCALES, block, blocks, scales));
        ML_TRY(decode(m, begin, n, codes, scales, out + at));
    }
done:
    ml_memory_free(codes);
    ml_memory_free(scales);
    return st;
}

#define PARTS_OF(state)                                                                 \
    .part = {[PACKED_CODES] = "weight",                                                 \
             [PACKED_SCALES] = "weight.absmax",                                         \
             [PACKED_STATE] = (state),                                                  \
             [PACKED_MAP] = "weight.quant_map",                                         \
             [PACKED_NESTED_SCALES] = "weight.nested_absmax",                           \
             [PACKED_NESTED_MAP] = "weight.nested_quant_map"},                          \
    .optional = 1U << PACKED_NESTED_SCALES | 1U << PACKED_NESTED_MAP, .open = open_nf4, \
    .rows = rows_of_nf4

const packed_layout packed_bitsandbytes_layouts[] = {
    {PACKED_NAMED("NF4 of bitsandbytes"), .method = PACKED_BITSANDBYTES,
     PARTS_OF("weight.quant_state.bitsandbytes__nf4")},
    {PACKED_NAMED("FP4 of bitsandbytes"), .method = PACKED_BITSANDBYTES,
     PARTS_OF("weight.quant_state.bitsandbytes__fp4")},
    {0}};
