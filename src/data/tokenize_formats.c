/* What may stand in a text file: e2e, a sequence a line, and jsonl, a sequence a row; plain text is
 * in tokenize_documents.c, ids are in tokenize_ids.c. Each format takes all rows of a job's text
 * (tokenize_rows.c) and hands its sequences to ml_tokenize_emit. */
#include "data/chat_private.h"
#include "data/tokenize_private.h"
#include "data/tokenizer/tokenizer_json.h"

/* ---- prompt and completion ------------------------------------------------------------------ */

int32_t ml_tokenize_end(const ml_tokenizer *t)
{
    int64_t count;
    const ml_template_part *part = ml_tokenizer_template(t, false, &count);
    int32_t end = ml_tokenizer_end_of_text(t);
    return end < 0 && count > 0 && part[count - 1].id >= 0 ? part[count - 1].id : end;
}

/* Prompt and completion are tokenised apart; loss is on the completion and the end-of-text after
 * it. */
static ml_status emit_pair(ml_tokenize_job *job, const char *prompt, int64_t prompt_length,
                           const char *completion, int64_t completion_length)
{
    ml_status st = ML_OK;
    ml_tokenizer *t = job->options->tokenizer;
    int32_t end = ml_tokenize_end(t);
    job->ids.count = 0;
    ML_TRY(ml_tokenizer_begin(t, &job->ids));
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

ml_status ml_tokenize_check_text(const ml_tokenize_job *job, const ml_text *line)
{
    if (job->options->format != ML_FORMAT_GUESS) return ML_OK;
    if (!memchr(line->data, '\0', (size_t)line->length)) return ML_OK;
    return ml_fail(ML_INPUT,
                   "there is a zero byte in it, as in no text (for plain text all the same say "
                   "--format text)");
}

bool ml_tokenize_is_blank(const char *line, int64_t length)
{
    for (int64_t i = 0; i < length; i++)
        if (line[i] != ' ' && line[i] != '\t') return false;
    return true;
}

static void prepare_e2e(const void *context, ml_ahead_row *row, ml_ahead_worker *worker)
{
    const char *bars = memmem(row->text, (size_t)row->length, "||", 2);
    (void)context;
    if (!bars) return;
    ml_ahead_encode(worker, row, row->text, bars - row->text);
    ml_ahead_encode(worker, row, bars + 2, row->length - (bars + 2 - row->text));
}

static ml_status take_e2e(void *self, ml_ahead_row *row)
{
    const char *line = row->text;
    if (ml_tokenize_is_blank(line, row->length)) return ML_OK;
    const char *bars = memmem(line, (size_t)row->length, "||", 2);
    if (!bars)
        return ml_fail(ML_INPUT, "there is no \"||\" between meaning representation and text");
    return emit_pair(self, line, bars - line, bars + 2, row->length - (bars + 2 - line));
}

ml_status ml_tokenize_e2e(ml_tokenize_job *job)
{
    ml_ahead_source source = ml_tokenize_lines(job);
    source.prepare = prepare_e2e;
    return ml_tokenize_each(job, &source, take_e2e, job);
}

/* ---- jsonl --------------------------------------------------------------------------------- */

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

const char *ml_tokenize_fault(const json_t *value, const char *otherwise)
{
    return !value ? "is missing" : json_is_null(value) ? "is null" : otherwise;
}

/* No text, which files of columns have in the rows that lack a value. */
static bool says_nothing(const json_t *value)
{
    return json_is_string(value) && !json_string_length(value);
}

ml_status ml_tokenize_columns(ml_tokenize_job *job, const json_t *row, const char *const *keys,
                              const char *const *refused, const char *hint)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)row, key, value)
    {
        if (is_one_of(keys, key)) continue;
        if (json_is_null(value)) /* which is not left where it says nothing (row_nulls.c) */
            return ml_fail(ML_INPUT, "\"%s\" is null beside what belongs to it; %s", key, hint);
        if (is_one_of(refused, key) && !says_nothing(value))
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
    return !value || json_is_string(value)
               ? ML_OK
               : ml_fail(ML_INPUT, "\"%s\" %s", key, ml_tokenize_fault(value, "is not a string"));
}

ml_status ml_tokenize_no_chat(const ml_tokenize_job *job, const char *what)
{
    const char *fault = job->options->chat_fault;
    return ml_fail(ML_INPUT,
                   "%s, but the base has no chat template%s; give one with --chat-template FILE",
                   what, fault ? fault : "");
}

static ml_status emit_conversation(ml_tokenize_job *job, const json_t *row)
{
    static const char *const keys[] = {"messages", "conversations",        "prompt", "completion",
                                       "tools",    "chat_template_kwargs", "system", NULL};
    static const char *const refused[] = {"chosen",    "rejected",  "label", "images",
                                          "functions", "documents", NULL};
    ml_status st = ML_OK;
    const uint8_t *mask;
    ml_chat *chat = job->options->chat;
    if (!chat) return ml_tokenize_no_chat(job, "a conversation");
    ML_TRY(
        ml_tokenize_columns(job, row, keys, refused,
                            "expected a conversation, whose system prompt is its first message"));
    const json_t *rendered = job->ahead ? ml_ahead_rendered(job->ahead) : NULL;
    const ml_chat_found found = ml_tokenize_find_rendered(job, json_object_get(rendered, "text"));
    ML_TRY(ml_chat_encode(chat, row, job->line, &found, &job->ids, &mask));
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
