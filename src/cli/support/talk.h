/* A conversation on a terminal, or through a pipe: a line of standard input is what the user says,
 * and what was said before stays part of it. */
#ifndef MPILORA_CLI_SUPPORT_TALK_H
#define MPILORA_CLI_SUPPORT_TALK_H

#include <jansson.h>

#include "cli/support/chat_template.h"
#include "mpilora/generate.h"

typedef struct talk {
    ml_base *base; /* on world rank 0, as all that follows */
    ml_tokenizer *tokenizer;
    ml_chat *chat;
    json_t *messages;
    ml_text line;
    int32_t turn_end; /* on every rank; −1: none is known */
} talk;

/* The base's template, or the one that is given. ML_INPUT where there is none. Collective over the
 * world. */
ml_status talk_open(talk *t, const char *base, const chat_given *given) ML_NODISCARD;
void talk_close(talk *t);
/* ml_talk's next, for a `self` of talk: writes the answer to standard output and reads a line;
 * empty ones are passed over. */
ml_status talk_next(void *self, const ml_text *answer, ml_text *prompt, bool *more) ML_NODISCARD;

#endif
