/* Reading GGUF: a cursor over the file's head that never trusts a length. */
#include "store/formats/gguf/gguf.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/hdf5_file.h"

enum { WINDOW = 1 << 16, KEY_LIMIT = 65535, ALIGNMENT_LIMIT = 1 << 20, COUNT_LIMIT = 1 << 24 };

typedef struct cursor {
    gguf_file *file;
    int64_t at;           /* next byte */
    int64_t window, held; /* the buffered range */
    uint8_t *buffer;      /* [WINDOW] */
} cursor;

/* ---- bytes --------------------------------------------------------------------------------- */

static ml_status take(cursor *c, void *out, int64_t n)
{
    const gguf_file *f = c->file;
    if (n < 0 || n > f->bytes - c->at)
        return ml_fail(ML_INPUT, "%s: the file ends at byte %" PRId64 " inside its head: truncated",
                       f->path, f->bytes);
    if (n > WINDOW) {
        ml_status st = ml_file_read(f->fd, f->path, out, n, c->at);
        c->at += n;
        return st;
    }
    if (c->at < c->window || c->at + n > c->window + c->held) {
        c->window = c->at;
        c->held = ml_min(WINDOW, f->bytes - c->at);
        ml_status st = ml_file_read(f->fd, f->path, c->buffer, c->held, c->at);
        if (st != ML_OK) return st;
    }
    memcpy(out, c->buffer + (c->at - c->window), (size_t)n);
    c->at += n;
    return ML_OK;
}

static ml_status take_u32(cursor *c, int64_t *out)
{
    uint32_t x = 0;
    ml_status st = take(c, &x, sizeof x);
    *out = x;
    return st;
}

/* A length or count of things of at least `size` bytes each. */
static ml_status take_count(cursor *c, int64_t size, const char *what, int64_t *out)
{
    uint64_t x = 0;
    ml_status st = take(c, &x, sizeof x);
    if (st != ML_OK) return st;
    if (x > (uint64_t)((c->file->bytes - c->at) / size))
        return ml_fail(ML_INPUT,
                       "%s: %s: %" PRIu64 " do not fit into the %" PRId64 " bytes that are left",
                       c->file->path, what, x, c->file->bytes - c->at);
    *out = (int64_t)x;
    return ML_OK;
}

static ml_status take_text(cursor *c, const char *what, char **out)
{
    ml_status st = ML_OK;
    int64_t n = 0;
    ML_TRY(take_count(c, 1, what, &n));
    ML_NEW(*out, n + 1, ML_MEM_OTHER, "a text");
    ML_TRY(take(c, *out, n));
    if ((int64_t)strlen(*out) != n)
        st = ml_fail(ML_INPUT, "%s: %s: a text with a zero byte", c->file->path, what);
done:
    return st;
}

/* ---- metadata ------------------------------------------------------------------------------ */

enum {
    T_U8,
    T_I8,
    T_U16,
    T_I16,
    T_U32,
    T_I32,
    T_F32,
    T_BOOL,
    T_TEXT,
    T_ARRAY,
    T_U64,
    T_I64,
    T_F64,
    TYPES
};
static const int64_t type_size[TYPES] = {1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8};

static ml_status take_number(cursor *c, int64_t type, gguf_value *v)
{
    uint8_t raw[8] = {0};
    ml_status st = take(c, raw, type_size[type]);
    if (st != ML_OK) return st;
    uint64_t bits = 0;
    for (int i = 7; i >= 0; i--) bits = bits << 8 | raw[i];
    float single;
    uint32_t low = (uint32_t)bits;
    memcpy(&single, &low, sizeof single);
    v->whole = type != T_F32 && type != T_F64;
    if (type == T_BOOL && bits > 1)
        return ml_fail(ML_INPUT, "%s: %s: a truth value of %" PRIu64 ", expected 0 or 1",
                       c->file->path, v->key, bits);
    switch (type) {
    case T_I8:
        v->integer = (int8_t)bits;
        break;
    case T_I16:
        v->integer = (int16_t)bits;
        break;
    case T_I32:
        v->integer = (int32_t)bits;
        break;
    case T_F32:
        v->real = (double)single;
        return ML_OK;
    case T_F64:
        memcpy(&v->real, &bits, sizeof v->real);
        return ML_OK;
    default:
        if (bits > INT64_MAX && type == T_U64) v->whole = false;
        v->integer = (int64_t)(bits > INT64_MAX && type == T_U64 ? INT64_MAX : bits);
    }
    v->real = (double)v->integer;
    return ML_OK;
}

