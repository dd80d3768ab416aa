/* The answers in the text of a conversation. */
#include <inttypes.h>

#include "data/chat_private.h"

static const char assistant[] = "assistant";

ml_status ml_marked_text_add(ml_marked_text *m, int64_t first, int64_t end)
{
    ml_status st = ML_OK;
    if (end <= first) return ML_OK;
    ML_GROW(m->spans, m->count, m->capacity, ML_MEM_OTHER, "the answers of a conversation");
    m->spans[m->count++] = (ml_span){first, end};
done:
    return st;
}

static bool begins(const ml_marked_text *m, const json_t *beginning)
{
    size_t n = json_string_length(beginning);
    return json_is_string(beginning) && (int64_t)n <= m->length &&
           !memcmp(m->text, json_string_value(beginning), n);
}

static void take_text(ml_marked_text *m, const json_t *text)
{
    m->text = json_string_value(text);
    m->length = (int64_t)json_string_length(text);
}

static const json_t *beginning_at(const ml_marked_text *m, int64_t i)
{
    return json_array_get(json_object_get(m->answer, "beginnings"), (size_t)i);
}

/* ---- answers ------------------------------------------------------------------------------- */

static bool is_answer(const ml_conversation *c, int64_t i)
{
    const char *role = ml_conversation_role(c, i);
    return role && !strcmp(role, assistant);
}

static bool has_no_weight(const ml_conversation *c, int64_t i)
{
    const json_t *weight = json_object_get(json_array_get(c->messages, (size_t)i), "weight");
    return json_is_number(weight) && json_number_value(weight) == 0.0;
}

/* Answers that are learnt from: no part of a prompt, and not of weight 0. */
static bool is_target(const ml_conversation *c, int64_t i)
{
    return i >= c->given && is_answer(c, i) && !has_no_weight(c, i);
}

static int64_t last_target(const ml_conversation *c)
{
    int64_t i = c->count - 1;
    while (i >= 0 && !is_target(c, i)) i--;
    return i;
}

/* ---- by generation blocks ------------------------------------------------------------------ */

/* Which blocks are of answers without weight; they are told apart where each answer has one block.
 * Returns the first such answer where they cannot be, else −1. */
static int64_t leave_out(const ml_conversation *c, size_t blocks, bool *out)
{
    size_t answers = 0;
    int64_t first = -1;
    for (int64_t i = 0; i < c->count; i++) {
        if (!is_answer(c, i)) continue;
        bool none = i >= c->given && has_no_weight(c, i);
        if (none && first < 0) first = i;
        if (answers < blocks) out[answers] = none;
        answers++;
    }
    return answers == blocks ? -1 : first;
}

/* Those behind the prompt of prompt and completion; where that is no beginning of the text, the
 * last one is taken. */
static ml_status mark_by_blocks(const ml_conversation *c, ml_chat_loss loss, ml_marked_text *m)
{
    const json_t *spans = json_object_get(m->answer, "spans"), *prompt = beginning_at(m, 0);
    ml_status st = ML_OK;
    size_t n = json_array_size(spans);
    bool known = !c->given || begins(m, prompt), *left_out = NULL;
    int64_t from = c->given && known ? (int64_t)json_string_length(prompt) : 0, unknown;
    m->by_blocks = true;
    m->last_only = !known && n > 1;
    ML_NEW(left_out, (int64_t)n + 1, ML_MEM_OTHER, "the answers of a conversation");
    unknown = leave_out(c, n, left_out);
    if (unknown >= 0) {
        st = ml_fail(ML_INPUT,
                     "message %" PRId64 " (%s) has weight 0, but the template's {%% generation %%} "
                     "blocks, %zu of them, are not one for each answer",
                     unknown + 1, assistant, n);
        goto done;
    }
    while (n > 0 && left_out[n - 1]) n--;
    for (size_t i = loss == ML_CHAT_LAST || !known ? n - (n > 0) : 0; i < n; i++) {
        const json_t *span = json_array_get(spans, i);
        int64_t first = json_integer_value(json_array_get(span, 0)),
                end = json_integer_value(json_array_get(span, 1));
        if (first < from || left_out[i]) continue;
        ML_TRY(ml_marked_text_add(m, first, end));
    }
done:
    ml_memory_free(left_out);
    return st;
}

/* ---- by beginnings ------------------------------------------------------------------------- */

/* The questions about each answer: before it, with the prompt, and behind it; then, once, before
 * the last one without the prompt. */
enum { WITH_PROMPT, BEHIND, QUESTIONS };

/* Whether an answer is what its prompt's text lacks to the text behind it, and both begin the
 * whole. */
static bool holds(const ml_marked_text *m, int64_t answer)
{
    const json_t *prompt = beginning_at(m, QUESTIONS * answer + WITH_PROMPT),
                 *behind = beginning_at(m, QUESTIONS * answer + BEHIND);
    return begins(m, prompt) && begins(m, behind) &&
           json_string_length(prompt) < json_string_length(behind);
}

/* Bytes that two texts begin with in common, whole characters. */
static int64_t common_beginning(const ml_marked_text *m, const json_t *other)
{
    const char *text = json_string_value(other);
    int64_t n = ml_min(m->length, (int64_t)json_string_length(other)), i = 0;
    while (i < n && m->text[i] == text[i]) i++;
    while (i > 0 && i < m->length && ((unsigned char)m->text[i] & 0xc0) == 0x80) i--;
    return i;
}

