/* This file gives the weights their storage, one block in the order of the slots, and points the
 * layers into it. Slots that train or that a method replaces lie apart. */
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

static void point_norm(ml_norm *norm, const ml_model_slot *slot)
{
    if (slot->row->bias) {
        norm->bias = slot->data;
        norm->bias_gradient = slot->gradient;
    } else {
        norm->weight = slot->data;
        norm->weight_gradient = slot->gradient;
    }
}

/* `slot` is the layer's first part: the others lie behind it. */
static void point_linear(const ml_model *m, ml_linear *linear, const ml_model_slot *slot)
{
    if (slot->row->bias) {
        linear->bias = slot->data;
        linear->bias_gradient = slot->gradient;
    } else {
        linear->weight = (ml_weight){slot->data, m->dtype, linear->out, linear->in};
        linear->weight_gradient = slot->gradient;
    }
}

static void point_slot(ml_model *m, const ml_model_slot *slot)
{
    ml_layer *layer = slot->layer < 0 ? NULL : &m->layers[slot->layer];
    switch (slot->row->role) {
    case ML_ROLE_EMBED:
        m->embed.weight = (ml_weight){slot->data, m->dtype, m->embed.in, m->embed.out};
        m->embed.weight_gradient = slot->gradient;
        if (m->spec.tied_head) point_linear(m, &m->head, slot);
        return;
    case ML_ROLE_POSITION:
        return; /* read from its slot */
    case ML_ROLE_HEAD:
        point_linear(m, &m->head, slot);
        return;
    case ML_ROLE_EMBED_NORM:
        point_norm(&m->embed_norm, slot);
        return;
    case ML_ROLE_NORM1:
        point_norm(&layer->norm1, slot);
        return;
    case ML_ROLE_QKV:
        point_linear(m, &layer->qkv, slot);
        return;
    case ML_ROLE_Q_NORM:
        point_norm(&layer->q_norm, slot);
        return;
    case ML_ROLE_K_NORM:
        point_norm(&layer->k_norm, slot);
        return;
    case ML_ROLE_O:
        point_linear(m, &layer->o, slot);
        return;
    case ML_ROLE_NORM1_BEHIND:
        point_norm(&layer->norm1_behind, slot);
        return;
    case ML_ROLE_NORM2:
        point_norm(&layer->norm2, slot);
        return;
    case ML_ROLE_UP:
        point_linear(m, &layer->up, slot);
        return;
    case ML_ROLE_DOWN:
        point_linear(m, &layer->down, slot);
        return;
    case ML_ROLE_NORM2_BEHIND:
        point_norm(&layer->norm2_behind, slot);
        return;
    case ML_ROLE_FINAL_NORM:
        point_norm(&m->final_norm, slot);
        return;
    }
}

void ml_model_point(ml_model *m)
{
    for (int64_t i = 0; i < m->nslots; i++)
        if (!m->follows[i]) point_slot(m, &m->slots[i]);
    for (int64_t l = 0; l < m->spec.layers; l++) {
        ml_layer *layer = &m->layers[l];
        if (m->spec.norm_places == ML_NORMS_PARALLEL && !layer->norm2.weight)
            layer->norm2 = layer->norm1;
    }
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
        if (!isfinite(ml_number_at(slot->data, slot->dtype, i))) return false;
    }
    return true;
}

const char *ml_model_find_nonfinite(const ml_model *m)
{
    for (int64_t i = 0; i < m->nslots; i++)
        if (!is_finite(&m->slots[i])) return m->slots[i].name;
    return NULL;
}
