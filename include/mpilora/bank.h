/* bank: several adapters on one model, for generation. The frozen weights are there once; every
 * row of a pass goes through the base's product with all others and through its own adapter (as in
 * S-LoRA, Sheng et al. 2023, arXiv:2311.03285), so that a batch may hold requests of many tasks,
 * and a switch of the task is a number.
 *
 * Methods that hang on hooks (lora with its variants, prefix_*, adapter_*, compacter) meet in one
 * pass. Those that replace tensors of the base (top, bitfit) have a pass to themselves; to switch
 * to one is to point the model's layers at its tensors.
 *
 * Order of calls: ml_model_create with ml_bank_model_spec → ml_bank_create → ml_model_bind,
 * ml_model_reserve → weights are read → ml_bank_load → ml_bank_prepare. */
#ifndef MPILORA_BANK_H
#define MPILORA_BANK_H

#include "mpilora/model.h"
#include "mpilora/peft.h"
#include "mpilora/store.h"

ML_BEGIN_DECLS

typedef struct ml_bank ml_bank;

/* The specification of a model that every one of these adapters fits.
 * Shapes: adapters[count].
 * Ownership: all borrowed.
 * Local.
 * Errors: none. */
ml_model_spec ml_bank_model_spec(const ml_model_spec *base, int64_t count,
                                 const ml_adapter *adapters);

/* Makes room for these adapters, numbered as they stand here, on a model that has no other method;
 * −1 is the base alone. `base` is the specification before ml_bank_model_spec.
 * Shapes: adapters[count].
 * Ownership: *out is the caller's, who ends it with ml_bank_destroy before the model, which is
 * borrowed until then.
 * Local.
 * Errors: ML_INPUT where an adapter has no place in the model; ML_USAGE where two exclude each
 * other (top beside bitfit with new biases); ML_RESOURCE. */
ml_status ml_bank_create(ml_bank **out, ml_model *model, const ml_model_spec *base, int64_t count,
                         const ml_adapter *adapters) ML_NODISCARD;

/* Takes the bank's hooks out of the model; NULL is fine.
 * Shapes: none.
 * Ownership: takes `bank`.
 * Local.
 * Errors: none. */
void ml_bank_destroy(ml_bank *bank);

/* This rank's parts of all adapters.
 * Shapes: adapters[count] as at ml_bank_create.
 * Ownership: the adapters are borrowed and copied.
 * Local.
 * Errors: ML_INPUT, ML_USAGE where an adapter does not fit; ML_RESOURCE. */
ml_status ml_bank_load(ml_bank *bank, const ml_adapter *adapters) ML_NODISCARD;

/* What is made of the adapters and of the base's weights together (DoRA's norms, compacter's
 * products).
 * Shapes: none.
 * Ownership: none.
 * Collective over tp.
 * Errors: none. */
void ml_bank_prepare(ml_bank *bank);

/* Who sends the rows of a pass through their adapters. Before each pass route gets the adapter of
 * every row, equal ones next to each other; with count 1 it is that of all rows. may_meet: rows of
 * both may be in one pass. */
typedef struct ml_router {
    void *self;
    void (*route)(void *self, int64_t count, const int64_t *adapter);
    bool (*may_meet)(void *self, int64_t a, int64_t b);
} ml_router;

/* The router that sends each row of a pass through its adapter, for ml_generate_tokens.
 * Shapes: none.
 * Ownership: borrows `bank`, which must outlive it.
 * Local.
 * Errors: none. */
ml_router ml_bank_router(ml_bank *bank);

/* How often a pass began with another adapter than the one before ended with, and the seconds that
 * all of these took. */
typedef struct ml_bank_switches {
    int64_t count;
    double seconds;
} ml_bank_switches;

/* What switches between adapters took so far.
 * Shapes: seconds.
 * Ownership: borrows `bank`.
 * Local.
 * Errors: none. */
ml_bank_switches ml_bank_count_switches(const ml_bank *bank);

ML_END_DECLS

#endif
