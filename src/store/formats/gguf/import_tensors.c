/* The tensors of a GGUF file as those of a model: found by the names of the family's table, checked
 * for their shapes, and read with the rows of rotated heads in this program's order. */
#include <inttypes.h>

#include "io/hdf5_file.h"
#include "store/formats/gguf/import.h"

static void place_of(const gguf_source *g, const ml_model_tensor *t, ml_stored_place *out)
{
    ml_stored_place_of(g->spec, t, ML_FORMAT_GGUF, out);
}

static ml_status check_tensor(const gguf_source *g, const ml_model_tensor *t)
{
    ml_stored_place p;
    place_of(g, t, &p);
    const gguf_tensor *found = gguf_find_tensor(&g->file, p.name);
    if (!found) return ml_fail(ML_INPUT, "%s: tensor %s is missing", g->file.path, p.name);
    int dims = t->row->gguf.layout == ML_LAYOUT_BY_HEAD ? 2 : 1;
    bool good = t->vector ? found->rows * found->cols == p.total && found->dims == dims
                          : found->rows == p.total && found->cols == t->cols;
    if (!good)
        return ml_fail(ML_INPUT,
                       "%s: %s is %" PRId64 " x %" PRId64 ", expected %" PRId64 " x %" PRId64,
                       g->file.path, p.name, found->rows, found->cols, t->vector ? 1 : p.total,
                       t->vector ? p.total : t->cols);
    return ML_OK;
}

static ml_status read_vector(const gguf_source *g, const gguf_tensor *stored,
                             const ml_model_tensor *t, const ml_stored_place *p, int64_t first,
                             int64_t count, float *out)
{
    ml_status st = ML_OK;
    float *whole = NULL, one = t->row->gguf.layout == ML_LAYOUT_PLUS_ONE ? 1.0F : 0.0F;
    ML_NEW(whole, stored->rows * stored->cols, ML_MEM_OTHER, "a vector");
    ML_TRY(gguf_read_rows(&g->file, stored, 0, stored->rows, whole));
    for (int64_t i = 0; i < count; i++) out[i] = whole[ml_stored_row(p, first + i)] - one;
done:
    ml_memory_free(whole);
    return st;
}

ml_status gguf_import_rows(void *self, const ml_model_tensor *t, int64_t first, int64_t count,
                           float *out)
{
    const gguf_source *g = self;
    ml_stored_place p;
    place_of(g, t, &p);
    const gguf_tensor *stored = gguf_find_tensor(&g->file, p.name);
    if (t->vector) return read_vector(g, stored, t, &p, first, count, out);
    for (int64_t i = 0, n; i < count; i += n) {
        n = ml_min(count - i, ml_stored_rows_together(&p, first + i));
        ml_status st =
            gguf_read_rows(&g->file, stored, ml_stored_row(&p, first + i), n, out + i * t->cols);
        if (st != ML_OK) return st;
    }
    return ML_OK;
}

ml_status gguf_import_share(void *self, ml_window *window)
{
    gguf_source *g = self;
    ml_status st = ml_window_add(window, g->file.path, g->file.fd, g->file.bytes, &g->file.number);
    if (st == ML_OK) g->file.window = window;
    return st;
}

import_range gguf_import_find(void *self, const ml_model_tensor *t)
{
    const gguf_source *g = self;
    ml_stored_place p;
    place_of(g, t, &p);
    const gguf_tensor *stored = gguf_find_tensor(&g->file, p.name);
    int64_t row = stored->bytes / stored->rows,
            at = stored->offset + (t->vector ? 0 : p.first * row);
    return (import_range){ml_window_place(g->file.window, g->file.number, at),
                          t->vector ? 0 : t->rows * row};
}

const ml_block_format *gguf_import_format(void *self, const ml_model_tensor *t)
{
    const gguf_source *g = self;
    ml_stored_place p;
    place_of(g, t, &p);
    return gguf_find_tensor(&g->file, p.name)->type;
}

ml_status gguf_import_blocks(void *self, const ml_model_tensor *t, int64_t first, int64_t count,
                             void *out)
{
    const gguf_source *g = self;
    ml_stored_place p;
    place_of(g, t, &p);
    const gguf_tensor *stored = gguf_find_tensor(&g->file, p.name);
    int64_t row = t->cols / stored->type->weights * stored->type->bytes;
    for (int64_t i = 0, n; i < count; i += n) {
        n = ml_min(count - i, ml_stored_rows_together(&p, first + i));
        ml_status st = gguf_read_blocks(&g->file, stored, ml_stored_row(&p, first + i), n,
                                        (char *)out + i * row);
        if (st != ML_OK) return st;
    }
    return ML_OK;
}

ml_status gguf_import_find_head(const gguf_source *g, bool *tied)
{
    ml_status st = ML_OK;
    enum { PIECE = 1 << 20 };
    const gguf_tensor *head = gguf_find_tensor(&g->file, "output.weight"),
                      *embed = gguf_find_tensor(&g->file, "token_embd.weight");
    char *a = NULL, *b = NULL;
    *tied = !head || (head->type == embed->type && head->bytes == embed->bytes);
    if (!head) return ML_OK;
    ML_NEW(a, PIECE, ML_MEM_OTHER, "a read buffer");
    ML_NEW(b, PIECE, ML_MEM_OTHER, "a read buffer");
    for (int64_t at = 0; *tied && at < head->bytes; at += PIECE) {
        int64_t n = ml_min(PIECE, head->bytes - at);
        ML_TRY(ml_file_read(g->file.fd, g->file.path, a, n, head->offset + at));
        ML_TRY(ml_file_read(g->file.fd, g->file.path, b, n, embed->offset + at));
        *tied = memcmp(a, b, (size_t)n) == 0;
    }
done:
    ml_memory_free(a);
    ml_memory_free(b);
    return st;
}

/* ---- all tensors --------------------------------------------------------------------------- */

static bool is_expected(const gguf_source *g, const char *name)
{
    static const char *const elsewhere[] = {"rope_freqs.weight", "output.weight",
                                            "rope_factors_long.weight",
                                            "rope_factors_short.weight"};
    for (size_t i = 0; i < sizeof elsewhere / sizeof *elsewhere; i++)
        if (!strcmp(name, elsewhere[i])) return true;
    for (int64_t i = 0; i < ml_model_tensor_count(g->spec); i++) {
        ml_model_tensor t;
        ml_stored_place p;
        ml_model_tensor_at(g->spec, i, &t);
        place_of(g, &t, &p);
        if (!strcmp(p.name, name)) return true;
    }
    return false;
}

ml_status gguf_import_check_tensors(const gguf_source *g)
{
    for (int64_t i = 0; i < ml_model_tensor_count(g->spec); i++) {
        ml_model_tensor t;
        ml_model_tensor_at(g->spec, i, &t);
        ml_status st = check_tensor(g, &t);
        if (st != ML_OK) return st;
    }
    for (int64_t i = 0; i < g->file.ntensors; i++)
        if (!is_expected(g, g->file.tensors[i].name))
            return ml_fail(ML_INPUT, "%s: tensor %s is not part of a %s model", g->file.path,
                           g->file.tensors[i].name, g->architecture);
    return ML_OK;
}
