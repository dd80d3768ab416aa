/* The shape that a tensor has in a Hugging Face directory: what an import expects and an export
 * writes. */
#include "store/formats/huggingface/huggingface.h"

bool hf_is_transposed(const ml_model_tensor *t, const ml_stored_place *place)
{
    return place->layout == ML_LAYOUT_TRANSPOSED && !t->vector;
}

int hf_shape(const ml_model_spec *spec, const ml_model_tensor *t, const ml_stored_place *place,
             int64_t shape[HF_DIMS])
{
    bool transposed = hf_is_transposed(t, place);
    shape[0] = transposed ? t->cols : place->total;
    shape[1] = transposed ? place->total : t->cols;
    if (place->layout == ML_LAYOUT_BY_HEAD) {
        shape[0] = place->total / spec->head_dim;
        shape[1] = spec->head_dim;
        return 2;
    }
    if (place->layout != ML_LAYOUT_CONV) return t->vector ? 1 : 2;
    shape[1] = spec->width;
    shape[2] = spec->conv_kernel;
    return 3;
}
