/* Predictions of labels. Each replica notes those of its rows; as the others have zero there, a sum
 * gathers them, the same on any grid. */
#include "session/predictions.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>

#include "io/durable.h"
#include "io/json.h"
#include "mpilora/score.h"

/* ---- rows ---------------------------------------------------------------------------------- */

void predictions_destroy(predictions *p)
{
    ml_memory_free(p->first);
    ml_memory_free(p->value);
    *p = (predictions){0};
}

/* Values of a row. */
static int64_t width(const predictions *p, int64_t row)
{
    const ml_label_kind kind = ml_dataset_label_kind(p->data);
    if (kind == ML_LABEL_TOKENS)
        return ml_dataset_targets(p->data, ml_sampler_at(p->sampler, row), p->max_len);
    return kind == ML_LABEL_BITS ? ml_dataset_label_count(p->data) : 1;
}

ml_status predictions_create(predictions *p, const ml_dataset *data, ml_sampler *sampler,
                             int64_t max_len)
{
    ml_status st = ML_OK;
    *p = (predictions){.data = data, .sampler = sampler, .max_len = max_len};
    p->rows = ml_sampler_usable(sampler);
    ML_NEW(p->first, p->rows + 1, ML_MEM_OTHER, "predictions");
    for (int64_t row = 0; row < p->rows; row++) p->first[row + 1] = p->first[row] + width(p, row);
    p->values = p->first[p->rows];
    ML_NEW(p->value, ml_max(1, p->values), ML_MEM_OTHER, "predictions");
done:
    return st;
}

static int64_t largest(const float *score, int64_t n)
{
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++)
        if (score[i] > score[best]) best = i;
    return best;
}

void predictions_take(predictions *p, int64_t position, int64_t place, const float *score,
                      int64_t labels)
{
    float *out = p->value + p->first[position] + place;
    switch (ml_dataset_label_kind(p->data)) {
    case ML_LABEL_NUMBER:
        *out = *score;
        break;
    case ML_LABEL_CLASS:
    case ML_LABEL_TOKENS:
        *out = (float)largest(score, labels);
        break;
    case ML_LABEL_BITS:
        for (int64_t k = 0; k < labels; k++) out[k] = score[k] > 0.0F ? 1.0F : 0.0F;
        break;
    default: /* rows without labels of the head */
        break;
    }
}

void predictions_gather(predictions *p, const ml_grid *grid)
{
    ml_grid_sum_float(grid, ML_GROUP_DP, p->value, p->values);
    ml_grid_sum_float(grid, ML_GROUP_PIPE, p->value, p->values); /* only its last stage has any */
}

/* ---- what is true -------------------------------------------------------------------------- */

/* The labels as the values lie. */
static ml_status read_truth(const predictions *p, float *truth)
{
    ml_status st = ML_OK;
    int32_t *class = NULL;
    int64_t longest = 1;
    const bool tokens = ml_dataset_label_kind(p->data) == ML_LABEL_TOKENS;
    for (int64_t row = 0; tokens && row < p->rows; row++)
        longest =
            ml_max(longest, ml_dataset_length(p->data, ml_sampler_at(p->sampler, row), p->max_len));
    ML_NEW(class, longest, ML_MEM_OTHER, "labels of tokens");
    for (int64_t row = 0; row < p->rows; row++) {
        const int64_t i = ml_sampler_at(p->sampler, row);
        float *out = truth + p->first[row];
        if (!tokens) {
            ML_TRY(ml_dataset_read_label(p->data, i, out));
            continue;
        }
        ML_TRY(ml_dataset_read_token_labels(p->data, i, p->max_len, class));
        for (int64_t t = 0; t < ml_dataset_length(p->data, i, p->max_len); t++)
            if (class[t] != ML_LABEL_IGNORED) *out++ = (float)class[t];
    }
done:
    ml_memory_free(class);
    return st;
}

/* ---- figures ------------------------------------------------------------------------------- */

static void add(ml_figures *out, const char *name, double value)
{
    out->name[out->count] = name;
    out->value[out->count++] = value;
}

/* The number of a class by its name; −1: none has it. */
static ml_status find_name(const ml_dataset *data, const char *name, int64_t *out)
{
    json_t *list = NULL;
    const char *names = ml_dataset_label_names(data);
    *out = -1;
    if (!*names) return ML_OK;
    ml_status st = ml_json_read(&list, "label_names", names, (int64_t)strlen(names));
    for (size_t i = 0; i < json_array_size(list); i++)
        if (!strcmp(json_string_value(json_array_get(list, i)), name)) *out = (int64_t)i;
    json_decref(list);
    return st;
}

static ml_status judge_classes(const predictions *p, const float *truth, ml_figures *out)
{
    ml_status st = ML_OK;
    int32_t *class = NULL;
    ml_class_scores s;
    int64_t none = -1, count = ml_dataset_label_count(p->data), classes = count;
    const bool tokens = ml_dataset_label_kind(p->data) == ML_LABEL_TOKENS;
    if (tokens) ML_TRY(find_name(p->data, "O", &none));
    ML_NEW(class, 2 * p->values, ML_MEM_OTHER, "classes");
    for (int64_t i = 0; i < p->values; i++) {
        class[i] = (int32_t)truth[i];
        class[p->values + i] = (int32_t)p->value[i];
        /* The head may have more classes than the data. */
        classes = ml_max(classes, (int64_t) class[p->values + i] + 1);
    }
    ML_TRY(ml_score_classes(class, class + p->values, p->values, classes, none, count == 2 ? 1 : -1,
                            &s));
    add(out, "accuracy", s.accuracy);
    if (count == 2 && !tokens) add(out, "f1", s.f1);
    add(out, "f1_micro", s.f1_micro);
    add(out, "f1_macro", s.f1_macro);
    if (!tokens) add(out, "matthews", s.matthews);
done:
    ml_memory_free(class);
    return st;
}

