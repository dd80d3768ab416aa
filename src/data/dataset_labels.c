/* Labels and token types are checked when a data set is opened, value by value, and read again from
 * the file when they are asked for: in memory stays where they lie. */
#include "data/dataset_labels.h"

#include <inttypes.h>
#include <math.h>

#include "data/dataset_private.h"
#include "io/json.h"

enum { PIECE = 1 << 14 };

const char *ml_label_kind_name(ml_label_kind kind)
{
    static const char *const words[] = {"none", "class", "number", "bits", "tokens", "wanted"};
    return words[kind];
}

void dataset_labels_destroy(dataset_labels *labels)
{
    ml_memory_free(labels->names);
    *labels = (dataset_labels){0};
}

/* ---- attributes ---------------------------------------------------------------------------- */

ml_status dataset_read_integer(hid_t file, const char *path, const char *name, int64_t *out)
{
    hid_t attribute = H5Aexists(file, name) > 0 ? H5Aopen(file, name, H5P_DEFAULT) : -1;
    hid_t space = attribute >= 0 ? H5Aget_space(attribute) : -1;
    hid_t type = attribute >= 0 ? H5Aget_type(attribute) : -1;
    bool good = space >= 0 && type >= 0 && H5Sget_simple_extent_npoints(space) == 1 &&
                H5Tget_class(type) == H5T_INTEGER && H5Aread(attribute, H5T_NATIVE_INT64, out) >= 0;
    if (type >= 0) H5Tclose(type);
    if (space >= 0) H5Sclose(space);
    if (attribute >= 0) H5Aclose(attribute);
    return good ? ML_OK
                : ml_fail(ML_INPUT, "%s: attribute \"%s\" is missing or is not one integer", path,
                          name);
}

/* One text of a fixed length. */
static ml_status read_names(const dataset_labels_file *from, char **out)
{
    ml_status st = ML_OK;
    hid_t attribute = H5Aexists(from->file, "label_names") > 0
                          ? H5Aopen(from->file, "label_names", H5P_DEFAULT)
                          : -1;
    hid_t space = attribute >= 0 ? H5Aget_space(attribute) : -1;
    hid_t type = attribute >= 0 ? H5Aget_type(attribute) : -1;
    bool good = space >= 0 && type >= 0 && H5Sget_simple_extent_npoints(space) == 1 &&
                H5Tget_class(type) == H5T_STRING && H5Tis_variable_str(type) == 0;
    size_t size = good ? H5Tget_size(type) : 0;
    char *text = NULL;
    if (size > ML_LABEL_NAMES_BYTES) good = false;
    if (good) ML_NEW(text, (int64_t)size + 1, ML_MEM_OTHER, "the names of labels");
    good = good && H5Aread(attribute, type, text) >= 0;
    if (!good) {
        st = ml_fail(ML_INPUT, "%s: attribute \"label_names\" is missing or is not one text",
                     from->path);
        goto done;
    }
    *out = text;
    text = NULL;
done:
    ml_memory_free(text);
    if (type >= 0) H5Tclose(type);
    if (space >= 0) H5Sclose(space);
    if (attribute >= 0) H5Aclose(attribute);
    return st;
}

/* A JSON array of `count` different texts, or nothing. */
static ml_status check_names(const char *path, const char *names, int64_t count)
{
    json_t *list = NULL, *seen = NULL;
    ml_status st = ML_OK;
    if (!*names) return ML_OK;
    ML_TRY(ml_json_read(&list, path, names, (int64_t)strlen(names)));
    bool good = (int64_t)json_array_size(list) == count;
    seen = json_object();
    for (size_t i = 0; good && i < json_array_size(list); i++) {
        const char *name = json_string_value(json_array_get(list, i));
        good = name && !json_object_get(seen, name) &&
               json_object_set_new(seen, name, json_null()) == 0;
    }
    if (!good)
        st = ml_fail(ML_INPUT,
                     "%s: attribute \"label_names\" is not a list of %" PRId64 " different names",
                     path, count);
done:
    json_decref(list);
    json_decref(seen);
    return st;
}

