/* model.safetensors of a Hugging Face directory. A stored tensor is made of one tensor of the
 * base, or of several side by side where the family's table gives them one name (GPT-2's c_attn is
 * q, k and v), whole or a group of heads at a time, or of some of its rows; a block of rows of a
 * matrix that is stored in × out is a block of the base's columns. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <unistd.h>

#include "io/durable.h"
#include "io/hdf5_file.h"
#include "store/formats/huggingface/export.h"
#include "store/formats/huggingface/huggingface.h"
#include "store/formats/safetensors/image.h"

enum { PARTS = 3, BLOCK = 16 << 20 }; /* values in memory at once: 64 MiB, twice */

typedef struct stored {
    char name[128];
    int nparts;
    ml_model_tensor part[PARTS];
    bool transposed;
    int dims;
    int64_t shape[HF_DIMS]; /* as it is stored */
    int64_t total, cols;    /* outputs of all parts, inputs */
    int64_t groups;         /* that the outputs of each part are cut into */
    int64_t first;          /* of a piece: its first output in the part */
    ml_dtype dtype;
    int64_t bytes;
} stored;

typedef struct writer {
    ml_base *base;
    const char *path; /* of the temporary file */
    int fd;
    int64_t at; /* next byte */
    int64_t count;
    stored *list;
    float *block, *columns; /* [BLOCK] or one row where that is longer */
} writer;

/* ---- the list ------------------------------------------------------------------------------ */

/* An encoder may go out without a head, and transformers names the tensors of a bare model so. */
static void leave_prefix_out(const ml_model_spec *spec, char *name)
{
    const char *prefix = spec->family->hf.prefix;
    size_t n = strlen(prefix);
    if (!strncmp(name, prefix, n)) memmove(name, name + n, strlen(name + n) + 1);
}

static void add_part(writer *w, const ml_model_tensor *t)
{
    const ml_model_spec *spec = ml_base_spec(w->base);
    ml_stored_place place;
    ml_stored_place_of(spec, t, ML_FORMAT_HUGGINGFACE, &place);
    for (int64_t piece = 0; place.first == 0 && piece < place.pieces; piece++) {
        stored *s = &w->list[w->count++];
        s->first = piece * place.run;
        ml_stored_name_at(&place, s->first, s->name, sizeof s->name);
        if (spec->both_ways && spec->head == ML_HEAD_LANGUAGE && !spec->transform)
            leave_prefix_out(spec, s->name);
        s->transposed = hf_is_transposed(t, &place);
        s->total = place.total;
        s->groups = place.layout == ML_LAYOUT_GROUPED ? spec->kv_heads : 1;
        s->cols = t->cols;
        s->dims = hf_shape(spec, t, &place, s->shape);
        s->dtype = t->norm_or_bias ? ML_FP32 : ml_base_dtype(w->base);
        s->bytes = s->total * s->cols * (int64_t)ml_dtype_size(s->dtype);
        if (place.layout == ML_LAYOUT_EACH_HEAD) s->part[s->nparts++] = *t;
    }
    if (place.layout == ML_LAYOUT_EACH_HEAD) return;
    stored *s = &w->list[w->count - 1]; /* the parts of a fused tensor follow one another */
    s->part[s->nparts++] = *t;
}

