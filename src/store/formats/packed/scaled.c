/* Bytes that are numbers by themselves, times a scale for a block, a row or the whole matrix: FP8
 * (E4M3) of DeepSeek, compressed-tensors and ModelOpt, int8 of compressed-tensors and bitsandbytes.
 *
 * The blocks of FP8 tile the matrix from its first row and column; the last ones are cut short.
 * What transformers makes of ragged ones is another matrix: it divides the sides by the number of
 * scales. */
#include <inttypes.h>

#include "store/formats/packed/packed.h"

enum { MODELOPT_TILE = 128 };

static int64_t parts_of(int64_t n, int64_t part) { return (n + part - 1) / part; }

static ml_status codes(const packed_matrix *m, int64_t first, int64_t count, uint8_t *out)
{
    return packed_read(m, PACKED_CODES, first * m->cols, count * m->cols, out);
}

/* ---- FP8 ----------------------------------------------------------------------------------- */

static void set_tiles(packed_matrix *m, int64_t rows, int64_t cols)
{
    m->block_rows = rows;
    m->group = cols;
    m->groups = parts_of(m->cols, cols);
}

/* ModelOpt's scales of tiles: [tiles down, 1, tiles across, 1]. */
static ml_status expect_tiles(const packed_matrix *m)
{
    const ml_safetensors_entry *e = m->part[PACKED_SCALES].entry;
    int64_t down = parts_of(m->rows, m->block_rows);
    if (!strcmp(e->dtype, "F32") && e->shape[0] == down && e->shape[1] == 1 &&
        e->shape[2] == m->groups && e->shape[3] == 1)
        return ML_OK;
    return ml_fail(ML_INPUT,
                   "%s: %s is %.20s [%" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64
                   "], expected F32 [%" PRId64 ", 1, %" PRId64
                   ", 1]: a scale for each tile of %d x %d",
                   m->shards->directory, e->name, e->dtype, e->shape[0], e->shape[1], e->shape[2],
                   e->shape[3], down, m->groups, MODELOPT_TILE, MODELOPT_TILE);
}

static ml_status open_fp8(packed_matrix *m, const packed_config *config)
{
    ml_status st = ML_OK;
    bool own = config->method == PACKED_FP8;
    const char *types = own ? PACKED_REALS " F8_E8M0 U8" : PACKED_REALS;
    const ml_safetensors_entry *scales = m->part[PACKED_SCALES].entry;
    ML_TRY(packed_expect(m, PACKED_CODES, "F8_E4M3", m->rows, m->cols));
    bool column = scales->dims != 2 || scales->shape[1] == 1, /* also of tiles as wide as rows */
        rowwise = column && (scales->count == 1 || scales->shape[0] == m->rows);
    if (config->method == PACKED_MODELOPT && scales->dims == 4) {
        set_tiles(m, MODELOPT_TILE, MODELOPT_TILE);
        ML_TRY(expect_tiles(m));
    } else if (config->block_rows > 0 && (own || !rowwise)) {
        set_tiles(m, config->block_rows, config->block_cols);
        ML_TRY(packed_expect(m, PACKED_SCALES, types, parts_of(m->rows, m->block_rows), m->groups));
    } else {
        ML_TRY(packed_grid(m, types));
        ML_TRY(packed_expect_kind(m, config, false, 8));
        ML_TRY(packed_read_order(m));
    }
    packed_values_e4m3(m->value);
    if (!own) packed_round_as_scales(m);
done:
    return st;
}

/* ---- int8 ---------------------------------------------------------------------------------- */

static ml_status open_int8(packed_matrix *m, const packed_config *config)
{
    ml_status st = ML_OK;
    ML_TRY(packed_expect(m, PACKED_CODES, "I8", m->rows, m->cols));
    ML_TRY(packed_grid(m, PACKED_REALS));
    ML_TRY(packed_expect_kind(m, config, true, 8));
    ML_TRY(packed_read_order(m));
    packed_values_int(8, m->value);
    packed_round_as_scales(m);
    m->kept = ML_Q8_0;
    if (m->part[PACKED_ZEROS].entry)
        ML_TRY(packed_expect(m, PACKED_ZEROS, "I8", m->block_rows > 1 ? 1 : m->rows,
                             m->part[PACKED_SCALES].entry->dims == 1 ? -1 : m->groups));
done:
    return st;
}

