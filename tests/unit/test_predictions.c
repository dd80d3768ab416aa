/* predictions of labels: the figures that scikit-learn and scipy gave (tests/golden/tasks.json),
 * and the same ones of the file that is written, by what `score --task` reads. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "mpilora/score.h"
#include "session/predictions.h"

enum { MOST = 64 };

static char path[64], written[64];
static json_t *cases;

static int start(void **state)
{
    (void)state;
    char name[4096];
    const char *source = getenv("MPILORA_SOURCE_DIR");
    snprintf(path, sizeof path, "test_predictions-%ld.h5", (long)getpid());
    snprintf(written, sizeof written, "test_predictions-%ld.jsonl", (long)getpid());
    snprintf(name, sizeof name, "%s/tests/golden/tasks.json", source ? source : ".");
    cases = json_load_file(name, 0, NULL);
    return !cases;
}

static int end(void **state)
{
    (void)state;
    json_decref(cases);
    unlink(path);
    unlink(written);
    return 0;
}

/* ---- a case as a data set and scores -------------------------------------------------------- */

/* The number of a class; names are numbered by `names`, a list that grows. */
static int64_t class_of(json_t *names, const json_t *value)
{
    if (json_is_integer(value)) return json_integer_value(value);
    size_t i = 0;
    while (i < json_array_size(names) && !json_equal(json_array_get(names, i), value)) i++;
    if (i == json_array_size(names)) json_array_append(names, (json_t *)(uintptr_t)value);
    return (int64_t)i;
}

static const json_t *side(const json_t *row, int which)
{
    return json_array_get(row, (size_t)which);
}

static int64_t count_classes(json_t *names, const json_t *rows)
{
    int64_t count = 2;
    for (size_t r = 0; r < json_array_size(rows); r++)
        for (int which = 0; which < 2; which++) {
            const json_t *one = side(json_array_get(rows, r), which);
            for (size_t i = 0; i < (json_is_array(one) ? json_array_size(one) : 1); i++) {
                const json_t *value = json_is_array(one) ? json_array_get(one, i) : one;
                int64_t class = class_of(names, value);
                if (class >= count) count = class + 1;
            }
        }
    return count;
}

static ml_dataset *dataset_of(const json_t *rows, ml_label_kind kind, int64_t count, json_t *names)
{
    ml_dataset_writer *writer = NULL;
    ml_dataset *data = NULL;
    char *text = json_array_size(names) ? json_dumps(names, JSON_COMPACT) : NULL;
    assert_int_equal(ml_dataset_writer_create(&writer, path, 10, "", 0), ML_OK);
    assert_int_equal(ml_dataset_writer_labels(writer, kind, count, text ? text : ""), ML_OK);
    for (size_t r = 0; r < json_array_size(rows); r++) {
        const json_t *label = side(json_array_get(rows, r), 1);
        int32_t tokens[MOST] = {1, 2, 3}, classes[MOST];
        uint8_t mask[MOST] = {0};
        float value[MOST] = {0};
        int64_t length = kind == ML_LABEL_TOKENS ? (int64_t)json_array_size(label) : 3;
        for (size_t i = 0; i < json_array_size(label); i++) {
            const json_t *one = json_array_get(label, i);
            if (kind == ML_LABEL_BITS) value[i] = (float)json_integer_value(one);
            bool ignored = json_is_integer(one) && json_integer_value(one) == -100;
            classes[i] = ignored ? -100 : (int32_t)class_of(names, one);
            mask[i] = kind == ML_LABEL_TOKENS && !ignored;
        }
        if (kind == ML_LABEL_CLASS) value[0] = (float)class_of(names, label);
        if (kind == ML_LABEL_NUMBER) value[0] = (float)json_number_value(label);
        assert_int_equal(ml_dataset_writer_add(writer, tokens, mask, length), ML_OK);
        if (kind == ML_LABEL_TOKENS)
            assert_int_equal(ml_dataset_writer_add_token_labels(writer, classes), ML_OK);
        else
            assert_int_equal(ml_dataset_writer_add_label(writer, value), ML_OK);
    }
    free(text);
    assert_int_equal(ml_dataset_writer_finish(writer), ML_OK);
    assert_int_equal(ml_dataset_open(&data, path), ML_OK);
    return data;
}

/* Scores of which the class is the largest, or the bits' signs, or the number. */
static void take(predictions *p, int64_t row, int64_t place, const json_t *value,
                 ml_label_kind kind, int64_t count, json_t *names)
{
    float score[MOST];
    for (int64_t k = 0; k < count; k++) score[k] = -0.5f - (float)k;
    if (kind == ML_LABEL_NUMBER) score[0] = (float)json_number_value(value);
    if (kind == ML_LABEL_CLASS || kind == ML_LABEL_TOKENS) score[class_of(names, value)] = 0.25f;
    if (kind == ML_LABEL_BITS)
        for (int64_t k = 0; k < count; k++)
            if (json_integer_value(json_array_get(value, (size_t)k))) score[k] = 1e-6f;
    predictions_take(p, row, place, score, count);
}

