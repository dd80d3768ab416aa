/* mpilora score --task: a table of tasks says of what form predictions are and which figures a
 * task is judged by, GLUE's as GLUE defines them. */
#include "cli/commands/score_task.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>

#include "mpilora/score.h"

enum { ACCURACY = 1, F1 = 2, F1_AVERAGES = 4, MATTHEWS = 8, CORRELATIONS = 16 };

typedef struct task {
    const char *name;
    ml_prediction_kind kind;
    unsigned figures;
    const char *positive, *none; /* names of classes; a 1 is positive, too */
} task;

static const task tasks[] = {
    {"cola", ML_PREDICT_CLASS, MATTHEWS, NULL, NULL},
    {"sst2", ML_PREDICT_CLASS, ACCURACY, NULL, NULL},
    {"mrpc", ML_PREDICT_CLASS, ACCURACY | F1, "equivalent", NULL},
    {"stsb", ML_PREDICT_NUMBER, CORRELATIONS, NULL, NULL},
    {"qqp", ML_PREDICT_CLASS, ACCURACY | F1, "duplicate", NULL},
    {"mnli", ML_PREDICT_CLASS, ACCURACY, NULL, NULL},
    {"qnli", ML_PREDICT_CLASS, ACCURACY, NULL, NULL},
    {"rte", ML_PREDICT_CLASS, ACCURACY, NULL, NULL},
    {"wnli", ML_PREDICT_CLASS, ACCURACY, NULL, NULL},
    {"classify", ML_PREDICT_CLASS, ACCURACY | F1 | F1_AVERAGES | MATTHEWS, NULL, NULL},
    {"regress", ML_PREDICT_NUMBER, CORRELATIONS, NULL, NULL},
    {"multilabel", ML_PREDICT_BITS, ACCURACY | F1_AVERAGES, NULL, NULL},
    {"tokens", ML_PREDICT_TOKENS, ACCURACY | F1_AVERAGES, NULL, "O"},
};

static ml_status find_task(const char *name, const task **out)
{
    for (size_t i = 0; i < sizeof tasks / sizeof *tasks; i++)
        if (!strcmp(tasks[i].name, name)) {
            *out = &tasks[i];
            return ML_OK;
        }
    return ml_fail(ML_USAGE,
                   "--task %s: expected cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte, wnli, "
                   "classify, regress, multilabel or tokens",
                   name);
}

/* What is not a number is null in JSON, which has no word for it. */
static void put(json_t *to, const char *key, const char *suffix, double value)
{
    char name[64];
    snprintf(name, sizeof name, "%s%s", key, suffix);
    json_object_set_new(to, name, isfinite(value) ? json_real(value) : json_null());
}

/* The class that f1 is of: what was given, the task's, or 1. It is the figure of two classes: of
 * more, or where neither word occurs, there is none unless it was asked for. */
static ml_status find_positive(const ml_predictions *set, const task *t, const char *given,
                               const char **out)
{
    *out = given ? given : "1";
    if (!given && t->positive && ml_predictions_class(set, t->positive) >= 0) *out = t->positive;
    if (given && ml_predictions_class(set, given) < 0)
        return ml_fail(ML_INPUT, "--positive %s: no row has this class, true or predicted", given);
    if (!given && t->positive && ml_predictions_classes(set) > 2)
        return ml_fail(ML_INPUT,
                       "%s has two classes, but %" PRId64 " occur, true or predicted, in the file",
                       t->name, ml_predictions_classes(set));
    if (ml_predictions_class(set, *out) >= 0) return ML_OK;
    if (t->positive)
        ml_warn("no row has class 1 or %s, true or predicted: f1 is 0 (--positive NAME says of "
                "which class it is)",
                t->positive);
    else
        *out = NULL;
    return ML_OK;
}

static ml_status put_figures(json_t *to, const ml_predictions *set, const task *t,
                             const score_task_given *given, const char *suffix)
{
    ml_status st = ML_OK;
    ml_class_scores s;
    double pearson, spearman;
    const char *positive = NULL;
    if (t->figures & CORRELATIONS) {
        ML_TRY(ml_predictions_correlate(set, &pearson, &spearman));
        if (!isfinite(pearson))
            ml_warn("all predictions or all labels are equal: there is no correlation");
        put(to, "pearson", suffix, pearson);
        put(to, "spearman", suffix, spearman);
        return ML_OK;
    }
    if (t->figures & F1) ML_TRY(find_positive(set, t, given->positive, &positive));
    if (!given->positive && !t->positive && ml_predictions_classes(set) > 2) positive = NULL;
    ML_TRY(ml_predictions_score(set, t->none, positive, &s));
    if (t->figures & ACCURACY) put(to, "accuracy", suffix, s.accuracy);
    if (positive) put(to, "f1", suffix, s.f1);
    if (t->figures & F1_AVERAGES) put(to, "f1_micro", suffix, s.f1_micro);
    if (t->figures & F1_AVERAGES) put(to, "f1_macro", suffix, s.f1_macro);
    if (t->figures & MATTHEWS) put(to, "matthews", suffix, s.matthews);
done:
    return st;
}

static ml_status put_file(json_t *to, const char *path, const task *t,
                          const score_task_given *given, const char *suffix)
{
    ml_status st = ML_OK;
    char key[64];
    ml_predictions *set = NULL;
    ML_TRY(ml_predictions_read(&set, path, t->kind));
    snprintf(key, sizeof key, "rows%s", suffix);
    json_object_set_new(to, key, json_integer(ml_predictions_rows(set)));
    st = put_figures(to, set, t, given, suffix);
    if (st == ML_INPUT) st = ml_fail_within(st, "%s", path);
done:
    ml_predictions_destroy(set);
    return st;
}

static void print_lines(const json_t *figures)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)figures, key, value)
    {
        if (json_is_integer(value))
            printf("%-20s %" JSON_INTEGER_FORMAT "\n", key, json_integer_value(value));
        else if (json_is_null(value))
            printf("%-20s undefined\n", key);
        else
            printf("%-20s %.6f\n", key, json_real_value(value));
    }
}

ml_status score_task(const score_task_given *given)
{
    ml_status st = ML_OK;
    const task *t = NULL;
    json_t *figures = json_object();
    ML_TRY(find_task(given->task, &t));
    if (given->mismatched && strcmp(t->name, "mnli") != 0) {
        st = ml_fail(ML_USAGE, "--mismatched is MNLI's second set; --task %s has one", t->name);
        goto done;
    }
    if (given->positive && !(t->figures & F1)) {
        st = ml_fail(ML_USAGE, "--positive is for tasks with f1: mrpc, qqp and classify");
        goto done;
    }
    ML_TRY(put_file(figures, given->path, t, given, ""));
    if (given->mismatched) ML_TRY(put_file(figures, given->mismatched, t, given, "_mismatched"));
    if (given->json) {
        json_dumpf(figures, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(17));
        printf("\n");
    } else {
        print_lines(figures);
    }
done:
    json_decref(figures);
    return st;
}
