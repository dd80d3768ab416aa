/* The order in which sequences are taken from several data sets by weight. Local; an internal
 * module.
 *
 * Position p (from 0, unbounded) → part and place: how many sequences of that part came before. It
 * is a pure function of p. Positions stand in cycles of ML_MIXTURE_CYCLE; of the first m cycles a
 * part has what its share of their positions rounds to, so that no part is ever more than one
 * sequence off at a cycle's end. Within a cycle the parts are spread evenly, or shuffled. */
#ifndef MPILORA_DATA_MIXTURE_H
#define MPILORA_DATA_MIXTURE_H

#include "mpilora/base.h"

enum { ML_MIXTURE_CYCLE = 4096 };

typedef struct ml_mixture ml_mixture;

/* weight[parts] > 0, each at least a thousandth of their sum. `key`: of the shuffle, used where
 * `shuffle`. ML_RESOURCE. */
ml_status ml_mixture_create(ml_mixture **out, int64_t parts, const double *weight, bool shuffle,
                            ml_random_key key) ML_NODISCARD;
void ml_mixture_destroy(ml_mixture *mixture); /* NULL is fine */
void ml_mixture_at(ml_mixture *mixture, int64_t position, int64_t *part, int64_t *place);

#endif
