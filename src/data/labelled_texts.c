/* Texts with labels: one or two become a sequence by the tokenizer's own template, and are cut so
 * that it keeps its special tokens, as transformers' truncation=True does. */
#include <inttypes.h>

#include "data/tokenize_private.h"

/* ---- the template -------------------------------------------------------------------------- */

int64_t ml_tokenize_room(const ml_tokenize_job *job, bool pair)
{
    int64_t count, specials = 0;
    const ml_template_part *part = ml_tokenizer_template(job->options->tokenizer, pair, &count);
    for (int64_t i = 0; i < count; i++) specials += part[i].id >= 0;
    return job->report->limit - specials;
}

/* The longer one gives first; where both are long each keeps a half, b the odd token. */
static void cut_longest(int64_t room, int64_t *a, int64_t *b)
{
    if (*a + *b <= room) return;
    int64_t shorter = ml_min(*a, *b), longer = ml_max(shorter, room - shorter);
    if (shorter + longer > room) {
        shorter = room / 2;
        longer = room - shorter;
    }
    bool swapped = *a > *b;
    *a = swapped ? longer : shorter;
    *b = swapped ? shorter : longer;
}

ml_status ml_tokenize_fill(ml_tokenize_job *job, const ml_ids text[2], bool pair, ml_ids *out,
                           uint8_t **types)
{
    ml_status st = ML_OK;
    int64_t parts, room = ml_tokenize_room(job, pair);
    int64_t keep[2] = {text[0].count, pair ? text[1].count : 0}, whole = keep[0] + keep[1];
    const ml_template_part *part = ml_tokenizer_template(job->options->tokenizer, pair, &parts);
    if (room < (pair ? 2 : 1)) {
        st = ml_fail(ML_INPUT,
                     "%" PRId64 " tokens leave no room for a text beside the %" PRId64
                     " special tokens; raise --max-len",
                     job->report->limit, job->report->limit - room);
        goto done;
    }
    if (pair)
        cut_longest(room, &keep[0], &keep[1]);
    else
        keep[0] = ml_min(keep[0], room);
    job->report->cut_texts += keep[0] + keep[1] < whole;
    job->report->cut_tokens += whole - keep[0] - keep[1];
    ml_memory_free(*types);
    ML_NEW(*types, keep[0] + keep[1] + parts, ML_MEM_OTHER, "token types");
    out->count = 0;
    for (int64_t i = 0; i < parts; i++) {
        const bool second = part[i].id == ML_TEMPLATE_B;
        int64_t n = part[i].id >= 0 ? 1 : keep[second];
        for (int64_t k = 0; k < n; k++) {
            (*types)[out->count] = (uint8_t)part[i].type;
            ML_TRY(ml_ids_add(out, part[i].id >= 0 ? part[i].id : text[second].data[k]));
        }
    }
done:
    return st;
}

/* ---- one row ------------------------------------------------------------------------------- */

/* The ids of a text alone, into *out. */
static ml_status encode(ml_tokenize_job *job, const ml_slice *text, const char *name, ml_ids *out)
{
    ml_status st = ML_OK;
    job->ids.count = 0;
    ML_TRY(ml_tokenize_encode(job, text->data, text->length));
    if (job->ids.count == 0)
        return ml_fail(ML_INPUT, "%s is empty, or has no token; leave the row out", name);
    const ml_ids swapped = *out;
    *out = job->ids;
    job->ids = swapped;
done:
    return st;
}

/* All rows have one text, or all have two. */
static ml_status check_pair(ml_tokenize_job *job, bool pair)
{
    if (job->labelled == 0) job->two_texts = pair;
    if (job->two_texts == pair) return ML_OK;
    return ml_fail(ML_INPUT, "has %s, the rows before have %s", pair ? "two texts" : "one text",
                   pair ? "one" : "two");
}

ml_status ml_tokenize_labelled_text(ml_tokenize_job *job, const ml_slice *a, const ml_slice *b,
                                    const json_t *label)
{
    ml_status st = ML_OK;
    ml_ids text[2] = {{0}, {0}}, ids = {0};
    uint8_t *types = NULL;
    ML_TRY(check_pair(job, b != NULL));
    ML_TRY(encode(job, a, b ? "the first text" : "the text", &text[0]));
    if (b) ML_TRY(encode(job, b, "the second text", &text[1]));
    ML_TRY(ml_tokenize_fill(job, text, b != NULL, &ids, &types));
    ML_TRY(ml_tokenize_emit_labelled(job, ids.data, types, ids.count, label));
done:
    ml_memory_free(types);
    ml_ids_destroy(&ids);
    for (int i = 0; i < 2; i++) ml_ids_destroy(&text[i]);
    return st;
}

/* ---- jsonl --------------------------------------------------------------------------------- */

bool ml_tokenize_is_labelled(const json_t *row)
{
    return json_object_get(row, "text_a") || json_object_get(row, "text_b") ||
           (json_object_get(row, "text") && json_object_get(row, "label"));
}

ml_status ml_tokenize_labelled_row(ml_tokenize_job *job, const json_t *row)
{
    static const char *const keys[] = {"text", "text_a", "text_b", "label", NULL};
    static const char *const refused[] = {"prompt",        "completion", "chosen",
                                          "rejected",      "labels",     "messages",
                                          "conversations", "images",     NULL};
    static const char hint[] =
        "expected {\"text\": …, \"label\": …} or {\"text_a\": …, \"text_b\": …, \"label\": …}";
    ml_status st = ML_OK;
    const json_t *text[2] = {json_object_get(row, "text"), NULL};
    ML_TRY(ml_tokenize_columns(job, row, keys, refused, hint));
    const bool pair = json_object_get(row, "text_a") || json_object_get(row, "text_b");
    if (pair && text[0]) return ml_fail(ML_INPUT, "has \"text\" beside \"text_a\"; %s", hint);
    for (int i = 0; pair && i < 2; i++) text[i] = json_object_get(row, i ? "text_b" : "text_a");
    if (!text[0] || (pair && !text[1])) return ml_tokenize_lacks(row, keys, hint);
    for (int i = 0; i < (pair ? 2 : 1); i++)
        if (!json_is_string(text[i]))
            return ml_fail(ML_INPUT, "\"%s\" %s; %s",
                           !pair ? "text"
                           : i   ? "text_b"
                                 : "text_a",
                           ml_tokenize_fault(text[i], "is not a string"), hint);
    const ml_slice a = {json_string_value(text[0]), (int64_t)json_string_length(text[0])},
                   b = {json_string_value(text[1]), (int64_t)json_string_length(text[1])};
    st = ml_tokenize_labelled_text(job, &a, pair ? &b : NULL, json_object_get(row, "label"));
done:
    return st;
}
