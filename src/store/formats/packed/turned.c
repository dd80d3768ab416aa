/* AWQ and GPTQ: matrices that lie in × out, in words of 32 bits.
 *
 * AWQ packs eight columns (outputs) a word in an order of its own, its zeros alike; a weight is
 * (q − z) · s. GPTQ packs 32/bits rows (inputs) a word. Of GPTQ only the symmetric is read, whose
 * zeros are all in the middle: for others its writers disagree on what is stored. */
#include <inttypes.h>

#include "store/formats/packed/packed.h"

static ml_status check_groups(packed_matrix *m, const packed_config *config)
{
    m->group = config->group == -1 ? m->cols : config->group;
    m->groups = (m->cols + m->group - 1) / m->group;
    return packed_expect(m, PACKED_SCALES, PACKED_REALS, m->groups, m->rows);
}

static ml_status scales(const packed_matrix *m, int64_t first, int64_t count, float *out)
{
    ml_status st = ML_OK;
    float *column = NULL;
    ML_NEW(column, count, ML_MEM_OTHER, "scales of weights");
    for (int64_t g = 0; g < m->groups; g++) {
        ML_TRY(packed_numbers(m, PACKED_SCALES, g * m->rows + first, count, column));
        for (int64_t i = 0; i < count; i++) out[i * m->groups + g] = column[i];
    }
done:
    ml_memory_free(column);
    return st;
}

/* ---- AWQ ----------------------------------------------------------------------------------- */

/* Where column i of eight stands in its word. */
static const unsigned awq_place[8] = {0, 4, 1, 5, 2, 6, 3, 7};

static ml_status open_awq(packed_matrix *m, const packed_config *config)
{
    ml_status st = ML_OK;
    if (m->rows % 8 != 0)
        return ml_fail(ML_INPUT, "%s: %s: %" PRId64 " outputs are no multiple of 8",
                       m->shards->directory, m->name, m->rows);
    ML_TRY(check_groups(m, config));
    ML_TRY(packed_expect(m, PACKED_CODES, "I32", m->cols, m->rows / 8));
    ML_TRY(packed_expect(m, PACKED_ZEROS, "I32", m->groups, m->rows / 8));
    for (int i = 0; i < 256; i++) m->value[i] = (float)i;
    packed_round_as_scales(m);
done:
    return st;
}

/* Integers of outputs [first, first + count) in row `row` of a packed part; `words` has room. */
static ml_status read_awq(const packed_matrix *m, packed_part part, int64_t row, int64_t first,
                          int64_t count, uint32_t *words, int64_t stride, uint8_t *out)
{
    int64_t begin = first / 8, end = (first + count + 7) / 8;
    ml_status st =
        packed_read(m, part, 4 * (row * (m->rows / 8) + begin), 4 * (end - begin), words);
    for (int64_t i = 0; i < count && st == ML_OK; i++) {
        int64_t at = first + i;
        out[i * stride] = (uint8_t)(words[at / 8 - begin] >> (4 * awq_place[at % 8]) & 15);
    }
    return st;
}

static ml_status awq_codes(const packed_matrix *m, int64_t first, int64_t count, uint8_t *out)
{
    ml_status st = ML_OK;
    uint32_t *words = NULL;
    ML_NEW(words, count / 8 + 2, ML_MEM_OTHER, "packed integers");
    for (int64_t c = 0; c < m->cols && st == ML_OK; c++)
        st = read_awq(m, PACKED_CODES, c, first, count, words, m->cols, out + c);
done:
    ml_memory_free(words);
    return st;
}

static ml_status awq_zeros(const packed_matrix *m, int64_t first, int64_t count, float *out)
{
    ml_status st = ML_OK;
    uint32_t *words = NULL;
    uint8_t *codes = NULL;
    ML_NEW(words, count / 8 + 2, ML_MEM_OTHER, "packed integers");
    ML_NEW(codes, count, ML_MEM_OTHER, "zeros of weights");
    for (int64_t g = 0; g < m->groups; g++) {
        ML_TRY(read_awq(m, PACKED_ZEROS, g, first, count, words, 1, codes));
        for (int64_t i = 0; i < count; i++) out[i * m->groups + g] = (float)codes[i];
    }
done:
    ml_memory_free(words);
    ml_memory_free(codes);
    return st;
}

/* ---- GPTQ ---------------------------------------------------------------------------------- */

