/* The first label tells of what kind all are. Names get numbers in the order of sight; what they
 * are called in the data set is settled at the end, when all have been seen: the order must not
 * depend on which row came first, or train and valid would differ. */
#include "data/label_reader.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <strings.h>

#include "io/json.h"

static ml_status lacking(void)
{
    return ml_fail(ML_RESOURCE, "out of memory: the names of labels");
}

ml_status label_reader_create(label_reader *r, const ml_label_names *known,
                              ml_dataset_writer *writer)
{
    static const ml_label_names nothing;
    *r = (label_reader){.known = known ? known : &nothing, .writer = writer, .largest = -1};
    r->number_of = json_object();
    if (!r->number_of) return lacking();
    if (!r->known->names) return ML_OK;
    json_t *list = NULL;
    ml_status st =
        ml_json_read(&list, "--labels", r->known->names, (int64_t)strlen(r->known->names));
    for (size_t i = 0; st == ML_OK && i < json_array_size(list); i++)
        if (json_object_set_new(r->number_of, json_string_value(json_array_get(list, i)),
                                json_integer((json_int_t)i)))
            st = lacking();
    json_decref(list);
    r->named = true;
    r->count = r->known->count;
    return st;
}

void label_reader_destroy(label_reader *r)
{
    json_decref(r->number_of);
    ml_memory_free(r->value);
    ml_memory_free(r->met);
    *r = (label_reader){0};
}

/* ---- the kind ------------------------------------------------------------------------------ */

static const char *kind_of_rows(const label_reader *r)
{
    if (r->kind == ML_LABEL_CLASS) return r->named ? "names of classes" : "whole numbers, classes";
    if (r->kind == ML_LABEL_NUMBER) return "numbers to regress";
    return r->kind == ML_LABEL_BITS ? "lists" : "classes of tokens";
}

static ml_label_kind kind_of(const label_reader *r, const json_t *label)
{
    if (json_is_array(label)) return ML_LABEL_BITS;
    if (json_is_real(label) || r->known->kind == ML_LABEL_NUMBER) return ML_LABEL_NUMBER;
    return ML_LABEL_CLASS;
}

/* Tells the writer at the first label. `bits`: how many a list has. */
static ml_status begin(label_reader *r, ml_label_kind kind, int64_t bits)
{
    ml_status st = ML_OK;
    const ml_label_names *known = r->known;
    int64_t count = kind == ML_LABEL_NUMBER ? 1 : kind == ML_LABEL_BITS ? bits : 0;
    if (known->kind != ML_LABEL_NONE && known->kind != kind)
        return ml_fail(ML_INPUT, "a label of the kind %s, but --labels says %s",
                       ml_label_kind_name(kind), ml_label_kind_name(known->kind));
    if (kind == ML_LABEL_NUMBER && known->kind == ML_LABEL_NONE && known->count)
        return ml_fail(ML_INPUT, "a label with a fraction, but --labels has classes");
    ML_NEW(r->value, ml_max(count, 1), ML_MEM_OTHER, "a label");
    r->kind = kind;
    if (kind == ML_LABEL_BITS) r->count = bits;
    if (kind == ML_LABEL_CLASS || kind == ML_LABEL_TOKENS) {
        count = known->count;
        ML_TRY(ml_dataset_writer_labels(r->writer, kind, count, known->names ? known->names : ""));
    } else {
        ML_TRY(ml_dataset_writer_labels(r->writer, kind, count,
                                        kind == ML_LABEL_BITS && known->names ? known->names : ""));
    }
done:
    return st;
}

/* ---- values -------------------------------------------------------------------------------- */

