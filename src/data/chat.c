/* Conversations to tokens: the text of the template, tokenised as a whole with the special tokens
 * that it spells, and a mask over the tokens that have a byte of an answer. */
#include <inttypes.h>
#include <stdlib.h>
#include <time.h>

#include "data/chat_private.h"
#include "data/rows.h"

struct ml_chat {
    ml_chat_renderer renderer;
    ml_tokenizer *tokenizer; /* borrowed */
    ml_chat_loss loss;
    ml_chat_report report;
    ml_text example, token; /* scratch: the bytes of a token */
    ml_ids part;            /* scratch: the tokens of a beginning */
    uint8_t *mask;          /* of the conversation in hand */
    int64_t mask_capacity;
    int64_t nulls_at; /* the line that was counted last */
};

/* ---- set-up -------------------------------------------------------------------------------- */

static ml_status check_tokens(const json_t *tokens)
{
    const char *key;
    json_t *value;
    if (!json_is_object(tokens)) return ml_fail(ML_INPUT, "special tokens: not an object");
    json_object_foreach((json_t *)tokens, key, value)
    {
        if (!json_is_string(value))
            return ml_fail(ML_INPUT, "special tokens: \"%s\" is not a text", key);
    }
    return ML_OK;
}

/* What the tokenizer itself knows of its special tokens. */
static ml_status tokens_of(ml_tokenizer *tokenizer, json_t **out)
{
    ml_status st = ML_OK;
    ml_text text = {0};
    const int32_t ids[] = {ml_tokenizer_begin_of_text(tokenizer),
                           ml_tokenizer_end_of_text(tokenizer)};
    const char *const names[] = {"bos_token", "eos_token"};
    *out = json_object();
    for (int i = 0; i < 2; i++) {
        if (ids[i] < 0) continue;
        text.length = 0;
        ML_TRY(ml_tokenizer_decode(tokenizer, &ids[i], 1, &text));
        json_object_set_new(*out, names[i], json_stringn(text.data, (size_t)text.length));
    }
done:
    ml_text_destroy(&text);
    return st;
}

/* The moment that every strftime_now of the input is told, to the second. */
static ml_status settle_date(const char *given, char out[32])
{
    time_t now = time(NULL);
    struct tm moment = {0};
    if (!given) {
        localtime_r(&now, &moment);
    } else {
        const char *end = strptime(given, "%Y-%m-%d", &moment);
        if (end && *end == 'T') end = strptime(end, "T%H:%M:%S", &moment);
        struct tm real = moment; /* where there is no such moment, it becomes another one */
        (void)timegm(&real);
        bool same = real.tm_mday == moment.tm_mday && real.tm_sec == moment.tm_sec;
        if (!end || *end || !same)
            return ml_fail(ML_USAGE, "date \"%.40s\": expected YYYY-MM-DD, or YYYY-MM-DDTHH:MM:SS",
                           given);
    }
    strftime(out, 32, "%Y-%m-%dT%H:%M:%S", &moment);
    return ML_OK;
}

ml_status ml_chat_create(ml_chat **out, const ml_chat_options *options, ml_tokenizer *tokenizer)
{
    ml_status st = ML_OK;
    ml_chat *chat = NULL;
    json_t *tokens = NULL;
    ML_NEW(chat, 1, ML_MEM_OTHER, "a chat template");
    chat->tokenizer = tokenizer;
    chat->loss = options->loss;
    ML_TRY(settle_date(options->date, chat->report.date));
    if (options->special_tokens) {
        ML_TRY(ml_json_read(&tokens, "special tokens", options->special_tokens,
                            (int64_t)strlen(options->special_tokens)));
    } else {
        ML_TRY(tokens_of(tokenizer, &tokens));
    }
    ML_TRY(check_tokens(tokens));
    ML_TRY(ml_chat_renderer_create(&chat->renderer, options, chat->report.date, tokens));
    *out = chat;
    chat = NULL;
done:
    json_decref(tokens);
    ml_chat_destroy(chat);
    return st;
}

void ml_chat_destroy(ml_chat *chat)
{
    if (!chat) return;
    ml_chat_renderer_destroy(&chat->renderer);
    ml_text_destroy(&chat->example);
    ml_text_destroy(&chat->token);
    ml_ids_destroy(&chat->part);
    ml_memory_free(chat->mask);
    ml_memory_free(chat);
}

const ml_chat_report *ml_chat_figures(const ml_chat *chat) { return &chat->report; }
const char *ml_chat_example(const ml_chat *chat)
{
    return chat->example.data ? chat->example.data : "";
}