static ml_status int8_zeros(const packed_matrix *m, int64_t first, int64_t count, float *out)
{
    for (int64_t i = 0; i < count; i++) {
        int8_t zero[PACKED_GROUPS_AT_ONCE];
        int64_t at = (first + i) / m->block_rows * m->groups;
        for (int64_t g = 0, n; g < m->groups; g += n) {
            n = ml_min(PACKED_GROUPS_AT_ONCE, m->groups - g);
            ml_status st = packed_read(m, PACKED_ZEROS, at + g, n, zero);
            if (st != ML_OK) return st;
            for (int64_t j = 0; j < n; j++) out[i * m->groups + g + j] = (float)zero[j];
        }
    }
    return ML_OK;
}

/* Files of old versions may have the order of rows and columns that a GPU wants. */
static ml_status check_plain_order(const packed_matrix *m)
{
    ml_status st = ML_OK;
    uint8_t order = 0;
    const ml_safetensors_entry *e = m->part[PACKED_REST].entry;
    if (!e) return ML_OK;
    ML_TRY(packed_expect_one(m, PACKED_REST, "U8"));
    ML_TRY(packed_read(m, PACKED_REST, 0, 1, &order));
    if (order == 0) return ML_OK;
    return ml_fail(ML_INPUT,
                   "%s: %s is %d, an order of weights for one kind of GPU; only 0, row by row, is "
                   "read",
                   m->shards->directory, e->name, order);
done:
    return st;
}

/* w = q · SCB / 127, by a multiplication. */
static ml_status open_scb(packed_matrix *m, const packed_config *config)
{
    ml_status st = ML_OK;
    (void)config;
    ML_TRY(packed_expect(m, PACKED_CODES, "I8", m->rows, m->cols));
    ML_TRY(check_plain_order(m));
    ML_TRY(packed_expect(m, PACKED_SCALES, "F32", m->rows, -1));
    ML_TRY(packed_grid(m, "F32"));
    packed_values_int(8, m->value);
    m->factor = 7.874015718698502e-3F;
done:
    return st;
}

const packed_layout packed_scaled_layouts[] = {
    {PACKED_NAMED("FP8"), .method = PACKED_FP8, .codes_type = "F8_E4M3",
     .part = {[PACKED_CODES] = "weight",
              [PACKED_SCALES] = "weight_scale_inv",
              [PACKED_REST] = "activation_scale"},
     .optional = 1U << PACKED_REST, .open = open_fp8, .codes = codes, .scales = packed_grid_scales},
    {PACKED_NAMED("FP8 of compressed-tensors"), .method = PACKED_COMPRESSED,
     .codes_type = "F8_E4M3",
     .part = {[PACKED_CODES] = "weight",
              [PACKED_SCALES] = "weight_scale",
              [PACKED_ORDER] = "weight_g_idx",
              [PACKED_REST] = "input_scale"},
     .optional = 1U << PACKED_REST | 1U << PACKED_ORDER, .open = open_fp8, .codes = codes,
     .scales = packed_grid_scales},
    {PACKED_NAMED("FP8 of ModelOpt"), .method = PACKED_MODELOPT, .codes_type = "F8_E4M3",
     .part = {[PACKED_CODES] = "weight",
              [PACKED_SCALES] = "weight_scale",
              [PACKED_BEFORE] = "pre_quant_scale",
              [PACKED_REST] = "input_scale"},
     .optional = 1U << PACKED_REST | 1U << PACKED_BEFORE, .open = open_fp8, .codes = codes,
     .scales = packed_grid_scales},
    {PACKED_NAMED("int8 with zeros, of compressed-tensors"), .method = PACKED_COMPRESSED,
     .codes_type = "I8",
     .part = {[PACKED_CODES] = "weight",
              [PACKED_SCALES] = "weight_scale",
              [PACKED_ZEROS] = "weight_zero_point",
              [PACKED_ORDER] = "weight_g_idx",
              [PACKED_REST] = "input_scale"},
     .optional = 1U << PACKED_REST | 1U << PACKED_ORDER, .open = open_int8, .codes = codes,
     .scales = packed_grid_scales, .zeros = int8_zeros},
    {PACKED_NAMED("int8 of compressed-tensors"), .method = PACKED_COMPRESSED, .codes_type = "I8",
     .part = {[PACKED_CODES] = "weight",
              [PACKED_SCALES] = "weight_scale",
              [PACKED_ORDER] = "weight_g_idx",
              [PACKED_REST] = "input_scale"},
     .optional = 1U << PACKED_REST | 1U << PACKED_ORDER, .open = open_int8, .codes = codes,
     .scales = packed_grid_scales},
    {PACKED_NAMED("int8 of bitsandbytes"), .method = PACKED_BITSANDBYTES, .codes_type = "I8",
     .part = {[PACKED_CODES] = "weight", [PACKED_SCALES] = "SCB", [PACKED_REST] = "weight_format"},
     .optional = 1U << PACKED_REST, .open = open_scb, .codes = codes, .scales = packed_grid_scales},
    {0}};
