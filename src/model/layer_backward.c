/* One layer, backward. a->x holds the gradient of the layer's output and then of its input. Inputs of linear layers are recomputed from what
 * was kept, and only where an adapter or a trained weight needs them. `lowest` is the first operation that trains: nothing before it is computed. */
#include "model/model_private.h"

/* Rows 0 … R−1 of x to their places among T rows, zeros between; from the end, since row[i] ≥ i. */
static void scatter_rows(const ml_batch *batch, int64_t width, float *x)
{
    int64_t next = batch->tokens;
    for (int64_t i = batch->rows - 1; i >= 0; i--) {
        int64_t row = batch->row[i];
        memset(x + (row + 1) * width, 0, (size_t)((next - row - 1) * width) * sizeof *x);
        memmove(x + row * width, x + i * width, (size_t)width * sizeof *x);
        next = row;
    }
    memset(x, 0, (size_t)(next * width) * sizeof *x);
}

/* da (in place of a->a's gradient) → dh. Plain activations: da lies in dh itself. */
static void activation_gradient(const ml_model *m, int64_t T, const float *h, float *da)
{
    const activations *a = &m->act;
    const ml_kernels *k = m->kernels;
    int64_t f = a_width(m), width = h_width(m);
    if (is_gated(m))
        k->gated_backward(m->spec.activation, T, f, h, h + f, width, da, f, a->dh, a->dh + f, width);
    else
        k->activation_backward(m->spec.activation, T, f, h, width, da, f, a->dh, width);
}

static void mlp_backward(ml_model *m, int64_t l, ml_pass *pass, int64_t lowest)
{
    activations *a = &m->act;
    const ml_layer *layer = &m->layers[l];
    const kept_layer *kept = &a->layers[l];
    int64_t T = pass->tokens, d = m->spec.width, first = l * OPS_A_LAYER;
    const float *h = kept_rows(m, kept->h, a->h, T * h_width(m));
    if (ml_linear_needs_input(&layer->down)) activate(m, T, h, a->a);
    float *da = is_gated(m) ? a->d_mlp : a->dh;
    pass->kept = kept->hook_down;
    ml_linear_backward(&layer->down, pass, a->a, a->x, lowest < first + OP_DOWN ? da : NULL);
    if (lowest >= first + OP_DOWN) return;
    activation_gradient(m, T, h, da);
    const float *x2 = kept_rows(m, kept->x2, a->wide_x, T * d);
    if (ml_linear_needs_input(&layer->up)) norm_forward(m, &layer->norm2, T, x2, a->n, kept->mean2, kept->rstd2);
    pass->kept = kept->hook_up;
    ml_linear_backward(&layer->up, pass, a->n, a->dh, lowest < first + OP_UP ? a->y : NULL);
    if (lowest < first + OP_UP) norm_backward(m, &layer->norm2, T, x2, kept->mean2, kept->rstd2, a->y, a->x, true);
}

/* Gradient of the attention's output (a->d_attention, all tokens) → of q, k, v before rotation (a->qkv). */
static void attention_gradient(ml_model *m, const kept_layer *kept, const ml_batch *batch)
{
    activations *a = &m->act;
    const ml_kernels *k = m->kernels;
    int64_t T = batch->tokens, width = qkv_width(m), q = q_width(m), kv = kv_width(m);
    const float *qkv = kept_rows(m, kept->qkv, a->wide_qkv, T * width);
    const float *o = kept_rows(m, kept->attention, a->wide_attention, T * q);
    float *dk = a->qkv + q, *dv = dk + kv;
    ml_attention_shape shape = attention_shape(m);
    k->attention_backward(k, &shape, &batch->sequences, qkv, width, qkv + q, qkv + q + kv, width, o, q, kept->lse, a->d_attention, q,
                          a->qkv, width, dk, dv, width);
    if (m->spec.family != ML_FAMILY_LLAMA) return;
    k->rope(T, m->heads, m->spec.head_dim, a->qkv, width, a->position, a->cosine, a->sine, true);
    k->rope(T, m->kv_heads, m->spec.head_dim, dk, width, a->position, a->cosine, a->sine, true);
}

static const float *o_input(const ml_model *m, const kept_layer *kept, const ml_batch *batch, bool last)
{
    const activations *a = &m->act;
    const float *o = kept_rows(m, kept->attention, a->wide_attention, batch->tokens * q_width(m));
    if (!last) return o;
    gather_rows(batch, q_width(m), o, a->attention);
    return a->attention;
}

static void attention_block_backward(ml_model *m, int64_t l, const ml_batch *batch, ml_pass *pass, int64_t lowest)
{
    activations *a = &m->act;
    const ml_layer *layer = &m->layers[l];
    const kept_layer *kept = &a->layers[l];
    int64_t T = batch->tokens, d = m->spec.width, first = l * OPS_A_LAYER;
    bool last = l == m->spec.layers - 1;
    const float *o = ml_linear_needs_input(&layer->o) ? o_input(m, kept, batch, last) : NULL;
    pass->kept = kept->hook_o;
    ml_linear_backward(&layer->o, pass, o, a->x, lowest < first + OP_O ? a->d_attention : NULL);
    if (lowest >= first + OP_O) return;
    if (last) {
        scatter_rows(batch, q_width(m), a->d_attention);
        scatter_rows(batch, d, a->x);
    }
    attention_gradient(m, kept, batch);
    const float *x1 = kept_rows(m, kept->x1, a->wide_x, T * d);
    if (ml_linear_needs_input(&layer->qkv)) norm_forward(m, &layer->norm1, T, x1, a->n, kept->mean1, kept->rstd1);
    ml_pass whole = pass_over(m, batch, T, false);
    whole.kept = kept->hook_qkv;
    ml_linear_backward(&layer->qkv, &whole, a->n, a->qkv, lowest < first + OP_QKV ? a->y : NULL);
    if (lowest < first + OP_QKV) norm_backward(m, &layer->norm1, T, x1, kept->mean1, kept->rstd1, a->y, a->x, true);
}

void layer_backward(ml_model *m, int64_t l, const ml_batch *batch, int64_t lowest)
{
    bool last = l == m->spec.layers - 1;
    ml_pass pass = pass_over(m, batch, last ? batch->rows : batch->tokens, last);
    mlp_backward(m, l, &pass, lowest);
    if (lowest < l * OPS_A_LAYER + OP_NORM2) attention_block_backward(m, l, batch, &pass, lowest);
}
