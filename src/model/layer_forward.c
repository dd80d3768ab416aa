/* One layer, forward: x ← x + o(attention(norm1(x))); x ← x + down(activation(up(norm2(x)))); the
 * norms may also stand behind the branches, or change x itself, or both branches start from one x
 * (ml_norm_places).
 *
 * Everything but attention goes chunk by chunk of the rows, so that its work space does not grow
 * with them and stays in the caches. In the last layer only the rows whose successor is predicted
 * go on after attention. */
#include "model/model_private.h"

/* LayerNorm or RMSNorm, or nothing where the model has none in a place. */
const float *norm_forward(const ml_model *m, const ml_norm *norm, int64_t T, const float *x,
                          float *y, float *mean, float *rstd)
{
    const ml_kernels *k = m->kernels;
    float eps = (float)m->spec.norm_eps;
    if (!norm->weight) return x;
    if (m->spec.norm == ML_NORM_LAYER)
        k->layernorm_forward(T, m->spec.width, x, norm->weight, norm->bias, eps, y, mean, rstd);
    else
        k->rmsnorm_forward(T, m->spec.width, x, norm->weight, m->spec.norm_plus_one, eps, y, rstd);
    return y;
}

ml_attention_shape attention_shape(const ml_model *m, int64_t layer)
{
    bool relative = ml_model_is_relative(&m->spec);
    return (ml_attention_shape){.heads = m->heads,
                                .kv_heads = m->kv_heads,
                                .head_dim = m->spec.head_dim,
                                .scale = (float)ml_model_attention_scale(&m->spec),
                                .window = layer_window(m, layer),
                                .cap = (float)m->spec.score_cap,
                                .key_bias = m->act.key_bias,
                                .key_bias_stride = m->act.key_bias_stride,
                                .both_ways = m->spec.both_ways,
                                .relative = relative ? &m->act.relative.terms : NULL};
}

ml_pass pass_over(const ml_model *m, const ml_batch *batch, const chunk *c)
{
    const activations *a = &m->act;
    ml_pass pass = {.kernels = m->kernels,
                    .grid = m->grid,
                    .tokens = c->count,
                    .first = c->first,
                    .predicted = c->predicted,
                    .scratch = a->scratch,
                    .partial = a->partial};
    const uint8_t *starts = c->predicted ? a->row_starts : a->starts;
    if (starts) pass.starts = starts + c->first;
    if (batch->key_sequence) {
        pass.key_sequence = (c->predicted ? a->row_key_sequence : a->key_sequence) + c->first;
        pass.key_position = (c->predicted ? a->row_position : a->position) + c->first;
    }
    return pass;
}

float *hook_rows(float *saved, const ml_linear *layer, const chunk *c)
{
    return saved ? saved + c->first * layer->hook.saved_per_token : NULL;
}

/* What a branch starts from: x of a chunk behind its norm, which then is x where norms change the
 * residual stream. */
static const float *branch_input(const ml_model *m, const ml_norm *norm, int64_t T, float *x,
                                 float *mean, float *rstd)
{
    const float *n = norm_forward(m, norm, T, x, m->act.n, mean, rstd);
    if (norms_stream(m)) memcpy(x, n, (size_t)(T * m->spec.width) * sizeof *x);
    return n;
}

/* to[i] = from[row[i]]; `to` may be `from`, since the rows ascend. */
void gather_rows(const ml_batch *batch, int64_t width, const float *from, float *to)
{
    for (int64_t i = 0; i < batch->rows; i++)
        memmove(to + i * width, from + batch->row[i] * width, (size_t)width * sizeof *to);
}

void project_qkv(ml_model *m, int64_t l, const ml_batch *batch, const saved_layer *saved)
{
    const ml_layer *layer = &m->layers[l];
    activations *a = &m->act;
    int64_t T = batch->tokens, width = qkv_width(m), d = m->spec.width;
    round_as_kept(m, a->x, T * d);
    if (saved) save_stream(m, saved, T);
    for (chunk c = {.rows = T}; next_chunk(m, &c);) {
        ml_pass pass = pass_over(m, batch, &c);
        const float *n = branch_input(m, &layer->norm1, c.count, a->x + c.first * d,
                                      saved && saved->mean1 ? saved->mean1 + c.first : a->mean,
                                      saved ? saved->rstd1 + c.first : a->rstd);
        pass.saved = hook_rows(saved ? saved->hook_qkv : NULL, &layer->qkv, &c);
        ml_linear_forward(&layer->qkv, &pass, n, a->qkv + c.first * width);
    }
    if (m->spec.qk_norm) round_to_bf16(m, a->qkv, T * width);
    if (saved && m->spec.qk_norm) save_rows(m, saved->qkv, 0, a->qkv, T * width);
    query_key_forward(m, l, T, a->qkv);
}

