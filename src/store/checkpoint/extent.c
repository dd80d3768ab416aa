/* Rectangles of trainable tensors: what a rank writes, what a dataset says, what a rank takes. */
#include "store/checkpoint/extent.h"

#include <inttypes.h>

enum { DATASET_OVERHEAD = 1536, FILE_OVERHEAD = 64 << 10 };

/* ---- what a rank writes of its own --------------------------------------------------------- */

/* The part-th range that the rank holds: global rows and columns, nothing where it holds none. */
static ml_extent part_of(const ml_extent_walk *w)
{
    const ml_parameter *item = &w->p->items[w->tensor];
    const ml_shard *shard = &item->shard;
    ml_extent e = {w->tensor, w->kind, 0, item->rows, 0, item->cols};
    if (shard->dim == ML_SHARD_WHOLE && !w->replicated) e.rows = 0;
    if (shard->dim == ML_SHARD_ROWS) {
        e.first_row = shard->part[w->part].start;
        e.rows = shard->part[w->part].count;
    } else if (shard->dim == ML_SHARD_COLS) {
        e.first_col = shard->part[0].start;
        e.cols = shard->part[0].count;
    }
    if (e.cols == 0) e.rows = 0;
    return e;
}

static int64_t parts_of(const ml_parameter *item)
{
    return item->shard.dim == ML_SHARD_ROWS ? item->shard.nparts : 1;
}

/* To the next part, kind, tensor. */
static void go_on(ml_extent_walk *w, int64_t rows)
{
    w->row = 0;
    w->local += rows;
    if (++w->part < parts_of(&w->p->items[w->tensor])) return;
    w->part = w->local = 0;
    w->kind = (w->kind + 1) % ML_STATE_KINDS;
    if (w->kind == 0) w->tensor++;
}

bool ml_extent_next(ml_extent_walk *w, ml_extent *out, int64_t *offset, bool *opens_file)
{
    ml_extent part;
    for (;; go_on(w, 0)) {
        if (w->tensor == w->p->count) return false;
        part = part_of(w);
        if (part.rows > 0) break;
    }
    int64_t row_bytes = part.cols * (int64_t)sizeof(float), left = part.rows - w->row,
            fit = (w->limit - w->used) / row_bytes;
    bool fits_alone = part.rows * row_bytes <= w->limit; /* a part is cut only where it must be */
    *opens_file = w->used == 0 || fit <= 0 || (fit < left && fits_alone);
    if (*opens_file) {
        w->used = 0;
        fit = ml_max(1, w->limit / row_bytes);
    }
    *out = part;
    out->first_row += w->row;
    out->rows = ml_min(left, fit);
    *offset = w->p->items[w->tensor].offset + (w->local + w->row) * part.cols;
    w->used += out->rows * row_bytes;
    w->row += out->rows;
    if (w->row == part.rows) go_on(w, part.rows);
    return true;
}

int64_t ml_extent_file_bytes(ml_extent_walk walk)
{
    ml_extent e;
    int64_t offset, bytes = FILE_OVERHEAD;
    bool opens;
    for (bool first = true; ml_extent_next(&walk, &e, &offset, &opens) && (first || !opens);
         first = false)
        bytes += e.rows * e.cols * (int64_t)sizeof(float) + DATASET_OVERHEAD;
    return bytes;
}

ml_status ml_extent_make(const ml_image *image, const ml_parameters *p, const ml_extent *e,
                         bool again, hid_t *dataset)
{
    ml_status st = ML_OK;
    const ml_parameter *item = &p->items[e->tensor];
    char name[sizeof item->name + 48];
    int length = snprintf(name, sizeof name, "%s/%s", ml_state_kind[e->kind], item->name);
    if (again) snprintf(name + length, sizeof name - (size_t)length, "@%" PRId64, e->first_row);
    *dataset = -1;
    ML_TRY(ml_image_make_matrix(ml_image_file(image), name, e->rows, e->cols, dataset));
    ML_TRY(ml_image_put_int(*dataset, "first_row", e->first_row));
    ML_TRY(ml_image_put_int(*dataset, "rows", item->rows));
    ML_TRY(ml_image_put_int(*dataset, "first_col", e->first_col));
    ML_TRY(ml_image_put_int(*dataset, "cols", item->cols));
done:
    return st;
}

/* ---- reading ------------------------------------------------------------------------------- */

ml_status ml_extent_read(hid_t dataset, int64_t rows, int64_t cols, ml_extent *e, int64_t all[2])
{
    ml_status st = ML_OK;
    e->rows = rows;
    e->cols = all[1] = cols;
    e->first_col = 0;
    ML_TRY(ml_image_get_int(dataset, "first_row", &e->first_row));
    ML_TRY(ml_image_get_int(dataset, "rows", &all[0]));
    if (H5Aexists(dataset, "cols") > 0) {
        ML_TRY(ml_image_get_int(dataset, "first_col", &e->first_col));
        ML_TRY(ml_image_get_int(dataset, "cols", &all[1]));
    }
    if (e->first_row < 0 || rows > all[0] || e->first_row > all[0] - rows || e->first_col < 0 ||
        cols > all[1] || e->first_col > all[1] - cols)
        st = ml_fail(ML_INPUT,
                     "%" PRId64 " × %" PRId64 " values from row %" PRId64 ", column %" PRId64
                     " of %" PRId64 " × %" PRId64,
                     rows, cols, e->first_row, e->first_col, all[0], all[1]);
done:
    return st;
}

void ml_extent_cut_name(char *name)
{
    char *end = strchr(name, '@');
    if (end) *end = '\0';
}

/* Where a rank's rows [start, start + count), which lie at `local` in its buffer, meet those of
 * the extent, copies the columns that both have. */
static void take_rows(const ml_extent *e, const ml_parameters *p, int64_t start, int64_t count,
                      const float *values, int64_t local)
{
    const ml_parameter *item = &p->items[e->tensor];
    const ml_shard *shard = &item->shard;
    int64_t col = shard->dim == ML_SHARD_COLS ? shard->part[0].start : 0,
            cols = ml_shard_cols(shard, item->cols);
    int64_t top = ml_max(start, e->first_row),
            bottom = ml_min(start + count, e->first_row + e->rows);
    int64_t left = ml_max(col, e->first_col), right = ml_min(col + cols, e->first_col + e->cols);
    for (int64_t row = top; row < bottom && left < right; row++)
        ml_parameters_put(
            p, ml_state_buffer(p, (int)e->kind), local + (row - start) * cols + left - col,
            values + (row - e->first_row) * e->cols + left - e->first_col, right - left);
}

void ml_extent_take(const ml_extent *e, const ml_parameters *p, const float *values)
{
    const ml_parameter *item = &p->items[e->tensor];
    const ml_shard *shard = &item->shard;
    if (shard->dim != ML_SHARD_ROWS) {
        take_rows(e, p, 0, item->rows, values, item->offset);
        return;
    }
    for (int64_t i = 0, local = item->offset; i < shard->nparts;
         local += shard->part[i].count * item->cols, i++)
        take_rows(e, p, shard->part[i].start, shard->part[i].count, values, local);
}
