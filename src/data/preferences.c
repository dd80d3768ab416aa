/* Rows of preferences, texts or ids (lists of messages: preference_chats.c). A prompt and two
 * answers to it become two sequences, the prompt with the chosen answer and then with the rejected
 * one; what they begin with is in both, and is computed once where they share a micro-batch. A
 * prompt and an answer of which it is said whether it is wanted become one. */
#include <inttypes.h>

#include "data/tokenize_private.h"

/* ---- a pair --------------------------------------------------------------------------------- */

static ml_status emit_answer(ml_tokenize_job *job, const ml_ids *prompt, const ml_ids *answer)
{
    ml_status st = ML_OK;
    job->ids.count = 0;
    ML_TRY(ml_tokenize_make_mask(job, prompt->count + answer->count));
    for (int64_t i = 0; i < prompt->count; i++) ML_TRY(ml_ids_add(&job->ids, prompt->data[i]));
    for (int64_t i = 0; i < answer->count; i++) ML_TRY(ml_ids_add(&job->ids, answer->data[i]));
    for (int64_t i = 0; i < job->ids.count; i++) job->mask[i] = i >= prompt->count;
    ML_TRY(ml_tokenize_emit(job, job->ids.data, job->mask, job->ids.count));
done:
    return st;
}

ml_status ml_tokenize_emit_pair(ml_tokenize_job *job, const ml_ids *prompt, const ml_ids *chosen,
                                const ml_ids *rejected)
{
    ml_status st = ML_OK;
    if (job->report->sequences != 2 * job->pairs)
        return ml_fail(ML_INPUT, "has chosen and rejected answers, the rows before it have not; a "
                                 "data set has pairs alone or none");
    if (prompt->count < 1 || chosen->count < 1 || rejected->count < 1)
        return ml_fail(ML_INPUT, "prompt, chosen or rejected has no token; each needs one");
    if (chosen->count == rejected->count &&
        !memcmp(chosen->data, rejected->data, (size_t)chosen->count * sizeof *chosen->data))
        return ml_fail(
            ML_INPUT,
            "chosen and rejected are equal: there is nothing to prefer; leave the row out");
    ML_TRY(emit_answer(job, prompt, chosen));
    ML_TRY(emit_answer(job, prompt, rejected));
    if (job->pairs++ == 0) ml_dataset_writer_mark_pairs(job->writer);
done:
    return st;
}

/* ---- one answer ----------------------------------------------------------------------------- */

/* Of the values that stand for truth elsewhere, 0, 1 and "yes", none is taken: which of them means
 * what is a guess. */
static ml_status read_verdict(const json_t *row, float *out)
{
    const json_t *label = json_object_get(row, "label");
    if (!json_is_boolean(label))
        return ml_fail(ML_INPUT,
                       "\"label\" %s; it says whether the answer is wanted, expected "
                       "true or false",
                       ml_tokenize_fault(label, "is no truth value"));
    *out = json_is_true(label) ? 1.0F : 0.0F;
    return ML_OK;
}

static ml_status emit_judged(ml_tokenize_job *job, const json_t *row, const ml_ids *prompt,
                             const ml_ids *answer)
{
    ml_status st = ML_OK;
    float wanted;
    ML_TRY(read_verdict(row, &wanted));
    if (job->report->sequences != job->labelled || job->judged != (job->labelled > 0))
        return ml_fail(ML_INPUT, "says whether its answer is wanted, the rows before it do not; a "
                                 "data set has such rows alone or none");
    if (prompt->count < 1 || answer->count < 1)
        return ml_fail(ML_INPUT, "prompt or completion has no token; each needs one");
    if (!job->judged) ML_TRY(ml_dataset_writer_labels(job->writer, ML_LABEL_WANTED, 2, ""));
    ML_TRY(emit_answer(job, prompt, answer));
    ML_TRY(ml_dataset_writer_add_label(job->writer, &wanted));
    job->judged = true;
    job->labelled++;
done:
    return st;
}

/* ---- texts ---------------------------------------------------------------------------------- */