static ml_status load_attributes(dataset_labels *labels, const dataset_labels_file *from)
{
    ml_status st = ML_OK;
    int64_t kind = 0;
    ML_TRY(dataset_read_integer(from->file, from->path, "label_kind", &kind));
    ML_TRY(dataset_read_integer(from->file, from->path, "label_count", &labels->count));
    if (kind < ML_LABEL_CLASS || kind > ML_LABEL_WANTED || labels->count < 1 ||
        labels->count > ML_MOST_LABELS || (kind == ML_LABEL_NUMBER && labels->count != 1) ||
        (kind == ML_LABEL_WANTED && labels->count != 2)) {
        st = ml_fail(ML_INPUT,
                     "%s: a label_kind of %" PRId64 " with a label_count of %" PRId64
                     " makes no sense",
                     from->path, kind, labels->count);
        goto done;
    }
    if (from->pairs) {
        st = ml_fail(
            ML_INPUT,
            "%s: pairs of answers and texts that belong together have no labels, but it has some",
            from->path);
        goto done;
    }
    labels->kind = (ml_label_kind)kind;
    ML_TRY(read_names(from, &labels->names));
    ML_TRY(check_names(from->path, labels->names, labels->count));
done:
    return st;
}

/* ---- values -------------------------------------------------------------------------------- */

static ml_status check_piece(const dataset_labels *l, const dataset_labels_file *from,
                             const int32_t *value, int64_t first, int64_t n)
{
    const int64_t most = l->kind == ML_LABEL_BITS ? 1 : l->count - 1;
    for (int64_t i = 0; i < n; i++) {
        const int64_t at = first + i;
        if (l->kind == ML_LABEL_NUMBER) {
            float number;
            memcpy(&number, value + i, sizeof number);
            if (isfinite(number)) continue;
            return ml_fail(ML_INPUT, "%s: label %" PRId64 " is not a finite number", from->path,
                           at);
        }
        bool ignored = l->kind == ML_LABEL_TOKENS && value[i] == ML_LABEL_IGNORED;
        if (!ignored && (value[i] < 0 || value[i] > most))
            return ml_fail(ML_INPUT, "%s: label %" PRId64 " is %" PRId32 ", expected 0 to %" PRId64,
                           from->path, at, value[i], most);
        if (l->kind == ML_LABEL_TOKENS && (from->targets[at / 64] >> (at % 64) & 1) == ignored)
            return ml_fail(ML_INPUT,
                           "%s: the mask of token %" PRId64 " does not fit its label %" PRId32,
                           from->path, at, value[i]);
    }
    return ML_OK;
}

static ml_status check_labels(const dataset_labels *l, const dataset_labels_file *from,
                              int64_t count)
{
    ml_status st = ML_OK;
    int32_t *value = NULL;
    ML_NEW(value, PIECE, ML_MEM_OTHER, "labels");
    for (int64_t first = 0; first < count; first += PIECE) {
        int64_t n = ml_min(PIECE, count - first);
        ML_TRY(ml_file_read(from->fd, from->path, value, n * (int64_t)sizeof *value,
                            l->at + first * (int64_t)sizeof *value));
        ML_TRY(check_piece(l, from, value, first, n));
    }
done:
    ml_memory_free(value);
    return st;
}

/* Of a sequence there is one target, its label; a mask would be another one, but of answers. */
static ml_status check_mask(const dataset_labels *l, const dataset_labels_file *from)
{
    if (l->kind == ML_LABEL_TOKENS || l->kind == ML_LABEL_WANTED) return ML_OK;
    for (int64_t t = 0; t < from->tokens; t++)
        if (from->targets[t / 64] >> (t % 64) & 1)
            return ml_fail(ML_INPUT,
                           "%s: token %" PRId64 " is a target, but the sequences have labels",
                           from->path, t);
    return ML_OK;
}

