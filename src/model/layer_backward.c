/* One layer, backward. a->x holds the gradient of the layer's output and then of its input. Inputs
 * of linear layers are recomputed from what was kept, and only where an adapter or a trained
 * weight needs them. `lowest` is the first operation that trains: nothing before it is computed. */
#include "model/model_private.h"

void norm_backward(const ml_model *m, const ml_norm *norm, int64_t T, const float *x,
                   const float *mean, const float *rstd, const float *dy, float *dx, bool add)
{
    const ml_kernels *k = m->kernels;
    if (!norm->weight)
        k->add(T * m->spec.width, dy, dx); /* only ever added */
    else if (m->spec.norm == ML_NORM_LAYER)
        k->layernorm_backward(T, m->spec.width, x, norm->weight, mean, rstd, dy, dx, add,
                              norm->weight_gradient, norm->bias_gradient);
    else
        k->rmsnorm_backward(T, m->spec.width, x, norm->weight, m->spec.norm_plus_one, rstd, dy, dx,
                            add, norm->weight_gradient);
}

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
    if (m->spec.gated)
        k->gated_backward(m->spec.activation, T, f, h, h + f, width, da, f, a->dh, a->dh + f,
                          width);
    else
        k->activation_backward(m->spec.activation, T, f, h, width, da, f, a->dh, width);
}

/* The gradient of what a branch gave for the rows of a chunk, from that of the residual stream: dx
 * itself, or in a->y. The statistics of a norm behind the branch are found again; where it stands
 * behind the sum, dx becomes the gradient of that sum. */
static const float *branch_gradient(const ml_model *m, const ml_norm *behind, const void *saved,
                                    const chunk *c, float *dx)
{
    const activations *a = &m->act;
    int64_t count = c->count * m->spec.width;
    if (norms_sums(m)) {
        const float *sum = saved_rows(m, saved, c->first * m->spec.width, a->wide_x, count);
        norm_forward(m, behind, c->count, sum, a->n, a->mean, a->rstd);
        norm_backward(m, behind, c->count, sum, a->mean, a->rstd, dx, a->y, false);
        memcpy(dx, a->y, (size_t)count * sizeof *dx);
        return dx;
    }
    const float *dy = dx;
    if (m->spec.residual_multiplier > 0.0) {
        m->kernels->scale(count, (float)m->spec.residual_multiplier, dx, a->y);
        dy = a->y;
    }
    if (!behind->weight) return dy;
    const float *y = saved_rows(m, saved, c->first * m->spec.width, a->wide_x, count);
    norm_forward(m, behind, c->count, y, a->n, a->mean, a->rstd);
    norm_backward(m, behind, c->count, y, a->mean, a->rstd, dy, a->y, false);
    return a->y;
}

/* The gradient of what a branch starts from (a->y) through its norm into dx, that of the residual
 * stream; where the norm changes the stream, all of dx goes through it. */
static void branch_input_gradient(const ml_model *m, const ml_norm *norm, int64_t T, const float *x,
                                  const float *mean, const float *rstd, float *dx)
{
    float *dn = m->act.y;
    if (norms_stream(m)) m->kernels->add(T * m->spec.width, dx, dn);
    norm_backward(m, norm, T, x, mean, rstd, dn, dx, !norms_stream(m));
}

/* h of a chunk, and *n, what the MLP starts from, where somebody needs it: as kept, or computed
 * again. NULL: the slopes are kept. */
