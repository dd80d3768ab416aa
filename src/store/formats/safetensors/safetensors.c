/* Reading safetensors files: the header at once, tensors as they are asked for, by pread. */
#include "store/formats/safetensors/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/json.h"
#include "store/formats/safetensors/header.h"

static const int64_t largest_header = 100000000;
enum { LENGTH_BYTES = 8, PIECE = 1 << 16 };

struct ml_safetensors {
    int fd;
    char *path;
    json_t *header;
    ml_safetensors_entry *entries;
    const ml_safetensors_entry **by_name; /* sorted */
    int64_t count, size;
    ml_window *window; /* borrowed; NULL: none */
    int64_t number;    /* there */
};

static ml_status read_at(const ml_safetensors *file, int64_t at, void *bytes, int64_t count)
{
    int64_t done = file->window ? ml_window_read(file->window, file->number, bytes, count, at) : 0;
    while (done < count) {
        ssize_t n =
            pread(file->fd, (char *)bytes + done, (size_t)(count - done), (off_t)(at + done));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0)
            return ml_fail(ML_INPUT, "read error at byte %" PRId64 ": %s", at + done,
                           strerror(errno));
        if (n == 0)
            return ml_fail(ML_INPUT, "ends at byte %" PRId64 " while it is read", at + done);
        done += n;
    }
    return ML_OK;
}

static int by_name(const void *a, const void *b)
{
    return strcmp((*(const ml_safetensors_entry *const *)a)->name,
                  (*(const ml_safetensors_entry *const *)b)->name);
}

static ml_status sort_names(ml_safetensors *file)
{
    ml_status st = ML_OK;
    ML_NEW(file->by_name, file->count, ML_MEM_OTHER, "a list of tensors");
    for (int64_t i = 0; i < file->count; i++) file->by_name[i] = &file->entries[i];
    qsort(file->by_name, (size_t)file->count, sizeof *file->by_name, by_name);
done:
    return st;
}

static ml_status read_header(ml_safetensors *file)
{
    ml_status st = ML_OK;
    unsigned char length[LENGTH_BYTES];
    uint64_t n = 0;
    char *text = NULL;
    json_error_t error;
    if (file->size < LENGTH_BYTES)
        return ml_fail(ML_INPUT, "has %" PRId64 " bytes: not a safetensors file", file->size);
    ML_TRY(read_at(file, 0, length, sizeof length));
    for (int i = LENGTH_BYTES - 1; i >= 0; i--) n = n << 8 | length[i];
    if (n < 2 || n > (uint64_t)largest_header || (int64_t)n > file->size - LENGTH_BYTES)
        return ml_fail(ML_INPUT,
                       "its header says %" PRIu64 " bytes in a file of %" PRId64
                       ": not a safetensors file, or truncated",
                       n, file->size);
    ML_NEW(text, (int64_t)n + 1, ML_MEM_OTHER, "a safetensors header");
    ML_TRY(read_at(file, LENGTH_BYTES, text, (int64_t)n));
    if (text[0] == '{') {
        st = ml_json_parse(&file->header, text, (int64_t)n, JSON_REJECT_DUPLICATES, &error);
        if (st == ML_RESOURCE) goto done;
    }
    if (!json_is_object(file->header)) {
        st = ml_fail(ML_INPUT, "its header is not a JSON object without duplicate keys");
        goto done;
    }
    ML_TRY(ml_safetensors_entries(file->header, LENGTH_BYTES + (int64_t)n, file->size,
                                  &file->entries, &file->count));
    ML_TRY(sort_names(file));
done:
    ml_memory_free(text);
    return st;
}

static ml_status open_file(ml_safetensors *file)
{
    ml_status st = ml_open_regular(file->path, &file->fd, &file->size);
    if (st != ML_OK) return st;
    st = read_header(file);
    return st == ML_OK ? ML_OK : ml_fail_within(st, "%s", file->path);
}

ml_status ml_safetensors_open(ml_safetensors **out, const char *path)
{
    ml_status st = ML_OK;
    ml_safetensors *file = NULL;
    ML_NEW(file, 1, ML_MEM_OTHER, "a safetensors file");
    file->fd = -1;
    if (!(file->path = ml_memory_string(path))) {
        st = ML_RESOURCE;
        goto done;
    }
    ML_TRY(open_file(file));
    *out = file;
    file = NULL;
done:
    ml_safetensors_close(file);
    return st;
}

void ml_safetensors_close(ml_safetensors *file)
{
    if (!file) return;
    if (file->fd >= 0) (void)close(file->fd);
    json_decref(file->header);
    ml_memory_free(file->by_name);
    ml_memory_free(file->entries);
    ml_memory_free(file->path);
    ml_memory_free(file);
}

