/* Full fine-tuning: every tensor of the base trains. */
#include "peft/peft_private.h"

static bool every(const ml_model *model, const ml_model_slot *slot, const ml_method_sizes *sizes)
{
    (void)model;
    (void)sizes;
    return slot != NULL;
}

ml_status full_attach(ml_peft **out, ml_model *model, ml_parameters *parameters,
                      const ml_peft_options *options)
{
    return slots_attach(out, model, parameters, options, every);
}
