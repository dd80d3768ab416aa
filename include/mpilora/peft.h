/* peft: what a run trains. A method attaches to a model: it names its trainable tensors and installs its hooks; models never name a method.
 *
 * LoRA (Hu et al. 2021, arXiv:2106.09685): y = x·Wᵀ + b + s·(x·Aᵀ)·Bᵀ with A[r, in], B[out, r], W frozen; s = α/r, or α/√r (rsLoRA, Kalajdzievski
 * 2023, arXiv:2312.03732). In a column-parallel layer A is replicated over tp and B cut by rows, in a row-parallel layer A is cut by columns and B
 * replicated; gradients of the replicated factors are partial sums.
 * full: every tensor of the base trains, with fp32 masters.
 *
 * Order of calls: attach (describes; no storage) → ml_parameters_lay_out → ml_parameters_allocate → ml_peft_bind → ml_model_bind → weights are read →
 * ml_peft_initialise or ml_peft_load. For sizes alone stop after lay_out.
 */
#ifndef MPILORA_PEFT_H
#define MPILORA_PEFT_H

#include "mpilora/base.h"
#include "mpilora/config.h"
#include "mpilora/model.h"
#include "mpilora/optim.h"
#include "mpilora/store.h"

typedef struct ml_peft ml_peft;

typedef struct ml_lora_options {
    int64_t rank;
    double alpha, dropout;
    ml_scaling scaling;
    unsigned targets; /* resolved for the family: ml_targets_resolve */
    uint64_t seed;    /* of initial A and dropout */
} ml_lora_options;

/* The model and the list are borrowed and must outlive the method. Local. */
ml_status ml_peft_attach_lora(ml_peft **out, ml_model *model, ml_parameters *parameters, const ml_lora_options *options) ML_NODISCARD;
ml_status ml_peft_attach_full(ml_peft **out, ml_model *model, ml_parameters *parameters) ML_NODISCARD;
/* An existing adapter, not to be trained: sites, ranks and scales are its own. ML_INPUT where it names a site that the model lacks. */
ml_status ml_peft_attach_adapter(ml_peft **out, ml_model *model, ml_parameters *parameters, const ml_adapter *adapter) ML_NODISCARD;
void ml_peft_destroy(ml_peft *peft); /* takes its hooks out of the model; NULL is fine */

/* Points hooks (or, for full, the model's slots) at the allocated buffers. Local. */
void ml_peft_bind(ml_peft *peft);
/* Where the fp32 master of slot `index` is kept apart from the slot's own data (full in bf16): base weights are read there; else NULL. */
float *ml_peft_master(ml_peft *peft, int64_t index);
/* LoRA: A Kaiming-uniform with a = √5 (PEFT's), i.e. uniform in ±1/√in, keyed by (seed, name); B zero. full: nothing. */
void ml_peft_initialise(ml_peft *peft);
/* This rank's parts of an adapter's factors. ML_USAGE where rank, α, scaling or sites are not those attached (both values named). Local. */
ml_status ml_peft_load(ml_peft *peft, const ml_adapter *adapter) ML_NODISCARD;
/* After an update or a load of values: bf16 copies follow their masters. */
void ml_peft_after_update(ml_peft *peft);
/* LoRA: adds s·B·A into the model's own weights (rounded once to their type) and takes the method's hooks out: the model computes what it did, without
 * adapters. Only for a method whose weights are this model's own storage. Local. */
void ml_peft_merge(ml_peft *peft);
/* Bytes beyond parameters and slots that this method's weights need on this rank, into the category they are accounted in (full: its own bf16 copies
 * count as trainable and not as frozen). */
ml_category ml_peft_weight_category(const ml_peft *peft);
int64_t ml_peft_weight_bytes(const ml_peft *peft); /* what ml_model_bind will allocate */

/* The trained factors, whole, on world rank 0 (elsewhere `out` stays empty): collective; LoRA only. Destroy with ml_adapter_destroy. */
ml_status ml_peft_collect(const ml_peft *peft, const ml_grid *grid, const char *base_source_hash, ml_adapter *out) ML_NODISCARD;

#endif