static void take_all(predictions *p, const json_t *rows, ml_label_kind kind, int64_t count,
                     json_t *names)
{
    for (int64_t r = 0; r < (int64_t)json_array_size(rows); r++) {
        const json_t *row = json_array_get(rows, (size_t)r), *value = side(row, 0);
        if (kind != ML_LABEL_TOKENS) {
            take(p, r, 0, value, kind, count, names);
            continue;
        }
        int64_t place = 0;
        for (size_t i = 0; i < json_array_size(value); i++) {
            const json_t *label = json_array_get(side(row, 1), i);
            if (json_is_integer(label) && json_integer_value(label) == -100) continue;
            take(p, r, place++, json_array_get(value, i), kind, count, names);
        }
    }
}

static double figure(const ml_figures *figures, const char *name)
{
    for (int64_t i = 0; i < figures->count; i++)
        if (!strcmp(figures->name[i], name)) return figures->value[i];
    fail_msg("no figure %s", name);
    return 0;
}

static void file_agrees(ml_label_kind kind, const ml_figures *figures)
{
    static const ml_prediction_kind kinds[] = {
        [ML_LABEL_CLASS] = ML_PREDICT_CLASS,
        [ML_LABEL_NUMBER] = ML_PREDICT_NUMBER,
        [ML_LABEL_BITS] = ML_PREDICT_BITS,
        [ML_LABEL_TOKENS] = ML_PREDICT_TOKENS,
    };
    ml_predictions *set = NULL;
    ml_class_scores s;
    double pearson, spearman;
    if (ml_predictions_read(&set, written, kinds[kind]) != ML_OK) fail_msg("%s", ml_error_text());
    if (kind == ML_LABEL_NUMBER) {
        assert_int_equal(ml_predictions_correlate(set, &pearson, &spearman), ML_OK);
        if (isfinite(pearson)) {
            assert_true(fabs(pearson - figure(figures, "pearson")) < 1e-7);
            assert_true(fabs(spearman - figure(figures, "spearman")) < 1e-12);
        }
    } else {
        const char *none = kind == ML_LABEL_TOKENS ? "O" : NULL;
        assert_int_equal(ml_predictions_score(set, none, NULL, &s), ML_OK);
        assert_true(fabs(s.accuracy - figure(figures, "accuracy")) < 1e-12);
        assert_true(fabs(s.f1_micro - figure(figures, "f1_micro")) < 1e-12);
        assert_true(fabs(s.f1_macro - figure(figures, "f1_macro")) < 1e-12);
    }
    ml_predictions_destroy(set);
}

static bool is_large(const json_t *rows)
{
    return json_number_value(side(json_array_get(rows, 0), 0)) > 1e5; /* beyond fp32's digits */
}

static void check_case(const json_t *one)
{
    const char *task = json_string_value(json_object_get(one, "task")), *name;
    const json_t *rows = json_object_get(one, "rows"), *label = side(json_array_get(rows, 0), 1);
    ml_label_kind kind = ML_LABEL_CLASS;
    if (!strcmp(task, "stsb") || !strcmp(task, "regress")) kind = ML_LABEL_NUMBER;
    if (!strcmp(task, "multilabel")) kind = ML_LABEL_BITS;
    if (!strcmp(task, "tokens")) kind = ML_LABEL_TOKENS;
    if (kind == ML_LABEL_NUMBER && is_large(rows)) return;
    json_t *names = json_array(), *value;
    if (!strcmp(task, "qqp")) {
        json_array_append_new(names, json_string("not_duplicate"));
        json_array_append_new(names, json_string("duplicate"));
    }
    int64_t count = 1;
    if (kind == ML_LABEL_BITS) count = (int64_t)json_array_size(label);
    if (kind == ML_LABEL_CLASS || kind == ML_LABEL_TOKENS) count = count_classes(names, rows);
    ml_dataset *data = dataset_of(rows, kind, count, names);
    ml_sampler *sampler = NULL;
    predictions p = {0};
    ml_figures figures;
    assert_int_equal(ml_sampler_create(&sampler, data, 0, &(ml_sampler_order){0}), ML_OK);
    assert_int_equal(predictions_create(&p, data, sampler, 0), ML_OK);
    take_all(&p, rows, kind, count, names);
    assert_int_equal(predictions_judge(&p, &figures), ML_OK);
    json_object_foreach((json_t *)json_object_get(one, "figures"), name, value)
    {
        double found = figure(&figures, name), expected = json_number_value(value);
        if (json_is_null(value) ? !isnan(found) : !(fabs(found - expected) < 1e-7))
            fail_msg("%s: %s is %.9g, expected %.9g", task, name, found, expected);
    }
    assert_int_equal(predictions_write(&p, written), ML_OK);
    file_agrees(kind, &figures);
    predictions_destroy(&p);
    ml_sampler_destroy(sampler);
    ml_dataset_destroy(data);
    json_decref(names);
}

static void figures_are_the_libraries(void **state)
{
    (void)state;
    assert_true(json_array_size(cases) >= 17);
    for (size_t i = 0; i < json_array_size(cases); i++) check_case(json_array_get(cases, i));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(figures_are_the_libraries)};
    return cmocka_run_group_tests(tests, start, end);
}