/* ---- from bytes to tokens ------------------------------------------------------------------ */

static bool is_space(char c) { return c == ' '; }
static bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

static bool is_all_of(const ml_text *text, bool (*kind)(char c))
{
    bool all = true;
    for (int64_t i = 0; i < text->length; i++) all = all && kind(text->data[i]);
    return all;
}

/* The bytes of tokens [i, i + count) into chat->token. A decoder that takes away the blank before a
 * text's first word does so for a token alone: one of spaces is asked for behind the one before. */
static ml_status bytes_of_tokens(ml_chat *chat, const ml_ids *ids, int64_t i, int64_t count)
{
    ml_status st = ML_OK;
    const int32_t *id = ids->data + i;
    chat->token.length = 0;
    ML_TRY(ml_tokenizer_decode(chat->tokenizer, id, count, &chat->token));
    if (i == 0 || !is_all_of(&chat->token, is_space)) return ML_OK;
    chat->token.length = 0;
    ML_TRY(ml_tokenizer_decode(chat->tokenizer, id - 1, 1, &chat->token));
    const int64_t before = chat->token.length;
    ML_TRY(ml_tokenizer_decode(chat->tokenizer, id - 1, count + 1, &chat->token));
    const int64_t both = chat->token.length - before, rest = ml_max(0, both - before);
    memmove(chat->token.data, chat->token.data + chat->token.length - rest, (size_t)rest);
    chat->token.length = rest;
done:
    return st;
}

/* Where tokens [i, i + count) stand that begin at byte `at` or, since some special tokens swallow
 * the blanks around them, behind blanks there; −1 in *end where the text does not have them: the
 * tokenizer rewrites text. A blank that a tokenizer puts before the first word is no part of the
 * text. */
static ml_status find_tokens(ml_chat *chat, const ml_marked_text *m, const ml_ids *ids, int64_t i,
                             int64_t count, int64_t *at, int64_t *end)
{
    ml_status st = bytes_of_tokens(chat, ids, i, count);
    if (st != ML_OK) return st;
    const char *bytes = chat->token.data;
    int64_t n = chat->token.length, start = *at;
    while (start + n <= m->length && memcmp(m->text + start, bytes, (size_t)n) != 0 &&
           is_blank(m->text[start]))
        start++;
    bool found = start + n <= m->length && !memcmp(m->text + start, bytes, (size_t)n);
    if (!found && *at == 0 && n > 0 && bytes[0] == ' ' && n - 1 <= m->length &&
        !memcmp(m->text, bytes + 1, (size_t)n - 1)) {
        found = true;
        start = 0;
        n--;
    }
    if (found) *at = start;
    *end = found ? start + n : -1;
    return ML_OK;
}

/* A token is a target where it has a byte of a span; those that are a character only together (the
 * bytes of one that the vocabulary lacks) where that has. *placed false: the text cannot be
 * followed. */
static ml_status mask_by_bytes(ml_chat *chat, const ml_marked_text *m, const ml_ids *ids,
                               bool *placed)
{
    enum { BYTES_OF_CHARACTER = 4 };
    int64_t at = 0, end, span = 0;
    for (int64_t i = 0, count; i < ids->count; i += count) {
        const int64_t most = ml_min(BYTES_OF_CHARACTER, ids->count - i);
        end = -1;
        for (count = 0; end < 0 && count < most;) {
            ml_status st = find_tokens(chat, m, ids, i, ++count, &at, &end);
            if (st != ML_OK) return st;
        }
        *placed = end >= 0;
        if (!*placed) return ML_OK;
        while (span < m->count && at >= m->spans[span].end) span++;
        /* One without bytes, as the blank that a decoder takes away, goes with what follows. */
        memset(chat->mask + i, span < m->count && ml_max(end, at + 1) > m->spans[span].first,
               (size_t)count);
        at = end;
    }
    *placed = true;
    return ML_OK;
}

/* Tokens before byte `at`: those of the text up to there, where they begin the whole's. */
static ml_status count_before(ml_chat *chat, const ml_marked_text *m, const ml_ids *ids, int64_t at,
                              int64_t *count)
{
    chat->part.count = 0;
    ml_status st = ml_tokenizer_encode(chat->tokenizer, m->text, at, true, &chat->part);
    if (st != ML_OK) return st;
    *count = chat->part.count;
    if (*count <= ids->count &&
        !memcmp(chat->part.data, ids->data, (size_t)*count * sizeof *ids->data))
        return ML_OK;
    return ml_fail(ML_INPUT,
                   "the tokenizer rewrites the text, and a token of it lies across the border of "
                   "an answer (byte %" PRId64 " of %" PRId64 "): its loss has no place",
                   at, m->length);
}

