/* What queries and keys go through between their projection and attention: RMS norm over each head
 * where the model has it, rotation where it has rotary positions, and keys and values that a method
 * puts in the place of those of virtual tokens. Backward goes the same way in reverse; it makes the
 * normalised heads again out of the projection, which is what is saved where there are norms. */
#include "model/model_private.h"

static void rotate(const ml_model *m, int64_t l, int64_t T, float *qkv, bool inverse)
{
    const activations *a = &m->act;
    int64_t width = qkv_width(m);
    bool local = a->local_rope.cosine && ml_model_is_sliding(&m->spec, l);
    const rope_table *table = local ? &a->local_rope : &a->rope;
    const int32_t *row = a->rope_row && !local ? a->rope_row : a->position;
    if (m->spec.positions != ML_POSITIONS_ROTARY || ml_layer_set_has(&m->spec.unrotated_layers, l))
        return;
    ml_rope_shape shape = {m->heads, m->spec.head_dim, ml_model_rope_width(&m->spec),
                           m->spec.rope_neighbours};
    m->kernels->rope(&shape, T, qkv, width, row, table->cosine, table->sine, inverse);
    shape.heads = m->kv_heads;
    m->kernels->rope(&shape, T, qkv + q_width(m), width, row, table->cosine, table->sine, inverse);
}

void query_key_forward(const ml_model *m, int64_t l, int64_t T, float *qkv)
{
    const ml_layer *layer = &m->layers[l];
    const ml_kernels *k = m->kernels;
    int64_t width = qkv_width(m), h = m->spec.head_dim;
    float eps = (float)m->spec.norm_eps;
    if (m->spec.qk_norm) {
        k->headnorm_forward(T, m->heads, h, qkv, width, layer->q_norm.weight, eps);
        k->headnorm_forward(T, m->kv_heads, h, qkv + q_width(m), width, layer->k_norm.weight, eps);
    }
    rotate(m, l, T, qkv, false);
}

void virtual_keys_forward(const ml_model *m, int64_t l, const ml_batch *batch, float *qkv)
{
    const ml_virtual_hook *hook = &m->virtual_hook;
    if (hook->keys_forward)
        hook->keys_forward(hook->self, l, batch->tokens, batch->token, qkv + q_width(m),
                           qkv_width(m));
}

const float *query_key_again(const ml_model *m, int64_t l, const ml_batch *batch)
{
    const activations *a = &m->act;
    int64_t count = batch->tokens * qkv_width(m);
    const float *saved = saved_rows(m, a->layers[l].qkv, 0, a->wide_qkv, count);
    if (!m->spec.qk_norm) return saved;
    if (saved != a->wide_qkv) memcpy(a->wide_qkv, saved, (size_t)count * sizeof *saved);
    query_key_forward(m, l, batch->tokens, a->wide_qkv);
    virtual_keys_forward(m, l, batch, a->wide_qkv);
    return a->wide_qkv;
}

void query_key_backward(const ml_model *m, int64_t l, const ml_batch *batch, float *dqkv)
{
    const activations *a = &m->act;
    const ml_layer *layer = &m->layers[l];
    const ml_virtual_hook *hook = &m->virtual_hook;
    const ml_kernels *k = m->kernels;
    int64_t T = batch->tokens, width = qkv_width(m), q = q_width(m), h = m->spec.head_dim;
    float eps = (float)m->spec.norm_eps;
    if (hook->keys_backward) hook->keys_backward(hook->self, l, T, batch->token, dqkv + q, width);
    rotate(m, l, T, dqkv, true);
    if (!m->spec.qk_norm) return;
    const float *qkv = saved_rows(m, a->layers[l].qkv, 0, a->wide_qkv, T * width);
    k->headnorm_backward(T, m->heads, h, qkv, width, layer->q_norm.weight, eps, dqkv, width,
                         layer->q_norm.weight_gradient);
    k->headnorm_backward(T, m->kv_heads, h, qkv + q, width, layer->k_norm.weight, eps, dqkv + q,
                         width, layer->k_norm.weight_gradient);
}
