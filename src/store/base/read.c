/* Reading the contents of a base file: plain reads of exactly the part that a rank holds, straight
 * into place, or through a small piece that stays in the cache where the numbers are converted or
 * columns are cut out. */
#include "io/hdf5_file.h"
#include "store/base/base_private.h"

enum { DIRECT_COLUMNS = 4096 }; /* a row's range of at least so many bytes is read by itself */

static void convert(const void *from, ml_dtype stored, int64_t count, ml_dtype wanted, void *to)
{
    if (stored == wanted) {
        memcpy(to, from, (size_t)count * ml_dtype_size(stored));
    } else if (wanted == ML_FP32) {
        const uint16_t *x = from;
        float *y = to;
#pragma omp simd
        for (int64_t i = 0; i < count; i++) y[i] = ml_bf16_to_float(x[i]);
    } else {
        const float *x = from;
        uint16_t *y = to;
#pragma omp simd
        for (int64_t i = 0; i < count; i++) y[i] = ml_bf16_from_float(x[i]);
    }
}

/* `count` neighbouring elements from the file's place on. */
static ml_status read_run(const ml_base *b, int64_t offset, ml_dtype stored, int64_t count,
                          ml_dtype wanted, char *to, char *piece)
{
    int64_t size = (int64_t)ml_dtype_size(stored), step = BASE_PIECE / size;
    if (stored == wanted) return ml_file_read(b->fd, b->path, to, count * size, offset);
    for (int64_t at = 0; at < count; at += step) {
        int64_t n = ml_min(step, count - at);
        ml_status st = ml_file_read(b->fd, b->path, piece, n * size, offset + at * size);
        if (st != ML_OK) return st;
        convert(piece, stored, n, wanted, to + at * (int64_t)ml_dtype_size(wanted));
    }
    return ML_OK;
}

/* A range of columns of `rows` rows: whole rows that fit a piece are read together and cut; where
 * the range is wide, it alone is read. */
static ml_status read_columns(const ml_base *b, const base_slice *s, int64_t offset, int64_t rows,
                              char *to, char *piece)
{
    int64_t size = (int64_t)ml_dtype_size(s->stored), row = s->cols * size,
            first = s->shard->part[0].start * size;
    int64_t count = s->shard->part[0].count, out_row = count * (int64_t)ml_dtype_size(s->wanted);
    bool direct = count * size >= DIRECT_COLUMNS || row > BASE_PIECE;
    int64_t step = direct ? 1 : BASE_PIECE / row;
    for (int64_t i = 0; i < rows; i += step) {
        int64_t n = ml_min(step, rows - i), place = offset + i * row;
        ml_status st = direct ? read_run(b, place + first, s->stored, count, s->wanted,
                                         to + i * out_row, piece)
                              : ml_file_read(b->fd, b->path, piece, n * row, place);
        if (st != ML_OK) return st;
        for (int64_t j = 0; !direct && j < n; j++)
            convert(piece + j * row + first, s->stored, count, s->wanted, to + (i + j) * out_row);
    }
    return ML_OK;
}

/* The local rows are those of the shard's ranges one after the other. */
static ml_status read_row_ranges(const ml_base *b, const base_slice *s, int64_t first, int64_t rows,
                                 char *to, char *piece)
{
    const ml_shard whole = {.dim = ML_SHARD_ROWS, .nparts = 1, .part = {{0, s->rows}}};
    const ml_shard *shard = s->shard->dim == ML_SHARD_WHOLE ? &whole : s->shard;
    int64_t row = s->cols * (int64_t)ml_dtype_size(s->stored),
            out_row = s->cols * (int64_t)ml_dtype_size(s->wanted), before = 0;
    for (int i = 0; i < shard->nparts; before += shard->part[i++].count) {
        int64_t from = ml_max(first, before),
                end = ml_min(first + rows, before + shard->part[i].count);
        if (from >= end) continue;
        int64_t offset = s->offset + (shard->part[i].start + from - before) * row;
        ml_status st = read_run(b, offset, s->stored, (end - from) * s->cols, s->wanted,
                                to + (from - first) * out_row, piece);
        if (st != ML_OK) return st;
    }
    return ML_OK;
}

int64_t base_slice_rows(const base_slice *s) { return ml_shard_rows(s->shard, s->rows); }
int64_t base_slice_row(const base_slice *s) { return ml_shard_cols(s->shard, s->cols); }

ml_status base_slice_read(const ml_base *b, const base_slice *s, int64_t first, int64_t rows,
                          void *to, char *piece)
{
    if (s->shard->dim != ML_SHARD_COLS) return read_row_ranges(b, s, first, rows, to, piece);
    return read_columns(b, s, s->offset + first * s->cols * (int64_t)ml_dtype_size(s->stored), rows,
                        to, piece);
}

ml_status base_slice_find(const ml_base *b, const ml_base_request *r, int64_t *near,
                          base_slice *out)
{
    ml_model_tensor t;
    for (int64_t tried = 0; tried < b->ntensors; tried++, *near = (*near + 1) % b->ntensors) {
        ml_model_tensor_at(&b->spec, *near, &t);
        if (strcmp(t.name, r->name) != 0) continue;
        *out = (base_slice){.offset = b->offset[*near],
                            .rows = t.rows,
                            .cols = t.cols,
                            .stored = t.norm_or_bias ? ML_FP32 : b->dtype,
                            .wanted = r->dtype,
                            .shard = r->shard};
        return ML_OK;
    }
    return ml_fail(ML_INPUT, "%s: tensor %s is missing", b->path, r->name);
}

ml_status ml_base_read(ml_base *b, const char *name, const ml_shard *shard, ml_dtype dtype,
                       void *out)
{
    ml_status st = ML_OK;
    base_slice s;
    int64_t near = 0;
    char *piece = NULL;
    ML_TRY(base_slice_find(b, &(ml_base_request){name, shard, dtype, out}, &near, &s));
    ML_NEW(piece, BASE_PIECE, ML_MEM_OTHER, "a read buffer");
    ML_TRY(base_slice_read(b, &s, 0, base_slice_rows(&s), out, piece));
done:
    ml_memory_free(piece);
    return st;
}
