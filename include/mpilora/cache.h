/* cache: sequences that grow token by token. Keys and values of what a model has seen are kept, so
 * that a pass goes over new tokens alone: prompts at once (prefill), then one more token for each
 * of several sequences (decode).
 *
 * Letters as in model.h: d model width, V vocabulary. */
#ifndef MPILORA_CACHE_H
#define MPILORA_CACHE_H

#include "mpilora/model.h"

ML_BEGIN_DECLS

/* Keys and values of several sequences ("slots") that grow token by token; what sequences have in
 * common from the beginning lies in memory once. */
typedef struct ml_cache ml_cache;

/* Room for `slots` sequences of at most `capacity` tokens, `rows` different tokens together. The
 * model must be reserved for max(capacity, slots) tokens without backward.
 * Shapes: tokens.
 * Ownership: *out is the caller's, who ends it with ml_cache_destroy; the model is borrowed until
 * then.
 * Local.
 * Errors: ML_RESOURCE. */
ml_status ml_cache_create(ml_cache **out, const ml_model *model, int64_t slots, int64_t capacity,
                          int64_t rows) ML_NODISCARD;

/* Ends a cache; NULL is fine.
 * Shapes: none.
 * Ownership: takes `cache`.
 * Local.
 * Errors: none. */
void ml_cache_destroy(ml_cache *cache);

/* Tokens of a slot, and tokens that there is room for.
 * Shapes: tokens.
 * Ownership: borrows `cache`.
 * Local.
 * Errors: none. */
int64_t ml_cache_length(const ml_cache *cache, int64_t slot);
int64_t ml_cache_spare(const ml_cache *cache);

/* Empties a slot.
 * Shapes: none.
 * Ownership: borrows `cache`.
 * Local.
 * Errors: none. */
void ml_cache_clear(ml_cache *cache, int64_t slot);

/* Slot `to` becomes the first n tokens of slot `from`, another one.
 * Shapes: tokens.
 * Ownership: borrows `cache`.
 * Local.
 * Errors: none. */
void ml_cache_share(ml_cache *cache, int64_t from, int64_t to, int64_t n);

/* The batch's sequences start slots anew, slot[i] the i-th. Needs a spare token for each of the
 * batch's. Every rank of tp gets all V; of a pipeline's stages the last has them, and tells them to
 * the others by ml_model_tell_logits.
 * Shapes: logits[batch->rows, V].
 * Ownership: all borrowed.
 * Collective over a replica: tp and the stages of a pipeline.
 * Errors: none. */
void ml_model_prefill(ml_model *model, ml_cache *cache, const int64_t *slot, const ml_batch *batch,
                      float *logits);

/* One more token for each of `count` different slots, and the logits after it, as above.
 * Shapes: slot[count], token[count], logits[count, V].
 * Ownership: all borrowed.
 * Collective over a replica: tp and the stages of a pipeline.
 * Errors: none. */
void ml_model_decode(ml_model *model, ml_cache *cache, int64_t count, const int64_t *slot,
                     const int32_t *token, float *logits);

ML_END_DECLS

#endif