/* Backward finds probabilities again as exp(score - lse): where scores are large, one of numbers
 * that were rounded in between lies far beside the sum that forward had of the others. So attention
 * takes them as they are kept; what norms over heads make of the numbers that are kept is made
 * again. */
void round_qkv(const ml_model *m, int64_t T)
{
    if (!m->spec.qk_norm) round_to_bf16(m, m->act.qkv, T * qkv_width(m));
}

static void attend_batch(ml_model *m, int64_t l, const ml_batch *batch, const saved_layer *saved)
{
    activations *a = &m->act;
    const ml_kernels *k = m->kernels;
    int64_t T = batch->tokens, width = qkv_width(m), q = q_width(m);
    const attended to = attended_keys(m, batch, a->qkv, ML_FP32, NULL);
    const ml_attention_shape shape = attention_shape(m, l);
    if (shape.relative) relative_forward(m, l, batch, false);
    k->attention_forward(k, &shape, &batch->sequences, a->qkv, width, to.key, to.value, to.ld,
                         a->attention, q, saved ? saved->lse : a->lse);
    if (!saved) return;
    if (!m->spec.qk_norm) save_rows(m, saved->qkv, 0, a->qkv, T * width);
    save_as(m, attention_dtype(m, l), saved->attention, a->attention, T * q);
}

void activate(const ml_model *m, int64_t T, const float *h, float *a)
{
    const ml_kernels *k = m->kernels;
    int64_t f = a_width(m), width = h_width(m);
    if (m->spec.gated)
        k->gated_forward(m->spec.activation, T, f, h, h + f, width, a, f);
    else
        k->activation_forward(m->spec.activation, T, f, h, width, a, f);
}

/* What a branch gave for the rows of a chunk, in a->y, as the residual stream takes it. */
static const float *branch_output(const ml_model *m, const ml_norm *behind, void *saved,
                                  const chunk *c)
{
    const activations *a = &m->act;
    int64_t d = m->spec.width;
    const float *y = a->y;
    if (!norms_sums(m)) {
        if (saved) save_rows(m, saved, c->first * d, y, c->count * d);
        y = norm_forward(m, behind, c->count, y, a->n, a->mean, a->rstd);
    }
    if (m->spec.residual_multiplier == 0.0) return y;
    m->kernels->scale(c->count * d, (float)m->spec.residual_multiplier, y, a->n);
    return a->n;
}

/* x ← x + what a branch gave (a->y), for the rows of a chunk; its norm where sums have norms. */
static void add_branch(const ml_model *m, const ml_norm *behind, void *saved, const chunk *c)
{
    const activations *a = &m->act;
    int64_t d = m->spec.width, count = c->count * d;
    float *x = a->x + c->first * d;
    m->kernels->add(count, branch_output(m, behind, saved, c), x);
    if (!norms_sums(m)) return;
    if (saved) save_rows(m, saved, c->first * d, x, count);
    memcpy(x, norm_forward(m, behind, c->count, x, a->n, a->mean, a->rstd),
           (size_t)count * sizeof *x);
}

/* x ← x + o(attention), which the MLP starts from: x2. Where it starts from the same x, what
 * attention adds waits in a->branch. */
static void add_attention(ml_model *m, const ml_layer *layer, const ml_batch *batch, int64_t rows,
                          bool predicted, const saved_layer *saved)
{
    activations *a = &m->act;
    int64_t d = m->spec.width;
    for (chunk c = {.rows = rows, .predicted = predicted}; next_chunk(m, &c);) {
        ml_pass pass = pass_over(m, batch, &c);
        pass.saved = hook_rows(saved ? saved->hook_o : NULL, &layer->o, &c);
        ml_linear_forward(&layer->o, &pass, a->attention + c.first * q_width(m), a->y);
        void *y1 = saved ? saved->y1 : NULL;
        if (is_parallel(m))
            memcpy(a->branch + c.first * d, branch_output(m, &layer->norm1_behind, y1, &c),
                   (size_t)(c.count * d) * sizeof *a->branch);
        else
            add_branch(m, &layer->norm1_behind, y1, &c);
    }
    round_as_kept(m, a->x, rows * d);
    if (saved && saved->x2 != saved->x1)
        save_as(m, mlp_input_dtype(m, layer - m->layers), saved->x2, a->x, rows * d);
}