static const float *mlp_input(ml_model *m, int64_t l, ml_pass *pass, const chunk *c,
                              const float *x2, const float **n)
{
    activations *a = &m->act;
    const ml_layer *layer = &m->layers[l];
    const saved_layer *saved = &a->layers[l];
    if ((!saved->h && !saved->slopes) || ml_linear_needs_input(&layer->up))
        *n = norm_forward(m, &layer->norm2, c->count, x2, a->n,
                          saved->mean2 ? saved->mean2 + c->first : NULL, saved->rstd2 + c->first);
    if (saved->slopes) return NULL;
    if (saved->h)
        return saved_rows(m, saved->h, c->first * h_width(m), a->h, c->count * h_width(m));
    pass->saved = hook_rows(saved->hook_up, &layer->up, c);
    ml_linear_forward(&layer->up, pass, *n, a->h);
    round_as_kept(m, a->h, c->count * h_width(m));
    return a->h;
}

static void mlp_backward(ml_model *m, int64_t l, const ml_batch *batch, const chunk *c,
                         int64_t lowest)
{
    activations *a = &m->act;
    const ml_layer *layer = &m->layers[l];
    const saved_layer *saved = &a->layers[l];
    int64_t d = m->spec.width, first = l * OPS_A_LAYER;
    ml_pass pass = pass_over(m, batch, c);
    float *dx = a->x + c->first * d, *da = m->spec.gated ? a->d_mlp : a->dh;
    const float *dy = branch_gradient(m, &layer->norm2_behind, saved->y2, c, dx), *n = NULL;
    const float *x2 = saved_mlp_input(m, l, c);
    const float *h = mlp_input(m, l, &pass, c, x2, &n);
    if (ml_linear_needs_input(&layer->down)) activate(m, c->count, h, a->a);
    pass.saved = hook_rows(saved->hook_down, &layer->down, c);
    ml_linear_backward(&layer->down, &pass, a->a, dy, lowest < first + OP_DOWN ? da : NULL);
    if (lowest >= first + OP_DOWN) return;
    if (h)
        activation_gradient(m, c->count, h, da);
    else
        m->kernels->slopes_backward(c->count, a_width(m), saved->slopes + c->first * a_width(m), da,
                                    a_width(m), a->dh, h_width(m));
    pass.saved = hook_rows(saved->hook_up, &layer->up, c);
    ml_linear_backward(&layer->up, &pass, n, a->dh, lowest < first + OP_UP ? a->y : NULL);
    if (lowest < first + OP_UP)
        branch_input_gradient(m, &layer->norm2, c->count, x2,
                              saved->mean2 ? saved->mean2 + c->first : NULL,
                              saved->rstd2 + c->first, dx);
}

/* As forward did; in bf16 straight from what was kept, where nothing is done to it first. */
static attended attended_again(ml_model *m, int64_t l, const ml_batch *batch)
{
    const activations *a = &m->act;
    bool kept = m->dtype == ML_BF16 && !a->wide_qkv;
    const void *qkv = kept ? a->layers[l].qkv : query_key_again(m, l, batch);
    return attended_keys(m, batch, qkv, kept ? ML_BF16 : ML_FP32, a->qkv);
}

/* Gradient of the attention's output (a->d_attention, all tokens) → of q, k, v as they were
 * projected (a->qkv). */
static void attention_gradient(ml_model *m, int64_t l, const ml_batch *batch)
{
    activations *a = &m->act;
    const saved_layer *saved = &a->layers[l];
    const attended to = attended_again(m, l, batch);
    const ml_attention_kept kept = {.q = to.q,
                                    .key = to.key,
                                    .value = to.value,
                                    .o = saved->attention,
                                    .ldq = qkv_width(m),
                                    .ldkv = to.ld,
                                    .ldo = q_width(m),
                                    .dtype = to.dtype,
                                    .o_dtype = attention_dtype(m, l),
                                    .lse = saved->lse};
    const ml_attention_shape shape = attention_shape(m, l);
    if (shape.relative) relative_forward(m, l, batch, true);
    attended_backward(m, batch, &shape, &kept, &to, a->d_attention, a->qkv);
    if (shape.relative) relative_backward(m, l, batch);
    query_key_backward(m, l, batch, a->qkv);
}

