/* What queries and keys go through between their projection and attention: norms over each head, or
 * over all of them, where the model has them, rotation where it has rotary positions, and keys and
 * values that a method puts in the place of those of virtual tokens. Backward goes the same way in
 * reverse; it makes the normalised heads again out of the projection, which is what is saved where
 * there are norms. */
#include <math.h>

#include "model/model_private.h"

/* ---- norms over each head ------------------------------------------------------------------ */

static ml_headnorm headnorm_of(const ml_model *m, const ml_norm *norm, int64_t heads)
{
    return (ml_headnorm){.heads = heads,
                         .head_dim = m->spec.head_dim,
                         .centred = m->spec.norm == ML_NORM_LAYER,
                         .plus_one = m->spec.norm_plus_one,
                         .own = m->spec.qk_norm_kind == ML_QK_NORM_EACH_HEAD,
                         .eps = (float)m->spec.norm_eps,
                         .w = norm->weight,
                         .b = norm->bias};
}

static void norm_heads(const ml_model *m, const ml_layer *layer, int64_t T, float *qkv)
{
    const ml_headnorm queries = headnorm_of(m, &layer->q_norm, m->heads),
                      keys = headnorm_of(m, &layer->k_norm, m->kv_heads);
    m->kernels->headnorm_forward(&queries, T, qkv, qkv_width(m));
    m->kernels->headnorm_forward(&keys, T, qkv + q_width(m), qkv_width(m));
}

static void norm_heads_backward(const ml_model *m, const ml_layer *layer, int64_t T,
                                const float *qkv, float *dqkv)
{
    const ml_norm *q = &layer->q_norm, *k = &layer->k_norm;
    const ml_headnorm queries = headnorm_of(m, q, m->heads), keys = headnorm_of(m, k, m->kv_heads);
    int64_t width = qkv_width(m), first = q_width(m);
    m->kernels->headnorm_backward(&queries, T, qkv, width, dqkv, width, q->weight_gradient,
                                  q->bias_gradient);
    m->kernels->headnorm_backward(&keys, T, qkv + first, width, dqkv + first, width,
                                  k->weight_gradient, k->bias_gradient);
}

/* ---- norms over all heads, which are cut over tp ------------------------------------------- */

static void sum_over_tp(const ml_model *m, float *x, int64_t n)
{
    if (m->grid) ml_grid_sum_float(m->grid, ML_GROUP_TP, x, n);
}

/* What a norm over all key heads is over, as often as a sum over tp counts them. */
static float keys_counted(const ml_model *m)
{
    return (float)(m->spec.kv_heads * m->spec.head_dim * m->kv_copies);
}

/* Of q and k, [2, T]: a sum over a leaf's heads. */
typedef struct head_sums {
    const ml_model *model;
    const ml_layer *layer;
    int64_t T;
    const float *qkv, *dqkv; /* dqkv NULL: Σ x², else what norm_width_backward averages */
} head_sums;

static void sum_part(const head_sums *s, int part, int64_t first, int64_t count, float *sum)
{
    const ml_model *m = s->model;
    const ml_kernels *k = m->kernels;
    const ml_norm *norm = part == 0 ? &s->layer->q_norm : &s->layer->k_norm;
    int64_t width = qkv_width(m), begins = part == 0 ? 0 : q_width(m);
    if (s->dqkv)
        k->wide_products(s->T, count, s->qkv + first, width, norm->weight + (first - begins),
                         m->act.qk_rstd + part * s->T, s->dqkv + first, width, sum);
    else
        k->wide_squares(s->T, count, s->qkv + first, width, sum);
}

static void sum_leaf(const void *self, int leaf, float *sum)
{
    const head_sums *s = self;
    for (int part = 0; part < 2; part++) {
        const ml_rows rows = ml_linear_leaf(&s->layer->qkv, part, leaf);
        sum_part(s, part, rows.first, rows.count, sum + part * s->T);
    }
}

