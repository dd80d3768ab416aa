/* Requests for continuations: from texts or sequences to tokens, through the replicas of a job,
 * and back to texts. */
#ifndef MPILORA_SERVE_REQUESTS_H
#define MPILORA_SERVE_REQUESTS_H

#include "mpilora/data.h"
#include "mpilora/generate.h"
#include "mpilora/grid.h"
#include "mpilora/store.h"

typedef struct requests {
    ml_tokenizer *tokenizer;
    int64_t count, max_new;
    ml_ids *prompt;        /* [count] */
    ml_request *request;   /* [count] */
    int32_t *continuation; /* [count, max_new] */
} requests;

/* With the base's tokenizer. ML_INPUT where it has none. Local, as all of these. */
ml_status requests_create(requests *r, const ml_base *base, int64_t count,
                          int64_t max_new) ML_NODISCARD;
void requests_destroy(requests *r);
/* What ends a continuation: the tokenizer's end of text, and every one that the source's
 * generation_config.json names, else its config.json. ML_INPUT for another kind of value. */
ml_status requests_find_ends(const requests *r, const ml_base *base,
                             ml_generation *generation) ML_NODISCARD;
/* Prompt i from a text, behind the token that begins a text where the tokenizer has one; special
 * tokens that it spells are meant. */
ml_status requests_encode(requests *r, int64_t i, const char *text) ML_NODISCARD;
/* Prompt i as it goes to the model: virtual tokens, `prefix` of them before it and `infix` behind
 * it. */
ml_status requests_dress(requests *r, int64_t i, int64_t adapter, int64_t prefix,
                         int64_t infix) ML_NODISCARD;
/* The replicas of the grid do a part each, and all ranks get all continuations. Collective over
 * the grid. */
ml_status requests_generate(requests *r, const ml_grid *grid, ml_model *model,
                            const ml_generation *generation, int64_t together,
                            const ml_router *router) ML_NODISCARD;
ml_status requests_decode(const requests *r, int64_t i,
                          ml_text *out) ML_NODISCARD; /* continuation i */

#endif
