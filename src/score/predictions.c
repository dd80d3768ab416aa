/* A file of predictions: jsonl, {"prediction": …, "label": …} a line. Classes are told apart by
 * their names (a number's name is its digits) and numbered as they come; truth and prediction of
 * all rows lie one after the other as numbers. */
#include <inttypes.h>
#include <jansson.h>
#include <math.h>

#include "io/json.h"
#include "mpilora/score.h"
#include "score/characters.h"
#include "score/text_lines.h"

enum { MOST_CLASSES = 1 << 20 };

struct ml_predictions {
    ml_prediction_kind kind;
    int64_t count, width; /* values of each side; values a row */
    double *truth, *predicted;
    int64_t truth_capacity, predicted_capacity;
    json_t *names; /* name of a class → its number */
};

static ml_status add_value(ml_predictions *set, double truth, double predicted)
{
    ml_status st = ML_OK;
    ML_GROW(set->truth, set->count + 1, set->truth_capacity, ML_MEM_OTHER, "predictions");
    ML_GROW(set->predicted, set->count + 1, set->predicted_capacity, ML_MEM_OTHER, "predictions");
    set->truth[set->count] = truth;
    set->predicted[set->count++] = predicted;
done:
    return st;
}

static ml_status class_number(ml_predictions *set, const json_t *value, const char *key,
                              double *out)
{
    char digits[32];
    const char *name = json_string_value(value);
    if (json_is_integer(value)) {
        if (json_integer_value(value) < 0)
            return ml_fail(ML_INPUT,
                           "\"%s\" is %" JSON_INTEGER_FORMAT
                           ", which is no class: classes are numbered from 0 (a test set without "
                           "labels cannot be scored)",
                           key, json_integer_value(value));
        snprintf(digits, sizeof digits, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        name = digits;
    }
    if (!name || strlen(name) != (name == digits ? strlen(digits) : json_string_length(value)))
        return ml_fail(ML_INPUT, "\"%s\" is no class; expected a whole number or a name", key);
    const json_t *known = json_object_get(set->names, name);
    if (known) {
        *out = (double)json_integer_value(known);
        return ML_OK;
    }
    size_t number = json_object_size(set->names);
    if (number >= MOST_CLASSES)
        return ml_fail(ML_INPUT, "\"%s\" is the class number %zu; expected at most %d of them", key,
                       number + 1, (int)MOST_CLASSES);
    if (json_object_set_new(set->names, name, json_integer((json_int_t)number)))
        return ml_fail(ML_RESOURCE, "out of memory: names of classes");
    *out = (double)number;
    return ML_OK;
}

static ml_status take_class(ml_predictions *set, const json_t *predicted, const json_t *label)
{
    ml_status st = ML_OK;
    double truth = 0, value = 0;
    ML_TRY(class_number(set, label, "label", &truth));
    ML_TRY(class_number(set, predicted, "prediction", &value));
    ML_TRY(add_value(set, truth, value));
done:
    return st;
}

static ml_status take_number(ml_predictions *set, const json_t *predicted, const json_t *label)
{
    double truth = json_number_value(label), value = json_number_value(predicted);
    if (!json_is_number(label) || !json_is_number(predicted) || !isfinite(truth) ||
        !isfinite(value))
        return ml_fail(ML_INPUT, "\"prediction\" or \"label\" is not a number");
    return add_value(set, truth, value);
}

static ml_status check_lists(const json_t *predicted, const json_t *label)
{
    if (!json_is_array(predicted) || !json_is_array(label))
        return ml_fail(ML_INPUT, "\"prediction\" or \"label\" is not a list");
    if (json_array_size(predicted) != json_array_size(label))
        return ml_fail(ML_INPUT, "\"prediction\" has %zu elements, \"label\" %zu",
                       json_array_size(predicted), json_array_size(label));
    return ML_OK;
}

static bool is_bit(const json_t *value)
{
    return json_is_integer(value) && (json_integer_value(value) | 1) == 1;
}

static ml_status take_bits(ml_predictions *set, const json_t *predicted, const json_t *label)
{
    ml_status st = ML_OK;
    int64_t width = (int64_t)json_array_size(label);
    ML_TRY(check_lists(predicted, label));
    if (width < 1 || (set->count > 0 && width != set->width))
        return ml_fail(ML_INPUT, "\"label\" has %" PRId64 " bits, expected %" PRId64, width,
                       ml_max(1, set->width));
    set->width = width;
    for (size_t i = 0; i < (size_t)width; i++) {
        const json_t *t = json_array_get(label, i), *p = json_array_get(predicted, i);
        if (!is_bit(t) || !is_bit(p))
            return ml_fail(ML_INPUT, "element %zu of \"prediction\" or \"label\" is not 0 or 1", i);
        ML_TRY(add_value(set, (double)json_integer_value(t), (double)json_integer_value(p)));
    }
done:
    return st;
}

static ml_status take_tokens(ml_predictions *set, const json_t *predicted, const json_t *label)
{
    ml_status st = ML_OK;
    ML_TRY(check_lists(predicted, label));
    for (size_t i = 0; i < json_array_size(label); i++) {
        const json_t *one = json_array_get(label, i);
        if (json_is_integer(one) && json_integer_value(one) == -100) continue;
        ML_TRY(take_class(set, json_array_get(predicted, i), one));
    }
done:
    return st;
}

static ml_status take_line(ml_predictions *set, const char *line, int64_t length)
{
    static ml_status (*const take[])(ml_predictions *, const json_t *, const json_t *) = {
        take_class, take_number, take_bits, take_tokens};
    json_error_t error;
    json_t *object = NULL;
    int64_t wrong = utf8_invalid(line, length);
    if (wrong >= 0) return ml_fail(ML_INPUT, "column %" PRId64 ": not valid UTF-8", wrong + 1);
    ml_status st =
        ml_json_parse(&object, line, length, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
    if (st != ML_OK) return ml_fail_within(st, "column %d: not valid JSON", error.column);
    const json_t *predicted = json_object_get(object, "prediction"),
                 *label = json_object_get(object, "label");
    if (!predicted || !label)
        st = ml_fail(ML_INPUT, "there is no \"%s\"; expected {\"prediction\": …, \"label\": …}",
                     predicted ? "label" : "prediction");
    else
        st = take[set->kind](set, predicted, label);
    json_decref(object);
    return st;
}

static bool is_blank_line(const char *line, int64_t length)
{
    while (length > 0 && (*line == ' ' || *line == '\t' || *line == '\r')) line++, length--;
    return length == 0;
}

ml_status ml_predictions_read(ml_predictions **out, const char *path, ml_prediction_kind kind)
{
    ml_status st = ML_OK;
    ml_predictions *set = NULL;
    text_lines file = {0};
    const char *line;
    int64_t length;
    ML_TRY(text_lines_open(&file, path));
    ML_NEW(set, 1, ML_MEM_OTHER, "predictions");
    set->kind = kind;
    set->width = 1;
    set->truth_capacity = set->predicted_capacity = 64;
    ML_NEW(set->truth, 64, ML_MEM_OTHER, "predictions");
    ML_NEW(set->predicted, 64, ML_MEM_OTHER, "predictions");
    set->names = json_object();
    while (text_lines_next(&file, &line, &length)) {
        if (is_blank_line(line, length)) continue;
        st = take_line(set, line, length);
        if (st == ML_INPUT) st = ml_fail_within(st, "%s: line %" PRId64, path, file.number);
        if (st != ML_OK) goto done;
    }
    if (set->count == 0)
        st = ml_fail(ML_INPUT, "%s: no line has a label; there is nothing to score", path);
done:
    text_lines_close(&file);
    if (st != ML_OK) {
        ml_predictions_destroy(set);
        set = NULL;
    }
    *out = set;
    return st;
}

void ml_predictions_destroy(ml_predictions *set)
{
    if (!set) return;
    json_decref(set->names);
    ml_memory_free(set->truth);
    ml_memory_free(set->predicted);
    ml_memory_free(set);
}

int64_t ml_predictions_rows(const ml_predictions *set) { return set->count / set->width; }

int64_t ml_predictions_classes(const ml_predictions *set)
{
    return (int64_t)json_object_size(set->names);
}

int64_t ml_predictions_class(const ml_predictions *set, const char *name)
{
    const json_t *number = name ? json_object_get(set->names, name) : NULL;
    return number ? (int64_t)json_integer_value(number) : -1;
}

static ml_status score_bits(const ml_predictions *set, ml_class_scores *out)
{
    ml_status st = ML_OK;
    uint8_t *bit = NULL;
    ML_NEW(bit, 2 * set->count, ML_MEM_OTHER, "bits");
    for (int64_t i = 0; i < set->count; i++) {
        bit[i] = set->truth[i] > 0.0;
        bit[set->count + i] = set->predicted[i] > 0.0;
    }
    ML_TRY(ml_score_bits(bit, bit + set->count, set->count / set->width, set->width, out));
done:
    ml_memory_free(bit);
    return st;
}

ml_status ml_predictions_score(const ml_predictions *set, const char *none, const char *positive,
                               ml_class_scores *out)
{
    ml_status st = ML_OK;
    int32_t *number = NULL;
    if (set->kind == ML_PREDICT_BITS) return score_bits(set, out);
    if (set->kind == ML_PREDICT_NUMBER)
        return ml_fail(ML_INTERNAL, "numbers are not scored as classes");
    ML_NEW(number, 2 * set->count, ML_MEM_OTHER, "classes");
    for (int64_t i = 0; i < set->count; i++) {
        number[i] = (int32_t)set->truth[i];
        number[set->count + i] = (int32_t)set->predicted[i];
    }
    ML_TRY(ml_score_classes(number, number + set->count, set->count, ml_predictions_classes(set),
                            ml_predictions_class(set, none), ml_predictions_class(set, positive),
                            out));
done:
    ml_memory_free(number);
    return st;
}

ml_status ml_predictions_correlate(const ml_predictions *set, double *pearson, double *spearman)
{
    if (set->kind != ML_PREDICT_NUMBER)
        return ml_fail(ML_INTERNAL, "only numbers can be correlated");
    ml_status st = ml_score_pearson(set->predicted, set->truth, set->count, pearson);
    if (st == ML_OK) st = ml_score_spearman(set->predicted, set->truth, set->count, spearman);
    return st;
}
