/* Relative terms of scores: disentangled attention (He et al. 2021, arXiv:2006.03654).
 *
 * A distance δ, that of the query less that of the key, has row b(δ) + s of relative.weight, s =
 * relative_buckets or relative_distances, kept within its 2·s rows. Without buckets b(δ) = δ; with
 * them, m half of their number, δ up to m, and beyond it
 *   sign(δ)·(⌈ln(|δ|/m) / ln((relative_distances − 1)/m)·(m − 1)⌉ + m)  (arXiv:2111.09543),
 * in fp32, so that the borders lie where transformers has them. The rows, normed, are projected
 * once for each layer, by its own q and k or by pos_q and pos_k; only those that the batch's
 * distances fall on. They take part in backward like tokens of the layer that projects them:
 * its adapters and weights get their gradients from both. */
#include <math.h>

#include "model/model_private.h"

bool ml_model_is_relative(const ml_model_spec *s)
{
    return s->relative_keys || s->relative_queries;
}

static int64_t span_of(const ml_model_spec *s)
{
    return s->relative_buckets > 0 ? s->relative_buckets : s->relative_distances;
}

int64_t ml_model_relative_rows(const ml_model_spec *s) { return 2 * span_of(s); }

static int64_t bucket_of(const ml_model_spec *s, int64_t distance)
{
    int64_t middle = s->relative_buckets / 2, size = distance < 0 ? -distance : distance;
    if (s->relative_buckets == 0 || size <= middle) return distance;
    float m = (float)middle, most = (float)((double)(s->relative_distances - 1) / (double)middle);
    float steps = ceilf(logf((float)size / m) / logf(most) * (float)(middle - 1));
    int64_t bucket = (int64_t)steps + middle;
    return distance < 0 ? -bucket : bucket;
}

int64_t ml_model_relative_row(const ml_model_spec *s, int64_t distance)
{
    int64_t span = span_of(s), row = bucket_of(s, distance) + span;
    return ml_max(0, ml_min(2 * span - 1, row));
}

int64_t relative_rows_most(const ml_model_spec *s, int64_t longest)
{
    return ml_model_relative_row(s, longest - 1) - ml_model_relative_row(s, 1 - longest) + 1;
}

const ml_linear *relative_linear(const ml_model *m, int64_t l)
{
    return m->spec.relative_shared ? &m->layers[l].qkv : &m->layers[l].pos;
}

int64_t relative_saved_per_row(const ml_model *m)
{
    int64_t most = 0;
    for (int64_t l = 0; l < m->spec.layers; l++)
        most = ml_max(most, relative_linear(m, l)->hook.saved_per_token);
    return most;
}

/* ---- the rows of a batch -------------------------------------------------------------------- */

/* As they are stored. */
static void read_rows(const ml_model *m, int64_t first, int64_t count, float *out)
{
    const ml_model_slot *slot = &m->slots[m->relative_slot];
    int64_t d = m->spec.width;
    ml_dtype_decode(slot->dtype, slot->data, (m->act.relative.first + first) * d, count * d, out);
}

static int64_t longest_of(const ml_batch *batch)
{
    int64_t longest = 1;
    for (int64_t s = 0; s < batch->sequences.count; s++)
        longest = ml_max(longest, batch->sequences.start[s + 1] - batch->sequences.start[s]);
    return longest;
}

void relative_place(ml_model *m, const ml_batch *batch)
{
    activations *a = &m->act;
    relative_rows *r = &a->relative;
    int64_t d = m->spec.width;
    r->longest = longest_of(batch);
    r->first = ml_model_relative_row(&m->spec, 1 - r->longest);
    r->count = relative_rows_most(&m->spec, r->longest);
    for (int64_t x = 0; x < 2 * r->longest - 1; x++)
        r->row[x] = (int32_t)(ml_model_relative_row(&m->spec, x + 1 - r->longest) - r->first);
    for (int64_t i = 0; r->key_sequence && i < r->count; i++) {
        r->key_sequence[i] = -1;
        r->key_position[i] = (int32_t)(r->first + i);
    }
    for (chunk c = {.rows = r->count}; next_distances(m, &c);) {
        float *x = r->x + c.first * d;
        read_rows(m, c.first, c.count, x);
        if (!m->relative_norm.weight) continue;
        memcpy(x, norm_forward(m, &m->relative_norm, c.count, x, a->n, a->mean, a->rstd),
               (size_t)(c.count * d) * sizeof *x);
    }
    if (r->d_x) memset(r->d_x, 0, (size_t)(r->count * d) * sizeof *r->d_x);
}

