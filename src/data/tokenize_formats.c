/* What may stand in a text file: jsonl, e2e and ids, one sequence a line, and plain text. Each
 * format reads all lines of a job and hands its sequences to ml_tokenize_emit. */
#include <inttypes.h>

#include "data/tokenize_private.h"
#include "data/tokenizer_private.h"

/* ---- one sequence a line; empty lines are skipped ------------------------------------------ */

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
    ML_TRY(ml_tokenizer_encode(t, prompt, prompt_length, false, &job->ids));
    int64_t first_target = job->ids.count;
    ML_TRY(ml_tokenizer_encode(t, completion, completion_length, false, &job->ids));
    if (end >= 0) ML_TRY(ml_ids_add(&job->ids, end));
    ML_TRY(ml_tokenize_make_mask(job, job->ids.count));
    for (int64_t i = 0; i < job->ids.count; i++) job->mask[i] = i >= first_target;
    ML_TRY(ml_tokenize_emit(job, job->ids.data, job->mask, job->ids.count));
done:
    return st;
}

/* Calls `one` for every line that is not empty. */
static ml_status for_lines(ml_tokenize_job *job,
                           ml_status (*one)(ml_tokenize_job *job, const char *line, int64_t length))
{
    ml_status st = ML_OK;
    bool more = true;
    while (st == ML_OK) {
        st = ml_line_reader_next(&job->reader, &more);
        if (st != ML_OK || !more) break;
        const ml_text *line = &job->reader.line;
        if (line->length) st = one(job, line->data, line->length);
    }
    return st;
}

/* ---- e2e ----------------------------------------------------------------------------------- */

static ml_status e2e_line(ml_tokenize_job *job, const char *line, int64_t length)
{
    const char *bars = memmem(line, (size_t)length, "||", 2);
    if (!bars)
        return ml_fail(ML_INPUT, "there is no \"||\" between meaning representation and text");
    return emit_pair(job, line, bars - line, bars + 2, length - (bars + 2 - line));
}

ml_status ml_tokenize_e2e(ml_tokenize_job *job) { return for_lines(job, e2e_line); }

/* ---- jsonl --------------------------------------------------------------------------------- */

/* The line as a JSON object that has no keys but `keys`. */
static ml_status read_object(json_t **out, const char *line, int64_t length,
                             const char *const *keys, const char *hint)
{
    json_error_t error;
    const char *key;
    json_t *value;
    *out = json_loadb(line, (size_t)length, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
    if (!*out) return ml_fail(ML_INPUT, "column %d: not valid JSON: %s", error.column, error.text);
    if (!json_is_object(*out)) return ml_fail(ML_INPUT, "not a JSON object; %s", hint);
    json_object_foreach(*out, key, value)
    {
        bool known = false;
        for (int i = 0; keys[i]; i++) known = known || !strcmp(keys[i], key);
        if (known) continue;
        const char *near = ml_nearest_word(key, keys);
        return ml_fail(ML_INPUT, "unknown key \"%s\"%s%s%s; %s", key,
                       near ? ", did you mean \"" : "", near ? near : "", near ? "\"?" : "", hint);
    }
    return ML_OK;
}

static ml_status check_text(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return !value || json_is_string(value) ? ML_OK
                                           : ml_fail(ML_INPUT, "\"%s\" is not a string", key);
}

static ml_status jsonl_line(ml_tokenize_job *job, const char *line, int64_t length)
{
    static const char *const keys[] = {"prompt", "completion", "text", NULL};
    static const char hint[] = "expected {\"prompt\": …, \"completion\": …} or {\"text\": …}";
    ml_status st = ML_OK;
    json_t *object = NULL;
    ML_TRY(read_object(&object, line, length, keys, hint));
    for (int i = 0; keys[i]; i++) ML_TRY(check_text(object, keys[i]));
    const json_t *prompt = json_object_get(object, "prompt"),
                 *completion = json_object_get(object, "completion"),
                 *text = json_object_get(object, "text");
    if (text ? prompt || completion : !prompt || !completion) {
        st = ml_fail(ML_INPUT, "%s", hint);
        goto done;
    }
    if (text) completion = text;
    st =
        emit_pair(job, prompt ? json_string_value(prompt) : "", (int64_t)json_string_length(prompt),
                  json_string_value(completion), (int64_t)json_string_length(completion));
done:
    json_decref(object);
    return st;
}

ml_status ml_tokenize_jsonl(ml_tokenize_job *job) { return for_lines(job, jsonl_line); }

/* ---- ids ----------------------------------------------------------------------------------- */

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

static ml_status ids_line(ml_tokenize_job *job, const char *line, int64_t length)
{
    static const char *const keys[] = {"input_ids", "labels", NULL};
    static const char hint[] = "expected {\"input_ids\": […], \"labels\": […]}";
    ml_status st = ML_OK;
    json_t *object = NULL;
    ML_TRY(read_object(&object, line, length, keys, hint));
    const json_t *ids = json_object_get(object, "input_ids"),
                 *labels = json_object_get(object, "labels");
    if (!json_is_array(ids) || (labels && !json_is_array(labels))) {
        st = ml_fail(ML_INPUT, "\"input_ids\" or \"labels\" is not a list; %s", hint);
        goto done;
    }
    size_t count = json_array_size(ids);
    if (labels && json_array_size(labels) != count) {
        st = ml_fail(ML_INPUT, "there are %zu input_ids but %zu labels", count,
                     json_array_size(labels));
        goto done;
    }
    job->ids.count = 0;
    ML_TRY(ml_tokenize_make_mask(job, (int64_t)count));
    for (size_t i = 0; i < count; i++) ML_TRY(take_id(job, json_array_get(ids, i), labels, i));
    ML_TRY(ml_tokenize_emit(job, job->ids.data, job->mask, job->ids.count));
done:
    json_decref(object);
    return st;
}

ml_status ml_tokenize_ids(ml_tokenize_job *job) { return for_lines(job, ids_line); }

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
    ml_status st = ml_tokenizer_encode(job->options->tokenizer, doc->text.data, doc->text.length,
                                       false, &job->ids);
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

static bool is_empty(const ml_text *line)
{
    for (int64_t i = 0; i < line->length; i++)
        if (line->data[i] != ' ' && line->data[i] != '\t') return false;
    return true;
}

ml_status ml_tokenize_text(ml_tokenize_job *job)
{
    ml_status st = ML_OK;
    document doc = {0};
    bool more;
    for (;;) {
        ML_TRY(ml_line_reader_next(&job->reader, &more));
        if (!more) break;
        if (is_empty(&job->reader.line)) {
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