static ml_status encode(ml_tokenize_job *job, const json_t *text, bool begins, bool ends,
                        ml_ids *out)
{
    ml_status st = ML_OK;
    int32_t end = ml_tokenizer_end_of_text(job->options->tokenizer);
    job->ids.count = 0;
    if (begins) ML_TRY(ml_tokenizer_begin(job->options->tokenizer, &job->ids));
    ML_TRY(ml_tokenize_encode(job, json_string_value(text), (int64_t)json_string_length(text)));
    if (ends && end >= 0) ML_TRY(ml_ids_add(&job->ids, end));
    for (int64_t i = 0; i < job->ids.count; i++) ML_TRY(ml_ids_add(out, job->ids.data[i]));
done:
    return st;
}

/* The texts under `keys`, or the lists of messages, the first of them a prompt. */
static ml_status encode_parts(ml_tokenize_job *job, const json_t *row, const char *const *keys,
                              const char *hint, int64_t count, ml_ids *part)
{
    ml_status st = ML_OK;
    bool lists = false;
    for (int64_t i = 0; i < count; i++)
        lists = lists || json_is_array(json_object_get(row, keys[i]));
    if (lists) return ml_tokenize_render_parts(job, row, keys, count, part);
    for (int64_t i = 0; i < count; i++) {
        const json_t *text = json_object_get(row, keys[i]);
        if (!json_is_string(text))
            return ml_fail(ML_INPUT, "\"%s\" %s; %s", keys[i],
                           ml_tokenize_fault(text, "is not a string"), hint);
        ML_TRY(encode(job, text, i == 0, i > 0, &part[i]));
    }
done:
    return st;
}

/* Columns that change what a template makes of messages; texts have no template. TRL leaves out a
 * column of what the system says, LLaMA-Factory puts it first: beside messages, where it belongs,
 * which of them is meant is a guess. */
static ml_status check_columns(ml_tokenize_job *job, const json_t *row, const char *const *keys,
                               const char *hint)
{
    static const char *const chats[] = {"tools", "chat_template_kwargs"};
    enum { OF_MESSAGES = 3 };
    static const char *const refused[] = {"system", "functions", "documents",     "completion",
                                          "text",   "messages",  "conversations", "label",
                                          "images", "chosen",    "rejected",      NULL};
    const bool lists = json_is_array(json_object_get(row, keys[1]));
    for (int i = 0; i < 2; i++)
        if (json_object_get(row, chats[i]) && !lists)
            return ml_fail(ML_INPUT, "\"%s\" is of lists of messages, but the row has texts; %s",
                           chats[i], hint);
    return ml_tokenize_columns(job, row, keys, lists ? refused : refused + OF_MESSAGES, hint);
}

/* Where one of them is null, the other does not become a row of another kind. */
static ml_status check_answers(const json_t *row, const char *hint)
{
    static const char *const keys[] = {"chosen", "rejected"};
    for (int i = 0; i < 2; i++)
        if (json_is_null(json_object_get(row, keys[i])))
            return ml_fail(ML_INPUT, "\"%s\" is null beside \"%s\"; %s", keys[i], keys[1 - i],
                           hint);
    if (json_is_null(json_object_get(row, "prompt")))
        return ml_fail(ML_INPUT,
                       "\"prompt\" is null beside two texts: leave the column out where "
                       "the prompt is what they begin with in common; %s",
                       hint);
    return ML_OK;
}

