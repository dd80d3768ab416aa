/* What may stand in a text file: e2e, a sequence a line, jsonl, a sequence a row, and plain text;
 * ids are in tokenize_ids.c. Each format reads all of a job's text and hands its sequences to
 * ml_tokenize_emit. */
#include <inttypes.h>

#include "data/chat_private.h"
#include "data/tokenize_private.h"
#include "data/tokenizer/tokenizer_json.h"

/* ---- prompt and completion ------------------------------------------------------------------ */

ml_status ml_tokenize_encode(ml_tokenize_job *job, const char *bytes, int64_t length)
{
    ml_tokenizer *t = job->options->tokenizer;
    job->report->spelled += ml_tokenizer_spelled(t, bytes, length);
    return ml_tokenizer_encode(t, bytes, length, job->options->specials, &job->ids);
}

/* Prompt and completion are tokenised apart; loss is on the completion and the end-of-text after
 * it. */
static ml_status emit_pair(ml_tokenize_job *job, const char *prompt, int64_t prompt_length,
                           const char *completion, int64_t completion_length)
{
    ml_status st = ML_OK;
    ml_tokenizer *t = job->options->tokenizer;
    int32_t begin = ml_tokenizer_begin_of_text(t), end = ml_tokenizer_end_of_text(t);
    job->ids.count = 0;
    if (begin >= 0) ML_TRY(ml_ids_add(&job->ids, begin));
    ML_TRY(ml_tokenize_encode(job, prompt, prompt_length));
    int64_t first_target = job->ids.count;
    ML_TRY(ml_tokenize_encode(job, completion, completion_length));
    if (end >= 0) ML_TRY(ml_ids_add(&job->ids, end));
    ML_TRY(ml_tokenize_make_mask(job, job->ids.count));
    for (int64_t i = 0; i < job->ids.count; i++) job->mask[i] = i >= first_target;
    ML_TRY(ml_tokenize_emit(job, job->ids.data, job->mask, job->ids.count));
done:
    return st;
}

/* ---- e2e ----------------------------------------------------------------------------------- */

static bool is_blank_line(const ml_text *line)
{
    for (int64_t i = 0; i < line->length; i++)
        if (line->data[i] != ' ' && line->data[i] != '\t') return false;
    return true;
}

static ml_status e2e_line(ml_tokenize_job *job, const char *line, int64_t length)
{
    const char *bars = memmem(line, (size_t)length, "||", 2);
    if (!bars)
        return ml_fail(ML_INPUT, "there is no \"||\" between meaning representation and text");
    return emit_pair(job, line, bars - line, bars + 2, length - (bars + 2 - line));
}

ml_status ml_tokenize_e2e(ml_tokenize_job *job)
{
    ml_status st = ML_OK;
    bool more = true;
    while (st == ML_OK) {
        st = ml_line_reader_next(&job->reader, &more);
        if (st != ML_OK || !more) break;
        const ml_text *line = &job->reader.line;
        if (!is_blank_line(line)) st = e2e_line(job, line->data, line->length);
    }
    return st;
}

/* ---- jsonl --------------------------------------------------------------------------------- */

ml_status ml_tokenize_rows(ml_tokenize_job *job,
                           ml_status (*one)(ml_tokenize_job *job, const json_t *row))
{
    ml_status st = ML_OK;
    while (st == ML_OK) {
        st = ml_rows_next(&job->rows);
        if (st != ML_OK || !job->rows.row) break;
        st = one(job, job->rows.row);
    }
    return st;
}

static bool is_one_of(const char *const *words, const char *word)
{
    while (*words && strcmp(*words, word) != 0) words++;
    return *words;
}

ml_status ml_tokenize_lacks(const json_t *row, const char *const *keys, const char *hint)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)row, key, value)
    {
        const char *near = is_one_of(keys, key) ? NULL : ml_nearest_word(key, keys);
        if (near)
            return ml_fail(ML_INPUT, "unknown key \"%s\", did you mean \"%s\"?; %s", key, near,
                           hint);
    }
    return ml_fail(ML_INPUT, "%s", hint);
}

ml_status ml_tokenize_columns(ml_tokenize_job *job, const json_t *row, const char *const *keys,
                              const char *const *refused, const char *hint)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)row, key, value)
    {
        if (is_one_of(keys, key)) continue;
        if (is_one_of(refused, key))
            return ml_fail(ML_INPUT, "\"%s\" changes what is trained and is not read here; %s", key,
                           hint);
        if (!job->ignored) job->ignored = json_object();
        if (json_object_set_new(job->ignored, key, json_null()))
            return ml_fail(ML_RESOURCE, "out of memory: names of columns");
    }
    return ML_OK;
}

static ml_status check_text(const json_t *row, const char *key)
{
    const json_t *value = json_object_get(row, key);
    return !value || json_is_string(value) ? ML_OK
                                           : ml_fail(ML_INPUT, "\"%s\" is not a string", key);
}

static ml_status emit_conversation(ml_tokenize_job *job, const json_t *row)
{
    static const char *const keys[] = {"messages", "conversations",        "prompt", "completion",
                                       "tools",    "chat_template_kwargs", NULL};
    static const char *const refused[] = {"chosen", "rejected", "label", "images", NULL};
    ml_status st = ML_OK;
    const uint8_t *mask;
    ml_chat *chat = job->options->chat;
    if (!chat)
        return ml_fail(ML_INPUT, "a conversation, but the base has no chat template; give one with "
                                 "--chat-template FILE");
    ML_TRY(ml_tokenize_columns(job, row, keys, refused, "expected a conversation"));
    ML_TRY(ml_chat_encode(chat, row, job->rows.line, &job->ids, &mask));
    ML_TRY(ml_tokenize_emit(job, job->ids.data, mask, job->ids.count));
done:
    return st;
}

