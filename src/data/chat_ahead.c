/* The next conversations of a file, rendered by several processes: each thread that reads ahead
 * has a child of its own, with the bounds that every child has.
 *
 * Kept of an answer is the text and where its targets stand, not the beginnings that these were
 * found by; of a failure what is wrong, which is said where the row is taken. What is long, or
 * grows beyond what a template usually adds, is left to the thread that takes the rows. */
#include <stdlib.h>

#include "data/chat_private.h"
#include "data/tokenize_private.h"

/* Bytes of all threads' answers at one time, about; a text is at most so many times its row, and
 * more. */
enum { ANSWERS_BYTES = 64 << 20, ROW_TIMES = 4, ROW_MORE = 4096 };

typedef struct thread_renderer {
    ml_chat_renderer renderer;
    int64_t most_bytes; /* of an answer that is asked for */
    bool failed;        /* nothing more is asked: every failure may take seconds, and ends the job
                           once its row is taken */
} thread_renderer;

void ml_chat_release(void *own)
{
    thread_renderer *t = own;
    ml_chat_renderer_destroy(&t->renderer);
    ml_memory_free(t);
}

/* NULL where there is no more rendering ahead. */
static thread_renderer *renderer_of(ml_chat *chat, ml_ahead_worker *worker)
{
    ml_status st = ML_OK;
    thread_renderer *t = *ml_ahead_own(worker);
    if (t) return t->failed ? NULL : t;
    ML_NEW(t, 1, ML_MEM_OTHER, "a chat template");
    t->most_bytes = ANSWERS_BYTES / ml_ahead_threads(worker);
    ML_TRY(ml_chat_renderer_copy(&t->renderer, ml_chat_get_renderer(chat),
                                 ROW_TIMES * t->most_bytes + ROW_MORE));
    *ml_ahead_own(worker) = t;
    return t;
done:
    ml_error_clear();
    ml_memory_free(t);
    return NULL;
}

/* For want of room here, the row's taker may succeed. */
static void give_up(thread_renderer *t, ml_ahead_row *row, ml_status st)
{
    if (st != ML_RESOURCE && !t->renderer.child.outgrown)
        row->rendered = json_pack("{s:s, s:i}", "error", ml_error_text(), "status", (int)st);
    ml_error_clear();
    t->failed = true;
}

ml_status ml_chat_check_rendered(const json_t *rendered)
{
    const char *error = json_string_value(json_object_get(rendered, "error"));
    if (!error) return ML_OK;
    return ml_fail((ml_status)json_integer_value(json_object_get(rendered, "status")), "%s", error);
}

static bool is_small(const ml_ahead_row *row, int64_t length)
{
    return length <= ROW_TIMES * row->length + ROW_MORE;
}

/* ---- conversations --------------------------------------------------------------------------- */

static json_t *pack_marked(const ml_marked_text *m)
{
    json_t *spans = json_array();
    for (int64_t i = 0; i < m->count; i++)
        json_array_append_new(
            spans, json_pack("[I, I]", (json_int_t)m->spans[i].first, (json_int_t)m->spans[i].end));
    return json_pack("{s:o, s:o, s:b, s:b, s:b}", "text", json_stringn(m->text, (size_t)m->length),
                     "spans", spans, "by_blocks", (int)m->by_blocks, "last_only", (int)m->last_only,
                     "dated", (int)m->dated);
}

ml_status ml_chat_take_marked(const json_t *rendered, ml_marked_text *out)
{
    ml_status st = ml_chat_check_rendered(rendered);
    size_t i;
    json_t *span;
    const json_t *text = json_object_get(rendered, "text");
    *out = (ml_marked_text){.answer = json_incref((json_t *)(uintptr_t)rendered),
                            .text = json_string_value(text),
                            .length = (int64_t)json_string_length(text),
                            .by_blocks = json_is_true(json_object_get(rendered, "by_blocks")),
                            .last_only = json_is_true(json_object_get(rendered, "last_only")),
                            .dated = json_is_true(json_object_get(rendered, "dated"))};
    if (st != ML_OK) goto done;
    json_array_foreach(json_object_get(rendered, "spans"), i, span)
    {
        ML_TRY(ml_marked_text_add(out, json_integer_value(json_array_get(span, 0)),
                                  json_integer_value(json_array_get(span, 1))));
    }
done:
    return st;
}