/* sum[2, T], over tp. */
static void sum_heads(const head_sums *s, float *sum)
{
    const ml_model *m = s->model;
    const ml_pass pass = {
        .kernels = m->kernels, .grid = m->grid, .tokens = s->T, .partial = m->act.qk_partial};
    if (m->leaves > 0) {
        ml_linear_sum_leaves(&s->layer->qkv, &pass, sum_leaf, s, 2, sum);
        return;
    }
    sum_part(s, 0, 0, q_width(m), sum);
    sum_part(s, 1, q_width(m), kv_width(m), sum + s->T);
    sum_over_tp(m, sum, 2 * s->T);
}

/* a->qk_rstd of q and k as they were projected. */
static void find_rstd(const ml_model *m, const ml_layer *layer, int64_t T, const float *qkv)
{
    const activations *a = &m->act;
    const head_sums squares = {m, layer, T, qkv, NULL};
    int64_t h = m->spec.head_dim;
    float q = (float)(m->spec.heads * h), k = keys_counted(m), eps = (float)m->spec.norm_eps;
    sum_heads(&squares, a->qk_rstd);
    for (int64_t t = 0; t < 2 * T; t++)
        a->qk_rstd[t] = 1.0F / sqrtf(a->qk_rstd[t] / (t < T ? q : k) + eps);
}

static void norm_width(const ml_model *m, const ml_layer *layer, int64_t T, float *qkv)
{
    const activations *a = &m->act;
    find_rstd(m, layer, T, qkv);
    m->kernels->wide_forward(T, q_width(m), qkv, qkv_width(m), layer->q_norm.weight, a->qk_rstd);
    m->kernels->wide_forward(T, kv_width(m), qkv + q_width(m), qkv_width(m), layer->k_norm.weight,
                             a->qk_rstd + T);
}

static void norm_width_backward(const ml_model *m, const ml_layer *layer, int64_t T,
                                const float *qkv, float *dqkv)
{
    const activations *a = &m->act;
    const ml_kernels *k = m->kernels;
    const ml_norm *q_norm = &layer->q_norm, *k_norm = &layer->k_norm;
    int64_t width = qkv_width(m), q = q_width(m), kv = kv_width(m), h = m->spec.head_dim;
    float *rstd = a->qk_rstd, *average = a->qk_average;
    const head_sums products = {m, layer, T, qkv, dqkv};
    find_rstd(m, layer, T, qkv);
    sum_heads(&products, average);
    k->scale(T, 1.0F / (float)(m->spec.heads * h), average, average);
    /* Copies of a key head have a part of its gradient each, and take a part of its average. */
    k->scale(T, 1.0F / keys_counted(m), average + T, average + T);
    k->wide_backward(T, q, qkv, width, q_norm->weight, rstd, average, dqkv, width,
                     q_norm->weight_gradient);
    k->wide_backward(T, kv, qkv + q, width, k_norm->weight, rstd + T, average + T, dqkv + q, width,
                     k_norm->weight_gradient);
}

/* ---- rotation ------------------------------------------------------------------------------ */

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

/* ---- all of it ----------------------------------------------------------------------------- */

void query_key_forward(const ml_model *m, int64_t l, int64_t T, float *qkv)
{
    bool width = m->spec.qk_norm_kind == ML_QK_NORM_WIDTH;
    if (m->spec.qk_norm) (width ? norm_width : norm_heads)(m, &m->layers[l], T, qkv);
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
    const ml_virtual_hook *hook = &m->virtual_hook;
    int64_t T = batch->tokens, width = qkv_width(m);
    bool whole = m->spec.qk_norm_kind == ML_QK_NORM_WIDTH;
    if (hook->keys_backward)
        hook->keys_backward(hook->self, l, T, batch->token, dqkv + q_width(m), width);
    rotate(m, l, T, dqkv, true);
    if (!m->spec.qk_norm) return;
    const float *qkv = saved_rows(m, a->layers[l].qkv, 0, a->wide_qkv, T * width);
    (whole ? norm_width_backward : norm_heads_backward)(m, &m->layers[l], T, qkv, dqkv);
}
