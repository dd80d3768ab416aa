/* What the parts of chats share: a conversation read, rendered, and marked.
 *
 * chat_messages.c reads a JSON object as a conversation; chat_render.c has it rendered by the child
 * process; chat_targets.c finds the answers in the text; chat.c makes tokens and mask of it;
 * chat_ahead.c has the next conversations of a file rendered by several processes. */
#ifndef MPILORA_DATA_CHAT_PRIVATE_H
#define MPILORA_DATA_CHAT_PRIVATE_H

#include <jansson.h>
#include <pthread.h>

#include "data/ahead.h"
#include "data/tokenizer/models/model.h"
#include "io/child.h"
#include "io/json.h"
#include "mpilora/chat.h"

/* ---- a conversation ------------------------------------------------------------------------ */

typedef struct ml_conversation {
    json_t *messages;  /* owned: objects with role and content */
    json_t *tools;     /* owned: a list; NULL: none */
    json_t *variables; /* borrowed: an object; NULL: none */
    int64_t count;     /* of messages */
    int64_t given;     /* so many of them are a prompt: none of these is an answer */
} ml_conversation;

/* Whether the object of a line is a conversation at all: by its keys, well made or not. */
bool ml_conversation_is(const json_t *object);
/* Of an object without nulls (ml_row_drop_nulls). ML_INPUT naming the message, from 1, and what is
 * wrong with it. */
ml_status ml_conversation_read(ml_conversation *out, const json_t *object) ML_NODISCARD;
void ml_conversation_destroy(ml_conversation *conversation);
const char *ml_conversation_role(const ml_conversation *conversation, int64_t i);
/* The role of a message as a line has it, ShareGPT's by its other name; NULL: none that is known.
 * Borrowed. */
const char *ml_message_role(const json_t *message);

/* ---- rendering ----------------------------------------------------------------------------- */

/* What came of the first child of a template: where it does not start, others would not either. */
typedef struct ml_chat_trial {
    pthread_mutex_t mutex;
    enum { ML_TRIAL_NONE, ML_TRIAL_GOOD, ML_TRIAL_FAILED } result;
    ml_status status; /* of a failure, with its text */
    char text[2048];
} ml_chat_trial;

typedef struct ml_chat_renderer {
    ml_child child;
    ml_chat_trial *trial; /* of all renderers of the template; the first one's is owned */
    bool owns_trial;
    char *setup;        /* what the child is told first */
    int64_t most_bytes; /* of an answer */
    ml_text frame;
} ml_chat_renderer;

/* A beginning of a conversation: its first `count` messages, and whether the prompt of an answer
 * follows them. */
typedef struct ml_beginning {
    int64_t count;
    bool prompt;
} ml_beginning;

/* The set-up of the options: templates, tokens, bounds, date. */
ml_status ml_chat_renderer_create(ml_chat_renderer *out, const ml_chat_options *options,
                                  const char *date, const json_t *tokens) ML_NODISCARD;
/* Another one, with a child of its own. */
ml_status ml_chat_renderer_copy(ml_chat_renderer *out, const ml_chat_renderer *of,
                                int64_t most_bytes) ML_NODISCARD;
void ml_chat_renderer_destroy(ml_chat_renderer *renderer);
/* The answer of the child, which it starts where there is none: {"text", "marks": the template has
 * generation blocks, "spans": [[first byte, end], …] of these, "beginnings": [text or null, …],
 * "dated"}. `prompt`: the prompt of an answer follows the whole. The caller ends it with
 * json_decref. */
ml_status ml_chat_render(ml_chat_renderer *renderer, const ml_conversation *conversation,
                         bool prompt, const ml_beginning *beginnings, int64_t count,
                         json_t **out) ML_NODISCARD;

/* ---- targets ------------------------------------------------------------------------------- */

typedef struct ml_span {
    int64_t first, end; /* bytes */
} ml_span;

typedef struct ml_marked_text {
    json_t *answer;   /* owned: what text points into */
    const char *text; /* [length] */
    int64_t length;
    ml_span *spans; /* [count], in order, none empty */
    int64_t count, capacity;
    bool by_blocks;
    bool last_only; /* earlier answers could not be told */
    bool dated;
} ml_marked_text;

/* The text of a conversation and its answers in it. ML_INPUT where there is none, and as
 * ml_chat_render. */
ml_status ml_chat_mark(ml_chat_renderer *renderer, const ml_conversation *conversation,
                       ml_chat_loss loss, ml_marked_text *out) ML_NODISCARD;
void ml_marked_text_destroy(ml_marked_text *text);
/* An answer more, where it is not empty. */
ml_status ml_marked_text_add(ml_marked_text *text, int64_t first, int64_t end) ML_NODISCARD;

/* ---- for tokenize -------------------------------------------------------------------------- */

/* What another thread has found of a conversation: all NULL where nothing. */
typedef struct ml_chat_found {
    const json_t *rendered; /* of chat_ahead.c */
    const int32_t *ids;     /* [count] of its text */
    int64_t count;
} ml_chat_found;

/* The tokens of a training conversation, in the place of what *ids held, and their mask, which is
 * borrowed until the next one; `line` for the report. */
ml_status ml_chat_encode(ml_chat *chat, const json_t *object, int64_t line,
                         const ml_chat_found *found, ml_ids *ids,
                         const uint8_t **mask) ML_NODISCARD;

/* The text of a conversation, with `prompt` the beginning of an answer behind it: "text" of *out,
 * which the caller ends with json_decref. Errors as ml_chat_prompt. */
ml_status ml_chat_render_text(ml_chat_renderer *renderer, const json_t *object, bool prompt,
                              json_t **out) ML_NODISCARD;
/* The tokens of such a text, added to *ids; `dated`: whether the template wrote the date. */
ml_status ml_chat_encode_text(ml_chat *chat, const json_t *text, bool dated,
                              const ml_chat_found *found, ml_ids *ids) ML_NODISCARD;
/* Notes a row of which one of `count` values, some of them NULL, has null inside, and whose text
 * has it, too. */
void ml_chat_note_nulls(ml_chat *chat, const json_t *const *values, int64_t count, const char *text,
                        int64_t length, int64_t line);
ml_chat_renderer *ml_chat_get_renderer(ml_chat *chat);
ml_chat_loss ml_chat_get_loss(const ml_chat *chat);

/* chat_ahead.c: the texts of a row by a child of the thread's own, for ml_ahead_rendered: of a
 * conversation {"text", "spans", "by_blocks", "last_only", "dated"}, of a row of preferences in
 * lists of messages {"texts", "dated"}; their tokens are found as well; {"error", "status"} of one
 * that fails. Nothing where that needs much memory, or another one failed. False: the row has no
 * messages. */
bool ml_chat_prepare(ml_chat *chat, ml_ahead_row *row, ml_ahead_worker *worker);
/* The failure that was found ahead, or ML_OK. */
ml_status ml_chat_check_rendered(const json_t *rendered) ML_NODISCARD;
/* Ends what ml_chat_prepare keeps for a thread. */
void ml_chat_release(void *own);
/* A conversation that was found, as ml_chat_mark makes it. */
ml_status ml_chat_take_marked(const json_t *rendered, ml_marked_text *out) ML_NODISCARD;

#endif
