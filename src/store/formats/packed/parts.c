/* Reading the tensors that a packed matrix consists of: their types, shapes and small numbers. */
#include <inttypes.h>
#include <math.h>

#include "store/formats/packed/packed.h"

bool packed_is(const packed_matrix *m, packed_part part, const char *type)
{
    return m->part[part].entry && !strcmp(m->part[part].entry->dtype, type);
}

bool packed_is_finite(float x) { return isfinite(x); }

ml_status packed_bad_scale(const packed_matrix *m, int64_t row, int64_t block)
{
    return ml_fail(ML_INPUT,
                   "%s: %s: row %" PRId64 ", block %" PRId64
                   " has a scale that is Inf or NaN: the file is damaged",
                   m->shards->directory, m->name, row, block);
}

ml_status packed_bad_weight(const packed_matrix *m, int64_t row, int64_t column)
{
    return ml_fail(ML_INPUT,
                   "%s: %s: row %" PRId64 ", column %" PRId64
                   " has a weight that is Inf or NaN: the file is damaged",
                   m->shards->directory, m->name, row, column);
}

/* ---- shapes -------------------------------------------------------------------------------- */

static ml_status wrong_shape(const packed_matrix *m, packed_part part, const char *expected)
{
    const ml_safetensors_entry *e = m->part[part].entry;
    char found[ML_SAFETENSORS_SHAPE];
    return ml_fail(
        ML_INPUT, "%s: %s has shape [%s], expected %s: a matrix of %" PRId64 " x %" PRId64 " as %s",
        m->shards->directory, e->name, ml_safetensors_shape(e->dims, e->shape, found), expected,
        m->rows, m->cols, m->layout->name);
}

/* `type` is a word of `types`. */
static bool is_among(const char *type, const char *types)
{
    size_t n = strlen(type);
    for (const char *at = strstr(types, type); at; at = strstr(at + 1, type))
        if ((at == types || at[-1] == ' ') && (at[n] == ' ' || at[n] == '\0')) return true;
    return false;
}

static ml_status expect_type(const packed_matrix *m, packed_part part, const char *types)
{
    const ml_safetensors_entry *e = m->part[part].entry;
    if (is_among(e->dtype, types)) return ML_OK;
    return ml_fail(ML_INPUT, "%s: %s has type %.20s, expected %s: a matrix as %s",
                   m->shards->directory, e->name, e->dtype, types, m->layout->name);
}

ml_status packed_expect(const packed_matrix *m, packed_part part, const char *types, int64_t rows,
                        int64_t cols)
{
    const ml_safetensors_entry *e = m->part[part].entry;
    char expected[64];
    ml_status st = expect_type(m, part, types);
    if (st != ML_OK) return st;
    bool line = cols < 0;
    if (e->dims == (line ? 1 : 2) && e->shape[0] == rows && (line || e->shape[1] == cols))
        return ML_OK;
    snprintf(expected, sizeof expected, line ? "[%" PRId64 "]" : "[%" PRId64 ", %" PRId64 "]", rows,
             cols);
    return wrong_shape(m, part, expected);
}

ml_status packed_expect_one(const packed_matrix *m, packed_part part, const char *types)
{
    ml_status st = expect_type(m, part, types);
    if (st != ML_OK || m->part[part].entry->count == 1) return st;
    return wrong_shape(m, part, "one number");
}

ml_status packed_grid(packed_matrix *m, const char *types)
{
    const ml_safetensors_entry *e = m->part[PACKED_SCALES].entry;
    ml_status st = expect_type(m, PACKED_SCALES, types);
    if (st != ML_OK) return st;
    m->groups = 1;
    m->group = m->cols;
    m->block_rows = 1;
    if (e->count == 1 && e->dims <= 2) {
        m->block_rows = m->rows;
        return ML_OK;
    }
    if (e->dims < 1 || e->dims > 2 || e->shape[0] != m->rows)
        return wrong_shape(m, PACKED_SCALES, "one scale, or one or several for each row");
    m->groups = e->dims == 2 ? e->shape[1] : 1;
    if (m->groups < 1 || m->cols % m->groups != 0)
        return wrong_shape(m, PACKED_SCALES, "groups that divide the columns");
    m->group = m->cols / m->groups;
    return ML_OK;
}

static bool is_kind(const packed_matrix *m, const packed_kind *k)
{
    bool one = m->groups == 1, zeros = m->part[PACKED_ZEROS].entry,
         ordered = m->part[PACKED_ORDER].entry;
    bool fits = k->group < 0 || (k->group > 0 && m->group == k->group) ||
                (one && (k->group == 0 || k->group > m->cols));
    return fits && (zeros || !k->zeros) && (ordered || one || !k->ordered);
}

ml_status packed_expect_kind(const packed_matrix *m, const packed_config *config, bool whole,
                             int bits)
{
    if (!config->kinds) return ML_OK;
    for (int64_t i = 0; i < config->kinds; i++) {
        const packed_kind *k = &config->kind[i];
        if (k->whole == whole && k->bits == bits && is_kind(m, k)) return ML_OK;
    }
    return ml_fail(ML_INPUT,
                   "%s: %s: the files have %" PRId64 " columns under one scale, %s zeros and %s "
                   "order of columns; config_groups of quantization_config says otherwise of %s of "
                   "%d bits (strategy, group_size, symmetric, actorder)",
                   m->shards->directory, m->name, m->group,
                   m->part[PACKED_ZEROS].entry ? "with" : "no",
                   m->part[PACKED_ORDER].entry ? "an" : "no", whole ? "integers" : "FP8", bits);
}