static ml_status load_labels(dataset_labels *l, const dataset_labels_file *from)
{
    ml_status st = ML_OK;
    bool tokens = l->kind == ML_LABEL_TOKENS, number = l->kind == ML_LABEL_NUMBER;
    int64_t count, wanted = from->tokens;
    const char *name = tokens ? "token_labels" : "labels";
    ML_TRY(ml_hdf5_locate(from->file, from->path, name,
                          number ? H5T_NATIVE_FLOAT : H5T_NATIVE_INT32, from->bytes, &count,
                          &l->at));
    if (!tokens && !ml_multiply(from->sequences, l->kind == ML_LABEL_BITS ? l->count : 1, &wanted))
        wanted = -1;
    if (count != wanted) {
        st = ml_fail(ML_INPUT,
                     "%s: %" PRId64 " labels of %" PRId64 " sequences do not belong together",
                     from->path, count, from->sequences);
        goto done;
    }
    ML_TRY(check_mask(l, from));
    ML_TRY(check_labels(l, from, count));
done:
    return st;
}

static ml_status load_types(dataset_labels *l, const dataset_labels_file *from)
{
    ml_status st = ML_OK;
    uint8_t *type = NULL;
    int64_t count;
    l->types_at = -1;
    l->type_count = 1;
    if (H5Lexists(from->file, "types", H5P_DEFAULT) <= 0) return ML_OK;
    ML_TRY(ml_hdf5_locate(from->file, from->path, "types", H5T_NATIVE_UINT8, from->bytes, &count,
                          &l->types_at));
    if (count != from->tokens) {
        st = ml_fail(ML_INPUT, "%s: %" PRId64 " types of %" PRId64 " tokens", from->path, count,
                     from->tokens);
        goto done;
    }
    ML_NEW(type, PIECE, ML_MEM_OTHER, "token types");
    for (int64_t first = 0; first < count; first += PIECE) {
        int64_t n = ml_min(PIECE, count - first);
        ML_TRY(ml_file_read(from->fd, from->path, type, n, l->types_at + first));
        for (int64_t i = 0; i < n; i++) l->type_count = ml_max(l->type_count, type[i] + 1);
    }
done:
    ml_memory_free(type);
    return st;
}

ml_status dataset_labels_load(dataset_labels *labels, const dataset_labels_file *from)
{
    ml_status st = ML_OK;
    *labels = (dataset_labels){0};
    ML_TRY(load_types(labels, from));
    if (H5Aexists(from->file, "label_kind") <= 0) return ML_OK;
    ML_TRY(load_attributes(labels, from));
    ML_TRY(load_labels(labels, from));
done:
    return st;
}

/* ---- two data sets ------------------------------------------------------------------------- */

/* Of a joined data set the first file's. */
static const char *any_path(const ml_dataset *data)
{
    int64_t first;
    return ml_dataset_path(ml_dataset_parts(data) ? ml_dataset_part(data, 0, &first) : data);
}

ml_status ml_dataset_check_labels(const ml_dataset *data, const ml_dataset *other)
{
    const ml_label_kind kind = ml_dataset_label_kind(data), found = ml_dataset_label_kind(other);
    const char *path = any_path(data), *second = any_path(other);
    const char *names = ml_dataset_label_names(data), *there = ml_dataset_label_names(other);
    int64_t count = ml_dataset_label_count(data), counted = ml_dataset_label_count(other);
    if (kind != found)
        return ml_fail(ML_INPUT, "%s has labels of the kind %s, %s of the kind %s", path,
                       ml_label_kind_name(kind), second, ml_label_kind_name(found));
    if (strcmp(names, there) != 0)
        return ml_fail(ML_INPUT,
                       "%s has the classes %.200s, %s has %.200s; tokenize the second with "
                       "--labels and the first",
                       path, *names ? names : "without names", second,
                       *there ? there : "classes without names");
    if (counted > count || (kind == ML_LABEL_BITS && counted != count))
        return ml_fail(ML_INPUT,
                       "%s has %" PRId64 " classes, %s has %" PRId64
                       "; tokenize both with the same --labels",
                       path, count, second, counted);
    return ML_OK;
}