static ml_status take_array(cursor *c, gguf_value *v)
{
    ml_status st = ML_OK;
    int64_t type;
    ML_TRY(take_u32(c, &type));
    if (type >= TYPES || type == T_ARRAY)
        return ml_fail(ML_INPUT, "%s: %s: an array of type %" PRId64 "; nested arrays are refused",
                       c->file->path, v->key, type);
    ML_TRY(take_count(c, type_size[type], v->key, &v->count));
    if (type == T_TEXT) {
        v->kind = GGUF_TEXTS;
        ML_NEW(v->texts, v->count, ML_MEM_OTHER, "an array of texts");
        for (int64_t i = 0; i < v->count; i++) ML_TRY(take_text(c, v->key, &v->texts[i]));
        return ML_OK;
    }
    v->kind = GGUF_NUMBERS;
    v->whole = type != T_F32 && type != T_F64 && type != T_BOOL;
    ML_NEW(v->reals, v->count, ML_MEM_OTHER, "an array of numbers");
    for (int64_t i = 0; i < v->count; i++) {
        gguf_value element = {.key = v->key};
        ML_TRY(take_number(c, type, &element));
        v->reals[i] = element.real;
    }
done:
    return st;
}

static ml_status take_value(cursor *c, gguf_value *v)
{
    ml_status st = ML_OK;
    int64_t type;
    const char *path = c->file->path;
    ML_TRY(take_text(c, "a key", &v->key));
    if (!*v->key || strlen(v->key) > KEY_LIMIT)
        return ml_fail(ML_INPUT, "%s: a key is empty or longer than %d bytes", path,
                       (int)KEY_LIMIT);
    ML_TRY(take_u32(c, &type));
    if (type >= TYPES)
        return ml_fail(ML_INPUT, "%s: %s: type %" PRId64 " is not known", path, v->key, type);
    if (type == T_ARRAY) return take_array(c, v);
    v->kind = type == T_TEXT ? GGUF_TEXT : type == T_BOOL ? GGUF_FLAG : GGUF_NUMBER;
    return type == T_TEXT ? take_text(c, v->key, &v->text) : take_number(c, type, v);
done:
    return st;
}

/* ---- kinds --------------------------------------------------------------------------------- */

static const char *const kind_names[] = {[GGUF_NUMBER] = "a number",
                                         [GGUF_TEXT] = "a text",
                                         [GGUF_TEXTS] = "an array of texts",
                                         [GGUF_NUMBERS] = "an array of numbers",
                                         [GGUF_FLAG] = "a truth value"};

/* Every key that is read by its name alone; those of an architecture, behind its name and a dot,
 * are in its family's table, but for the last ones here. */
const gguf_key gguf_keys[] = {{"general.alignment", GGUF_NUMBER, true},
                              {"general.architecture", GGUF_TEXT, false},
                              {"tokenizer.ggml.model", GGUF_TEXT, false},
                              {"tokenizer.ggml.pre", GGUF_TEXT, false},
                              {"tokenizer.ggml.tokens", GGUF_TEXTS, false},
                              {"tokenizer.ggml.merges", GGUF_TEXTS, false},
                              {"tokenizer.ggml.token_type", GGUF_NUMBERS, true},
                              {"tokenizer.ggml.bos_token_id", GGUF_NUMBER, true},
                              {"tokenizer.ggml.eos_token_id", GGUF_NUMBER, true},
                              {"tokenizer.ggml.add_bos_token", GGUF_FLAG, false},
                              {".attention.value_length", GGUF_NUMBER, true},
                              {".rope.scale_linear", GGUF_NUMBER, false},
                              {".rope.dimension_count", GGUF_NUMBER, true},
                              {".rope.scaling.type", GGUF_TEXT, false},
                              {".rope.scaling.factor", GGUF_NUMBER, false},
                              {NULL, GGUF_NUMBER, false}};

static bool is_key(const gguf_value *v, const gguf_key *k)
{
    size_t length = strlen(v->key), end = strlen(k->key);
    const char *from = *k->key == '.' && length > end ? v->key + length - end : v->key;
    return strcmp(from, k->key) == 0;
}

ml_status gguf_check_kind(const gguf_file *f, const gguf_value *v, gguf_kind kind, bool whole)
{
    static const char *const whole_names[] = {
        [GGUF_NUMBER] = "a whole number", [GGUF_NUMBERS] = "an array of whole numbers"};
    if (v->kind == kind && (!whole || v->whole)) return ML_OK;
    return ml_fail(ML_INPUT, "%s: key %s is %s, expected %s", f->path, v->key, kind_names[v->kind],
                   whole ? whole_names[kind] : kind_names[kind]);
}

static ml_status check_kinds(const gguf_file *f)
{
    ml_status st = ML_OK;
    for (int64_t i = 0; i < f->nvalues; i++)
        for (const gguf_key *k = gguf_keys; k->key; k++)
            if (is_key(&f->values[i], k))
                ML_TRY(gguf_check_kind(f, &f->values[i], k->kind, k->whole));
done:
    return st;
}

/* ---- tensors ------------------------------------------------------------------------------- */

