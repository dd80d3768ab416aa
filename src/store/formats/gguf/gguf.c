/* GGUF files: the table of tensors, opening with every check, look-up by name, rows as fp32. */
#include "store/formats/gguf/gguf.h"

#include <inttypes.h>
#include <stdlib.h>
#include <unistd.h>

#include "io/hdf5_file.h"
#include "store/formats/gguf/metadata.h"

enum { ALIGNMENT_LIMIT = 1 << 20, COUNT_LIMIT = 1 << 24 };

/* ---- tensors ------------------------------------------------------------------------------- */

static ml_status take_tensor(gguf_cursor *c, gguf_tensor *t)
{
    ml_status st = ML_OK;
    const char *path = c->file->path;
    int64_t dims, type, shape[4] = {1, 1, 1, 1}, rest = 1;
    uint64_t offset;
    ML_TRY(gguf_take_text(c, "a tensor's name", &t->name));
    ML_TRY(gguf_take_u32(c, &dims));
    if (dims < 1 || dims > 4)
        return ml_fail(ML_INPUT, "%s: %s: %" PRId64 " dimensions, expected 1 to 4", path, t->name,
                       dims);
    for (int64_t i = 0; i < dims; i++) {
        uint64_t n;
        ML_TRY(gguf_take(c, &n, sizeof n));
        if (n < 1 || n > INT64_MAX)
            return ml_fail(ML_INPUT, "%s: %s: dimension %" PRIu64, path, t->name, n);
        shape[i] = (int64_t)n;
    }
    ML_TRY(gguf_take_u32(c, &type));
    ML_TRY(gguf_take(c, &offset, sizeof offset));
    t->type = ml_block_format_numbered(type);
    if (!t->type)
        return ml_fail(ML_INPUT,
                       "%s: %s: storage type %s (%" PRId64
                       ") is not supported; supported are F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, "
                       "Q5_1, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS, MXFP4",
                       path, t->name, gguf_type_name(type), type);
    if (shape[0] % t->type->weights)
        return ml_fail(ML_INPUT,
                       "%s: %s: rows of %" PRId64 " are no multiple of %s's blocks of %" PRId64,
                       path, t->name, shape[0], t->type->name, t->type->weights);
    bool fits = ml_multiply(shape[1], shape[2], &rest) && ml_multiply(rest, shape[3], &rest) &&
                ml_multiply(shape[0] / t->type->weights, t->type->bytes, &t->bytes) &&
                ml_multiply(t->bytes, rest, &t->bytes);
    if (!fits || offset > (uint64_t)c->file->bytes || t->bytes > c->file->bytes - (int64_t)offset)
        return ml_fail(ML_INPUT,
                       "%s: %s: its data does not lie inside the file of %" PRId64
                       " bytes: truncated",
                       path, t->name, c->file->bytes);
    t->offset = (int64_t)offset;
    t->dims = (int)dims;
    t->cols = shape[0];
    t->rows = rest;
done:
    return st;
}

/* Offsets count from the end of the head, rounded up to the alignment. Contents lie behind each
 * other in the table's order, as ggml reads and writes them: two tensors never share bytes. */
static ml_status place_tensors(gguf_cursor *c)
{
    gguf_file *f = c->file;
    const gguf_value *given = gguf_find(f, "general.alignment");
    int64_t alignment = given ? given->integer : 32, next = 0;
    if (alignment < 1 || alignment > ALIGNMENT_LIMIT || (alignment & (alignment - 1)))
        return ml_fail(ML_INPUT,
                       "%s: general.alignment: %" PRId64 ", expected a power of two up to %d",
                       f->path, alignment, (int)ALIGNMENT_LIMIT);
    int64_t start = ml_round_up(c->at, alignment);
    for (int64_t i = 0; i < f->ntensors; i++) {
        gguf_tensor *t = &f->tensors[i];
        if (t->offset != next)
            return ml_fail(ML_INPUT,
                           "%s: %s: its data begins at byte %" PRId64
                           " of the contents, expected %" PRId64
                           ", behind the tensor before it: damaged",
                           f->path, t->name, t->offset, next);
        if (start > f->bytes - t->bytes || t->offset > f->bytes - t->bytes - start)
            return ml_fail(ML_INPUT,
                           "%s: %s: its data does not lie inside the file of %" PRId64
                           " bytes: truncated or damaged",
                           f->path, t->name, f->bytes);
        next = ml_round_up(t->offset + t->bytes, alignment);
        t->offset += start;
    }
    return ML_OK;
}