/* For tokenizers that normalise: by tokenising the text up to each border. */
static ml_status mask_by_counts(ml_chat *chat, const ml_marked_text *m, const ml_ids *ids)
{
    ml_status st = ML_OK;
    int64_t first, end;
    memset(chat->mask, 0, (size_t)ids->count);
    for (int64_t i = 0; i < m->count; i++) {
        ML_TRY(count_before(chat, m, ids, m->spans[i].first, &first));
        ML_TRY(count_before(chat, m, ids, m->spans[i].end, &end));
        for (int64_t t = first; t < end; t++) chat->mask[t] = 1;
    }
done:
    return st;
}

static ml_status make_mask(ml_chat *chat, const ml_marked_text *m, const ml_ids *ids)
{
    ml_status st = ML_OK;
    bool placed;
    if (ids->count > chat->mask_capacity) {
        ml_memory_free(chat->mask);
        chat->mask_capacity = 0;
        ML_NEW(chat->mask, 2 * ids->count, ML_MEM_OTHER, "a conversation's mask");
        chat->mask_capacity = 2 * ids->count;
    }
    ML_TRY(mask_by_bytes(chat, m, ids, &placed));
    if (!placed) st = mask_by_counts(chat, m, ids);
done:
    return st;
}

/* ---- the report ---------------------------------------------------------------------------- */

static bool has(const ml_marked_text *m, const char *words, int64_t n)
{
    return memmem(m->text, (size_t)m->length, words, (size_t)n) != NULL;
}

/* Whether the text has these words but for blanks around them, as they are or as JSON spells them.
 */
static bool shows(const ml_marked_text *m, const json_t *words)
{
    const char *text = json_string_value(words);
    int64_t n = (int64_t)json_string_length(words);
    while (n > 0 && is_blank(text[n - 1])) n--;
    for (; n > 0 && is_blank(*text); text++) n--;
    if (n == 0 || has(m, text, n)) return true;
    json_t *trimmed = json_stringn(text, (size_t)n);
    char *spelt = trimmed ? ml_json_dump(trimmed, JSON_ENCODE_ANY) : NULL;
    bool found = spelt && has(m, spelt + 1, (int64_t)strlen(spelt) - 2);
    free(spelt);
    json_decref(trimmed);
    return found;
}

static bool shows_content(const ml_marked_text *m, const json_t *content)
{
    size_t i;
    json_t *part;
    if (json_is_string(content)) return shows(m, content);
    json_array_foreach((json_t *)content, i, part)
    {
        if (!shows(m, json_object_get(part, "text"))) return false;
    }
    return true;
}

/* Whether the text has the names of these functions: tools, or calls of them. */
static bool shows_functions(const ml_marked_text *m, const json_t *list)
{
    size_t i;
    json_t *item;
    json_array_foreach((json_t *)list, i, item)
    {
        const json_t *function = json_object_get(item, "function"),
                     *name = json_object_get(function ? function : item, "name");
        if (json_is_string(name) && !shows(m, name)) return false;
    }
    return true;
}

static void note_left_out(ml_chat_report *r, const ml_conversation *c, const ml_marked_text *m,
                          int64_t line)
{
    if (!shows_functions(m, c->tools) && r->tools_left_out++ == 0) r->tools_left_out_line = line;
    for (int64_t i = 0; i < c->count; i++) {
        const json_t *message = json_array_get(c->messages, (size_t)i);
        if (shows_content(m, json_object_get(message, "content")) &&
            shows_functions(m, json_object_get(message, "tool_calls")))
            continue;
        if (r->left_out++ > 0) continue;
        r->left_out_line = line;
        r->left_out_message = i + 1;
        snprintf(r->left_out_role, sizeof r->left_out_role, "%s", ml_conversation_role(c, i));
    }
}

static bool holds_null(const json_t *value)
{
    size_t i;
    const char *key;
    json_t *one;
    json_array_foreach((json_t *)(uintptr_t)value, i, one)
    {
        if (json_is_null(one) || holds_null(one)) return true;
    }
    json_object_foreach((json_t *)(uintptr_t)value, key, one)
    {
        if (json_is_null(one) || holds_null(one)) return true;
    }
    return false;
}

/* As transformers does, the template is given them as they are. Those that a library of tables has
 * put there to fill up an object would be learnt. */