static const float *o_input(const ml_model *m, const saved_layer *saved, const ml_batch *batch,
                            bool last)
{
    const activations *a = &m->act;
    const float *o = saved_rows(m, saved->attention, 0, a->attention, batch->tokens * q_width(m));
    if (!last) return o;
    gather_rows(batch, q_width(m), o, a->attention);
    return a->attention;
}

static void o_backward(ml_model *m, int64_t l, const ml_batch *batch, int64_t rows, int64_t lowest)
{
    activations *a = &m->act;
    const ml_layer *layer = &m->layers[l];
    const saved_layer *saved = &a->layers[l];
    bool last = l == m->spec.layers - 1;
    float *gradient = is_parallel(m) ? a->branch : a->x;
    const float *o = ml_linear_needs_input(&layer->o) ? o_input(m, saved, batch, last) : NULL;
    for (chunk c = {.rows = rows, .predicted = last}; next_chunk(m, &c);) {
        ml_pass pass = pass_over(m, batch, &c);
        int64_t at = c.first * q_width(m);
        const float *dy = branch_gradient(m, &layer->norm1_behind, saved->y1, &c,
                                          gradient + c.first * m->spec.width);
        pass.saved = hook_rows(saved->hook_o, &layer->o, &c);
        ml_linear_backward(&layer->o, &pass, o ? o + at : NULL, dy,
                           lowest < l * OPS_A_LAYER + OP_O ? a->d_attention + at : NULL);
    }
    if (lowest >= l * OPS_A_LAYER + OP_O || !last) return;
    scatter_rows(batch, q_width(m), a->d_attention);
    scatter_rows(batch, m->spec.width, a->x);
}

static void qkv_backward(ml_model *m, int64_t l, const ml_batch *batch, int64_t lowest)
{
    activations *a = &m->act;
    const ml_layer *layer = &m->layers[l];
    const saved_layer *saved = &a->layers[l];
    int64_t d = m->spec.width;
    bool below = lowest < l * OPS_A_LAYER + OP_QKV;
    for (chunk c = {.rows = batch->tokens}; next_chunk(m, &c);) {
        ml_pass pass = pass_over(m, batch, &c);
        float *mean = saved->mean1 ? saved->mean1 + c.first : NULL, *rstd = saved->rstd1 + c.first;
        const float *x1 = saved_rows(m, saved->x1, c.first * d, a->wide_x, c.count * d);
        const float *n = NULL;
        if (ml_linear_needs_input(&layer->qkv))
            n = norm_forward(m, &layer->norm1, c.count, x1, a->n, mean, rstd);
        pass.saved = hook_rows(saved->hook_qkv, &layer->qkv, &c);
        ml_linear_backward(&layer->qkv, &pass, n, a->qkv + c.first * qkv_width(m),
                           below ? a->y : NULL);
        if (below)
            branch_input_gradient(m, &layer->norm1, c.count, x1, mean, rstd, a->x + c.first * d);
    }
}

void layer_backward(ml_model *m, int64_t l, const ml_batch *batch, int64_t lowest)
{
    bool last = l == m->spec.layers - 1;
    int64_t rows = last ? batch->rows : batch->tokens;
    if (m->mode == ML_ACTIVATIONS_CHECKPOINT && !last) layer_recompute(m, l, batch);
    if (is_parallel(m)) /* attention's branch takes it as it is now */
        memcpy(m->act.branch, m->act.x, (size_t)(rows * m->spec.width) * sizeof *m->act.x);
    for (chunk c = {.rows = rows, .predicted = last}; next_chunk(m, &c);)
        mlp_backward(m, l, batch, &c, lowest);
    if (lowest >= l * OPS_A_LAYER + OP_NORM2) return; /* none of attention's trains */
    o_backward(m, l, batch, rows, lowest);
    if (lowest >= l * OPS_A_LAYER + OP_O) return;
    attention_gradient(m, l, batch);
    qkv_backward(m, l, batch, lowest);
}