ml_status label_reader_class(label_reader *r, const char *name, int64_t length, int32_t *out)
{
    if (r->kind == ML_LABEL_NONE) {
        ml_status st = begin(r, ML_LABEL_TOKENS, 0);
        if (st != ML_OK) return st;
    }
    const json_t *number = json_object_getn(r->number_of, name, (size_t)length);
    if (number) {
        *out = (int32_t)json_integer_value(number);
        return ML_OK;
    }
    if (length == 0) return ml_fail(ML_INPUT, "the label is an empty name");
    if (memchr(name, '\0', (size_t)length))
        return ml_fail(ML_INPUT, "the label \"%s\" has a zero byte", name);
    if (r->known->names)
        return ml_fail(ML_INPUT, "the label \"%.*s\" is none of the %" PRId64 " of --labels",
                       (int)ml_min(length, 200), name, r->known->count);
    if (r->largest >= 0)
        return ml_fail(ML_INPUT, "the label \"%.*s\" is a name, the rows before have numbers",
                       (int)ml_min(length, 200), name);
    if (r->known->count > 0 && r->count == r->known->count)
        return ml_fail(ML_INPUT,
                       "the label \"%.*s\" is one more than the %" PRId64
                       " classes that --labels says",
                       (int)ml_min(length, 200), name, r->known->count);
    if (r->count == ML_MOST_LABELS)
        return ml_fail(ML_INPUT, "more than %d different labels", (int)ML_MOST_LABELS);
    *out = (int32_t)r->count;
    if (json_object_setn_new(r->number_of, name, (size_t)length, json_integer(r->count++)))
        return ml_fail(ML_INPUT, "the label is a name that is no UTF-8");
    r->named = true;
    return ML_OK;
}

static ml_status meet(label_reader *r, int64_t class)
{
    ml_status st = ML_OK;
    if (!r->met) ML_NEW(r->met, ML_MOST_LABELS, ML_MEM_OTHER, "the numbers of labels");
    r->different += !r->met[class];
    r->met[class] = 1;
    r->largest = ml_max(r->largest, class);
done:
    return st;
}

/* A class that is a number. */
static ml_status take_number(label_reader *r, json_int_t value, int32_t *out)
{
    int64_t most = (r->known->count ? r->known->count : ML_MOST_LABELS) - 1;
    if (r->named && !r->known->names)
        return ml_fail(ML_INPUT,
                       "the label %" JSON_INTEGER_FORMAT
                       " is a number, the rows before have names of classes",
                       value);
    if (value < 0 || value > most)
        return ml_fail(
            ML_INPUT,
            "the label %" JSON_INTEGER_FORMAT " is outside: classes go from 0 to %" PRId64 "%s",
            value, most, value == -1 ? " (-1 stands where a test set has no labels)" : "");
    *out = (int32_t)value;
    return meet(r, value);
}

ml_status label_reader_token(label_reader *r, const json_t *label, int32_t *out)
{
    ml_status st = ML_OK;
    if (r->kind == ML_LABEL_NONE) ML_TRY(begin(r, ML_LABEL_TOKENS, 0));
    *out = ML_LABEL_IGNORED;
    if (json_is_string(label))
        return label_reader_class(r, json_string_value(label), (int64_t)json_string_length(label),
                                  out);
    if (!json_is_integer(label))
        return ml_fail(ML_INPUT, "a token's label is no name and no whole number");
    if (json_integer_value(label) == ML_LABEL_IGNORED) return ML_OK;
    st = take_number(r, json_integer_value(label), out);
done:
    return st;
}

static ml_status take_bits(label_reader *r, const json_t *list)
{
    const int64_t n = (int64_t)json_array_size(list);
    const bool names = json_is_string(json_array_get(list, 0)) || (n == 0 && r->known->names);
    if (names && !r->known->names)
        return ml_fail(ML_INPUT, "a list of names; --labels has to say which names there are");
    if (!names && n != r->count)
        return ml_fail(ML_INPUT, "the label has %" PRId64 " bits, expected %" PRId64, n, r->count);
    for (int64_t k = 0; k < r->count; k++) r->value[k] = 0.0f;
    for (int64_t k = 0; k < n; k++) {
        const json_t *one = json_array_get(list, (size_t)k);
        if (names) {
            const json_t *number = json_object_get(r->number_of, json_string_value(one));
            if (!json_is_string(one) || !number)
                return ml_fail(ML_INPUT, "label[%" PRId64 "] is none of the names of --labels", k);
            r->value[json_integer_value(number)] = 1.0f;
            continue;
        }
        double value = json_number_value(one);
        if (!json_is_number(one) || (value != 0.0 && value != 1.0))
            return ml_fail(ML_INPUT, "label[%" PRId64 "] is neither 0 nor 1", k);
        r->value[k] = (float)value;
    }
    return ML_OK;
}