void ml_chat_note_nulls(ml_chat *chat, const json_t *const *values, int64_t count, const char *text,
                        int64_t length, int64_t line)
{
    ml_chat_report *r = &chat->report;
    bool holds = false;
    for (int64_t i = 0; i < count; i++) holds = holds || holds_null(values[i]);
    if (!holds || chat->nulls_at == line ||
        (!memmem(text, (size_t)length, "null", 4) && !memmem(text, (size_t)length, "None", 4)))
        return;
    chat->nulls_at = line;
    if (r->nulls++ == 0) r->nulls_line = line;
}

/* Whether the last target that is more than blanks is a special token. */
static ml_status ends_its_turn(ml_chat *chat, const ml_ids *ids, bool *out)
{
    *out = false;
    for (int64_t i = ids->count - 1; i >= 0; i--) {
        if (!chat->mask[i]) continue;
        chat->token.length = 0;
        ml_status st = ml_tokenizer_decode(chat->tokenizer, &ids->data[i], 1, &chat->token);
        if (st != ML_OK) return st;
        *out = ml_tokenizer_is_special(chat->tokenizer, ids->data[i]);
        if (*out || !is_all_of(&chat->token, is_blank)) break;
    }
    return ML_OK;
}

/* Decoded from the beginning up to each mark: a decoder that takes away the blank before a text's
 * first word would do so for every piece. */
static ml_status write_example(ml_chat *chat, const ml_ids *ids)
{
    ml_status st = ML_OK;
    const uint8_t *mask = chat->mask;
    int64_t written = 0;
    chat->example.length = 0;
    for (int64_t i = 0; i <= ids->count; i++) {
        bool before = i > 0 && mask[i - 1], now = i < ids->count && mask[i];
        if (before == now && i < ids->count) continue;
        chat->token.length = 0;
        ML_TRY(ml_tokenizer_decode(chat->tokenizer, ids->data, i, &chat->token));
        if (chat->token.length > written) {
            ML_TRY(ml_text_add(&chat->example, chat->token.data + written,
                               chat->token.length - written));
            written = chat->token.length;
        }
        if (before != now) ML_TRY(ml_text_printf(&chat->example, before ? "⟧" : "⟦"));
    }
done:
    return st;
}

static ml_status note(ml_chat *chat, const ml_conversation *c, const ml_marked_text *m,
                      int64_t line, const ml_ids *ids)
{
    ml_status st = ML_OK;
    ml_chat_report *r = &chat->report;
    bool ends;
    if (r->conversations++ == 0) ML_TRY(write_example(chat, ids));
    r->tokens += ids->count;
    for (int64_t i = 1; i < ids->count; i++) r->targets += chat->mask[i];
    r->last_only += m->last_only;
    r->dated = r->dated || m->dated;
    r->by_blocks = r->by_blocks || m->by_blocks;
    note_left_out(r, c, m, line);
    const json_t *const values[] = {c->messages, c->tools, c->variables};
    ml_chat_note_nulls(chat, values, 3, m->text, m->length, line);
    ML_TRY(ends_its_turn(chat, ids, &ends));
    r->without_end += !ends;
done:
    return st;
}

/* ---- conversations ------------------------------------------------------------------------- */

/* Ids that were found, or the text's own. */
static ml_status add_ids(ml_chat *chat, const char *text, int64_t length,
                         const ml_chat_found *found, ml_ids *ids)
{
    if (found->ids) return ml_ids_append(ids, found->ids, found->count);
    return ml_tokenizer_encode(chat->tokenizer, text, length, true, ids);
}

ml_status ml_chat_encode(ml_chat *chat, const json_t *object, int64_t line,
                         const ml_chat_found *found, ml_ids *ids, const uint8_t **mask)
{
    ml_status st = ML_OK;
    ml_conversation conversation = {0};
    ml_marked_text marked = {0};
    ids->count = 0;
    ML_TRY(ml_conversation_read(&conversation, object));
    st = found->rendered ? ml_chat_take_marked(found->rendered, &marked)
                         : ml_chat_mark(&chat->renderer, &conversation, chat->loss, &marked);
    if (st != ML_OK) goto done;
    ML_TRY(add_ids(chat, marked.text, marked.length, found, ids));
    ML_TRY(make_mask(chat, &marked, ids));
    ML_TRY(note(chat, &conversation, &marked, line, ids));
    *mask = chat->mask;
done:
    ml_marked_text_destroy(&marked);
    ml_conversation_destroy(&conversation);
    return st;
}

