/* What is known of labels before the data are read: what --labels says and the base's id2label. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "io/json.h"
#include "io/line_reader.h"
#include "mpilora/data.h"

void ml_label_names_destroy(ml_label_names *names)
{
    ml_memory_free(names->names);
    ml_memory_free(names->base);
    *names = (ml_label_names){0};
}

/* The text of a list, in accounted memory. */
static ml_status keep_list(const json_t *list, char **out)
{
    char *text = ml_json_dump(list, JSON_COMPACT);
    *out = text ? ml_memory_string(text) : NULL;
    free(text);
    return *out ? ML_OK : ml_fail(ML_RESOURCE, "out of memory: the names of labels");
}

/* At least two names, none empty, none twice; wrong: whose fault it is else, the file's or the
 * command line's. */
static ml_status take_list(ml_label_names *out, const char *given, const json_t *list,
                           ml_status wrong)
{
    ml_status st = ML_OK;
    json_t *seen = json_object();
    const size_t count = json_array_size(list);
    if (count < 2) {
        st = ml_fail(wrong, "--labels %.200s: %zu names, expected two or more", given, count);
        goto done;
    }
    for (size_t i = 0; i < count; i++) {
        const char *name = json_string_value(json_array_get(list, i));
        if (!name || !*name)
            st = ml_fail(wrong, "--labels %.200s: name %zu is empty or no text", given, i + 1);
        else if (strlen(name) != json_string_length(json_array_get(list, i)))
            st = ml_fail(wrong, "--labels %.200s: name %zu has a zero byte", given, i + 1);
        else if (json_object_get(seen, name))
            st = ml_fail(wrong, "--labels %.200s: \"%.200s\" is there twice", given, name);
        else if (json_object_set_new(seen, name, json_null()))
            st = ml_fail(ML_RESOURCE, "out of memory: the names of labels");
        if (st != ML_OK) goto done;
    }
    out->count = (int64_t)count;
    st = keep_list(list, &out->names);
done:
    json_decref(seen);
    return st;
}

static ml_status add_name(json_t *list, const char *name, int64_t length, const char *where)
{
    json_t *text = json_stringn(name, (size_t)length);
    if (!text) return ml_fail(ML_INPUT, "%s: a name is no UTF-8", where);
    return json_array_append_new(list, text) == 0
               ? ML_OK
               : ml_fail(ML_RESOURCE, "out of memory: the names of labels");
}

static ml_status split_names(json_t *list, const char *given)
{
    ml_status st = ML_OK;
    for (const char *at = given; at && st == ML_OK;) {
        const char *comma = strchr(at, ',');
        int64_t length = comma ? comma - at : (int64_t)strlen(at);
        st = add_name(list, at, length, "--labels");
        at = comma ? comma + 1 : NULL;
    }
    return st;
}

/* A name a line, empty lines left out, or one JSON list. */
static ml_status read_lines(json_t **list, const char *path)
{
    ml_status st = ML_OK;
    ml_line_reader reader = {0};
    bool more = true;
    ML_TRY(ml_line_reader_open(&reader, path));
    for (;;) {
        ML_TRY(ml_line_reader_next(&reader, &more));
        if (!more) break;
        const ml_text *line = &reader.line;
        if (reader.number == 1 && line->length && line->data[0] == '[') {
            json_decref(*list);
            *list = NULL;
            st = ml_json_read_file(list, path, false);
            if (st == ML_OK && !json_is_array(*list))
                st = ml_fail(ML_INPUT, "%s: is no list of names", path);
            goto done;
        }
        if (line->length) ML_TRY(add_name(*list, line->data, line->length, path));
    }
done:
    ml_line_reader_close(&reader);
    return st;
}

static ml_status take_dataset(ml_label_names *out, const char *path)
{
    ml_dataset *data = NULL;
    ml_status st = ml_dataset_open(&data, path);
    if (st != ML_OK) return st;
    const char *names = ml_dataset_label_names(data);
    out->kind = ml_dataset_label_kind(data);
    out->count = ml_dataset_label_count(data);
    if (out->kind == ML_LABEL_NONE)
        st = ml_fail(ML_INPUT, "--labels %s: the data set has no labels", path);
    else if (*names && !(out->names = ml_memory_string(names)))
        st = ML_RESOURCE;
    ml_dataset_destroy(data);
    return st;
}

