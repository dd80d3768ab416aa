/* A packed matrix: found by its tensors, then decoded from codes, scales and zeros, or put into
 * blocks that say exactly the same. */
#include "store/formats/packed/packed.h"

enum { PIECE = 1 << 22 }; /* weights that are decoded at once */

static const packed_layout *const all_layouts[] = {
    packed_scaled_layouts, packed_bitsandbytes_layouts, packed_word_layouts,
    packed_turned_layouts, packed_fp4_layouts,          packed_int4_layouts,
};
enum { FILES = sizeof all_layouts / sizeof *all_layouts };

/* ---- opening ------------------------------------------------------------------------------- */

static ml_status find_part(packed_matrix *m, const char *part, hf_place *out)
{
    ml_text name = {0};
    ml_status st = ml_text_printf(&name, "%s.%s", m->name, part);
    if (st == ML_OK) *out = hf_shards_find(m->shards, name.data);
    ml_text_destroy(&name);
    return st;
}

/* Finds the layout's parts. It is this one where its codes are there and so are a state, zeros and
 * a factor, if it has any: these tell layouts with the same codes from each other. */
static ml_status find_parts(packed_matrix *m, const packed_layout *layout, bool *found)
{
    ml_status st = ML_OK;
    *found = false;
    m->layout = layout;
    for (int p = 0; p < PACKED_PARTS; p++) {
        m->part[p] = (hf_place){0};
        if (layout->part[p]) ML_TRY(find_part(m, layout->part[p], &m->part[p]));
        if (p == PACKED_CODES &&
            (!m->part[p].entry ||
             (layout->codes_type && !packed_is(m, (packed_part)p, layout->codes_type))))
            return ML_OK;
        bool needed = p == PACKED_STATE || p == PACKED_ZEROS || p == PACKED_FACTOR;
        if (needed && layout->part[p] && !m->part[p].entry) return ML_OK;
    }
    *found = true;
done:
    return st;
}

static ml_status find_layout(packed_matrix *m, packed_method method, bool *found)
{
    ml_status st = ML_OK;
    for (int f = 0; f < FILES; f++)
        for (const packed_layout *l = all_layouts[f]; l->name; l++) {
            if (l->method != method) continue;
            ML_TRY(find_parts(m, l, found));
            if (*found) return ML_OK;
        }
done:
    return st;
}

static ml_status check_parts(const packed_matrix *m)
{
    for (int p = 0; p < PACKED_PARTS; p++)
        if (m->layout->part[p] && !m->part[p].entry && !(m->layout->optional >> p & 1U))
            return ml_fail(ML_INPUT, "%s: tensor %s.%s is missing: %s is packed as %s",
                           m->shards->directory, m->name, m->layout->part[p], m->name,
                           m->layout->name);
    return ML_OK;
}

ml_status packed_open(packed_matrix *out, bool *found, const packed_config *config,
                      const hf_shards *shards, const char *module, int64_t rows, int64_t cols)
{
    ml_status st = ML_OK;
    packed_matrix m = {.shards = shards, .rows = rows, .cols = cols, .factor = 1, .block_rows = 1};
    *found = false;
    if (config->method == PACKED_NONE) return ML_OK;
    if (snprintf(m.name, sizeof m.name, "%s", module) >= (int)sizeof m.name) return ML_OK;
    ML_TRY(find_layout(&m, config->method, found));
    if (!*found) return ML_OK;
    ML_TRY(check_parts(&m));
    ML_TRY(m.layout->open(&m, config));
    ML_TRY(packed_read_before(&m));
    *out = m;
    m.order = NULL;
    m.before = NULL;
done:
    packed_close(&m);
    return st;
}

void packed_close(packed_matrix *m)
{
    ml_memory_free(m->order);
    ml_memory_free(m->before);
    m->order = NULL;
    m->before = NULL;
}

/* ---- rows ---------------------------------------------------------------------------------- */

/* What is read of some rows. */
typedef struct piece {
    uint8_t *codes;
    float *scales, *zeros;
} piece;

static void free_piece(piece *p)
{
    ml_memory_free(p->codes);
    ml_memory_free(p->scales);
    ml_memory_free(p->zeros);
    *p = (piece){0};
}

static int64_t rows_of_piece(const packed_matrix *m, int64_t count)
{
    return ml_max(1, ml_min(count, PIECE / ml_max(1, m->cols)));
}

static ml_status new_piece(const packed_matrix *m, int64_t rows, piece *p)
{
    ml_status st = ML_OK;
    ML_NEW(p->codes, rows * m->cols, ML_MEM_OTHER, "codes of weights");
    ML_NEW(p->scales, rows * m->groups, ML_MEM_OTHER, "scales of weights");
    if (m->layout->zeros) ML_NEW(p->zeros, rows * m->groups, ML_MEM_OTHER, "zeros of weights");
done:
    return st;
}

static ml_status read_piece(const packed_matrix *m, int64_t first, int64_t count, piece *p)
{
    ml_status st = ML_OK;
    ML_TRY(m->layout->codes(m, first, count, p->codes));
    ML_TRY(m->layout->scales(m, first, count, p->scales));
    if (p->zeros) ML_TRY(m->layout->zeros(m, first, count, p->zeros));
    for (int64_t i = 0; i < count * m->groups; i++)
        if (!packed_is_finite(p->scales[i]))
            return packed_bad_scale(m, first + i / m->groups, i % m->groups);
done:
    return st;
}