static ml_status take_class(label_reader *r, const json_t *label)
{
    int32_t class = 0;
    ml_status st = ML_OK;
    if (json_is_real(label))
        return ml_fail(ML_INPUT,
                       "the label %g has a fraction, the rows before have %s; --labels "
                       "number takes all as numbers to regress",
                       json_real_value(label), kind_of_rows(r));
    if (json_is_string(label))
        st = label_reader_class(r, json_string_value(label), (int64_t)json_string_length(label),
                                &class);
    else
        st = take_number(r, json_integer_value(label), &class);
    r->value[0] = (float)class;
    return st;
}

ml_status label_reader_take(label_reader *r, const json_t *label)
{
    ml_status st = ML_OK;
    if (!json_is_string(label) && !json_is_number(label) && !json_is_array(label))
        return ml_fail(ML_INPUT, "\"label\" is %s, expected a name, a number or a list",
                       !label                ? "missing"
                       : json_is_null(label) ? "null"
                                             : "neither a text nor a number");
    const bool list = json_is_array(label);
    int64_t bits = list && r->known->count ? r->known->count : (int64_t)json_array_size(label);
    if (list && bits < 1) return ml_fail(ML_INPUT, "\"label\" is an empty list");
    if (r->kind == ML_LABEL_NONE) ML_TRY(begin(r, kind_of(r, label), bits));
    if (list != (r->kind == ML_LABEL_BITS) ||
        (r->kind == ML_LABEL_NUMBER && !json_is_number(label)))
        return ml_fail(ML_INPUT, "\"label\" is %s, the rows before have %s",
                       list                    ? "a list"
                       : json_is_string(label) ? "a name"
                                               : "a number",
                       kind_of_rows(r));
    if (r->kind == ML_LABEL_BITS) ML_TRY(take_bits(r, label));
    if (r->kind == ML_LABEL_CLASS) ML_TRY(take_class(r, label));
    if (r->kind == ML_LABEL_NUMBER) r->value[0] = (float)json_number_value(label);
    ML_TRY(ml_dataset_writer_add_label(r->writer, r->value));
done:
    return st;
}

/* ---- the order of the names ---------------------------------------------------------------- */

static int compare_names(const void *a, const void *b)
{
    const char *const *one = a, *const *other = b;
    return strcmp(*one, *other);
}

/* The base's number of a name, letters of either case; −1: none. */
static int64_t find_in_base(const json_t *base, const char *name)
{
    for (size_t i = 0; i < json_array_size(base); i++)
        if (!strcasecmp(json_string_value(json_array_get(base, i)), name)) return (int64_t)i;
    return -1;
}

/* The base's own order where every name is one of its classes, and of no two the same. */
static bool order_by_base(const label_reader *r, const json_t *base, int32_t *number)
{
    const char *name, *other;
    json_t *seen, *later;
    json_object_foreach(r->number_of, name, seen)
    {
        int64_t place = find_in_base(base, name);
        if (place < 0) return false;
        number[json_integer_value(seen)] = (int32_t)place;
        json_object_foreach(r->number_of, other,
                            later) if (seen != later && !strcasecmp(name, other)) return false;
    }
    return true;
}

/* The names so far, sorted, or both of r->usual, seen or not. Returns how many. */
static int64_t sort_names(label_reader *r, const char **sorted)
{
    const char *name;
    json_t *seen;
    int64_t n = 0;
    if (r->usual && r->usual[0]) {
        for (; n < 2; n++) sorted[n] = r->usual[n];
        return n;
    }
    json_object_foreach(r->number_of, name, seen) sorted[n++] = name;
    qsort(sorted, (size_t)n, sizeof *sorted, compare_names);
    return n;
}

