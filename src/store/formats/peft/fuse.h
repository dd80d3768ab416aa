/* peft_fuse: between our pairs and the modules of a Hugging Face model. An internal module. */
#ifndef MPILORA_STORE_FORMATS_PEFT_FUSE_H
#define MPILORA_STORE_FORMATS_PEFT_FUSE_H

#include "store/adapter/adapter.h"

/* One module of the exported adapter; factors owned. */
typedef struct ml_peft_module {
    int64_t layer;               /* −1: the embedding or the head */
    const ml_family_tensor *row; /* of its first pair */
    const char *module;          /* "attn.c_attn" */
    int64_t rank, in, out;
    double alpha;
    float *a, *b; /* [rank, in], [out, rank] */
    float *m;     /* [out] DoRA's magnitudes; NULL: plain LoRA */
} ml_peft_module;

/* "attn.c_attn" of the row's "@.attn.c_attn". */
const char *ml_peft_module_name(const ml_family_tensor *row);

/* The modules of an adapter in the model's order. Pairs of one module (q, k, v of GPT-2's c_attn)
 * become one of the sum of their ranks: A's stacked, B's side by side in their own rows, the scale
 * of the first; the others' scale, and rsLoRA's square root, go into B. Owned by the caller. */
ml_status ml_peft_fuse(const ml_adapter *adapter, const ml_model_spec *spec,
                       ml_peft_module **modules, int64_t *count) ML_NODISCARD;
void ml_peft_modules_destroy(ml_peft_module *modules, int64_t count);

#endif
