/* A method's operations, and LoRA's own structures. */
#ifndef MPILORA_PEFT_PRIVATE_H
#define MPILORA_PEFT_PRIVATE_H

#include "mpilora/peft.h"

typedef struct peft_operations {
    void (*destroy)(ml_peft *peft);
    void (*bind)(ml_peft *peft);
    float *(*master)(ml_peft *peft, int64_t index);
    void (*initialise)(ml_peft *peft);
    void (*after_update)(ml_peft *peft);
    ml_category weight_category;
    int64_t (*weight_bytes)(const ml_peft *peft);
} peft_operations;

/* One pair A[rank, in], B[out, rank] on this rank. */
typedef struct lora_pair {
    char site[64];
    int64_t rank, global_out;
    double alpha;
    float scale;
    int64_t start, count;             /* columns of the layer's local output that it adds to */
    int64_t parameter_a, parameter_b; /* in the list */
    float *a, *b, *da, *db;           /* this rank's parts; gradients NULL where it does not train */
    ml_random_key dropout_key;
} lora_pair;

enum { PAIRS_A_LAYER = ML_LINEAR_PARTS + 1 };

/* The pairs of one linear layer: they share its input, so their A's lie one below the other and make one product. */
typedef struct lora_group {
    ml_linear *layer;
    int npairs;
    lora_pair pair[PAIRS_A_LAYER];
    int64_t rank; /* of all pairs together */
    double dropout;
} lora_group;

struct ml_peft {
    const peft_operations *operations;
    ml_model *model;
    ml_parameters *parameters;
    int64_t ngroups; /* LoRA */
    lora_group *groups;
    ml_lora_options options;
};

/* lora_hook.c */
void lora_install(lora_group *group);
/* lora.c */
extern const peft_operations lora_operations;
/* full.c */
extern const peft_operations full_operations;

#endif
