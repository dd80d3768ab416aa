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
    int64_t count, max_new, vocab;
    int32_t begin;         /* what an empty text becomes; −1: the base names none */
    int64_t made;          /* count at first */
    ml_ids *prompt;        /* [made] */
    ml_request *request;   /* [made], the first `count` of them to be answered */
    int32_t *continuation; /* [made, max_new] */
} requests;

/* With the base's tokenizer. ML_INPUT where it has none. Local, as all of these. */
ml_status requests_create(requests *r, const ml_base *base, int64_t count,
                          int64_t max_new) ML_NODISCARD;
void requests_destroy(requests *r);
/* What ends a continuation: the tokenizer's end of text, and every one that the source's
 * generation_config.json names, else its config.json; and r->begin. ML_INPUT for another kind of
 * value. */
ml_status requests_find_ends(requests *r, const ml_base *base,
                             ml_generation *generation) ML_NODISCARD;
/* Prompt i from a text, behind the token that begins a text where the tokenizer has one, unless it
 * is `whole`. `specials`: the special tokens that it spells are meant. A text without tokens
 * becomes r->begin, where there is one. */
ml_status requests_encode(requests *r, int64_t i, const char *text, bool specials,
                          bool whole) ML_NODISCARD;
/* Prompt i as these tokens. ML_INPUT for one that the vocabulary does not have. */
ml_status requests_take(requests *r, int64_t i, const int32_t *ids, int64_t count) ML_NODISCARD;
/* One more token that ends a continuation. */
ml_status requests_add_end(ml_generation *generation, int32_t id, int64_t vocab) ML_NODISCARD;
/* Prompt i as it goes to the model: virtual tokens, `prefix` of them before it and `infix` behind
 * it. */
ml_status requests_dress(requests *r, int64_t i, int64_t adapter, int64_t prefix,
                         int64_t infix) ML_NODISCARD;
/* Only those requests stay whose prompt is not refused; request k's `number` is its prompt's. */
void requests_leave_out(requests *r, const bool *refused);
/* The replicas of the grid do a part each, and all ranks get all continuations. Collective over
 * the grid. */
ml_status requests_generate(requests *r, const ml_grid *grid, ml_model *model,
                            const ml_generation *generation, int64_t together,
                            const ml_router *router) ML_NODISCARD;
ml_status requests_decode(const requests *r, int64_t i,
                          ml_text *out) ML_NODISCARD; /* of request i */

#endif
