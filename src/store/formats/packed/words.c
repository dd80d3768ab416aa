/* Integers of compressed-tensors in words of 32 bits (pack-quantized): row by row, the first one in
 * the lowest bits, each stored with half of its range added. Zeros are packed in the same way down
 * the columns.
 *
 * Of 3, 5, 6 and 7 bits there are two layouts under one name: since version 0.18 integers follow
 * each other without gaps, across words; before, a word had as many whole ones as it could hold.
 * The number of words of a row tells them apart, or the matrix is refused. */
#include <inttypes.h>

#include "store/formats/packed/packed.h"

/* Words that `count` integers take. */
static int64_t words_of(int bits, int64_t per_word, int64_t count)
{
    return per_word ? (count + per_word - 1) / per_word : (count * bits + 31) / 32;
}

/* Integer i of packed words, still with half of its range added. */
static unsigned integer_at(const packed_matrix *m, const uint32_t *words, int64_t i)
{
    unsigned bits = (unsigned)m->bits, mask = (1U << bits) - 1;
    if (m->per_word) return words[i / m->per_word] >> (i % m->per_word * bits) & mask;
    int64_t at = i * bits;
    unsigned shift = (unsigned)(at % 32);
    uint64_t two = words[at / 32];
    if (shift + bits > 32) two |= (uint64_t)words[at / 32 + 1] << 32;
    return (unsigned)(two >> shift) & mask;
}

/* ---- opening ------------------------------------------------------------------------------- */

/* Bits and layout by the words that a row has. */
static ml_status find_widths(packed_matrix *m, const packed_config *config)
{
    const ml_safetensors_entry *codes = m->part[PACKED_CODES].entry;
    int64_t words = codes->dims == 2 ? codes->shape[1] : -1;
    int found = 0;
    for (int bits = 1; bits <= 8; bits++)
        for (int gaps = 0; gaps < (32 % bits ? 2 : 1); gaps++) {
            /* without gaps where both are the same */
            int64_t per_word = gaps || 32 % bits == 0 ? 32 / bits : 0;
            if (!(config->widths >> bits & 1U) || words_of(bits, per_word, m->cols) != words)
                continue;
            m->bits = bits;
            m->per_word = per_word;
            found++;
        }
    if (found == 1) return ML_OK;
    return ml_fail(ML_INPUT,
                   found ? "%s: %s: %" PRId64 " words a row can be read in %d ways: its "
                           "integers are of 3, 5, 6 or 7 bits, which versions of "
                           "compressed-tensors pack differently"
                         : "%s: %s: %" PRId64 " words a row are those of no num_bits of "
                           "config_groups (%d)",
                   m->shards->directory, codes->name, words, found);
}

static ml_status check_said_shape(const packed_matrix *m)
{
    ml_status st = ML_OK;
    int64_t said[2];
    ML_TRY(packed_expect(m, PACKED_SHAPE, "I64", 2, -1));
    ML_TRY(packed_read(m, PACKED_SHAPE, 0, sizeof said, said));
    if (said[0] == m->rows && said[1] == m->cols) return ML_OK;
    return ml_fail(ML_INPUT,
                   "%s: %s says [%" PRId64 ", %" PRId64 "], expected [%" PRId64 ", %" PRId64 "]",
                   m->shards->directory, m->part[PACKED_SHAPE].entry->name, said[0], said[1],
                   m->rows, m->cols);
done:
    return st;
}

static ml_status open_words(packed_matrix *m, const packed_config *config)
{
    ml_status st = ML_OK;
    ML_TRY(check_said_shape(m));
    ML_TRY(find_widths(m, config));
    ML_TRY(packed_expect(m, PACKED_CODES, "I32", m->rows, words_of(m->bits, m->per_word, m->cols)));
    ML_TRY(packed_grid(m, PACKED_REALS));
    if (m->part[PACKED_ZEROS].entry)
        ML_TRY(packed_expect(m, PACKED_ZEROS, "I32", words_of(m->bits, m->per_word, m->rows),
                             m->groups));
    ML_TRY(packed_expect_kind(m, config, true, m->bits));
    ML_TRY(packed_read_order(m));
    packed_values_int(m->bits, m->value);
    packed_round_as_scales(m);
    m->kept = m->bits == 4 ? ML_Q4_0 : m->bits == 8 ? ML_Q8_0 : ML_FP32;
done:
    return st;
}

/* ---- rows ---------------------------------------------------------------------------------- */

static ml_status codes(const packed_matrix *m, int64_t first, int64_t count, uint8_t *out)
{
    ml_status st = ML_OK;
    uint32_t *words = NULL;
    int64_t row_words = words_of(m->bits, m->per_word, m->cols);
    unsigned half = 1U << (m->bits - 1);
    ML_NEW(words, count * row_words, ML_MEM_OTHER, "packed integers");
    ML_TRY(packed_read(m, PACKED_CODES, 4 * first * row_words, 4 * count * row_words, words));
    for (int64_t i = 0; i < count; i++)
        for (int64_t c = 0; c < m->cols; c++)
            out[i * m->cols + c] = (uint8_t)(integer_at(m, words + i * row_words, c) - half);
done:
    ml_memory_free(words);
    return st;
}

/* Zeros of the rows: down each column of groups, from the word that has the first one. */
static ml_status zeros(const packed_matrix *m, int64_t first, int64_t count, float *out)
{
    ml_status st = ML_OK;
    uint32_t *words = NULL, *column = NULL;
    int64_t begin = m->per_word ? first / m->per_word : first * m->bits / 32,
            end = words_of(m->bits, m->per_word, first + count), n = end - begin,
            half = 1 << (m->bits - 1);
    ML_NEW(words, n * m->groups, ML_MEM_OTHER, "packed zeros");
    ML_NEW(column, end, ML_MEM_OTHER, "packed zeros");
    ML_TRY(packed_read(m, PACKED_ZEROS, 4 * begin * m->groups, 4 * n * m->groups, words));
    for (int64_t g = 0; g < m->groups; g++) {
        for (int64_t w = 0; w < n; w++) column[begin + w] = words[w * m->groups + g];
        for (int64_t i = 0; i < count; i++)
            out[i * m->groups + g] = (float)((int64_t)integer_at(m, column, first + i) - half);
    }
done:
    ml_memory_free(words);
    ml_memory_free(column);
    return st;
}

#define COMMON                                                                              \
    .method = PACKED_COMPRESSED, .codes_type = "I32",                                       \
    .optional = 1U << PACKED_ORDER | 1U << PACKED_REST, .open = open_words, .codes = codes, \
    .scales = packed_grid_scales

const packed_layout packed_word_layouts[] = {
    {PACKED_NAMED("integers with zeros, of compressed-tensors"),
     .part = {[PACKED_CODES] = "weight_packed",
              [PACKED_SCALES] = "weight_scale",
              [PACKED_ZEROS] = "weight_zero_point",
              [PACKED_ORDER] = "weight_g_idx",
              [PACKED_SHAPE] = "weight_shape",
              [PACKED_REST] = "input_scale"},
     .zeros = zeros, COMMON},
    {PACKED_NAMED("integers of compressed-tensors"),
     .part = {[PACKED_CODES] = "weight_packed",
              [PACKED_SCALES] = "weight_scale",
              [PACKED_ORDER] = "weight_g_idx",
              [PACKED_SHAPE] = "weight_shape",
              [PACKED_REST] = "input_scale"},
     COMMON},
    {0}};