static ml_status header_text(const writer *w, ml_text *text)
{
    ml_status st = ML_OK;
    int64_t at = 0;
    ML_TRY(ml_text_printf(text, "%s", ML_SAFETENSORS_BEGINNING));
    for (int64_t i = 0; i < w->count; i++) {
        const stored *s = &w->list[i];
        ML_TRY(ml_text_printf(text, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[%" PRId64, s->name,
                              s->dtype == ML_BF16 ? "BF16" : "F32", s->shape[0]));
        for (int dim = 1; dim < s->dims; dim++)
            ML_TRY(ml_text_printf(text, ",%" PRId64, s->shape[dim]));
        ML_TRY(ml_text_printf(text, "],\"data_offsets\":[%" PRId64 ",%" PRId64 "]}", at,
                              at + s->bytes));
        at += s->bytes;
    }
    ML_TRY(ml_text_printf(text, "}"));
    while (text->length % 8 != 0) ML_TRY(ml_text_add(text, " ", 1));
done:
    return st;
}

static ml_status put(writer *w, const void *data, int64_t bytes)
{
    ml_status st = ml_file_write(w->fd, w->path, data, bytes, w->at);
    w->at += bytes;
    return st;
}

static ml_status put_header(writer *w)
{
    ml_status st = ML_OK;
    ml_text text = {0};
    unsigned char length[8];
    ML_TRY(header_text(w, &text));
    for (int i = 0; i < 8; i++) length[i] = (unsigned char)((uint64_t)text.length >> (8 * i));
    ML_TRY(put(w, length, sizeof length));
    ML_TRY(put(w, text.data, text.length));
done:
    ml_text_destroy(&text);
    return st;
}

/* ---- contents ------------------------------------------------------------------------------ */

/* The block's values, narrowed in their own place where the tensor is bf16. */
static ml_status put_values(writer *w, ml_dtype dtype, int64_t count)
{
    unsigned char *bytes = (unsigned char *)w->block;
    for (int64_t i = 0; dtype == ML_BF16 && i < count; i++) {
        uint16_t rounded = ml_bf16_from_float(w->block[i]);
        memcpy(bytes + 2 * i, &rounded, sizeof rounded);
    }
    return put(w, bytes, count * (int64_t)ml_dtype_size(dtype));
}

static ml_status put_rows(writer *w, const stored *s, const ml_model_tensor *t, int64_t first,
                          int64_t count)
{
    int64_t step = ml_max(1, BLOCK / t->cols);
    for (int64_t row = first; row < first + count; row += step) {
        int64_t n = ml_min(step, first + count - row);
        const ml_shard shard = {.dim = ML_SHARD_ROWS, .nparts = 1, .part = {{row, n}}};
        ml_status st = ml_base_read(w->base, t->name, &shard, ML_FP32, w->block);
        if (st == ML_OK) st = put_values(w, s->dtype, n * t->cols);
        if (st != ML_OK) return st;
    }
    return ML_OK;
}

static ml_status put_transposed(writer *w, const stored *s)
{
    int64_t step = ml_max(1, BLOCK / s->total);
    for (int64_t col = 0; col < s->cols; col += step) {
        int64_t n = ml_min(step, s->cols - col), first = 0;
        const ml_shard shard = {.dim = ML_SHARD_COLS, .nparts = 1, .part = {{col, n}}};
        for (int p = 0; p < s->nparts; p++) {
            int64_t rows = s->part[p].rows;
            ml_status st = ml_base_read(w->base, s->part[p].name, &shard, ML_FP32, w->columns);
            if (st != ML_OK) return st;
            for (int64_t i = 0; i < n; i++)
                for (int64_t o = 0; o < rows; o++)
                    w->block[i * s->total + first + o] = w->columns[o * n + i];
            first += rows;
        }
        ml_status st = put_values(w, s->dtype, n * s->total);
        if (st != ML_OK) return st;
    }
    return ML_OK;
}

/* A group's rows of each part. */
static ml_status put_groups(writer *w, const stored *s)
{
    for (int64_t group = 0; group < s->groups; group++)
        for (int p = 0; p < s->nparts; p++) {
            int64_t rows = ml_min(s->part[p].rows, s->total) / s->groups;
            ml_status st = put_rows(w, s, &s->part[p], s->first + group * rows, rows);
            if (st != ML_OK) return st;
        }
    return ML_OK;
}

static ml_status put_contents(writer *w)
{
    ml_status st = ML_OK;
    for (int64_t i = 0; i < w->count; i++) {
        const stored *s = &w->list[i];
        ML_TRY(s->transposed ? put_transposed(w, s) : put_groups(w, s));
    }
done:
    return st;
}

/* ---- the file ------------------------------------------------------------------------------ */

/* At most. */
static int64_t stored_tensors(const ml_model_spec *spec)
{
    int64_t count = 0;
    for (int64_t i = 0; i < ml_model_tensor_count(spec); i++) {
        ml_model_tensor t;
        ml_stored_place place;
        ml_model_tensor_at(spec, i, &t);
        ml_stored_place_of(spec, &t, ML_FORMAT_HUGGINGFACE, &place);
        count += place.pieces;
    }
    return count;
}

static ml_status fill(writer *w)
{
    ml_status st = ML_OK;
    const ml_model_spec *spec = ml_base_spec(w->base);
    int64_t tensors = ml_model_tensor_count(spec), room = BLOCK;
    ML_NEW(w->list, stored_tensors(spec), ML_MEM_OTHER, "exported tensors");
    for (int64_t i = 0; i < tensors; i++) {
        ml_model_tensor t;
        ml_model_tensor_at(spec, i, &t);
        add_part(w, &t);
    }
    for (int64_t i = 0; i < w->count; i++)
        room = ml_max(room, ml_max(w->list[i].cols, w->list[i].total));
    ML_NEW(w->block, room, ML_MEM_OTHER, "a block of rows");
    ML_NEW(w->columns, room, ML_MEM_OTHER, "a block of columns");
    ML_TRY(put_header(w));
    ML_TRY(put_contents(w));
    if (fsync(w->fd)) st = ml_fail(ML_RESOURCE, "%s: fsync: %s", w->path, strerror(errno));
done:
    ml_memory_free(w->columns);
    ml_memory_free(w->block);
    ml_memory_free(w->list);
    return st;
}

ml_status export_hf_weights(ml_base *base, const char *path)
{
    char temporary[ML_DURABLE_PATH];
    ml_status st = ml_check_replaceable(path);
    if (st == ML_OK) st = ml_durable_temporary(temporary, path);
    if (st != ML_OK) return st;
    writer w = {.base = base, .path = temporary};
    w.fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (w.fd < 0) {
        st = ml_fail(ML_RESOURCE, "%s: cannot be written: %s", temporary, strerror(errno));
        goto done;
    }
    st = fill(&w);
    if (close(w.fd) && st == ML_OK)
        st = ml_fail(ML_RESOURCE, "%s: close: %s", temporary, strerror(errno));
    if (st == ML_OK) st = ml_durable_rename(temporary, path);
done:
    if (st != ML_OK) ml_durable_drop(temporary);
    return st;
}
