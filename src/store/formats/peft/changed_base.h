/* Adapters of a base that PEFT changes when they begin. Local; an internal module. */
#ifndef MPILORA_STORE_FORMATS_PEFT_CHANGED_BASE_H
#define MPILORA_STORE_FORMATS_PEFT_CHANGED_BASE_H

#include "store/adapter/adapter.h"
#include "store/formats/peft/config.h"

/* Makes of a pair on what PEFT leaves of W the same on W itself, of twice the rank. `row` is its
 * module's. ML_INPUT where the rank is more than W has, or alpha is not above 0. */
ml_status ml_peft_add_start(ml_adapter_pair *pair, ml_peft_start start, bool rslora,
                            const ml_family_tensor *row, int64_t layer, ml_base *base) ML_NODISCARD;

#endif