static ml_status jsonl_row(ml_tokenize_job *job, const json_t *row)
{
    static const char *const keys[] = {"prompt", "completion", "text", NULL};
    static const char *const refused[] = {"label", "chosen", "rejected", "tools", "images", NULL};
    static const char hint[] = "expected {\"prompt\": …, \"completion\": …}, {\"text\": …}, "
                               "{\"text\": …, \"label\": …} or {\"messages\": […]}";
    const json_t *prompt = json_object_get(row, "prompt"),
                 *completion = json_object_get(row, "completion"),
                 *text = json_object_get(row, "text");
    ml_status st = ML_OK;
    if (json_object_get(row, "chosen") || json_object_get(row, "rejected"))
        return ml_tokenize_preference(job, row);
    if (completion && json_object_get(row, "label")) return ml_tokenize_judged(job, row);
    if (ml_tokenize_is_related(row)) return ml_tokenize_related(job, row);
    if (ml_tokenize_is_labelled(row)) return ml_tokenize_labelled_row(job, row);
    if (ml_conversation_is(row)) return emit_conversation(job, row);
    for (int i = 0; keys[i]; i++) ML_TRY(check_text(row, keys[i]));
    ML_TRY(ml_tokenize_columns(job, row, keys, refused, hint));
    if (text ? prompt || completion : !prompt || !completion)
        return ml_tokenize_lacks(row, keys, hint);
    if (text) completion = text;
    st =
        emit_pair(job, prompt ? json_string_value(prompt) : "", (int64_t)json_string_length(prompt),
                  json_string_value(completion), (int64_t)json_string_length(completion));
done:
    return st;
}

ml_status ml_tokenize_jsonl(ml_tokenize_job *job) { return ml_tokenize_rows(job, jsonl_row); }

/* ---- plain text: documents with an empty line between them, each followed by end-of-text --- */

/* A document longer than the limit becomes several sequences. Documents of any length are read with
 * bounded memory: part of one is encoded when it has grown, cut where the next line begins with
 * something visible, which is where the split patterns cut as well. */
enum { PART = 4 << 20, LONGEST_PART = 64 << 20 };

typedef struct document {
    ml_text text; /* not encoded yet */
    bool open;    /* a line of it has been seen */
    bool several; /* it has been cut */
} document;

/* Writes sequences of at most `limit` tokens until at most `keep` tokens are left. A last token
 * alone would have no target, so the piece before it leaves it one more. */
static ml_status emit_pieces(ml_tokenize_job *job, document *doc, int64_t keep)
{
    ml_status st = ML_OK;
    int64_t limit = job->report->limit, start = 0;
    ML_TRY(ml_tokenize_make_mask(job, limit));
    memset(job->mask, 1, (size_t)limit);
    while (job->ids.count - start > keep) {
        int64_t left = job->ids.count - start, count = ml_min(left, limit);
        if (left == limit + 1 && limit > 2) count = limit - 1;
        if (count < left && !doc->several) {
            doc->several = true;
            job->report->split_documents++;
        }
        if (count == 1 && doc->several)
            break; /* limit 2 and an odd number of tokens: the last one is no target anyhow */
        ML_TRY(ml_tokenize_emit(job, job->ids.data + start, job->mask, count));
        start += count;
    }
    job->ids.count -= start;
    memmove(job->ids.data, job->ids.data + start, (size_t)job->ids.count * sizeof *job->ids.data);
done:
    return st;
}

static ml_status encode_part(ml_tokenize_job *job, document *doc)
{
    ml_status st = ml_tokenize_encode(job, doc->text.data, doc->text.length);
    doc->text.length = 0;
    return st;
}

static ml_status end_document(ml_tokenize_job *job, document *doc)
{
    ml_status st = ML_OK;
    int32_t end = ml_tokenizer_end_of_text(job->options->tokenizer);
    if (!doc->open) return ML_OK;
    ML_TRY(encode_part(job, doc));
    if (end >= 0) ML_TRY(ml_ids_add(&job->ids, end));
    ML_TRY(emit_pieces(job, doc, 0));
    job->ids.count = 0;
    doc->open = doc->several = false;
done:
    return st;
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || (c >= '\n' && c <= '\r') || (c & 0x80);
}

static ml_status add_line(ml_tokenize_job *job, document *doc)
{
    ml_status st = ML_OK;
    const ml_text *line = &job->reader.line;
    int32_t begin = ml_tokenizer_begin_of_text(job->options->tokenizer);
    if (!doc->open && begin >= 0) ML_TRY(ml_ids_add(&job->ids, begin));
    if (doc->open) ML_TRY(ml_text_add(&doc->text, "\n", 1));
    if (doc->text.length > LONGEST_PART || (doc->text.length > PART && !is_blank(line->data[0]))) {
        ML_TRY(encode_part(job, doc));
        ML_TRY(emit_pieces(job, doc, 2 * job->report->limit));
    }
    ML_TRY(ml_text_add(&doc->text, line->data, line->length));
    doc->open = true;
done:
    return st;
}

ml_status ml_tokenize_text(ml_tokenize_job *job)
{
    ml_status st = ML_OK;
    document doc = {0};
    bool more;
    for (;;) {
        ML_TRY(ml_line_reader_next(&job->reader, &more));
        if (!more) break;
        if (is_blank_line(&job->reader.line)) {
            ML_TRY(end_document(job, &doc));
        } else {
            ML_TRY(add_line(job, &doc));
        }
    }
    ML_TRY(end_document(job, &doc));
done:
    ml_text_destroy(&doc.text);
    return st;
}