/* That every zero is in the middle of the range, as the symmetric kind has it. */
static ml_status check_middle(const packed_matrix *m, bool less_one)
{
    ml_status st = ML_OK;
    uint32_t *words = NULL, middle = (1U << (m->bits - 1)) - less_one, word = 0;
    int64_t row_words = m->rows / m->per_word;
    for (int64_t i = 0; i < m->per_word; i++) word |= middle << (i * m->bits);
    ML_NEW(words, row_words, ML_MEM_OTHER, "packed zeros");
    for (int64_t g = 0; g < m->groups; g++) {
        ML_TRY(packed_read(m, PACKED_ZEROS, 4 * g * row_words, 4 * row_words, words));
        for (int64_t i = 0; i < row_words; i++)
            if (words[i] != word) {
                st = ml_fail(ML_INPUT,
                             "%s: %s: group %" PRId64 ", outputs from %" PRId64
                             " on: zeros that are not %u (stored as %u): only symmetric GPTQ is "
                             "read",
                             m->shards->directory, m->part[PACKED_ZEROS].entry->name, g,
                             i * m->per_word, 1U << (m->bits - 1), middle);
                goto done;
            }
    }
done:
    ml_memory_free(words);
    return st;
}

static ml_status open_gptq(packed_matrix *m, const packed_config *config)
{
    ml_status st = ML_OK;
    m->bits = config->widths >> 8 & 1U ? 8 : 4;
    m->per_word = 32 / m->bits;
    if (config->ordered && !m->part[PACKED_ORDER].entry)
        return ml_fail(ML_INPUT,
                       "%s: tensor %s.%s is missing: quantization_config says with desc_act that "
                       "columns have an order",
                       m->shards->directory, m->name, m->layout->part[PACKED_ORDER]);
    if (m->rows % m->per_word != 0 || m->cols % m->per_word != 0)
        return ml_fail(ML_INPUT, "%s: %s: its sides are no multiples of %" PRId64,
                       m->shards->directory, m->name, m->per_word);
    ML_TRY(check_groups(m, config));
    ML_TRY(packed_expect(m, PACKED_CODES, "I32", m->cols / m->per_word, m->rows));
    if (m->part[PACKED_REST].entry) {
        ML_TRY(packed_expect(m, PACKED_REST, "I32", m->groups, m->rows / m->per_word));
        m->part[PACKED_ZEROS] = m->part[PACKED_REST];
        ML_TRY(check_middle(m, config->less_one));
    }
    ML_TRY(packed_read_order(m));
    packed_values_int(m->bits, m->value);
    packed_round_as_scales(m);
    m->kept = m->bits == 4 ? ML_Q4_0 : ML_Q8_0;
done:
    return st;
}

static ml_status gptq_codes(const packed_matrix *m, int64_t first, int64_t count, uint8_t *out)
{
    ml_status st = ML_OK;
    uint32_t *words = NULL;
    unsigned half = 1U << (m->bits - 1), mask = 2 * half - 1;
    ML_NEW(words, count, ML_MEM_OTHER, "packed integers");
    for (int64_t c = 0; c < m->cols; c++) {
        unsigned shift = (unsigned)(c % m->per_word * m->bits);
        if (shift == 0)
            ML_TRY(packed_read(m, PACKED_CODES, 4 * (c / m->per_word * m->rows + first), 4 * count,
                               words));
        for (int64_t i = 0; i < count; i++)
            out[i * m->cols + c] = (uint8_t)((words[i] >> shift & mask) - half);
    }
done:
    ml_memory_free(words);
    return st;
}

const packed_layout packed_turned_layouts[] = {
    {PACKED_NAMED("AWQ"), .method = PACKED_AWQ, .codes_type = "I32",
     .part = {[PACKED_CODES] = "qweight", [PACKED_SCALES] = "scales", [PACKED_ZEROS] = "qzeros"},
     .open = open_awq, .codes = awq_codes, .scales = scales, .zeros = awq_zeros},
    {PACKED_NAMED("GPTQ"), .method = PACKED_GPTQ, .codes_type = "I32",
     /* zeros that are all the same are none */
     .part = {[PACKED_CODES] = "qweight",
              [PACKED_SCALES] = "scales",
              [PACKED_REST] = "qzeros",
              [PACKED_ORDER] = "g_idx"},
     .optional = 1U << PACKED_ORDER | 1U << PACKED_REST, .open = open_gptq, .codes = gptq_codes,
     .scales = scales},
    {0}};
