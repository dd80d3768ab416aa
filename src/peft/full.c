/* Full fine-tuning: every tensor of the base trains.
 *
 * In fp32 the parameters' buffer is the model's storage. In bf16 the buffer holds fp32 masters; the model computes with bf16 copies of the matrices,
 * made anew after each update; norms and biases stay fp32 in the buffer itself. */
#include "peft/peft_private.h"

/* Parameter i of the list is slot i of the model. */
ml_status ml_peft_attach_full(ml_peft **out, ml_model *model, ml_parameters *parameters)
{
    ml_status st = ML_OK;
    ml_peft *peft = NULL;
    ML_NEW(peft, 1, ML_MEM_OTHER, "full fine-tuning");
    peft->operations = &full_operations;
    peft->model = model;
    peft->parameters = parameters;
    for (int64_t i = 0; i < ml_model_slots(model); i++) {
        const ml_model_slot *slot = ml_model_slot_at(model, i);
        ML_TRY(ml_parameters_add(parameters, slot->name, slot->rows, slot->cols, slot->vector, slot->shard, ML_GRADIENT_IDENTICAL, NULL));
    }
    *out = peft;
    peft = NULL;
done:
    ml_memory_free(peft);
    return st;
}

static void destroy(ml_peft *peft) { (void)peft; }

static void bind(ml_peft *peft)
{
    ml_parameters *p = peft->parameters;
    for (int64_t i = 0; i < p->count; i++) {
        ml_model_slot *slot = ml_model_slot_at(peft->model, i);
        if (slot->dtype == ML_FP32) slot->data = p->value + p->items[i].offset;
        slot->gradient = p->gradient + p->items[i].offset;
    }
}

static float *master(ml_peft *peft, int64_t index)
{
    const ml_parameters *p = peft->parameters;
    return ml_model_slot_at(peft->model, index)->dtype == ML_BF16 ? p->value + p->items[index].offset : NULL;
}

static void initialise(ml_peft *peft) { (void)peft; }

static void after_update(ml_peft *peft)
{
    const ml_parameters *p = peft->parameters;
    for (int64_t i = 0; i < p->count; i++) {
        ml_model_slot *slot = ml_model_slot_at(peft->model, i);
        if (slot->dtype == ML_BF16) ml_model_kernels(peft->model)->narrow(slot->count, p->value + p->items[i].offset, slot->data);
    }
}

/* ml_model_bind finds the fp32 slots bound and stores only the bf16 ones. */
static int64_t weight_bytes(const ml_peft *peft) { return ml_model_unbound_bytes(peft->model, ML_BF16); }

const peft_operations full_operations = {destroy, bind, master, initialise, after_update, ML_MEM_TRAINABLE, weight_bytes};