/* Where the words of a message stand last in the text; −1: nowhere. */
static int64_t find_words(const ml_marked_text *m, const json_t *message)
{
    const json_t *content = json_object_get(message, "content");
    const char *words = json_string_value(content);
    int64_t n = (int64_t)json_string_length(content);
    while (n > 0 && strchr(" \t\r\n", words[n - 1])) n--;
    for (; n > 0 && strchr(" \t\r\n", *words); words++) n--;
    for (int64_t i = m->length - n; n > 0 && i >= 0; i--)
        if (!memcmp(m->text + i, words, (size_t)n)) return i;
    return -1;
}

/* The last answer where earlier ones cannot be told, to the end of the text or, where messages
 * follow that change it, of the text without these. It begins behind the prompt of an answer, as
 * far as the text has that; and where the template writes the messages before it otherwise as well,
 * at its own words. */
static ml_status mark_last(const ml_conversation *c, int64_t answer, int64_t at, ml_marked_text *m)
{
    const json_t *prompt = beginning_at(m, QUESTIONS * answer + WITH_PROMPT),
                 *before = beginning_at(m, QUESTIONS * (answer + 1)),
                 *behind = beginning_at(m, QUESTIONS * answer + BEHIND);
    bool whole = begins(m, behind);
    int64_t end = (int64_t)json_string_length(behind), first;
    if (!whole && json_is_string(behind)) take_text(m, behind);
    if (at == c->count - 1) end = m->length;
    m->last_only = true;
    if (begins(m, prompt))
        first = (int64_t)json_string_length(prompt);
    else if (begins(m, before) && json_is_string(prompt))
        first = common_beginning(m, prompt);
    else
        first = find_words(m, json_array_get(c->messages, (size_t)at));
    if (first >= 0) return ml_marked_text_add(m, first, end);
    return ml_fail(ML_INPUT,
                   "message %" PRId64 " (%s): the chat template writes neither its words nor what "
                   "stands before it as it does without it, so that its loss has no place",
                   at + 1, assistant);
}

static ml_status mark_by_beginnings(const ml_conversation *c, ml_chat_loss loss, ml_marked_text *m)
{
    ml_status st = ML_OK;
    int64_t last = last_target(c), first = loss == ML_CHAT_LAST ? last : 0, answer = 0, broken = -1;
    for (int64_t i = first; i <= last && i >= 0; i++)
        if (is_target(c, i) && !holds(m, answer++) && broken < 0) broken = i;
    if (broken >= 0 && loss == ML_CHAT_ALL)
        return ml_fail(ML_INPUT,
                       "message %" PRId64 " (%s): the chat template writes it, or what stands "
                       "before it, otherwise once more follows, so that its loss has no place; "
                       "with --loss assistant the last answer alone is trained",
                       broken + 1, assistant);
    if (broken >= 0) return mark_last(c, answer - 1, last, m);
    for (int64_t i = 0; i < answer; i++)
        ML_TRY(ml_marked_text_add(
            m, (int64_t)json_string_length(beginning_at(m, QUESTIONS * i + WITH_PROMPT)),
            (int64_t)json_string_length(beginning_at(m, QUESTIONS * i + BEHIND))));
done:
    return st;
}

/* ---- either -------------------------------------------------------------------------------- */

/* The beginnings around every answer. Where the template has {% generation %} blocks the child
 * renders the first of them alone, which is where the prompt of prompt and completion ends. */
static ml_status ask_beginnings(const ml_conversation *c, ml_chat_loss loss, ml_beginning **out,
                                int64_t *count)
{
    ml_status st = ML_OK;
    int64_t last = last_target(c);
    *count = 0;
    ML_NEW(*out, QUESTIONS * c->count + 1, ML_MEM_OTHER, "beginnings of a conversation");
    for (int64_t i = loss == ML_CHAT_LAST ? last : 0; i <= last && i >= 0; i++) {
        if (!is_target(c, i)) continue;
        (*out)[(*count)++] = (ml_beginning){i, true};
        (*out)[(*count)++] = (ml_beginning){i + 1, false};
    }
    (*out)[(*count)++] = (ml_beginning){last, false};
done:
    return st;
}

static const char *weightless(const ml_conversation *c)
{
    for (int64_t i = c->given; i < c->count; i++)
        if (is_answer(c, i)) return " but such of weight 0";
    return "";
}

ml_status ml_chat_mark(ml_chat_renderer *renderer, const ml_conversation *c, ml_chat_loss loss,
                       ml_marked_text *out)
{
    ml_status st = ML_OK;
    ml_beginning *beginnings = NULL;
    int64_t count;
    *out = (ml_marked_text){0};
    if (last_target(c) < 0)
        return ml_fail(ML_INPUT,
                       "no message of the %s%s%s: nothing in this conversation is a target",
                       assistant, c->given ? " in the completion" : "", weightless(c));
    ML_TRY(ask_beginnings(c, loss, &beginnings, &count));
    ML_TRY(ml_chat_render(renderer, c, false, beginnings, count, &out->answer));
    take_text(out, json_object_get(out->answer, "text"));
    out->dated = json_is_true(json_object_get(out->answer, "dated"));
    if (json_is_true(json_object_get(out->answer, "marks"))) {
        ML_TRY(mark_by_blocks(c, loss, out));
    } else {
        ML_TRY(mark_by_beginnings(c, loss, out));
    }
    if (!out->count)
        st = ml_fail(ML_INPUT, "the chat template leaves no answer: nothing in this conversation "
                               "is a target");
done:
    ml_memory_free(beginnings);
    if (st != ML_OK) ml_marked_text_destroy(out);
    return st;
}

void ml_marked_text_destroy(ml_marked_text *m)
{
    json_decref(m->answer);
    ml_memory_free(m->spans);
    *m = (ml_marked_text){0};
}
