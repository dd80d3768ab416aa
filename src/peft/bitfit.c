/* BitFit (Zaken et al. 2021, arXiv:2106.10199): every bias trains, those of norms among them. */
#include "peft/peft_private.h"

static bool is_bias(const ml_model *model, const ml_model_slot *slot, const ml_method_sizes *sizes)
{
    (void)model;
    (void)sizes;
    const char *dot = strrchr(slot->name, '.');
    return dot && !strcmp(dot, ".bias");
}

ml_status bitfit_attach(ml_peft **out, ml_model *model, ml_parameters *parameters,
                        const ml_peft_options *options)
{
    const ml_model_spec *spec = ml_model_get_spec(model);
    if (spec->norm != ML_NORM_LAYER && !spec->qkv_bias && !spec->o_bias && !spec->mlp_bias)
        return ml_fail(ML_USAGE, "method.name: bitfit trains biases, the model has none; "
                                 "method.new_biases: true makes some, as zeros");
    return slots_attach(out, model, parameters, options, is_bias);
}