ml_status ml_chat_render_text(ml_chat_renderer *renderer, const json_t *object, bool prompt,
                              json_t **out)
{
    ml_status st = ML_OK;
    ml_conversation conversation = {0};
    *out = NULL;
    ML_TRY(ml_conversation_read(&conversation, object));
    st = ml_chat_render(renderer, &conversation, prompt, NULL, 0, out);
done:
    ml_conversation_destroy(&conversation);
    return st;
}

ml_status ml_chat_encode_text(ml_chat *chat, const json_t *text, bool dated,
                              const ml_chat_found *found, ml_ids *ids)
{
    chat->report.dated = chat->report.dated || dated;
    return add_ids(chat, json_string_value(text), (int64_t)json_string_length(text), found, ids);
}

ml_chat_renderer *ml_chat_get_renderer(ml_chat *chat) { return &chat->renderer; }
ml_chat_loss ml_chat_get_loss(const ml_chat *chat) { return chat->loss; }

/* TRL's rows of prompts alone, or with answers beside them that are not read here, as a
 * conversation. Where TRL would go on with an answer that has begun, nothing here does. */
static ml_status take_prompt_alone(json_t *object)
{
    json_t *prompt = json_object_get(object, "prompt");
    if (!json_is_array(prompt) || json_object_get(object, "completion") ||
        json_object_get(object, "messages") || json_object_get(object, "conversations"))
        return ML_OK;
    size_t count = json_array_size(prompt);
    const char *role = count > 0 ? ml_message_role(json_array_get(prompt, count - 1)) : NULL;
    if (role && !strcmp(role, "assistant"))
        return ml_fail(ML_INPUT, "the last message of \"prompt\" is an answer; expected one that "
                                 "is to be answered");
    if (json_object_set(object, "messages", prompt) || json_object_del(object, "prompt"))
        return ml_fail(ML_RESOURCE, "out of memory");
    return ML_OK;
}

/* The messages of the prompt alone. */
static ml_status read_prompt(ml_conversation *out, const char *json, int64_t length)
{
    ml_status st = ML_OK;
    json_t *object = NULL;
    json_error_t error;
    ML_TRY(ml_json_parse(&object, json, length, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error));
    ml_row_drop_nulls(object);
    ML_TRY(take_prompt_alone(object));
    if (!json_is_object(object) || !ml_conversation_is(object)) {
        st = ml_fail(ML_INPUT, "no conversation; expected {\"messages\": [{\"role\": \"…\", "
                               "\"content\": \"…\"}, …]}");
        goto done;
    }
    ML_TRY(ml_conversation_read(out, object));
    for (; out->given && out->count > out->given; out->count--)
        (void)json_array_remove(out->messages, (size_t)out->count - 1);
    json_incref(out->variables);
done:
    json_decref(object);
    return st;
}

ml_status ml_chat_prompt(ml_chat *chat, const char *json, int64_t length, ml_text *text)
{
    ml_status st = ML_OK;
    ml_conversation conversation = {0};
    json_t *answer = NULL, *variables = NULL;
    ML_TRY(read_prompt(&conversation, json, length));
    variables = conversation.variables;
    ML_TRY(ml_chat_render(&chat->renderer, &conversation, true, NULL, 0, &answer));
    const json_t *rendered = json_object_get(answer, "text");
    st = ml_text_add(text, json_string_value(rendered), (int64_t)json_string_length(rendered));
done:
    json_decref(answer);
    json_decref(variables);
    ml_conversation_destroy(&conversation);
    return st;
}

ml_status ml_chat_end_token(ml_chat *chat, int32_t *out)
{
    ml_status st = ML_OK;
    static const char trial[] =
        "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", "
        "\"content\": \"b\"}]}";
    json_t *object = NULL;
    json_error_t error;
    ml_ids ids = {0};
    const uint8_t *mask;
    ml_chat_report kept = chat->report;
    *out = -1;
    ML_TRY(ml_json_parse(&object, trial, (int64_t)strlen(trial), 0, &error));
    st = ml_chat_encode(chat, object, 0, &(ml_chat_found){0}, &ids, &mask);
    for (int64_t i = 0; st == ML_OK && i < ids.count; i++)
        if (mask[i] && ml_tokenizer_is_special(chat->tokenizer, ids.data[i])) *out = ids.data[i];
    if (st == ML_INPUT) {
        ml_error_clear();
        st = ML_OK;
    }
done:
    chat->report = kept;
    json_decref(object);
    ml_ids_destroy(&ids);
    return st;
}