static ml_status name_in_order(label_reader *r)
{
    ml_status st = ML_OK;
    const char **sorted = NULL;
    int32_t *number = NULL;
    json_t *list = json_array(), *base = NULL;
    char *text = NULL;
    int64_t count = r->count;
    const bool numbered = r->usual && r->usual[0]; /* the table has the numbers 0 and 1 */
    if (!numbered && r->known->unnamed >= r->count) {
        st = ml_fail(ML_INPUT,
                     "the base has a head for %" PRId64
                     " classes without names: say with --labels in which order they are",
                     r->known->unnamed);
        goto done;
    }
    if (r->known->base)
        ML_TRY(ml_json_read(&base, "id2label", r->known->base, (int64_t)strlen(r->known->base)));
    ML_NEW(sorted, ml_max(count, 2), ML_MEM_OTHER, "the names of labels");
    ML_NEW(number, ml_max(ml_max(count, 2), (int64_t)json_array_size(base)), ML_MEM_OTHER,
           "the numbers of labels");
    if (base && order_by_base(r, base, number)) {
        json_decref(list);
        list = json_incref(base);
        count = (int64_t)json_array_size(base);
    } else {
        count = sort_names(r, sorted);
        for (int64_t i = 0; i < count; i++) {
            const json_t *seen = json_object_get(r->number_of, sorted[i]);
            if (seen) number[json_integer_value(seen)] = (int32_t)i;
            json_array_append_new(list, json_string(sorted[i]));
        }
    }
    text = ml_json_dump(list, JSON_COMPACT);
    if (!text || (int64_t)json_array_size(list) != count) {
        st = lacking();
        goto done;
    }
    if (r->known->count && count != r->known->count) {
        st = ml_fail(ML_INPUT, "there are %" PRId64 " different labels, --labels says %" PRId64,
                     count, r->known->count);
        goto done;
    }
    if (count < 2) {
        st = ml_fail(ML_INPUT,
                     "every label is \"%.200s\": there is nothing to be told apart; where other "
                     "classes are in another file, name all of them with --labels",
                     json_string_value(json_array_get(list, 0)));
        goto done;
    }
    ML_TRY(ml_dataset_writer_name_labels(r->writer, count, text, number));
done:
    free(text);
    json_decref(list);
    json_decref(base);
    ml_memory_free(sorted);
    ml_memory_free(number);
    return st;
}

/* A head has a row for each number up to the largest, so that one id or amount among the labels
 * would make a head of that size. Many classes of which hardly any occurs are taken for such
 * numbers, unless --labels or the base's head say that there are so many. */
static ml_status check_numbers(const label_reader *r)
{
    enum { FEW = 1024, SHARE = 16 };
    const int64_t count = r->largest + 1;
    if (r->known->count || r->known->base || r->known->unnamed >= count) return ML_OK;
    if (count <= FEW || r->different * SHARE >= count) return ML_OK;
    return ml_fail(
        ML_INPUT,
        "labels go up to %" PRId64 ", but only %" PRId64 " of these %" PRId64
        " classes occur, and a head has a row for each; where that is meant say --labels "
        "%" PRId64 "%s",
        r->largest, r->different, count, count,
        r->kind == ML_LABEL_CLASS ? ", where they are numbers to regress --labels number" : "");
}

ml_status label_reader_finish(label_reader *r)
{
    if (r->kind != ML_LABEL_CLASS && r->kind != ML_LABEL_TOKENS) return ML_OK;
    if (r->known->names) return ML_OK;
    if (r->named) return name_in_order(r);
    ml_status st = check_numbers(r);
    if (st != ML_OK) return st;
    int64_t count = ml_max(r->known->count ? r->known->count : r->largest + 1, 2);
    return ml_dataset_writer_name_labels(r->writer, count, "", NULL);
}
