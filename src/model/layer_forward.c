/* One pre-norm layer, forward: x ← x + o(attention(norm1(x))); x ← x + down(activation(up(norm2(x)))).
 *
 * In the last layer only the rows whose successor is predicted go on after attention. */
#include <math.h>

#include "model/model_private.h"

ml_attention_shape attention_shape(const ml_model *m)
{
    return (ml_attention_shape){m->heads, m->kv_heads, m->spec.head_dim, 1.0F / sqrtf((float)m->spec.head_dim)};
}

ml_pass pass_over(const ml_model *m, const ml_batch *batch, int64_t T, bool rows)
{
    const activations *a = &m->act;
    ml_pass pass = {.kernels = m->kernels, .grid = m->grid, .tokens = T, .scratch = a->scratch};
    if (batch->key_sequence) {
        pass.key_sequence = rows ? a->row_key_sequence : a->key_sequence;
        pass.key_position = rows ? a->row_position : a->position;
    }
    return pass;
}

/* to[i] = from[row[i]]; `to` may be `from`, since the rows ascend. */
void gather_rows(const ml_batch *batch, int64_t width, const float *from, float *to)
{
    for (int64_t i = 0; i < batch->rows; i++) memmove(to + i * width, from + batch->row[i] * width, (size_t)width * sizeof *to);
}

void project_qkv(ml_model *m, const ml_layer *layer, const ml_batch *batch, kept_layer *kept)
{
    activations *a = &m->act;
    const ml_kernels *k = m->kernels;
    int64_t T = batch->tokens, width = qkv_width(m);
    if (kept) keep_rows(m, kept->x1, a->x, T * m->spec.width);
    norm_forward(m, &layer->norm1, T, a->x, a->n, kept ? kept->mean1 : a->mean, kept ? kept->rstd1 : a->rstd);
    ml_pass pass = pass_over(m, batch, T, false);
    pass.kept = kept ? kept->hook_qkv : NULL;
    ml_linear_forward(&layer->qkv, &pass, a->n, a->qkv);
    if (m->spec.family != ML_FAMILY_LLAMA) return;
    k->rope(T, m->heads, m->spec.head_dim, a->qkv, width, a->position, a->cosine, a->sine, false);
    k->rope(T, m->kv_heads, m->spec.head_dim, a->qkv + q_width(m), width, a->position, a->cosine, a->sine, false);
}

static void attend(ml_model *m, const ml_batch *batch, kept_layer *kept)
{
    activations *a = &m->act;
    const ml_kernels *k = m->kernels;
    int64_t T = batch->tokens, width = qkv_width(m), q = q_width(m);
    const float *key = a->qkv + q, *value = key + kv_width(m);
    const ml_attention_shape shape = attention_shape(m);
    k->attention_forward(k, &shape, &batch->sequences, a->qkv, width, key, value, width, a->attention, q, kept ? kept->lse : a->lse);
    if (!kept) return;
    keep_rows(m, kept->qkv, a->qkv, T * width);
    keep_rows(m, kept->attention, a->attention, T * q);
}

void activate(const ml_model *m, int64_t T, const float *h, float *a)
{
    const ml_kernels *k = m->kernels;
    int64_t f = a_width(m), width = h_width(m);
    if (is_gated(m))
        k->gated_forward(m->spec.activation, T, f, h, h + f, width, a, f);
    else
        k->activation_forward(m->spec.activation, T, f, h, width, a, f);
}

static void mlp_block(ml_model *m, const ml_layer *layer, ml_pass *pass, kept_layer *kept)
{
    activations *a = &m->act;
    int64_t T = pass->tokens;
    if (kept) keep_rows(m, kept->x2, a->x, T * m->spec.width);
    norm_forward(m, &layer->norm2, T, a->x, a->n, kept ? kept->mean2 : a->mean, kept ? kept->rstd2 : a->rstd);
    pass->kept = kept ? kept->hook_up : NULL;
    ml_linear_forward(&layer->up, pass, a->n, a->h);
    if (kept) keep_rows(m, kept->h, a->h, T * h_width(m));
    activate(m, T, a->h, a->a);
    pass->kept = kept ? kept->hook_down : NULL;
    ml_linear_forward(&layer->down, pass, a->a, a->y);
    m->kernels->add(T * m->spec.width, a->y, a->x);
}

void finish_layer(ml_model *m, const ml_layer *layer, const ml_batch *batch, int64_t T, bool rows, kept_layer *kept)
{
    activations *a = &m->act;
    ml_pass pass = pass_over(m, batch, T, rows);
    pass.kept = kept ? kept->hook_o : NULL;
    ml_linear_forward(&layer->o, &pass, a->attention, a->y);
    m->kernels->add(T * m->spec.width, a->y, a->x);
    mlp_block(m, layer, &pass, kept);
}

void layer_forward(ml_model *m, int64_t l, const ml_batch *batch, bool backward)
{
    activations *a = &m->act;
    const ml_layer *layer = &m->layers[l];
    kept_layer *kept = backward ? &a->layers[l] : NULL;
    bool last = l == m->spec.layers - 1;
    project_qkv(m, layer, batch, kept);
    attend(m, batch, kept);
    if (last) {
        gather_rows(batch, q_width(m), a->attention, a->attention);
        gather_rows(batch, m->spec.width, a->x, a->x);
    }
    finish_layer(m, layer, batch, last ? batch->rows : batch->tokens, last, kept);
}