static ml_status judge_bits(const predictions *p, const float *truth, ml_figures *out)
{
    ml_status st = ML_OK;
    uint8_t *bit = NULL;
    ml_class_scores s;
    ML_NEW(bit, 2 * p->values, ML_MEM_OTHER, "bits");
    for (int64_t i = 0; i < p->values; i++) {
        bit[i] = truth[i] > 0.0F;
        bit[p->values + i] = p->value[i] > 0.0F;
    }
    ML_TRY(ml_score_bits(bit, bit + p->values, p->rows, ml_dataset_label_count(p->data), &s));
    add(out, "accuracy", s.accuracy);
    add(out, "f1_micro", s.f1_micro);
    add(out, "f1_macro", s.f1_macro);
done:
    ml_memory_free(bit);
    return st;
}

static ml_status judge_numbers(const predictions *p, const float *truth, ml_figures *out)
{
    ml_status st = ML_OK;
    double *x = NULL, pearson = NAN, spearman = NAN;
    bool finite = p->values >= 2;
    ML_NEW(x, 2 * p->values, ML_MEM_OTHER, "numbers");
    for (int64_t i = 0; i < p->values; i++) {
        x[i] = truth[i];
        x[p->values + i] = p->value[i];
        finite = finite && isfinite(p->value[i]);
    }
    if (finite) {
        ML_TRY(ml_score_pearson(x + p->values, x, p->values, &pearson));
        ML_TRY(ml_score_spearman(x + p->values, x, p->values, &spearman));
    }
    add(out, "pearson", pearson);
    add(out, "spearman", spearman);
done:
    ml_memory_free(x);
    return st;
}

ml_status predictions_judge(const predictions *p, ml_figures *out)
{
    ml_status st = ML_OK;
    float *truth = NULL;
    *out = (ml_figures){0};
    ML_NEW(truth, ml_max(1, p->values), ML_MEM_OTHER, "labels");
    ML_TRY(read_truth(p, truth));
    switch (ml_dataset_label_kind(p->data)) {
    case ML_LABEL_CLASS:
    case ML_LABEL_TOKENS:
        st = judge_classes(p, truth, out);
        break;
    case ML_LABEL_NUMBER:
        st = judge_numbers(p, truth, out);
        break;
    case ML_LABEL_BITS:
        st = judge_bits(p, truth, out);
        break;
    default:
        break;
    }
done:
    ml_memory_free(truth);
    return st;
}

/* ---- the file ------------------------------------------------------------------------------ */

/* With the fewest digits that are this number again: 2.4 stays 2.4. */
static ml_status add_number(float value, ml_text *out)
{
    char text[ML_JSON_NUMBER] = "null";
    for (int digits = 6; isfinite(value) && digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)value);
        if (strtof(text, NULL) == value) break;
    }
    return ml_text_printf(out, "%s", text);
}

static ml_status add_value(const predictions *p, const json_t *names, float value, ml_text *out)
{
    if (ml_dataset_label_kind(p->data) == ML_LABEL_NUMBER) return add_number(value, out);
    const char *name = json_string_value(json_array_get(names, (size_t)value));
    if (!name || ml_dataset_label_kind(p->data) == ML_LABEL_BITS)
        return ml_text_printf(out, "%d", (int)value);
    return json_text_add(out, name, (int64_t)strlen(name));
}

static ml_status add_values(const predictions *p, const json_t *names, const float *value,
                            int64_t n, ml_text *out)
{
    ml_status st = ML_OK;
    const ml_label_kind kind = ml_dataset_label_kind(p->data);
    const bool list = kind == ML_LABEL_BITS || kind == ML_LABEL_TOKENS;
    if (list) ML_TRY(ml_text_add(out, "[", 1));
    for (int64_t i = 0; i < n; i++) {
        if (i > 0) ML_TRY(ml_text_add(out, ", ", 2));
        ML_TRY(add_value(p, names, value[i], out));
    }
    if (list) ML_TRY(ml_text_add(out, "]", 1));
done:
    return st;
}

ml_status predictions_write(const predictions *p, const char *path)
{
    ml_status st = ML_OK;
    float *truth = NULL;
    json_t *names = NULL;
    ml_text text = {0};
    const char *list = ml_dataset_label_names(p->data);
    if (*list) ML_TRY(ml_json_read(&names, "label_names", list, (int64_t)strlen(list)));
    ML_NEW(truth, ml_max(1, p->values), ML_MEM_OTHER, "labels");
    ML_TRY(read_truth(p, truth));
    for (int64_t row = 0; row < p->rows; row++) {
        const int64_t first = p->first[row], n = p->first[row + 1] - first;
        ML_TRY(ml_text_printf(&text, "{\"prediction\": "));
        ML_TRY(add_values(p, names, p->value + first, n, &text));
        ML_TRY(ml_text_printf(&text, ", \"label\": "));
        ML_TRY(add_values(p, names, truth + first, n, &text));
        ML_TRY(ml_text_printf(&text, "}\n"));
    }
    ML_TRY(ml_durable_write(path, text.data, text.length, NULL));
done:
    ml_text_destroy(&text);
    json_decref(names);
    ml_memory_free(truth);
    return st;
}
