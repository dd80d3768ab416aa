/* ids: rows of tokens, {"input_ids": […], "labels": […]}. A tokenizer of transformers and a
 * collator write more beside them: what says nothing is ignored, what changes the loss is refused.
 */
#include <inttypes.h>

#include "data/tokenize_private.h"

/* One token and its label; label −100: no target. */
static ml_status take_id(ml_tokenize_job *job, const json_t *id, const json_t *labels, size_t i)
{
    const json_t *label = labels ? json_array_get(labels, i) : id;
    if (!json_is_integer(id) || !json_is_integer(label))
        return ml_fail(ML_INPUT, "element %zu is not a whole number", i);
    json_int_t token = json_integer_value(id), value = json_integer_value(label);
    if (token < 0 || token >= job->options->vocab)
        return ml_fail(ML_INPUT,
                       "input_ids[%zu] is %" JSON_INTEGER_FORMAT
                       ", outside the vocabulary: ids go from 0 to %" PRId64,
                       i, token, job->options->vocab - 1);
    if (value != token && value != -100)
        return ml_fail(ML_INPUT,
                       "labels[%zu] is %" JSON_INTEGER_FORMAT
                       "; it may be the token itself, %" JSON_INTEGER_FORMAT ", or -100",
                       i, value, token);
    job->mask[i] = value == token;
    return ml_ids_add(&job->ids, (int32_t)token);
}

ml_status ml_tokenize_check_constant(const json_t *row, const char *key, json_int_t value,
                                     size_t count, const char *why)
{
    const json_t *column = json_object_get(row, key);
    if (!column) return ML_OK;
    if (json_array_size(column) != count)
        return ml_fail(ML_INPUT, "\"%s\" is no list of %zu numbers, as input_ids is", key, count);
    for (size_t i = 0; i < count; i++) {
        const json_t *one = json_array_get(column, i);
        if (!json_is_integer(one) || json_integer_value(one) != value)
            return ml_fail(ML_INPUT, "%s[%zu] is not %" JSON_INTEGER_FORMAT ": %s", key, i, value,
                           why);
    }
    return ML_OK;
}

static ml_status ids_row(ml_tokenize_job *job, const json_t *row)
{
    static const char *const keys[] = {"input_ids", "labels", "attention_mask", "token_type_ids",
                                       NULL};
    static const char *const refused[] = {"completion_mask", "assistant_masks", "position_ids",
                                          "seq_lengths",     "prompt_ids",      "chosen_ids",
                                          "rejected_ids",    "anchor_ids",      NULL};
    static const char hint[] = "expected {\"input_ids\": […], \"labels\": […]}";
    ml_status st = ML_OK;
    const json_t *ids = json_object_get(row, "input_ids"), *labels = json_object_get(row, "labels");
    size_t count = json_array_size(ids);
    if (!ids && json_object_get(row, "completion_ids")) return ml_tokenize_judged_ids(job, row);
    if (!ids && json_object_get(row, "prompt_ids")) return ml_tokenize_preference_ids(job, row);
    if (!ids && json_object_get(row, "anchor_ids")) return ml_tokenize_related_ids(job, row);
    if (!ids) return ml_tokenize_lacks(row, keys, hint);
    if (json_object_get(row, "label") || json_object_get(row, "token_labels"))
        return ml_tokenize_labelled_ids(job, row);
    if (!json_is_array(ids) || (labels && !json_is_array(labels)))
        return ml_fail(ML_INPUT, "\"input_ids\" or \"labels\" is not a list; %s", hint);
    if (labels && json_array_size(labels) != count)
        return ml_fail(ML_INPUT, "there are %zu input_ids but %zu labels", count,
                       json_array_size(labels));
    ML_TRY(ml_tokenize_columns(job, row, keys, refused, hint));
    ML_TRY(ml_tokenize_check_constant(row, "attention_mask", 1, count,
                                      "leave padding out; what is not trained has the label -100"));
    ML_TRY(ml_tokenize_check_constant(row, "token_type_ids", 0, count,
                                      "the model has no token types"));
    job->ids.count = 0;
    ML_TRY(ml_tokenize_make_mask(job, (int64_t)count));
    for (size_t i = 0; i < count; i++) ML_TRY(take_id(job, json_array_get(ids, i), labels, i));
    ML_TRY(ml_tokenize_emit(job, job->ids.data, job->mask, job->ids.count));
done:
    return st;
}

ml_status ml_tokenize_ids(ml_tokenize_job *job) { return ml_tokenize_rows(job, ids_row); }