ml_status ml_safetensors_share(ml_safetensors *file, ml_window *window)
{
    ml_status st = ml_window_add(window, file->path, file->fd, file->size, &file->number);
    if (st == ML_OK) file->window = window;
    return st;
}

int64_t ml_safetensors_place(const ml_safetensors *file, const ml_safetensors_entry *e)
{
    return ml_window_place(file->window, file->number, e->offset);
}

ml_status ml_safetensors_hash(const ml_safetensors *file, atomic_bool *stop,
                              char hex[ML_SHA256_HEX])
{
    return ml_window_hash(file->window, file->number, stop, hex);
}

int64_t ml_safetensors_count(const ml_safetensors *file) { return file->count; }
const ml_safetensors_entry *ml_safetensors_at(const ml_safetensors *file, int64_t index)
{
    return &file->entries[index];
}

const ml_safetensors_entry *ml_safetensors_find(const ml_safetensors *file, const char *name)
{
    const ml_safetensors_entry wanted = {.name = name}, *key = &wanted;
    const ml_safetensors_entry *const *found =
        bsearch(&key, file->by_name, (size_t)file->count, sizeof key, by_name);
    return found ? *found : NULL;
}

/* ---- values -------------------------------------------------------------------------------- */

/* Little-endian values of one type, in the bytes where they were read. */
static void decode(const void *from, const char *dtype, int64_t count, float *to)
{
    const uint16_t *halves = from;
    const double *doubles = from;
    if (!strcmp(dtype, "F64"))
        for (int64_t i = 0; i < count; i++) to[i] = (float)doubles[i];
    else if (!strcmp(dtype, "F16"))
        for (int64_t i = 0; i < count; i++) to[i] = ml_half_to_float(halves[i]);
    else
#pragma omp simd
        for (int64_t i = 0; i < count; i++) to[i] = ml_bf16_to_float(halves[i]);
}

const char *ml_safetensors_shape(int dims, const int64_t *shape, char text[ML_SAFETENSORS_SHAPE])
{
    size_t used = 0;
    text[0] = '\0';
    for (int i = 0; i < dims; i++)
        used += (size_t)snprintf(text + used, ML_SAFETENSORS_SHAPE - used, "%s%" PRId64,
                                 i ? ", " : "", shape[i]);
    return text;
}

bool ml_safetensors_is_real(const ml_safetensors_entry *e)
{
    return !strcmp(e->dtype, "F32") || !strcmp(e->dtype, "F16") || !strcmp(e->dtype, "BF16") ||
           !strcmp(e->dtype, "F64");
}

/* The first elements out of the window, where they lie as numbers do in memory; returns how many.
 */
static int64_t decode_there(const ml_safetensors *file, const ml_safetensors_entry *e,
                            int64_t first, int64_t count, float *out)
{
    int64_t size = e->bytes / e->count, at = e->offset + first * size, n = 0, got;
    if (!file->window) return 0;
    const void *there = ml_window_take(file->window, file->number, count * size, at, &got);
    if (!there) return 0;
    if ((uintptr_t)there % (uintptr_t)size == 0) n = got / size;
    decode(there, e->dtype, n, out);
    ml_window_leave(file->window, file->number, at);
    return n;
}

ml_status ml_safetensors_read(const ml_safetensors *file, const ml_safetensors_entry *e,
                              int64_t first, int64_t count, float *out)
{
    ml_status st = ML_OK;
    double piece[PIECE / sizeof(double)];
    int64_t size = e->count > 0 ? e->bytes / e->count : 0;
    if (!ml_safetensors_is_real(e)) {
        st = ml_fail(ML_INPUT, "has type %.20s, expected F32, F16, BF16 or F64", e->dtype);
    } else if (!strcmp(e->dtype, "F32")) {
        st = read_at(file, e->offset + first * size, out, count * size);
    } else {
        for (int64_t at = 0, n; st == ML_OK && at < count; at += n) {
            n = decode_there(file, e, first + at, count - at, out + at);
            if (n > 0) continue;
            n = ml_min(count - at, PIECE / size);
            st = read_at(file, e->offset + (first + at) * size, piece, n * size);
            if (st == ML_OK) decode(piece, e->dtype, n, out + at);
        }
    }
    return st == ML_OK ? ML_OK : ml_fail_within(st, "%s: %s", file->path, e->name);
}

ml_status ml_safetensors_read_bytes(const ml_safetensors *file, const ml_safetensors_entry *e,
                                    int64_t first, int64_t count, void *out)
{
    ml_status st = ML_OK;
    if (first < 0 || count < 0 || first > e->bytes - count)
        st = ml_fail(ML_INPUT, "has %" PRId64 " bytes, expected %" PRId64, e->bytes, first + count);
    else
        st = read_at(file, e->offset + first, out, count);
    return st == ML_OK ? ML_OK : ml_fail_within(st, "%s: %s", file->path, e->name);
}
