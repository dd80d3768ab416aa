/* Sequences with a label, or with a class a token; and the rows of ids that have them. */
#include <inttypes.h>

#include "data/tokenize_private.h"

/* ---- sequences ----------------------------------------------------------------------------- */

static ml_status begin(ml_tokenize_job *job, int64_t count)
{
    if (job->report->sequences != job->labelled || job->judged)
        return ml_fail(ML_INPUT, "has a label, the rows before it have none; a data set has labels "
                                 "for all or for none");
    if (count < 1) return ml_fail(ML_INPUT, "has no token; nothing can be told from it");
    ml_status st = ml_tokenize_make_mask(job, count);
    if (st == ML_OK) memset(job->mask, 0, (size_t)count);
    return st;
}

ml_status ml_tokenize_emit_labelled(ml_tokenize_job *job, const int32_t *tokens,
                                    const uint8_t *types, int64_t count, const json_t *label)
{
    ml_status st = ML_OK;
    ML_TRY(begin(job, count));
    ML_TRY(ml_dataset_writer_add(job->writer, tokens, job->mask, count));
    if (types) ML_TRY(ml_dataset_writer_add_types(job->writer, types));
    ML_TRY(label_reader_take(&job->labels, label));
    ML_TRY(ml_tokenize_count(job, count, 1, 1));
    job->labelled++;
done:
    return st;
}

ml_status ml_tokenize_emit_classes(ml_tokenize_job *job, const int32_t *tokens,
                                   const uint8_t *types, int64_t count, const int32_t *classes)
{
    ml_status st = ML_OK;
    int64_t targets = 0, kept = 0;
    ML_TRY(begin(job, count));
    for (int64_t t = 0; t < count; t++) {
        job->mask[t] = classes[t] != ML_LABEL_IGNORED;
        targets += job->mask[t];
        kept += job->mask[t] && t < job->report->limit;
    }
    if (!targets)
        return ml_fail(ML_INPUT, "none of its %" PRId64 " tokens has a label; leave it out", count);
    ML_TRY(ml_dataset_writer_add(job->writer, tokens, job->mask, count));
    if (types) ML_TRY(ml_dataset_writer_add_types(job->writer, types));
    ML_TRY(ml_dataset_writer_add_token_labels(job->writer, classes));
    ML_TRY(ml_tokenize_count(job, count, targets, kept));
    job->labelled++;
done:
    return st;
}

/* ---- rows of ids --------------------------------------------------------------------------- */

/* A list of as many whole numbers as there are ids, each from 0 to `most`. */
static ml_status check_list(const json_t *row, const char *key, size_t count, json_int_t most)
{
    const json_t *list = json_object_get(row, key);
    if (!json_is_array(list) || json_array_size(list) != count)
        return ml_fail(ML_INPUT, "\"%s\" is no list of %zu numbers, as input_ids is", key, count);
    for (size_t i = 0; i < count; i++) {
        const json_t *one = json_array_get(list, i);
        if (!json_is_integer(one) || json_integer_value(one) < 0 || json_integer_value(one) > most)
            return ml_fail(ML_INPUT, "%s[%zu] is no whole number from 0 to %" JSON_INTEGER_FORMAT,
                           key, i, most);
    }
    return ML_OK;
}

static ml_status take_types(const json_t *row, size_t count, uint8_t **out)
{
    ml_status st = ML_OK;
    const json_t *list = json_object_get(row, "token_type_ids");
    if (!list) return ML_OK;
    ML_TRY(check_list(row, "token_type_ids", count, UINT8_MAX));
    ML_NEW(*out, (int64_t)count, ML_MEM_OTHER, "token types");
    for (size_t i = 0; i < count; i++)
        (*out)[i] = (uint8_t)json_integer_value(json_array_get(list, i));
done:
    return st;
}

static ml_status emit_classes(ml_tokenize_job *job, const json_t *labels, const uint8_t *types)
{
    ml_status st = ML_OK;
    int32_t *class = NULL;
    const size_t count = (size_t)job->ids.count;
    if (json_array_size(labels) != count)
        return ml_fail(ML_INPUT, "\"token_labels\" is no list of %zu labels, as input_ids is",
                       count);
    ML_NEW(class, job->ids.count, ML_MEM_OTHER, "labels of tokens");
    for (size_t i = 0; i < count; i++)
        ML_TRY(label_reader_token(&job->labels, json_array_get(labels, i), &class[i]));
    ML_TRY(ml_tokenize_emit_classes(job, job->ids.data, types, job->ids.count, class));
done:
    ml_memory_free(class);
    return st;
}

ml_status ml_tokenize_labelled_ids(ml_tokenize_job *job, const json_t *row)
{
    static const char *const keys[] = {"input_ids", "token_type_ids", "attention_mask",
                                       "label",     "token_labels",   NULL};
    static const char *const refused[] = {"labels",       "completion_mask", "assistant_masks",
                                          "position_ids", "seq_lengths",     "prompt_ids",
                                          "chosen_ids",   "rejected_ids",    NULL};
    static const char hint[] = "expected {\"input_ids\": […], \"token_type_ids\": […], \"label\": "
                               "…}, or \"token_labels\": […]";
    ml_status st = ML_OK;
    uint8_t *types = NULL;
    const json_t *ids = json_object_get(row, "input_ids"), *label = json_object_get(row, "label"),
                 *classes = json_object_get(row, "token_labels");
    const size_t count = json_array_size(ids);
    if (label && classes)
        return ml_fail(ML_INPUT, "\"label\" and \"token_labels\" exclude each other; %s", hint);
    ML_TRY(ml_tokenize_columns(job, row, keys, refused, hint));
    ML_TRY(check_list(row, "input_ids", count, job->options->vocab - 1));
    ML_TRY(ml_tokenize_check_constant(row, "attention_mask", 1, count, "leave padding out"));
    ML_TRY(take_types(row, count, &types));
    job->ids.count = 0;
    for (size_t i = 0; i < count; i++)
        ML_TRY(ml_ids_add(&job->ids, (int32_t)json_integer_value(json_array_get(ids, i))));
    if (classes) {
        ML_TRY(emit_classes(job, classes, types));
    } else {
        ML_TRY(ml_tokenize_emit_labelled(job, job->ids.data, types, job->ids.count, label));
    }
done:
    ml_memory_free(types);
    return st;
}