static void add_mlp(ml_model *m, const ml_layer *layer, const ml_batch *batch, int64_t rows,
                    bool predicted, const saved_layer *saved)
{
    activations *a = &m->act;
    int64_t d = m->spec.width;
    for (chunk c = {.rows = rows, .predicted = predicted}; next_chunk(m, &c);) {
        ml_pass pass = pass_over(m, batch, &c);
        float *x = a->x + c.first * d;
        const float *n = branch_input(m, &layer->norm2, c.count, x,
                                      saved && saved->mean2 ? saved->mean2 + c.first : a->mean,
                                      saved ? saved->rstd2 + c.first : a->rstd);
        pass.saved = hook_rows(saved ? saved->hook_up : NULL, &layer->up, &c);
        ml_linear_forward(&layer->up, &pass, n, a->h);
        if (saved && saved->h)
            save_rows(m, saved->h, c.first * h_width(m), a->h, c.count * h_width(m));
        if (saved && saved->slopes)
            m->kernels->slopes_forward(m->spec.activation, c.count, a_width(m), a->h, h_width(m),
                                       saved->slopes + c.first * a_width(m));
        activate(m, c.count, a->h, a->a);
        pass.saved = hook_rows(saved ? saved->hook_down : NULL, &layer->down, &c);
        ml_linear_forward(&layer->down, &pass, a->a, a->y);
        add_branch(m, &layer->norm2_behind, saved ? saved->y2 : NULL, &c);
        if (is_parallel(m)) m->kernels->add(c.count * d, a->branch + c.first * d, x);
    }
}

void add_attention_and_mlp(ml_model *m, const ml_layer *layer, const ml_batch *batch, int64_t rows,
                           bool predicted, const saved_layer *saved)
{
    add_attention(m, layer, batch, rows, predicted, saved);
    add_mlp(m, layer, batch, rows, predicted, saved);
}

static bool is_last(const ml_model *m, int64_t l) { return l == m->spec.layers - 1; }

void layer_attend(ml_model *m, int64_t l, const ml_batch *batch, bool backward)
{
    const saved_layer *saved = backward ? &m->act.layers[l] : NULL;
    project_qkv(m, l, batch, saved);
    virtual_keys_forward(m, l, batch, m->act.qkv);
    round_qkv(m, batch->tokens);
    attend_batch(m, l, batch, saved);
}

/* After attention only these rows go on; returns how many. */
static int64_t rows_that_go_on(ml_model *m, int64_t l, const ml_batch *batch)
{
    activations *a = &m->act;
    if (!is_last(m, l)) return batch->tokens;
    gather_rows(batch, q_width(m), a->attention, a->attention);
    gather_rows(batch, m->spec.width, a->x, a->x);
    return batch->rows;
}

void layer_finish(ml_model *m, int64_t l, const ml_batch *batch, bool backward)
{
    add_attention_and_mlp(m, &m->layers[l], batch, rows_that_go_on(m, l, batch), is_last(m, l),
                          backward ? &m->act.layers[l] : NULL);
}

void layer_recompute(ml_model *m, int64_t l, const ml_batch *batch)
{
    activations *a = &m->act;
    const saved_layer *saved = &a->layers[l];
    int64_t count = batch->tokens * m->spec.width;
    float *gradient = a->x;
    a->x = a->other_x;
    a->other_x = gradient;
    gather_stream(m, saved, batch->tokens);
    const float *x1 = saved_rows(m, saved->x1, 0, a->x, count);
    if (x1 != a->x) memcpy(a->x, x1, (size_t)count * sizeof *x1);
    layer_attend(m, l, batch, true);
    add_attention(m, &m->layers[l], batch, rows_that_go_on(m, l, batch), is_last(m, l), saved);
    a->other_x = a->x;
    a->x = gradient;
}
