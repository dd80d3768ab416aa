/* A pass over a micro-batch: embedding, layers, head; then back as far as something trains. */
#include "model/model_private.h"

/* The row of the rotary table that turns token t, of a sequence of so many. */
void place_rope(ml_model *m, int64_t t, int64_t length)
{
    activations *a = &m->act;
    if (!a->rope_row) return;
    int64_t beyond = ml_model_is_beyond(&m->spec, length) ? ml_min(a->tokens, m->spec.context) : 0;
    a->rope_row[t] = (int32_t)(a->position[t] + beyond);
}

void place_tokens(ml_model *m, const ml_batch *batch)
{
    activations *a = &m->act;
    for (int64_t s = 0; s < batch->sequences.count; s++) {
        int64_t start = batch->sequences.start[s], end = batch->sequences.start[s + 1];
        int64_t shared = ml_sequences_shared(&batch->sequences, s),
                length = batch->length ? batch->length[s] : shared + end - start;
        for (int64_t t = start; t < end; t++) {
            a->position[t] = (int32_t)(shared + t - start);
            place_rope(m, t, length);
            a->key_sequence[t] = batch->key_sequence ? batch->key_sequence[s] : 0;
        }
    }
    for (int64_t i = 0; i < batch->rows; i++) {
        a->row_position[i] = a->position[batch->row[i]];
        a->row_key_sequence[i] = a->key_sequence[batch->row[i]];
    }
}

static bool norm_trains(const ml_norm *norm)
{
    return norm->weight_gradient || norm->bias_gradient;
}

/* The number of the first operation that has something to train; past the last one where nothing
 * has. */
static int64_t lowest_trained(const ml_model *m)
{
    if (m->virtual_hook.backward || m->slots[m->embed_slot].gradient ||
        (m->position_slot >= 0 && m->slots[m->position_slot].gradient))
        return OP_EMBEDDING;
    for (int64_t l = 0; l < m->spec.layers; l++) {
        const ml_layer *layer = &m->layers[l];
        const bool trains[OPS_A_LAYER] = {
            norm_trains(&layer->norm1),
            ml_linear_trains(&layer->qkv) || norm_trains(&layer->q_norm) ||
                norm_trains(&layer->k_norm) || m->virtual_hook.keys_backward,
            ml_linear_trains(&layer->o) || norm_trains(&layer->norm1_behind),
            norm_trains(&layer->norm2),
            ml_linear_trains(&layer->up),
            ml_linear_trains(&layer->down) || norm_trains(&layer->norm2_behind)};
        for (int op = 0; op < OPS_A_LAYER; op++)
            if (trains[op]) return l * OPS_A_LAYER + op;
    }
    return m->spec.layers * OPS_A_LAYER;
}

void virtual_forward(ml_model *m, int64_t level, int64_t T, const int32_t *token, float *x)
{
    if (m->virtual_hook.forward && level < m->spec.layers)
        m->virtual_hook.forward(m->virtual_hook.self, level, T, token, x);
}

static void virtual_backward(ml_model *m, int64_t level, const ml_batch *batch)
{
    if (m->virtual_hook.backward && level < m->spec.layers)
        m->virtual_hook.backward(m->virtual_hook.self, level, batch->tokens, batch->token,
                                 m->act.x);
}

static void go_back(ml_model *m, const ml_batch *batch)
{
    pass_enter(m, PASS_BACKWARD);
    int64_t lowest = lowest_trained(m);
    for (int64_t l = m->spec.layers - 1; l >= 0 && lowest < (l + 1) * OPS_A_LAYER; l--) {
        virtual_backward(m, l + 1, batch);
        layer_backward(m, l, batch, lowest);
    }
    if (lowest != OP_EMBEDDING) return;
    virtual_backward(m, 0, batch);
    embed_backward(m, batch);
}

void ml_model_loss(ml_model *m, const ml_batch *batch, bool backward, double scale,
                   double smoothing, double *loss_sum)
{
    pass_enter(m, PASS_FORWARD);
    place_tokens(m, batch);
    embed_forward(m, batch);
    virtual_forward(m, 0, batch->tokens, batch->token, m->act.x);
    for (int64_t l = 0; l < m->spec.layers; l++) {
        layer_attend(m, l, batch, backward);
        layer_finish(m, l, batch, backward);
        virtual_forward(m, l + 1, batch->tokens, batch->token, m->act.x);
    }
    *loss_sum = head_loss(m, batch, backward, scale, smoothing);
    if (backward) go_back(m, batch);
    pass_enter(m, PASS_NONE);
}