ml_status ml_tokenize_preference(ml_tokenize_job *job, const json_t *row)
{
    static const char *const keys[] = {
        "prompt", "chosen", "rejected", "tools", "chat_template_kwargs", NULL};
    static const char hint[] = "expected {\"prompt\": …, \"chosen\": …, \"rejected\": …}, three "
                               "texts or lists of messages";
    ml_status st = ML_OK;
    json_t *own = NULL;
    ml_ids part[3] = {{0}, {0}, {0}};
    ML_TRY(check_columns(job, row, keys, hint));
    ML_TRY(check_answers(row, hint));
    ML_TRY(ml_tokenize_check_prompts(row));
    if (!json_object_get(row, "prompt") && json_object_get(row, "chosen") &&
        json_object_get(row, "rejected")) {
        ML_TRY(ml_tokenize_find_prompt(row, &own));
        row = own;
    }
    ML_TRY(encode_parts(job, row, keys, hint, 3, part));
    ML_TRY(ml_tokenize_emit_pair(job, &part[0], &part[1], &part[2]));
done:
    json_decref(own);
    for (int i = 0; i < 3; i++) ml_ids_destroy(&part[i]);
    return st;
}

ml_status ml_tokenize_judged(ml_tokenize_job *job, const json_t *row)
{
    static const char *const keys[] = {"prompt", "completion",           "label",
                                       "tools",  "chat_template_kwargs", NULL};
    static const char hint[] = "expected {\"prompt\": …, \"completion\": …, \"label\": true|false}";
    ml_status st = ML_OK;
    ml_ids part[2] = {{0}, {0}};
    ML_TRY(check_columns(job, row, keys, hint));
    ML_TRY(encode_parts(job, row, keys, hint, 2, part));
    ML_TRY(emit_judged(job, row, &part[0], &part[1]));
done:
    for (int i = 0; i < 2; i++) ml_ids_destroy(&part[i]);
    return st;
}

/* ---- ids ------------------------------------------------------------------------------------ */

static ml_status take_ids(const json_t *list, const char *key, const char *hint, ml_ids *out)
{
    ml_status st = ML_OK;
    if (!json_is_array(list))
        return ml_fail(ML_INPUT, "\"%s\" %s; %s", key, ml_tokenize_fault(list, "is not a list"),
                       hint);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *id = json_array_get(list, i);
        json_int_t value = json_is_integer(id) ? json_integer_value(id) : -1;
        if (value < 0 || value > INT32_MAX)
            return ml_fail(ML_INPUT, "%s[%zu] is no token id", key, i);
        ML_TRY(ml_ids_add(out, (int32_t)value));
    }
done:
    return st;
}

ml_status ml_tokenize_preference_ids(ml_tokenize_job *job, const json_t *row)
{
    static const char *const keys[] = {"prompt_ids", "chosen_ids", "rejected_ids", NULL};
    static const char *const refused[] = {"labels", "label", "position_ids", "completion_mask",
                                          NULL};
    static const char hint[] =
        "expected {\"prompt_ids\": […], \"chosen_ids\": […], \"rejected_ids\": […]}";
    ml_status st = ML_OK;
    ml_ids part[3] = {{0}, {0}, {0}};
    ML_TRY(ml_tokenize_columns(job, row, keys, refused, hint));
    for (int i = 0; i < 3; i++)
        ML_TRY(take_ids(json_object_get(row, keys[i]), keys[i], hint, &part[i]));
    ML_TRY(ml_tokenize_emit_pair(job, &part[0], &part[1], &part[2]));
done:
    for (int i = 0; i < 3; i++) ml_ids_destroy(&part[i]);
    return st;
}

ml_status ml_tokenize_judged_ids(ml_tokenize_job *job, const json_t *row)
{
    static const char *const keys[] = {"prompt_ids", "completion_ids", "label", NULL};
    static const char *const refused[] = {"labels", "chosen_ids", "rejected_ids", "position_ids",
                                          NULL};
    static const char hint[] =
        "expected {\"prompt_ids\": […], \"completion_ids\": […], \"label\": true|false}";
    ml_status st = ML_OK;
    ml_ids part[2] = {{0}, {0}};
    ML_TRY(ml_tokenize_columns(job, row, keys, refused, hint));
    for (int i = 0; i < 2; i++)
        ML_TRY(take_ids(json_object_get(row, keys[i]), keys[i], hint, &part[i]));
    ML_TRY(emit_judged(job, row, &part[0], &part[1]));
done:
    for (int i = 0; i < 2; i++) ml_ids_destroy(&part[i]);
    return st;
}