/* ---- a layer --------------------------------------------------------------------------------- */

static ml_pass pass_of(const ml_model *m, const ml_linear *linear, const ml_batch *batch,
                       const chunk *c, bool saves)
{
    const relative_rows *r = &m->act.relative;
    ml_pass pass = {.kernels = m->kernels,
                    .grid = m->grid,
                    .tokens = c->count,
                    .first = c->first,
                    .scratch = m->act.scratch,
                    .partial = m->act.partial};
    if (saves) pass.saved = r->saved + c->first * linear->hook.saved_per_token;
    if (batch->key_sequence && r->key_sequence) {
        pass.key_sequence = r->key_sequence + c->first;
        pass.key_position = r->key_position + c->first;
    }
    return pass;
}

/* Does the projection of the rows, or what stands before it, train? */
static bool wants_gradient(const ml_model *m, const ml_linear *linear)
{
    return ml_linear_trains(linear) || relative_trains(m);
}

void relative_forward(ml_model *m, int64_t l, const ml_batch *batch, bool saves)
{
    relative_rows *r = &m->act.relative;
    const ml_linear *linear = relative_linear(m, l);
    int64_t ld = linear->out;
    bool shared = m->spec.relative_shared;
    for (chunk c = {.rows = r->count}; next_distances(m, &c);) {
        const ml_pass pass = pass_of(m, linear, batch, &c, saves);
        ml_linear_forward(linear, &pass, r->x + c.first * m->spec.width, r->qk + c.first * ld);
    }
    int64_t keys = shared || m->spec.relative_queries ? q_width(m) : 0;
    bool backward = saves && wants_gradient(m, linear);
    r->terms = (ml_relative){.rows = r->count, .most = r->longest - 1, .row = r->row, .ld = ld};
    if (m->spec.relative_keys) {
        r->terms.keys = r->qk + keys;
        r->terms.d_keys = backward ? r->d_qk + keys : NULL;
    }
    if (m->spec.relative_queries) {
        r->terms.queries = r->qk;
        r->terms.d_queries = backward ? r->d_qk : NULL;
    }
    if (backward) memset(r->d_qk, 0, (size_t)(r->count * ld) * sizeof *r->d_qk);
}

void relative_backward(ml_model *m, int64_t l, const ml_batch *batch)
{
    const activations *a = &m->act;
    const relative_rows *r = &a->relative;
    const ml_linear *linear = relative_linear(m, l);
    int64_t d = m->spec.width;
    bool below = relative_trains(m);
    if (!wants_gradient(m, linear)) return;
    for (chunk c = {.rows = r->count}; next_distances(m, &c);) {
        const ml_pass pass = pass_of(m, linear, batch, &c, true);
        ml_linear_backward(linear, &pass, r->x + c.first * d, r->d_qk + c.first * linear->out,
                           below ? a->y : NULL);
        if (below) m->kernels->add(c.count * d, a->y, r->d_x + c.first * d);
    }
}

/* ---- behind all layers ------------------------------------------------------------------------
 */

bool relative_trains(const ml_model *m)
{
    return m->relative_slot >= 0 &&
           (m->slots[m->relative_slot].gradient || m->relative_norm.weight_gradient ||
            m->relative_norm.bias_gradient);
}

void relative_embedding_backward(ml_model *m)
{
    activations *a = &m->act;
    const relative_rows *r = &a->relative;
    float *gradient = m->slots[m->relative_slot].gradient;
    int64_t d = m->spec.width;
    for (chunk c = {.rows = r->count}; next_distances(m, &c);) {
        const float *dx = r->d_x + c.first * d;
        if (m->relative_norm.weight) {
            float *x = r->x + c.first * d;
            read_rows(m, c.first, c.count, x);
            norm_forward(m, &m->relative_norm, c.count, x, a->n, a->mean, a->rstd);
            norm_backward(m, &m->relative_norm, c.count, x, a->mean, a->rstd, dx, a->y, false);
            dx = a->y;
        }
        if (gradient) m->kernels->add(c.count * d, dx, gradient + (r->first + c.first) * d);
    }
}
