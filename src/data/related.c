/* Rows of texts that belong together: an anchor, its positive, and negatives, as many in every row.
 * Each becomes a sequence of its own, as the tokenizer's template has a text, so that its vector is
 * the one that `embed` makes; objective contrastive reads them. */
#include <inttypes.h>

#include "data/tokenize_private.h"

static const char text_hint[] = "expected {\"anchor\": …, \"positive\": …}, and \"negative\": a "
                                "text or a list of texts, where there are any";
static const char id_hint[] =
    "expected {\"anchor_ids\": […], \"positive_ids\": […]}, and \"negative_ids\": a list of ids or "
    "of such lists, where there are any";

bool ml_tokenize_is_related(const json_t *row) { return json_object_get(row, "anchor") != NULL; }

/* ---- one text ------------------------------------------------------------------------------- */

static ml_status emit(ml_tokenize_job *job, const ml_ids *ids, const uint8_t *types)
{
    ml_status st = ML_OK;
    ML_TRY(ml_tokenize_make_mask(job, ids->count));
    memset(job->mask, 0, (size_t)ids->count);
    ML_TRY(ml_dataset_writer_add(job->writer, ids->data, job->mask, ids->count));
    if (types) ML_TRY(ml_dataset_writer_add_types(job->writer, types));
    ML_TRY(ml_tokenize_count(job, ids->count, 1, 1));
done:
    return st;
}

static ml_status add_text(ml_tokenize_job *job, const json_t *text, const char *key)
{
    ml_status st = ML_OK;
    ml_ids whole = {0};
    uint8_t *types = NULL;
    if (!json_is_string(text))
        return ml_fail(ML_INPUT, "\"%s\" %s; %s", key, ml_tokenize_fault(text, "is not a string"),
                       text_hint);
    job->ids.count = 0;
    ML_TRY(ml_tokenize_encode(job, json_string_value(text), (int64_t)json_string_length(text)));
    if (job->ids.count == 0) {
        st = ml_fail(ML_INPUT, "\"%s\" is empty, or has no token; leave the row out", key);
        goto done;
    }
    const ml_ids own[2] = {job->ids, {0}};
    ML_TRY(ml_tokenize_fill(job, own, false, &whole, &types));
    ML_TRY(emit(job, &whole, types));
done:
    ml_memory_free(types);
    ml_ids_destroy(&whole);
    return st;
}

static ml_status add_ids(ml_tokenize_job *job, const json_t *list, const char *key)
{
    ml_status st = ML_OK;
    if (!json_is_array(list) || json_array_size(list) == 0)
        return ml_fail(ML_INPUT, "\"%s\" %s; %s", key,
                       ml_tokenize_fault(list, "is no list of ids, or is empty"), id_hint);
    job->ids.count = 0;
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *id = json_array_get(list, i);
        json_int_t value = json_is_integer(id) ? json_integer_value(id) : -1;
        if (value < 0 || value > INT32_MAX)
            return ml_fail(ML_INPUT, "%s[%zu] is no token id", key, i);
        ML_TRY(ml_ids_add(&job->ids, (int32_t)value));
    }
    ML_TRY(emit(job, &job->ids, NULL));
done:
    return st;
}

/* ---- a row ---------------------------------------------------------------------------------- */

typedef ml_status add_one(ml_tokenize_job *job, const json_t *text, const char *key);

/* The negatives of a row are one, or a list of them: `lists` is how a list of them begins. */
static bool is_several(const json_t *negative, bool ids)
{
    return json_is_array(negative) && (!ids || json_is_array(json_array_get(negative, 0)));
}

/* As many in every row, since the rows of a step are laid side by side. */
static ml_status check_row(ml_tokenize_job *job, int64_t texts)
{
    if (job->report->sequences != job->row_texts * job->related)
        return ml_fail(ML_INPUT, "has an anchor, the rows before it have none; a data set has such "
                                 "rows alone or none");
    if (texts > ML_MOST_RELATED)
        return ml_fail(ML_INPUT, "has %" PRId64 " negatives; a row has at most %d", texts - 2,
                       ML_MOST_RELATED - 2);
    if (job->related == 0) job->row_texts = texts;
    if (job->row_texts == texts) return ML_OK;
    return ml_fail(ML_INPUT,
                   "has %" PRId64 " negatives, the rows before it have %" PRId64
                   "; all rows need as many",
                   texts - 2, job->row_texts - 2);
}

static ml_status add_row(ml_tokenize_job *job, const json_t *row, const char *const *keys, bool ids,
                         add_one *add)
{
    ml_status st = ML_OK;
    const json_t *negative = json_object_get(row, keys[2]);
    bool several = is_several(negative, ids);
    int64_t negatives = several ? (int64_t)json_array_size(negative) : negative ? 1 : 0;
    ML_TRY(check_row(job, 2 + negatives));
    for (int i = 0; i < 2; i++) ML_TRY(add(job, json_object_get(row, keys[i]), keys[i]));
    for (int64_t i = 0; i < negatives; i++)
        ML_TRY(add(job, several ? json_array_get(negative, (size_t)i) : negative, keys[2]));
    if (job->related++ == 0) ml_dataset_writer_mark_related(job->writer, job->row_texts);
done:
    return st;
}

ml_status ml_tokenize_related(ml_tokenize_job *job, const json_t *row)
{
    static const char *const keys[] = {"anchor", "positive", "negative", NULL};
    static const char *const refused[] = {"prompt", "completion", "chosen",   "rejected",
                                          "label",  "labels",     "messages", "conversations",
                                          "images", NULL};
    ml_status st = ml_tokenize_columns(job, row, keys, refused, text_hint);
    return st == ML_OK ? add_row(job, row, keys, false, add_text) : st;
}

ml_status ml_tokenize_related_ids(ml_tokenize_job *job, const json_t *row)
{
    static const char *const keys[] = {"anchor_ids", "positive_ids", "negative_ids", NULL};
    static const char *const refused[] = {"input_ids",    "labels",     "label",
                                          "position_ids", "prompt_ids", NULL};
    ml_status st = ml_tokenize_columns(job, row, keys, refused, id_hint);
    return st == ML_OK ? add_row(job, row, keys, true, add_ids) : st;
}