/* ---- names, sorted: a hostile file has many ------------------------------------------------ */

static int by_key(const void *a, const void *b)
{
    return strcmp(((const gguf_value *)a)->key, ((const gguf_value *)b)->key);
}
static int by_name(const void *a, const void *b)
{
    return strcmp(((const gguf_tensor *)a)->name, ((const gguf_tensor *)b)->name);
}

static ml_status sort_values(gguf_file *f)
{
    qsort(f->values, (size_t)f->nvalues, sizeof *f->values, by_key);
    for (int64_t i = 1; i < f->nvalues; i++)
        if (by_key(&f->values[i - 1], &f->values[i]) == 0)
            return ml_fail(ML_INPUT, "%s: key %s stands twice", f->path, f->values[i].key);
    return ML_OK;
}

static ml_status sort_tensors(gguf_file *f)
{
    qsort(f->tensors, (size_t)f->ntensors, sizeof *f->tensors, by_name);
    for (int64_t i = 1; i < f->ntensors; i++)
        if (by_name(&f->tensors[i - 1], &f->tensors[i]) == 0)
            return ml_fail(ML_INPUT, "%s: tensor %s stands twice", f->path, f->tensors[i].name);
    return ML_OK;
}

/* ---- opening ------------------------------------------------------------------------------- */

static ml_status read_head(gguf_cursor *c)
{
    ml_status st = ML_OK;
    gguf_file *f = c->file;
    char magic[4] = "";
    int64_t version, ntensors, nvalues;
    if (f->bytes >= 4) ML_TRY(gguf_take(c, magic, 4));
    if (memcmp(magic, "GGUF", 4) != 0)
        return ml_fail(ML_INPUT, "%s: neither a Hugging Face directory nor a GGUF file", f->path);
    ML_TRY(gguf_take_u32(c, &version));
    if (version < 2 || version > 3)
        return ml_fail(ML_INPUT, "%s: GGUF version %" PRId64 ", expected 2 or 3", f->path, version);
    ML_TRY(gguf_take_count(c, 24, "the number of tensors", &ntensors));
    ML_TRY(gguf_take_count(c, 13, "the number of keys", &nvalues));
    if (ntensors > COUNT_LIMIT / 16 || nvalues > COUNT_LIMIT / 256)
        return ml_fail(ML_INPUT, "%s: %" PRId64 " tensors and %" PRId64 " keys: too many", f->path,
                       ntensors, nvalues);
    ML_NEW(f->values, nvalues, ML_MEM_OTHER, "metadata");
    for (; f->nvalues < nvalues; f->nvalues++) {
        st = gguf_take_value(c, &f->values[f->nvalues]);
        if (st == ML_OK) continue;
        f->nvalues++; /* what it holds so far is released too */
        goto done;
    }
    ML_TRY(sort_values(f));
    ML_TRY(gguf_check_kinds(f));
    ML_NEW(f->tensors, ntensors, ML_MEM_OTHER, "a table of tensors");
    for (; f->ntensors < ntensors; f->ntensors++) {
        st = take_tensor(c, &f->tensors[f->ntensors]);
        if (st == ML_OK) continue;
        f->ntensors++;
        goto done;
    }
    ML_TRY(place_tensors(c));
    ML_TRY(sort_tensors(f));
done:
    return st;
}

ml_status gguf_open(gguf_file *out, const char *path)
{
    ml_status st = ML_OK;
    gguf_cursor c = {.file = out};
    *out = (gguf_file){.fd = -1};
    out->path = ml_memory_string(path);
    if (!out->path) return ML_RESOURCE;
    ML_TRY(ml_open_regular(path, &out->fd, &out->bytes));
    ML_NEW(c.buffer, GGUF_WINDOW, ML_MEM_OTHER, "a read buffer");
    ML_TRY(read_head(&c));
done:
    ml_memory_free(c.buffer);
    return st;
}

