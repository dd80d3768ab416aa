/* chat: conversations to tokens and loss masks, by a model's chat template.
 *
 * A template is a jinja2 program that comes with a model. It is rendered exactly as transformers'
 * apply_chat_template renders it, by jinja2's sandbox in child processes (Python with jinja2,
 * started when the first conversation comes; one for each thread that reads a file ahead), whose
 * processor time, memory and output are bounded.
 *
 * A conversation is a JSON object:
 *   {"messages": [{"role": …, "content": …}, …], "tools": […]}
 *   {"conversations": [{"from": "human", "value": …}, …]}           ShareGPT's; "system": a text
 *   {"prompt": [messages], "completion": [messages]}               TRL's
 * A content is a text or a list of parts {"type": "text", "text": …}. "tools" and
 * "chat_template_kwargs" (an object of variables) may stand beside each; others are left alone.
 * What is null, a column or a member of a message, is absent.
 *
 * Targets are the answers: the assistant's messages, from behind the prompt that generation begins
 * with, their end-of-turn token included. Where the template has {% generation %} blocks they say
 * it. Else it is found by rendering: an answer is what text(messages up to it) has beyond
 * text(messages before it, with the prompt); both have to be beginnings of the whole text. Where
 * that does not hold for one (some templates rewrite earlier answers), the last answer alone is a
 * target. */
#ifndef MPILORA_CHAT_H
#define MPILORA_CHAT_H

#include "mpilora/data.h"

ML_BEGIN_DECLS

typedef enum ml_chat_loss {
    ML_CHAT_ASSISTANT, /* all answers, or the last where the template does not let them be told */
    ML_CHAT_LAST,      /* the last answer */
    ML_CHAT_ALL        /* all answers; a conversation in which they cannot be told is refused */
} ml_chat_loss;

typedef struct ml_chat_options {
    const char *template_text;
    const char *tool_template_text; /* for conversations with tools; NULL: the same */
    const char *special_tokens; /* a JSON object, {"bos_token": "<s>", …}; NULL: begin and end of
                                   text of the tokenizer */
    const char *date;           /* what strftime_now says, YYYY-MM-DD[THH:MM:SS]; NULL: now */
    ml_chat_loss loss;
} ml_chat_options;

/* What was met so far. */
typedef struct ml_chat_report {
    int64_t conversations, tokens, targets;
    int64_t last_only;   /* of these: the last answer alone is a target, for want of the others */
    int64_t without_end; /* no special token ends their last answer */
    int64_t left_out;    /* messages whose text, or a function that they call, is not in what the
                            template makes of them */
    int64_t left_out_line, left_out_message; /* the first of them; messages count from 1 */
    char left_out_role[32];
    int64_t tools_left_out, tools_left_out_line; /* conversations whose tools are not in it */
    int64_t nulls, nulls_line; /* rows with null inside of what messages, tools or variables hold,
                                  where the template writes "null" or "None"; the first of them */
    bool dated;                /* the template writes the date */
    char date[32];             /* that it was told */
    bool by_blocks;            /* targets are those of {% generation %} blocks */
} ml_chat_report;

typedef struct ml_chat ml_chat;

/* A renderer of conversations. Nothing is started before the first conversation.
 * Shapes: none.
 * Ownership: *out is the caller's, who ends it with ml_chat_destroy; the options' texts are copied,
 * `tokenizer` is borrowed until then.
 * Local.
 * Errors: ML_USAGE for a date that is none; ML_INPUT where special_tokens is no such object;
 * ML_RESOURCE. */
ml_status ml_chat_create(ml_chat **out, const ml_chat_options *options,
                         ml_tokenizer *tokenizer) ML_NODISCARD;

/* Ends it and its process; NULL is fine.
 * Shapes: none.
 * Ownership: takes `chat`.
 * Local.
 * Errors: none. */
void ml_chat_destroy(ml_chat *chat);

/* Appends the text of a conversation whose answer is asked for: its messages (for prompt and
 * completion those of the prompt) and the beginning of an answer. Special tokens that it spells are
 * meant, and none goes before it.
 * Shapes: json[length] bytes.
 * Ownership: `text` is the caller's; the rest is borrowed.
 * Local.
 * Errors: ML_INPUT where the text is no conversation, or the template fails, naming message, role
 * and the template's line, or is past its bounds; ML_USAGE where there is no Python with jinja2;
 * ML_RESOURCE. */
ml_status ml_chat_prompt(ml_chat *chat, const char *json, int64_t length,
                         ml_text *text) ML_NODISCARD;

/* The token that ends an answer, −1 where the template has none: the last special token of an
 * answer to a trial conversation.
 * Shapes: none.
 * Ownership: borrows `chat`.
 * Local.
 * Errors: as ml_chat_prompt, but for ML_INPUT where the template refuses the trial: −1 then. */
ml_status ml_chat_end_token(ml_chat *chat, int32_t *out) ML_NODISCARD;

/* Figures of the conversations that became training sequences, and the first of these as text with
 * ⟦ before and ⟧ behind its targets ("" before there is one).
 * Shapes: conversations, tokens, messages.
 * Ownership: borrowed from `chat`.
 * Local.
 * Errors: none. */
const ml_chat_report *ml_chat_figures(const ml_chat *chat);
const char *ml_chat_example(const ml_chat *chat);

ML_END_DECLS

#endif