static void mark(thread_renderer *t, const ml_chat *chat, ml_ahead_row *row)
{
    ml_status st = ML_OK;
    ml_conversation conversation = {0};
    ml_marked_text marked = {0};
    ML_TRY(ml_conversation_read(&conversation, row->json));
    if (row->length * (2 * conversation.count + 2) > t->most_bytes) goto done;
    ML_TRY(ml_chat_mark(&t->renderer, &conversation, ml_chat_get_loss(chat), &marked));
    if (is_small(row, marked.length)) row->rendered = pack_marked(&marked);
done:
    if (st != ML_OK) give_up(t, row, st);
    ml_marked_text_destroy(&marked);
    ml_conversation_destroy(&conversation);
}

/* ---- preferences ----------------------------------------------------------------------------- */

/* The names of the parts of a row that are lists of messages, NULL behind the last: of a pair, or
 * of an answer with a label; NULL: it is neither. */
static const char *const *parts_of(const json_t *row)
{
    static const char *const pair[] = {"prompt", "chosen", "rejected", NULL}, *const judged[] = {
                                                                                  "prompt",
                                                                                  "completion",
                                                                                  NULL};
    if (json_is_array(json_object_get(row, "chosen"))) return pair;
    bool verdict = json_object_get(row, "label") != NULL;
    return verdict && json_is_array(json_object_get(row, "completion")) ? judged : NULL;
}

static void render_parts(thread_renderer *t, ml_ahead_row *row, const char *const *keys)
{
    ml_status st = ML_OK;
    json_t *answer = NULL, *texts = json_array();
    bool dated = false, small = row->length * 4 <= t->most_bytes;
    if (!json_object_get(row->json, "prompt"))
        ML_TRY(ml_tokenize_find_prompt(row->json, &row->own));
    const json_t *from = row->own ? row->own : row->json;
    for (int i = 0; keys[i] && small; i++) {
        json_t *whole = NULL;
        ML_TRY(ml_tokenize_part(from, i > 0 ? keys[i] : NULL, &whole));
        st = ml_chat_render_text(&t->renderer, whole, i == 0, &answer);
        json_decref(whole);
        if (st != ML_OK) goto done;
        json_t *text = json_object_get(answer, "text");
        small = is_small(row, (int64_t)json_string_length(text));
        dated = dated || json_is_true(json_object_get(answer, "dated"));
        json_array_append(texts, text);
        json_decref(answer);
        answer = NULL;
    }
    if (small) row->rendered = json_pack("{s:O, s:b}", "texts", texts, "dated", (int)dated);
done:
    if (st != ML_OK) give_up(t, row, st);
    json_decref(answer);
    json_decref(texts);
}

/* ---- either ---------------------------------------------------------------------------------- */

static void encode(ml_ahead_worker *worker, ml_ahead_row *row, const json_t *text)
{
    if (text)
        ml_ahead_encode_special(worker, row, json_string_value(text),
                                (int64_t)json_string_length(text));
}

bool ml_chat_prepare(ml_chat *chat, ml_ahead_row *row, ml_ahead_worker *worker)
{
    const char *const *parts = parts_of(row->json);
    size_t i;
    json_t *text;
    if (!parts && !ml_conversation_is(row->json)) return false;
    thread_renderer *t = renderer_of(chat, worker);
    if (t && parts)
        render_parts(t, row, parts);
    else if (t)
        mark(t, chat, row);
    encode(worker, row, json_object_get(row->rendered, "text"));
    json_array_foreach(json_object_get(row->rendered, "texts"), i, text) encode(worker, row, text);
    return true;
}
