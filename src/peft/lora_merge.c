/* An adapter added into the weights of a model in memory. */
#include "peft/peft_private.h"

static float load(const ml_weight *w, int64_t i)
{
    return w->dtype == ML_BF16 ? ml_bf16_to_float(((const uint16_t *)w->data)[i])
                               : ((const float *)w->data)[i];
}

/* The model lends its weights as const; here they are its own memory. */
static void store(const ml_weight *w, int64_t i, float value)
{
    void *data = (void *)(uintptr_t)w->data;
    if (w->dtype == ML_BF16)
        ((uint16_t *)data)[i] = ml_bf16_from_float(value);
    else
        ((float *)data)[i] = value;
}

void lora_merge_pair(const lora_group *group, const lora_pair *pair)
{
    const ml_linear *layer = group->layer;
    int64_t in = layer->in, r = pair->rank;
    const float *gain = group->dora ? group->dora->gain + pair->first_row : NULL;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < pair->count; i++)
        for (int64_t j = 0; j < in; j++) {
            float delta = 0.0F;
            for (int64_t k = 0; k < r; k++) delta += pair->b[i * r + k] * pair->a[k * in + j];
            int64_t at = (pair->start + i) * in + j;
            store(&layer->weight, at,
                  (gain ? gain[i] : 1.0F) * (load(&layer->weight, at) + pair->scale * delta));
        }
}

void ml_peft_merge(ml_peft *peft)
{
    for (int64_t g = 0; g < peft->ngroups; g++) {
        lora_group *group = &peft->groups[g];
        for (int i = 0; i < group->npairs; i++) lora_merge_pair(group, &group->pair[i]);
        group->layer->hook = (ml_linear_hook){0};
    }
}
