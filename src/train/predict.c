/* Memory that this rank is about to account for, asked from the functions that allocate it. */
#include <omp.h>

#include "train/run.h"

void predict_memory(run *r)
{
    const session *s = &r->session;
    int64_t *bytes = r->predicted;
    ml_weight shapes[ML_MODEL_SHAPES];
    ml_kernels_options kernels = {.product_path = r->config->product_path, .vector_path = r->config->vector_path};
    ml_model_kernel_options(s->model, s->tokens, &kernels, shapes);
    bytes[ml_peft_weight_category(s->peft)] += ml_peft_weight_bytes(s->peft);
    ml_parameters_bytes(&s->parameters, true, bytes);
    ml_model_reserve_bytes(s->model, s->tokens, true, bytes);
    bytes[ML_MEM_WORKSPACE] += ml_kernels_workspace_bytes(&kernels, omp_get_max_threads());
    bytes[ML_MEM_OTHER] += packer_bytes(s->tokens, r->config->batch.micro, s->max_len);
}