static ml_status take_tensor(cursor *c, gguf_tensor *t)
{
    ml_status st = ML_OK;
    const char *path = c->file->path;
    int64_t dims, type, shape[4] = {1, 1, 1, 1}, rest = 1;
    uint64_t offset;
    ML_TRY(take_text(c, "a tensor's name", &t->name));
    ML_TRY(take_u32(c, &dims));
    if (dims < 1 || dims > 4)
        return ml_fail(ML_INPUT, "%s: %s: %" PRId64 " dimensions, expected 1 to 4", path, t->name,
                       dims);
    for (int64_t i = 0; i < dims; i++) {
        uint64_t n;
        ML_TRY(take(c, &n, sizeof n));
        if (n < 1 || n > INT64_MAX)
            return ml_fail(ML_INPUT, "%s: %s: dimension %" PRIu64, path, t->name, n);
        shape[i] = (int64_t)n;
    }
    ML_TRY(take_u32(c, &type));
    ML_TRY(take(c, &offset, sizeof offset));
    t->type = gguf_type_of(type);
    if (!t->type)
        return ml_fail(
            ML_INPUT,
            "%s: %s: storage type %" PRId64
            " is not supported; supported are F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q4_K, Q6_K",
            path, t->name, type);
    if (shape[0] % t->type->block)
        return ml_fail(ML_INPUT,
                       "%s: %s: rows of %" PRId64 " are no multiple of %s's blocks of %" PRId64,
                       path, t->name, shape[0], t->type->name, t->type->block);
    bool fits = ml_multiply(shape[1], shape[2], &rest) && ml_multiply(rest, shape[3], &rest) &&
                ml_multiply(shape[0] / t->type->block, t->type->bytes, &t->bytes) &&
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

/* Offsets count from the end of the head, rounded up to the alignment. */
static ml_status place_tensors(cursor *c)
{
    gguf_file *f = c->file;
    const gguf_value *given = gguf_find(f, "general.alignment");
    int64_t alignment = given ? given->integer : 32;
    if (alignment < 1 || alignment > ALIGNMENT_LIMIT || (alignment & (alignment - 1)))
        return ml_fail(ML_INPUT,
                       "%s: general.alignment: %" PRId64 ", expected a power of two up to %d",
                       f->path, alignment, (int)ALIGNMENT_LIMIT);
    int64_t start = ml_round_up(c->at, alignment);
    for (int64_t i = 0; i < f->ntensors; i++) {
        gguf_tensor *t = &f->tensors[i];
        if (t->offset % alignment || start > f->bytes - t->bytes ||
            t->offset > f->bytes - t->bytes - start)
            return ml_fail(ML_INPUT,
                           "%s: %s: its data does not lie aligned inside the file of %" PRId64
                           " bytes: truncated or damaged",
                           f->path, t->name, f->bytes);
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

static ml_status read_head(cursor *c)
{
    ml_status st = ML_OK;
    gguf_file *f = c->file;
    char magic[4] = "";
    int64_t version, ntensors, nvalues;
    if (f->bytes >= 4) ML_TRY(take(c, magic, 4));
    if (memcmp(magic, "GGUF", 4) != 0)
        return ml_fail(ML_INPUT, "%s: neither a Hugging Face directory nor a GGUF file", f->path);
    ML_TRY(take_u32(c, &version));
    if (version < 2 || version > 3)
        return ml_fail(ML_INPUT, "%s: GGUF version %" PRId64 ", expected 2 or 3", f->path, version);
    ML_TRY(take_count(c, 24, "the number of tensors", &ntensors));
    ML_TRY(take_count(c, 13, "the number of keys", &nvalues));
    if (ntensors > COUNT_LIMIT / 16 || nvalues > COUNT_LIMIT / 256)
        return ml_fail(ML_INPUT, "%s: %" PRId64 " tensors and %" PRId64 " keys: too many", f->path,
                       ntensors, nvalues);
    ML_NEW(f->values, nvalues, ML_MEM_OTHER, "metadata");
    for (; f->nvalues < nvalues; f->nvalues++) {
        st = take_value(c, &f->values[f->nvalues]);
        if (st == ML_OK) continue;
        f->nvalues++; /* what it holds so far is released too */
        goto done;
    }
    ML_TRY(sort_values(f));
    ML_TRY(check_kinds(f));
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
    cursor c = {.file = out};
    *out = (gguf_file){.fd = -1};
    out->path = ml_memory_string(path);
    if (!out->path) return ML_RESOURCE;
    ML_TRY(ml_open_regular(path, &out->fd, &out->bytes));
    ML_NEW(c.buffer, WINDOW, ML_MEM_OTHER, "a read buffer");
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

ml_status gguf_read_rows(const gguf_file *f, const gguf_tensor *t, int64_t first, int64_t count,
                         float *out)
{
    ml_status st = ML_OK;
    enum { PIECE = 1 << 20 };
    uint8_t *piece = NULL;
    int64_t row = t->cols / t->type->block * t->type->bytes, at = t->offset + first * row,
            left = count * row;
    int64_t step = ml_min(left, PIECE / t->type->bytes * t->type->bytes);
    ML_NEW(piece, step, ML_MEM_OTHER, "a read buffer");
    for (; left > 0; left -= step, at += step) {
        int64_t n = ml_min(step, left);
        ML_TRY(ml_file_read(f->fd, f->path, piece, n, at));
        for (int64_t i = 0; i < n; i += t->type->bytes, out += t->type->block)
            t->type->decode(piece + i, out);
    }
done:
    ml_memory_free(piece);
    return st;
}
