/* The last layers train, with their norms and biases (FT-Top2 of Hu et al., section 5.1: the last
 * two). */
#include <inttypes.h>

#include "peft/peft_private.h"

static bool in_last_layers(const ml_model *model, const ml_model_slot *slot,
                           const ml_method_sizes *sizes)
{
    int64_t layer;
    return sscanf(slot->name, "layers.%" SCNd64 ".", &layer) == 1 &&
           layer >= ml_model_get_spec(model)->layers - sizes->top;
}

ml_status top_attach(ml_peft **out, ml_model *model, ml_parameters *parameters,
                     const ml_peft_options *options)
{
    int64_t layers = ml_model_get_spec(model)->layers;
    if (options->sizes.top > layers)
        return ml_fail(ML_USAGE,
                       "method.top: %" PRId64 " layers are to train, the model has %" PRId64,
                       options->sizes.top, layers);
    return slots_attach(out, model, parameters, options, in_last_layers);
}
