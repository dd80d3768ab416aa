/* Bottleneck adapters: what bottleneck.c and compacter.c share. */
#ifndef MPILORA_PEFT_BOTTLENECK_H
#define MPILORA_PEFT_BOTTLENECK_H

#include "peft/peft_private.h"

/* The tensors of one adapter; compacter has the four factors in the place of D and U. */
typedef enum bottleneck_tensor {
    DOWN_WEIGHT, /* D[r, d] */
    DOWN_BIAS,
    UP_WEIGHT, /* U[d, r] */
    UP_BIAS,
    NORM_WEIGHT,
    NORM_BIAS,
    DOWN_LEFT, /* [n, r/n] */
    DOWN_RIGHT,
    UP_LEFT, /* [n, d/n] */
    UP_RIGHT,
    BOTTLENECK_TENSORS
} bottleneck_tensor;

/* The adapter on the output of one linear layer. */
typedef struct bottleneck {
    ml_peft *peft;
    ml_linear *layer;
    int64_t width, rank; /* d, r */
    int64_t parameter[BOTTLENECK_TENSORS];
    float *down, *up, *d_down, *d_up; /* D and U; gradients NULL where nothing trains */
} bottleneck;

typedef struct bottlenecks {
    int64_t count;
    bottleneck *module;
    bool norm;
    int64_t rule; /* compacter: parameter of A [n·n, n] */
    float *made;  /* compacter: every D and U, then their gradients */
} bottlenecks;

/* bottleneck.c */
ml_status bottleneck_add(bottleneck *module, bottleneck_tensor which, const char *place,
                         int64_t rows, int64_t cols) ML_NODISCARD;

/* compacter.c: its operations in the place of bottleneck.c's. D and U of a module follow each other
 * in `made`. */
ml_status compacter_check(const ml_peft *peft) ML_NODISCARD;
ml_status compacter_add_rule(ml_peft *peft) ML_NODISCARD;
ml_status compacter_add(bottleneck *module, const char *place) ML_NODISCARD;
ml_status compacter_bind(ml_peft *peft) ML_NODISCARD;
void compacter_initialise(ml_peft *peft);
void compacter_before_sum(ml_peft *peft);
void compacter_after_update(ml_peft *peft);
void compacter_bytes(const ml_peft *peft, bool training, int64_t bytes[ML_MEM_CATEGORIES]);

#endif
