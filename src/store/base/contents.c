/* Contents of a base that is written: rows are rounded, put at their place in the file, and hashed
 * in the order of the model. Rounding and putting may be done by several threads at once. */
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>

#include "io/hdf5_file.h"
#include "store/base/writer.h"

base_rows base_writer_at(const ml_base_writer *w, const ml_model_tensor *tensor, int64_t index,
                         int64_t first, int64_t count)
{
    ml_dtype stored = base_stored(&w->spec, w->dtype, tensor);
    return (base_rows){.tensor = *tensor,
                       .index = index,
                       .first = first,
                       .count = count,
                       .stored = stored,
                       .offset =
                           w->place[index].offset + ml_dtype_bytes(stored, first * tensor->cols),
                       .bytes = ml_dtype_bytes(stored, count * tensor->cols)};
}

/* No NaN and no Inf, also none that rounding has made of a number. The loops have no way out, so
 * that they become vector code: nearly always all is well. */
static ml_status check_finite(const base_rows *r, const float *values, const uint16_t *halves)
{
    const int64_t cols = r->tensor.cols, count = r->count * cols;
    int wrong = 0;
    if (halves)
#pragma omp simd reduction(| : wrong)
        for (int64_t i = 0; i < count; i++) wrong |= !isfinite(ml_bf16_to_float(halves[i]));
    else
#pragma omp simd reduction(| : wrong)
        for (int64_t i = 0; i < count; i++) wrong |= !isfinite(values[i]);
    if (!wrong) return ML_OK;
    int64_t bad = 0;
    while (isfinite(halves ? ml_bf16_to_float(halves[bad]) : values[bad])) bad++;
    return ml_fail(ML_INPUT,
                   "%s: row %" PRId64 ", column %" PRId64
                   " has a weight that is not finite or too large for %s",
                   r->tensor.name, r->first + bad / cols, bad % cols, ml_dtype_name(r->stored));
}

ml_status base_writer_encode(const base_rows *r, const float *values, void *out,
                             ml_block_error *error)
{
    const ml_block_format *f = ml_block_format_of(r->stored);
    int64_t cols = r->tensor.cols, count = r->count * cols;
    uint16_t *halves = out;
    *error = (ml_block_error){0};
    if (r->stored == ML_FP32) memcpy(out, values, (size_t)r->bytes);
    if (r->stored == ML_BF16)
#pragma omp simd
        for (int64_t i = 0; i < count; i++) halves[i] = ml_bf16_from_float(values[i]);
    if (!ml_dtype_is_block(r->stored))
        return check_finite(r, values, r->stored == ML_BF16 ? halves : NULL);
    int64_t bad = ml_block_quantise(f, values, count / f->weights, out, error),
            weight = bad * f->weights;
    if (bad < 0) return ML_OK;
    return ml_fail(ML_INPUT,
                   "%s: row %" PRId64 ", block %" PRId64
                   " has a weight that is not finite or too large for %s",
                   r->tensor.name, r->first + weight / cols, weight % cols / f->weights,
                   ml_dtype_name(r->stored));
}

/* The disk begins at once, so that the last fsync does not wait for everything. */
ml_status base_writer_put(const ml_base_writer *w, const base_rows *r, const void *stored)
{
    ml_status st = ml_file_write(w->fd, w->temporary, stored, r->bytes, r->offset);
#ifdef SYNC_FILE_RANGE_WRITE
    if (st == ML_OK) (void)sync_file_range(w->fd, r->offset, r->bytes, SYNC_FILE_RANGE_WRITE);
#endif
    return st;
}

static void pass_to(ml_base_writer *w, const base_rows *r)
{
    w->row = r->first + r->count;
    if (w->row < r->tensor.rows) return;
    w->row = 0;
    w->tensor = r->index + 1;
}

void base_writer_pass(ml_base_writer *w, const base_rows *r, const void *stored)
{
    if (r->first == 0) base_content_name(w->content, r->tensor.name);
    ml_sha256_add(w->content, stored, (size_t)r->bytes);
    pass_to(w, r);
}

