/* exchange: the hooks of several methods on one model. Each method attaches as if it were alone;
 * then its hooks are taken out of the model, and exchanges in their place send every row of a pass
 * to the method that it belongs to. The frozen product is one for all rows. An internal module. */
#ifndef MPILORA_PEFT_EXCHANGE_H
#define MPILORA_PEFT_EXCHANGE_H

#include "mpilora/model.h"

typedef struct ml_exchange ml_exchange;

/* For `tenants` methods, numbered from 0, on a model that has no hooks yet. *out is the caller's,
 * who ends it with ml_exchange_destroy before the model. Local. ML_RESOURCE. */
ml_status ml_exchange_create(ml_exchange **out, ml_model *model, int64_t tenants) ML_NODISCARD;
/* Takes the exchanges out of the model; NULL is fine. */
void ml_exchange_destroy(ml_exchange *exchange);

/* What has just been attached to the model's linear layers becomes the tenant's. */
void ml_exchange_admit(ml_exchange *exchange, int64_t tenant);
/* Once all are admitted: on every layer where a tenant has something. */
void ml_exchange_install(ml_exchange *exchange);

/* Whether the rows of a pass can have owners: those of DeBERTa's distances are all texts' rows.
 * Local. ML_USAGE where a tenant adapts what projects them. */
ml_status ml_exchange_check(const ml_exchange *exchange) ML_NODISCARD;

/* Whose the rows of the next passes are, equal ones next to each other; −1: nobody's. `token` for
 * passes over all tokens of a micro-batch, `predicted` for those over the rows that predict.
 * Borrowed until the next call. */
void ml_exchange_route(ml_exchange *exchange, const int64_t *token, const int64_t *predicted);
/* The same, where all rows belong to one. */
void ml_exchange_route_all(ml_exchange *exchange, int64_t tenant);

#endif