/* One row; the first column whose weight is not finite, −1: none. */
static int64_t decode_row(const packed_matrix *m, const uint8_t *codes, const float *scales,
                          const float *zeros, float *out)
{
    int64_t bad = -1;
    for (int64_t c = m->cols - 1; c >= 0; c--) {
        int64_t g = m->order ? m->order[c] : c / m->group;
        float value = m->value[codes[c]] - (zeros ? zeros[g] : 0);
        out[c] = packed_rounded(m, value * scales[g] * m->factor) * (m->before ? m->before[c] : 1);
        if (!packed_is_finite(out[c])) bad = c;
    }
    return bad;
}

static ml_status decode_piece(const packed_matrix *m, int64_t first, int64_t count, const piece *p,
                              float *out)
{
    for (int64_t i = 0; i < count; i++) {
        int64_t bad = decode_row(m, p->codes + i * m->cols, p->scales + i * m->groups,
                                 p->zeros ? p->zeros + i * m->groups : NULL, out + i * m->cols);
        if (bad >= 0) return packed_bad_weight(m, first + i, bad);
    }
    return ML_OK;
}

ml_status packed_rows(const packed_matrix *m, int64_t first, int64_t count, float *out)
{
    ml_status st = ML_OK;
    piece p = {0};
    if (m->layout->rows) return m->layout->rows(m, first, count, out);
    int64_t step = rows_of_piece(m, count);
    ML_TRY(new_piece(m, step, &p));
    for (int64_t at = 0, n; at < count; at += n) {
        n = ml_min(step, count - at);
        ML_TRY(read_piece(m, first + at, n, &p));
        ML_TRY(decode_piece(m, first + at, n, &p, out + at * m->cols));
    }
done:
    free_piece(&p);
    return st;
}

/* ---- blocks -------------------------------------------------------------------------------- */

/* Whether every scale is a scale of the format. One that is not finite is refused when its row is
 * read. */
static ml_status scales_fit(const packed_matrix *m, bool *fit)
{
    ml_status st = ML_OK;
    float *scales = NULL;
    int64_t step = rows_of_piece(m, m->rows);
    ML_NEW(scales, step * m->groups, ML_MEM_OTHER, "scales of weights");
    for (int64_t row = 0, n; *fit && row < m->rows; row += n) {
        n = ml_min(step, m->rows - row);
        ML_TRY(m->layout->scales(m, row, n, scales));
        for (int64_t i = 0; i < n * m->groups; i++)
            *fit = *fit && (!packed_is_finite(scales[i]) ||
                            ml_half_to_float(ml_half_from_float(scales[i])) == scales[i]);
    }
done:
    ml_memory_free(scales);
    return st;
}

ml_status packed_format(const packed_matrix *m, const ml_block_format **out)
{
    const ml_block_format *f = ml_block_format_of(m->kept);
    bool fit = ml_dtype_is_block(m->kept) && !m->order && !m->before && !m->layout->zeros &&
               m->cols % f->weights == 0 && m->group % f->weights == 0;
    ml_status st = ML_OK;
    if (fit && m->kept != ML_MXFP4) st = scales_fit(m, &fit);
    *out = fit ? f : &m->layout->stand_in;
    return st;
}

/* The E8M0 number of a power of two from 2^-127 on. */
static uint8_t exponent_of(float scale)
{
    uint32_t bits;
    memcpy(&bits, &scale, sizeof bits);
    return (uint8_t)(bits >> 23);
}

static void put_half(float value, uint8_t *to)
{
    uint16_t half = ml_half_from_float(value);
    to[0] = (uint8_t)half;
    to[1] = (uint8_t)(half >> 8);
}

/* One block of codes: a byte each, which the format wants in its own order. */
static void put_block(const packed_matrix *m, const uint8_t *codes, float scale, uint8_t *block)
{
    int flip = m->kept == ML_Q4_0 ? 8 : 0; /* q + 8 is stored */
    if (m->kept == ML_MXFP4)
        block[0] = exponent_of(scale);
    else
        put_half(scale, block);
    uint8_t *to = block + (m->kept == ML_MXFP4 ? 1 : 2);
    if (m->kept == ML_Q8_0) memcpy(to, codes, 32);
    for (int i = 0; i < 16 && m->kept != ML_Q8_0; i++)
        to[i] = (uint8_t)(((codes[i] + flip) & 15) | ((codes[i + 16] + flip) & 15) << 4);
}

ml_status packed_blocks(const packed_matrix *m, int64_t first, int64_t count, void *out)
{
    ml_status st = ML_OK;
    piece p = {0};
    const ml_block_format *f = ml_block_format_of(m->kept);
    int64_t step = rows_of_piece(m, count), blocks = m->cols / f->weights;
    uint8_t *to = out;
    ML_TRY(new_piece(m, step, &p));
    for (int64_t at = 0, n; at < count; at += n) {
        n = ml_min(step, count - at);
        ML_TRY(read_piece(m, first + at, n, &p));
        for (int64_t i = 0; i < n * blocks; i++, to += f->bytes) {
            int64_t row = i / blocks, column = i % blocks * f->weights;
            put_block(m, p.codes + row * m->cols + column,
                      p.scales[row * m->groups + column / m->group], to);
            if (ml_block_find_bad(f, to, 1) < 0) continue;
            st = packed_bad_scale(m, first + at + row, i % blocks);
            goto done;
        }
    }
done:
    free_piece(&p);
    return st;
}