ml_status base_writer_pass_back(ml_base_writer *w, int64_t end, char *piece)
{
    enum { ROWS_BYTES = 1 << 20 };
    ml_model_tensor t;
    ml_model_tensor_at(&w->spec, w->tensor, &t);
    base_rows row = base_writer_at(w, &t, w->tensor, w->row, 1),
              r = base_writer_at(w, &t, w->tensor, w->row,
                                 ml_min(end - w->row, ml_max(1, ROWS_BYTES / row.bytes)));
    if (r.first == 0) base_content_name(w->content, t.name);
    for (int64_t at = 0; at < r.bytes; at += ML_SHA256_PIECE) {
        int64_t n = ml_min(ML_SHA256_PIECE, r.bytes - at);
        if (ml_file_read(w->fd, w->temporary, piece, n, r.offset + at) != ML_OK)
            return ml_fail_within(ML_RESOURCE, "reading back what was just written");
        ml_sha256_add(w->content, piece, (size_t)n);
    }
    pass_to(w, &r);
    return ML_OK;
}

void base_writer_lost(ml_base_writer *w, const ml_block_error *error)
{
    w->error.lost += error->lost;
    w->error.whole += error->whole;
}

double ml_base_writer_error(const ml_base_writer *w)
{
    return w->error.whole > 0 ? sqrt(w->error.lost / w->error.whole) : 0;
}

/* ---- rows one after the other -------------------------------------------------------------- */

enum { NARROW = 1 << 19 }; /* bytes of a piece, or a row where that is longer */
/* Rows in fp32 are written from where they are; all other types take no more bytes a weight. */
enum { NARROW_WEIGHT = sizeof(uint16_t) };

/* *t: the tensor that is due, of which these rows must be the next. */
static ml_status expect_rows(const ml_base_writer *w, const char *name, int64_t first_row,
                             int64_t nrows, ml_model_tensor *out)
{
    ml_model_tensor t = {.name = "nothing more"};
    if (w->tensor < w->ntensors) ml_model_tensor_at(&w->spec, w->tensor, &t);
    if (strcmp(t.name, name) != 0 || first_row != w->row || nrows > t.rows - first_row)
        return ml_fail(ML_INTERNAL,
                       "%s: rows %" PRId64 "+%" PRId64 " of %s come where row %" PRId64
                       " of %s is due",
                       w->path, first_row, nrows, name, w->row, t.name);
    *out = t;
    return ML_OK;
}

/* Room for the longest row of the model. */
static ml_status make_piece(ml_base_writer *w)
{
    ml_status st = ML_OK;
    int64_t most = NARROW;
    if (w->piece) return ML_OK;
    for (int64_t i = 0; i < w->ntensors; i++) {
        ml_model_tensor t;
        ml_model_tensor_at(&w->spec, i, &t);
        most = ml_max(most, t.cols * NARROW_WEIGHT);
    }
    ML_NEW(w->piece, most, ML_MEM_OTHER, "a write buffer");
done:
    return st;
}

ml_status ml_base_writer_rows(ml_base_writer *w, const char *name, int64_t first_row, int64_t nrows,
                              const float *rows)
{
    ml_status st = ML_OK;
    ml_model_tensor t;
    ML_TRY(expect_rows(w, name, first_row, nrows, &t));
    ml_block_error error = {0};
    base_rows r = base_writer_at(w, &t, w->tensor, first_row, nrows);
    if (r.stored == ML_FP32) {
        ML_TRY(check_finite(&r, rows, NULL));
        ML_TRY(base_writer_put(w, &r, rows));
        base_writer_pass(w, &r, rows);
        return ML_OK;
    }
    ML_TRY(make_piece(w));
    int64_t step = ml_max(1, NARROW / (t.cols * NARROW_WEIGHT));
    for (int64_t at = 0, n; at < nrows; at += n) {
        n = ml_min(step, nrows - at);
        r = base_writer_at(w, &t, w->tensor, first_row + at, n);
        ML_TRY(base_writer_encode(&r, rows + at * t.cols, w->piece, &error));
        ML_TRY(base_writer_put(w, &r, w->piece));
        base_writer_pass(w, &r, w->piece);
        base_writer_lost(w, &error);
    }
done:
    return st;
}

ml_status ml_base_writer_blocks(ml_base_writer *w, const char *name, int64_t first_row,
                                int64_t nrows, const void *blocks)
{
    ml_model_tensor t;
    ml_status st = expect_rows(w, name, first_row, nrows, &t);
    if (st != ML_OK) return st;
    base_rows r = base_writer_at(w, &t, w->tensor, first_row, nrows);
    st = base_writer_put(w, &r, blocks);
    if (st == ML_OK) base_writer_pass(w, &r, blocks);
    return st;
}
