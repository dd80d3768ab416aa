/* A GGUF file as it is written: little-endian, aligned to 32 bytes, beside its place and renamed
 * once it is whole. */
#include "store/formats/gguf/write.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "io/durable.h"
#include "io/hdf5_file.h"

enum { ALIGNMENT = 32, VERSION = 3 };
enum { T_U8 = 0, T_U32 = 4, T_I32 = 5, T_F32 = 6, T_BOOL = 7, T_TEXT = 8, T_ARRAY = 9 };

/* ---- bytes --------------------------------------------------------------------------------- */

static ml_status put_whole(ml_text *to, uint64_t value, int bytes)
{
    unsigned char raw[8];
    for (int i = 0; i < bytes; i++) raw[i] = (unsigned char)(value >> (8 * i));
    return ml_text_add(to, raw, bytes);
}

static ml_status put_string(ml_text *to, const char *text)
{
    size_t length = strlen(text);
    ml_status st = put_whole(to, length, 8);
    return st == ML_OK ? ml_text_add(to, text, (int64_t)length) : st;
}

static ml_status put_single(ml_text *to, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return put_whole(to, bits, 4);
}

/* ---- metadata ------------------------------------------------------------------------------ */

static ml_status put_key(gguf_writer *w, const char *key, unsigned type)
{
    w->nkeys++;
    ml_status st = put_string(&w->keys, key);
    return st == ML_OK ? put_whole(&w->keys, type, 4) : st;
}

static ml_status put_array(gguf_writer *w, const char *key, unsigned type, int64_t count)
{
    ml_status st = put_key(w, key, T_ARRAY);
    if (st == ML_OK) st = put_whole(&w->keys, type, 4);
    return st == ML_OK ? put_whole(&w->keys, (uint64_t)count, 8) : st;
}

ml_status gguf_put_text(gguf_writer *w, const char *key, const char *text)
{
    ml_status st = put_key(w, key, T_TEXT);
    return st == ML_OK ? put_string(&w->keys, text) : st;
}

ml_status gguf_put_count(gguf_writer *w, const char *key, int64_t value)
{
    ml_status st = put_key(w, key, T_U32);
    return st == ML_OK ? put_whole(&w->keys, (uint64_t)value, 4) : st;
}

ml_status gguf_put_real(gguf_writer *w, const char *key, double value)
{
    ml_status st = put_key(w, key, T_F32);
    return st == ML_OK ? put_single(&w->keys, (float)value) : st;
}

ml_status gguf_put_flag(gguf_writer *w, const char *key, bool value)
{
    ml_status st = put_key(w, key, T_BOOL);
    return st == ML_OK ? put_whole(&w->keys, value, 1) : st;
}

ml_status gguf_put_texts(gguf_writer *w, const char *key, const char *const *texts, int64_t count)
{
    ml_status st = put_array(w, key, T_TEXT, count);
    for (int64_t i = 0; st == ML_OK && i < count; i++) st = put_string(&w->keys, texts[i]);
    return st;
}

ml_status gguf_put_integers(gguf_writer *w, const char *key, const int32_t *values, int64_t count)
{
    ml_status st = put_array(w, key, T_I32, count);
    for (int64_t i = 0; st == ML_OK && i < count; i++)
        st = put_whole(&w->keys, (uint32_t)values[i], 4);
    return st;
}

ml_status gguf_put_bytes(gguf_writer *w, const char *key, const char *values, int64_t count)
{
    ml_status st = put_array(w, key, T_U8, count);
    return st == ML_OK ? ml_text_add(&w->keys, values, count) : st;
}

ml_status gguf_put_reals(gguf_writer *w, const char *key, const float *values, int64_t count)
{
    ml_status st = put_array(w, key, T_F32, count);
    for (int64_t i = 0; st == ML_OK && i < count; i++) st = put_single(&w->keys, values[i]);
    return st;
}

/* ---- tensors ------------------------------------------------------------------------------- */

