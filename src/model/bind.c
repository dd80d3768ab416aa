/* Storage of the weights, and the layers' pointers into it. */
#include <math.h>

#include "model/model_private.h"

enum { ALIGNMENT = 64 };

static int64_t slot_bytes(const ml_model_slot *slot)
{
    return slot->count * (int64_t)ml_dtype_size(slot->dtype);
}

typedef bool (*slot_filter)(const ml_model_slot *slot);

/* Where each chosen slot lies in one block: slots that follow another lie right behind it. Returns
 * the block's size; with a `block` the slots are pointed into it. */
static int64_t lay_out_slots(const ml_model *m, slot_filter chosen, char *block)
{
    int64_t used = 0;
    for (int64_t i = 0; i < m->nslots; i++) {
        ml_model_slot *slot = &m->slots[i];
        if (!chosen(slot)) continue;
        if (!m->follows[i]) used = ml_round_up(used, ALIGNMENT);
        if (block) slot->data = block + used;
        used += slot_bytes(slot);
    }
    return used;
}

static bool is_apart_bf16(const ml_model_slot *slot)
{
    return slot->apart && slot->dtype == ML_BF16;
}
static bool is_ours(const ml_model_slot *slot) { return !slot->apart; }

int64_t ml_model_lay_out_apart(ml_model *m, void *block)
{
    return lay_out_slots(m, is_apart_bf16, block);
}
int64_t ml_model_weight_bytes(const ml_model *m) { return lay_out_slots(m, is_ours, NULL); }

static int64_t point_norm(const ml_model *m, ml_norm *norm, int64_t slot)
{
    norm->weight = m->slots[slot].data;
    norm->weight_gradient = m->slots[slot].gradient;
    if (m->spec.family != ML_FAMILY_GPT2) return slot + 1;
    norm->bias = m->slots[slot + 1].data;
    norm->bias_gradient = m->slots[slot + 1].gradient;
    return slot + 2;
}

static int64_t point_linear(const ml_model *m, ml_linear *linear, int64_t slot, bool bias)
{
    linear->weight = (ml_weight){m->slots[slot].data, m->dtype, linear->out, linear->in};
    linear->weight_gradient = m->slots[slot].gradient;
    slot += linear->nparts;
    if (!bias) return slot;
    linear->bias = m->slots[slot].data;
    linear->bias_gradient = m->slots[slot].gradient;
    return slot + linear->nparts;
}

void ml_model_point(ml_model *m)
{
    const ml_model_spec *s = &m->spec;
    for (int64_t l = 0; l < s->layers; l++) {
        ml_layer *layer = &m->layers[l];
        int64_t slot = point_norm(m, &layer->norm1, m->layer_slot[l]);
        slot = point_linear(m, &layer->qkv, slot, s->qkv_bias);
        slot = point_linear(m, &layer->o, slot, s->o_bias);
        slot = point_norm(m, &layer->norm2, slot);
        slot = point_linear(m, &layer->up, slot, s->mlp_bias);
        point_linear(m, &layer->down, slot, s->mlp_bias);
    }
    point_norm(m, &m->final_norm, m->final_norm_slot);
}

void ml_model_bind_storage(ml_model *m, void *storage)
{
    lay_out_slots(m, is_ours, storage);
    ml_model_point(m);
}

ml_status ml_model_bind(ml_model *m)
{
    ml_status st = ML_OK;
    int64_t bytes = ml_model_weight_bytes(m);
    if (bytes > 0) {
        char *block;
        ML_NEW(block, bytes, ML_MEM_FROZEN, "the model's weights");
        m->storage = block;
    }
    ml_model_bind_storage(m, m->storage);
done:
    return st;
}

int64_t ml_model_shapes(const ml_model *m, ml_weight shapes[ML_MODEL_SHAPES])
{
    const ml_layer *layer = &m->layers[0];
    const ml_linear *linear[] = {&layer->qkv, &layer->o, &layer->up, &layer->down};
    int64_t n = 0;
    for (; n < 4; n++) shapes[n] = (ml_weight){NULL, m->dtype, linear[n]->out, linear[n]->in};
    shapes[n++] = (ml_weight){NULL, m->dtype, m->vocab_count, m->spec.width};
    return n;
}

void ml_model_kernel_options(const ml_model *m, int64_t tokens, ml_kernels_options *options,
                             ml_weight shapes[ML_MODEL_SHAPES])
{
    options->weight_dtype = m->dtype;
    options->tokens = tokens;
    options->nshapes = ml_model_shapes(m, shapes);
    options->shapes = shapes;
    options->head_dim = m->spec.head_dim;
    options->heads = m->heads;
    options->kv_heads = m->kv_heads;
}

static bool is_finite(const ml_model_slot *slot)
{
    for (int64_t i = 0; i < slot->count; i++) {
        float x = slot->dtype == ML_BF16 ? ml_bf16_to_float(((const uint16_t *)slot->data)[i])
                                         : ((const float *)slot->data)[i];
        if (!isfinite(x)) return false;
    }
    return true;
}

const char *ml_model_find_nonfinite(const ml_model *m)
{
    for (int64_t i = 0; i < m->nslots; i++)
        if (!is_finite(&m->slots[i])) return m->slots[i].name;
    return NULL;
}