void gguf_close(gguf_file *f)
{
    for (int64_t i = 0; i < f->nvalues; i++) {
        gguf_value *v = &f->values[i];
        for (int64_t j = 0; v->texts && j < v->count; j++) ml_memory_free(v->texts[j]);
        ml_memory_free(v->texts);
        ml_memory_free(v->reals);
        ml_memory_free(v->text);
        ml_memory_free(v->key);
    }
    for (int64_t i = 0; i < f->ntensors; i++) ml_memory_free(f->tensors[i].name);
    ml_memory_free(f->values);
    ml_memory_free(f->tensors);
    ml_memory_free(f->path);
    if (f->fd >= 0) close(f->fd);
    *f = (gguf_file){.fd = -1};
}

const gguf_value *gguf_find(const gguf_file *f, const char *key)
{
    const gguf_value wanted = {.key = (char *)(uintptr_t)key};
    return bsearch(&wanted, f->values, (size_t)f->nvalues, sizeof wanted, by_key);
}

const gguf_tensor *gguf_find_tensor(const gguf_file *f, const char *name)
{
    const gguf_tensor wanted = {.name = (char *)(uintptr_t)name};
    return bsearch(&wanted, f->tensors, (size_t)f->ntensors, sizeof wanted, by_name);
}

static int64_t row_bytes(const gguf_tensor *t)
{
    return t->cols / t->type->weights * t->type->bytes;
}

/* `at`: where in the tensor the `n` bytes of blocks begin. */
static ml_status check_blocks(const gguf_file *f, const gguf_tensor *t, const uint8_t *blocks,
                              int64_t at, int64_t n)
{
    int64_t bad = ml_block_find_bad(t->type, blocks, n / t->type->bytes);
    if (bad < 0) return ML_OK;
    int64_t place = at + bad * t->type->bytes, row = place / row_bytes(t);
    return ml_fail(ML_INPUT,
                   "%s: %s: row %" PRId64 ", block %" PRId64
                   ": the scale of a %s block is not a finite number",
                   f->path, t->name, row, place % row_bytes(t) / t->type->bytes, t->type->name);
}

static ml_status read_at(const gguf_file *f, void *out, int64_t bytes, int64_t offset)
{
    int64_t done = f->window ? ml_window_read(f->window, f->number, out, bytes, offset) : 0;
    return ml_file_read(f->fd, f->path, (char *)out + done, bytes - done, offset + done);
}

ml_status gguf_read_blocks(const gguf_file *f, const gguf_tensor *t, int64_t first, int64_t count,
                           void *out)
{
    int64_t at = first * row_bytes(t), bytes = count * row_bytes(t);
    ml_status st = read_at(f, out, bytes, t->offset + at);
    return st == ML_OK ? check_blocks(f, t, out, at, bytes) : st;
}

/* bf16, of which whole models are, by a loop that becomes vector code. */
static void decode(const ml_block_format *type, const uint8_t *from, int64_t count, float *to)
{
    if (type->dtype == ML_BF16 && !strcmp(type->name, "BF16"))
#pragma omp simd
        for (int64_t i = 0; i < count; i++) to[i] = ml_bf16_to_float(((const uint16_t *)from)[i]);
    else
        for (int64_t i = 0; i < count; i++)
            type->decode(from + i * type->bytes, to + i * type->weights);
}

ml_status gguf_read_rows(const gguf_file *f, const gguf_tensor *t, int64_t first, int64_t count,
                         float *out)
{
    ml_status st = ML_OK;
    enum { PIECE = 1 << 16 };
    double piece[PIECE / sizeof(double)];
    int64_t at = first * row_bytes(t), left = count * row_bytes(t), blocks = PIECE / t->type->bytes,
            step = blocks * t->type->bytes;
    if (t->type->dtype == ML_FP32) return read_at(f, out, left, t->offset + at);
    for (; left > 0; left -= step, at += step, out += blocks * t->type->weights) {
        int64_t n = ml_min(step, left);
        ML_TRY(read_at(f, piece, n, t->offset + at));
        ML_TRY(check_blocks(f, t, (const uint8_t *)piece, at, n));
        decode(t->type, (const uint8_t *)piece, n / t->type->bytes, out);
    }
done:
    return st;
}
