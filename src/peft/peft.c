/* The method's interface: dispatch. */
#include "peft/peft_private.h"

void ml_peft_destroy(ml_peft *peft)
{
    if (!peft) return;
    peft->operations->destroy(peft);
    ml_memory_free(peft->groups);
    ml_memory_free(peft);
}

void ml_peft_bind(ml_peft *peft) { peft->operations->bind(peft); }
float *ml_peft_master(ml_peft *peft, int64_t index) { return peft->operations->master(peft, index); }
void ml_peft_initialise(ml_peft *peft) { peft->operations->initialise(peft); }
void ml_peft_after_update(ml_peft *peft) { peft->operations->after_update(peft); }
ml_category ml_peft_weight_category(const ml_peft *peft) { return peft->operations->weight_category; }
int64_t ml_peft_weight_bytes(const ml_peft *peft) { return peft->operations->weight_bytes(peft); }
