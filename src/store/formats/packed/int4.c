/* Integers of 4 bits of ModelOpt, a byte for two rows: the even row in its low half, the odd one in
 * the high half, in two's complement, and scales for groups of a row. */
#include <inttypes.h>

#include "store/formats/packed/packed.h"

static ml_status open_int4(packed_matrix *m, const packed_config *config)
{
    ml_status st = ML_OK;
    (void)config;
    if (m->rows % 2 != 0)
        return ml_fail(ML_INPUT, "%s: %s: %" PRId64 " rows are no multiple of 2, expected pairs",
                       m->shards->directory, m->name, m->rows);
    ML_TRY(packed_expect(m, PACKED_CODES, "U8", m->rows / 2, m->cols));
    ML_TRY(packed_grid(m, PACKED_REALS));
    packed_values_int(4, m->value);
    m->kept = ML_Q4_0;
done:
    return st;
}

static ml_status codes(const packed_matrix *m, int64_t first, int64_t count, uint8_t *out)
{
    for (int64_t i = 0; i < count; i++) {
        int64_t row = first + i;
        uint8_t *to = out + i * m->cols;
        ml_status st = packed_read(m, PACKED_CODES, row / 2 * m->cols, m->cols, to);
        if (st != ML_OK) return st;
        for (int64_t c = 0; c < m->cols; c++) to[c] = row % 2 ? to[c] >> 4 : to[c] & 15;
    }
    return ML_OK;
}

const packed_layout packed_int4_layouts[] = {
    {PACKED_NAMED("int4 of ModelOpt"), .method = PACKED_MODELOPT, .codes_type = "U8",
     .part = {[PACKED_CODES] = "weight",
              [PACKED_SCALES] = "weight_scale",
              [PACKED_BEFORE] = "pre_quant_scale",
              [PACKED_REST] = "input_scale"},
     .optional = 1U << PACKED_REST | 1U << PACKED_BEFORE, .open = open_int4, .codes = codes,
     .scales = packed_grid_scales},
    {0}};
