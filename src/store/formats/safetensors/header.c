/* The header of a safetensors file: every tensor's type, shape and place, none of them believed. */
#include "store/formats/safetensors/header.h"

#include <inttypes.h>
#include <stdlib.h>

#include "io/json.h"

/* An entry of the header, and what it says of the file. */
static const ml_json_key entry_keys[] = {
    {"dtype", ML_JSON_TEXT},
    {"shape", ML_JSON_ARRAY},
    {"shape[]", ML_JSON_INTEGER},
    {"data_offsets", ML_JSON_ARRAY},
    {"data_offsets[]", ML_JSON_INTEGER},
    {NULL, 0},
};
static const ml_json_key metadata_keys[] = {{"*", ML_JSON_TEXT}, {NULL, 0}};

/* 0: not known; a tensor of it may lie in the file, where its offsets say. */
static int64_t element_bytes(const char *dtype)
{
    static const struct {
        const char *name;
        int64_t bytes;
    } types[] = {{"F64", 8},  {"F32", 4},     {"F16", 2},     {"BF16", 2},   {"I64", 8}, {"I32", 4},
                 {"I16", 2},  {"I8", 1},      {"U64", 8},     {"U32", 4},    {"U16", 2}, {"U8", 1},
                 {"BOOL", 1}, {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"F8_E8M0", 1}};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (!strcmp(types[i].name, dtype)) return types[i].bytes;
    return 0;
}

static ml_status bad(const char *name, const char *why)
{
    return ml_fail(ML_INPUT, "%.100s: %s", name, why);
}

static ml_status read_shape(const char *name, const json_t *shape, int64_t size,
                            ml_safetensors_entry *e)
{
    if (json_array_size(shape) > ML_SAFETENSORS_DIMS)
        return bad(name, "its shape has more than 8 numbers");
    e->dims = (int)json_array_size(shape);
    e->count = 1;
    for (int i = 0; i < e->dims; i++) {
        e->shape[i] = json_integer_value(json_array_get(shape, (size_t)i));
        if (e->shape[i] < 0) return bad(name, "its shape has a number below 0");
        if (!ml_multiply(e->count, e->shape[i], &e->count))
            return bad(name, "its shape has more elements than can be counted");
    }
    if (!ml_multiply(e->count, size, &e->bytes))
        return bad(name, "its shape has more bytes than can be counted");
    return ML_OK;
}

static ml_status read_entry(const char *name, const json_t *value, int64_t data, int64_t size,
                            ml_safetensors_entry *e)
{
    const json_t *offsets = json_object_get(value, "data_offsets"),
                 *shape = json_object_get(value, "shape");
    ml_status st = ml_json_check(value, entry_keys);
    if (st != ML_OK) return ml_fail_within(st, "%.100s", name);
    e->name = name;
    e->dtype = json_string_value(json_object_get(value, "dtype"));
    if (json_object_size(value) != 3 || !e->dtype || !shape || json_array_size(offsets) != 2)
        return bad(name, "its entry is not {dtype, shape, data_offsets}");
    int64_t element = element_bytes(e->dtype);
    st = read_shape(name, shape, ml_max(1, element), e);
    if (st != ML_OK) return st;
    int64_t start = json_integer_value(json_array_get(offsets, 0)),
            end = json_integer_value(json_array_get(offsets, 1));
    if (start < 0 || end < start || end > size - data)
        return ml_fail(ML_INPUT,
                       "%.100s: lies at %" PRId64 " … %" PRId64 " of %" PRId64
                       " bytes of data: the file is truncated or wrong",
                       name, start, end, size - data);
    if (element == 0) e->bytes = end - start;
    if (end - start != e->bytes)
        return ml_fail(ML_INPUT,
                       "%.100s: its shape needs %" PRId64 " bytes, its offsets say %" PRId64, name,
                       e->bytes, end - start);
    e->offset = data + start;
    return ML_OK;
}

static int by_offset(const void *x, const void *y)
{
    const ml_safetensors_entry *a = x, *b = y;
    if (a->offset != b->offset) return (a->offset > b->offset) - (a->offset < b->offset);
    return (a->bytes > b->bytes) - (a->bytes < b->bytes); /* empty ones first */
}

static ml_status check_contiguous(const ml_safetensors_entry *e, int64_t n, int64_t data,
                                  int64_t size)
{
    int64_t at = data;
    for (int64_t i = 0; i < n; i++) {
        if (e[i].offset != at)
            return bad(e[i].name, "its data overlap another tensor's or leave a gap");
        at += e[i].bytes;
    }
    if (at == size) return ML_OK;
    return ml_fail(ML_INPUT, "the tensors end at byte %" PRId64 ", the file at %" PRId64, at, size);
}

ml_status ml_safetensors_entries(const json_t *header, int64_t data, int64_t size,
                                 ml_safetensors_entry **entries, int64_t *count)
{
    ml_status st = ML_OK;
    int64_t n = 0;
    const char *name;
    json_t *value;
    ml_safetensors_entry *list = NULL;
    ML_NEW(list, (int64_t)json_object_size(header), ML_MEM_OTHER, "a list of tensors");
    json_object_foreach((json_t *)(uintptr_t)header, name, value)
    {
        if (strcmp(name, "__metadata__") != 0)
            ML_TRY(read_entry(name, value, data, size, &list[n++]));
        else if ((st = ml_json_check(value, metadata_keys)) != ML_OK) {
            st = ml_fail_within(st, "%s", name);
            goto done;
        }
    }
    qsort(list, (size_t)n, sizeof *list, by_offset);
    ML_TRY(check_contiguous(list, n, data, size));
    *entries = list;
    *count = n;
    list = NULL;
done:
    ml_memory_free(list);
    return st;
}