ml_status gguf_add_tensor(gguf_writer *w, const char *name, const ml_block_format *type,
                          int64_t rows, int64_t cols, int dims)
{
    ml_status st = ML_OK;
    ML_GROW(w->tensors, w->ntensors, w->capacity, ML_MEM_OTHER, "exported tensors");
    const gguf_out_tensor *last = w->ntensors ? &w->tensors[w->ntensors - 1] : NULL;
    gguf_out_tensor *t = &w->tensors[w->ntensors++];
    *t = (gguf_out_tensor){.type = type,
                           .rows = rows,
                           .cols = cols,
                           .dims = dims,
                           .offset = last ? ml_round_up(last->offset + last->bytes, ALIGNMENT) : 0,
                           .bytes = rows * (cols / type->weights) * type->bytes};
    snprintf(t->name, sizeof t->name, "%s", name);
done:
    return st;
}

static ml_status put_table(const gguf_writer *w, ml_text *head)
{
    ml_status st = ML_OK;
    for (int64_t i = 0; i < w->ntensors; i++) {
        const gguf_out_tensor *t = &w->tensors[i];
        ML_TRY(put_string(head, t->name));
        ML_TRY(put_whole(head, (uint64_t)t->dims, 4));
        ML_TRY(put_whole(head, (uint64_t)t->cols, 8));
        if (t->dims == 2) ML_TRY(put_whole(head, (uint64_t)t->rows, 8));
        ML_TRY(put_whole(head, (uint64_t)t->type->number, 4));
        ML_TRY(put_whole(head, (uint64_t)t->offset, 8));
    }
done:
    return st;
}

ml_status gguf_put_head(gguf_writer *w)
{
    ml_status st = ML_OK;
    ml_text head = {0};
    ML_TRY(ml_text_add(&head, "GGUF", 4));
    ML_TRY(put_whole(&head, VERSION, 4));
    ML_TRY(put_whole(&head, (uint64_t)w->ntensors, 8));
    ML_TRY(put_whole(&head, (uint64_t)w->nkeys, 8));
    ML_TRY(ml_text_add(&head, w->keys.data, w->keys.length));
    ML_TRY(put_table(w, &head));
    while (head.length % ALIGNMENT) ML_TRY(ml_text_add(&head, "", 1));
    ML_TRY(ml_file_write(w->fd, w->temporary, head.data, head.length, 0));
    w->contents = head.length;
    const gguf_out_tensor *last = &w->tensors[w->ntensors - 1];
    if (ftruncate(w->fd, w->contents + ml_round_up(last->offset + last->bytes, ALIGNMENT)))
        st = ml_fail(ML_RESOURCE, "%s: %s", w->temporary, strerror(errno));
done:
    ml_text_destroy(&head);
    return st;
}

ml_status gguf_put_contents(gguf_writer *w, const gguf_out_tensor *t, int64_t first,
                            const void *data, int64_t bytes)
{
    return ml_file_write(w->fd, w->temporary, data, bytes, w->contents + t->offset + first);
}

/* ---- the file ------------------------------------------------------------------------------ */

ml_status gguf_create(gguf_writer *w, const char *path)
{
    *w = (gguf_writer){.fd = -1};
    ml_status st = ml_check_replaceable(path);
    if (st == ML_OK) st = ml_durable_path(w->path, "%s", path);
    if (st == ML_OK) st = ml_durable_temporary(w->temporary, path);
    if (st != ML_OK) return st;
    w->fd = open(w->temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (w->fd >= 0) return ML_OK;
    st = ml_fail(ML_RESOURCE, "%s: cannot be written: %s", w->temporary, strerror(errno));
    ml_durable_drop(w->temporary);
    *w->temporary = '\0';
    return st;
}

ml_status gguf_finish(gguf_writer *w)
{
    ml_status st = ML_OK;
    if (fsync(w->fd)) st = ml_fail(ML_RESOURCE, "%s: fsync: %s", w->temporary, strerror(errno));
    if (close(w->fd) && st == ML_OK)
        st = ml_fail(ML_RESOURCE, "%s: close: %s", w->temporary, strerror(errno));
    w->fd = -1;
    if (st == ML_OK) st = ml_durable_rename(w->temporary, w->path);
    if (st == ML_OK) *w->temporary = '\0';
    gguf_discard(w);
    return st;
}

void gguf_discard(gguf_writer *w)
{
    if (w->fd >= 0) (void)close(w->fd);
    ml_durable_drop(w->temporary);
    ml_text_destroy(&w->keys);
    ml_memory_free(w->tensors);
    *w = (gguf_writer){.fd = -1};
}
