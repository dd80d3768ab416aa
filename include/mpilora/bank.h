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
 * ml_model_reserve → weights are read → ml_bank_load → ml_bank_settle. */
#ifndef MPILORA_BANK_H
#define MPILORA_BANK_H

#include "mpilora/model.h"
#include "mpilora/peft.h"
#include "mpilora/store.h"

typedef struct ml_bank ml_bank;

/* Of a model that every one of these adapters fits. */
ml_model_spec ml_bank_model_spec(const ml_model_spec *base, int64_t count,
                                 const ml_adapter *adapters);
/* The model is borrowed and has no other method; `base`: the specification before
 * ml_bank_model_spec. Adapters are numbered as they stand here; −1 is the base alone. ML_INPUT
 * where one has no place in the model, ML_USAGE where two exclude each other (top beside bitfit
 * with new biases). Local. */
ml_status ml_bank_create(ml_bank **out, ml_model *model, const ml_model_spec *base, int64_t count,
                         const ml_adapter *adapters) ML_NODISCARD;
void ml_bank_destroy(ml_bank *bank); /* takes its hooks out of the model; NULL is fine */
/* This rank's parts of all adapters. ML_INPUT, ML_USAGE, ML_RESOURCE. Local. */
ml_status ml_bank_load(ml_bank *bank, const ml_adapter *adapters) ML_NODISCARD;
/* What is made of them and of the base's weights. Collective over tp. */
void ml_bank_settle(ml_bank *bank);
/* For ml_model_generate. Borrowed. */
ml_router ml_bank_router(ml_bank *bank);

/* How often a pass began with another adapter than the one before ended with, and the seconds that
 * all of these took. */
typedef struct ml_bank_switches {
    int64_t count;
    double seconds;
} ml_bank_switches;
ml_bank_switches ml_bank_count_switches(const ml_bank *bank);

#endif
