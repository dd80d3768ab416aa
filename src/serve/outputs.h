/* Continuations of a data set's prompts beside what stands there: {"prompt", "output",
 * "references"}, a line a prompt. */
#ifndef MPILORA_SERVE_OUTPUTS_H
#define MPILORA_SERVE_OUTPUTS_H

#include "mpilora/evaluate.h"
#include "serve/requests.h"
#include "session/session.h"

typedef struct outputs {
    requests requests;
    ml_generation generation;
    int64_t together;
    ml_text *prompt, *references; /* [requests.count] a string and a list of JSON */
} outputs;

/* The prompts of s->valid, equal ones once, and the model's tokens that they need (into s->tokens
 * where more). After the session's adapter is attached, before it is built. ML_INPUT where the
 * base has no tokenizer. Local. */
ml_status outputs_prepare(outputs *o, session *s, const ml_output_options *options) ML_NODISCARD;
void outputs_destroy(outputs *o);
/* Every replica its part; rank 0 writes the file. Collective over the world. */
ml_status outputs_write(outputs *o, const session *s, const char *path) ML_NODISCARD;

#endif