/* ---- values -------------------------------------------------------------------------------- */

ml_status packed_read(const packed_matrix *m, packed_part part, int64_t offset, int64_t bytes,
                      void *out)
{
    return hf_shards_read_bytes(m->shards, m->part[part], offset, bytes, out);
}

/* Sign, four bits of exponent with a bias of 7, three of fraction; all ones is NaN, and there are
 * no infinities. */
void packed_values_e4m3(float value[256])
{
    for (int i = 0; i < 256; i++) {
        int exponent = i >> 3 & 15, fraction = i & 7;
        float size =
            exponent ? ldexpf((float)(8 + fraction), exponent - 10) : ldexpf((float)fraction, -9);
        if ((i & 127) == 127) size = NAN;
        value[i] = i & 128 ? -size : size;
    }
}

void packed_values_int(int bits, float value[256])
{
    int half = 1 << (bits - 1);
    for (int i = 0; i < 256; i++) value[i] = (float)(((i + half) & (2 * half - 1)) - half);
}

static void decode_bytes(bool exponents, const uint8_t *bytes, int64_t count, float *out)
{
    float value[256];
    packed_values_e4m3(value);
    for (int i = 0; i < 256 && exponents; i++) value[i] = i == 255 ? NAN : ldexpf(1, i - 127);
    for (int64_t i = 0; i < count; i++) out[i] = value[bytes[i]];
}

ml_status packed_numbers(const packed_matrix *m, packed_part part, int64_t first, int64_t count,
                         float *out)
{
    ml_status st = ML_OK;
    uint8_t *bytes = NULL;
    if (ml_safetensors_is_real(m->part[part].entry))
        return hf_shards_read(m->shards, m->part[part], first, count, out);
    ML_NEW(bytes, count, ML_MEM_OTHER, "scales");
    ML_TRY(packed_read(m, part, first, count, bytes));
    decode_bytes(!packed_is(m, part, "F8_E4M3"), bytes, count, out);
done:
    ml_memory_free(bytes);
    return st;
}

ml_status packed_grid_scales(const packed_matrix *m, int64_t first, int64_t count, float *out)
{
    if (m->block_rows == 1)
        return packed_numbers(m, PACKED_SCALES, first * m->groups, count * m->groups, out);
    for (int64_t i = 0; i < count; i++) {
        float *row = out + i * m->groups;
        if (i > 0 && (first + i) % m->block_rows != 0) {
            memcpy(row, row - m->groups, (size_t)m->groups * sizeof *row);
            continue;
        }
        ml_status st = packed_numbers(m, PACKED_SCALES, (first + i) / m->block_rows * m->groups,
                                      m->groups, row);
        if (st != ML_OK) return st;
    }
    return ML_OK;
}

void packed_round_as_scales(packed_matrix *m)
{
    m->half = packed_is(m, PACKED_SCALES, "F16");
    m->rounding = packed_is(m, PACKED_SCALES, "BF16") ? ML_BF16 : ML_FP32;
}

float packed_rounded(const packed_matrix *m, float weight)
{
    if (m->half) return ml_half_to_float(ml_half_from_float(weight));
    return m->rounding == ML_BF16 ? ml_bf16_to_float(ml_bf16_from_float(weight)) : weight;
}

/* W·(b ∘ x) = (W·diag(b))·x */
ml_status packed_read_before(packed_matrix *m)
{
    ml_status st = ML_OK;
    if (!m->part[PACKED_BEFORE].entry) return ML_OK;
    ML_TRY(packed_expect(m, PACKED_BEFORE, PACKED_REALS, m->cols, -1));
    ML_NEW(m->before, m->cols, ML_MEM_OTHER, "factors of columns");
    ML_TRY(packed_numbers(m, PACKED_BEFORE, 0, m->cols, m->before));
done:
    return st;
}

ml_status packed_read_order(packed_matrix *m)
{
    ml_status st = ML_OK;
    /* compressed-tensors makes the part before it knows an order: a -1 says that there is none */
    bool plain = true, may_lack = m->layout->method == PACKED_COMPRESSED, unset = false;
    if (!m->part[PACKED_ORDER].entry) return ML_OK;
    ML_TRY(packed_expect(m, PACKED_ORDER, "I32", m->cols, -1));
    ML_NEW(m->order, m->cols, ML_MEM_OTHER, "the order of columns");
    ML_TRY(packed_read(m, PACKED_ORDER, 0, m->cols * (int64_t)sizeof *m->order, m->order));
    for (int64_t c = 0; c < m->cols && !unset; c++) unset = may_lack && m->order[c] == -1;
    for (int64_t c = 0; c < m->cols && !unset; c++) {
        if (m->order[c] < 0 || m->order[c] >= m->groups)
            return ml_fail(ML_INPUT, "%s: %s: column %" PRId64 " has group %" PRId32 " of %" PRId64,
                           m->shards->directory, m->part[PACKED_ORDER].entry->name, c, m->order[c],
                           m->groups);
        plain = plain && m->order[c] == c / m->group;
    }
    if (plain) {
        ml_memory_free(m->order);
        m->order = NULL;
    }
done:
    return st;
}