static bool is_dataset(const char *path)
{
    size_t length = strlen(path);
    return length > 3 && !strcmp(path + length - 3, ".h5");
}

ml_status ml_label_names_read(ml_label_names *out, const char *given)
{
    ml_status st = ML_OK;
    struct stat about;
    char *end;
    json_t *list = NULL;
    if (!strcmp(given, "number")) {
        out->kind = ML_LABEL_NUMBER;
        out->count = 1;
        return ML_OK;
    }
    errno = 0;
    long count = strtol(given, &end, 10);
    if (*given && !*end) {
        if (errno || count < 2 || count > ML_MOST_LABELS)
            return ml_fail(ML_USAGE, "--labels %s: expected 2 to %d classes", given,
                           (int)ML_MOST_LABELS);
        out->count = count;
        return ML_OK;
    }
    if (is_dataset(given)) return take_dataset(out, given);
    bool file = stat(given, &about) == 0;
    if (!file && !strchr(given, ','))
        return ml_fail(ML_USAGE,
                       "--labels %.200s: there is no such file, and it is neither \"number\", nor "
                       "a number, nor names with commas between them",
                       given);
    list = json_array();
    if (!file) {
        ML_TRY(split_names(list, given));
    } else {
        ML_TRY(read_lines(&list, given));
    }
    st = take_list(out, given, list, file ? ML_INPUT : ML_USAGE);
done:
    json_decref(list);
    return st;
}

/* ---- the base ------------------------------------------------------------------------------ */

static bool are_different(const json_t *names)
{
    json_t *seen = json_object();
    for (size_t i = 0; i < json_array_size(names); i++)
        json_object_set_new(seen, json_string_value(json_array_get(names, i)), json_null());
    bool different = json_object_size(seen) == json_array_size(names);
    json_decref(seen);
    return different;
}

static json_t *name_of(const json_t *names, int64_t label)
{
    char key[24];
    snprintf(key, sizeof key, "%" PRId64, label);
    return json_object_get(names, key);
}

ml_status ml_labels_of_config(const json_t *config, int64_t *count, const json_t **names)
{
    const json_t *table = json_object_get(config, "id2label"),
                 *said = json_object_get(config, "num_labels");
    *count = (int64_t)json_object_size(table);
    *names = *count > 0 ? table : NULL;
    if (said && !json_is_null(said) && json_integer_value(said) != *count) {
        *count = json_integer_value(said);
        *names = NULL;
        if (*count >= 1 && *count <= ML_MOST_LABELS) return ML_OK;
        return ml_fail(ML_INPUT, "num_labels: expected a whole number from 1 to %d",
                       (int)ML_MOST_LABELS);
    }
    for (int64_t i = 0; i < *count; i++)
        if (!json_is_string(name_of(table, i)))
            return ml_fail(ML_INPUT, "id2label: has %" PRId64 " names, but none for label %" PRId64,
                           *count, i);
    return ML_OK;
}

ml_status ml_label_names_of_config(ml_label_names *out, const char *json, int64_t length)
{
    ml_status st = ML_OK;
    json_t *root = NULL, *list = json_array();
    const json_t *names;
    int64_t count;
    bool own = false;
    ML_TRY(ml_json_read(&root, "config.json", json, length));
    st = ml_labels_of_config(root, &count, &names);
    if (st != ML_OK) {
        st = ml_fail_within(st, "config.json of the base");
        goto done;
    }
    for (int64_t i = 0; names && i < count; i++) {
        json_t *name = name_of(names, i);
        char usual[32];
        snprintf(usual, sizeof usual, "LABEL_%" PRId64, i);
        own = own || strcmp(json_string_value(name), usual) != 0;
        if (json_array_append(list, name)) {
            st = ml_fail(ML_RESOURCE, "out of memory: the names of labels");
            goto done;
        }
    }
    if (!own || !are_different(list))
        out->unnamed = count;
    else if (count >= 2)
        st = keep_list(list, &out->base);
done:
    json_decref(list);
    json_decref(root);
    return st;
}
