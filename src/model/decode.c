/* Passes with a cache of keys and values: prompts at once, then one token for each of several
 * sequences. The cache keeps every position; a layer with a window reads its last ones. The stages
 * of a pipeline have a cache of their own layers each. */
#include "model/model_private.h"

static void store_token(const ml_model *m, ml_cache *c, int64_t layer, int32_t row, int64_t token)
{
    memcpy(cache_row(c, layer, row), m->act.qkv + token * qkv_width(m) + q_width(m),
           (size_t)c->width * sizeof(float));
}

/* Final norm and head of the first rows of a->x, those of `batch`; every rank gets all columns. */
static void all_logits(ml_model *m, const ml_batch *batch, float *logits)
{
    const activations *a = &m->act;
    const ml_kernels *k = m->kernels;
    int64_t rows = batch->rows, d = m->spec.width, V = m->spec.vocab, own = m->vocab_count;
    if (m->grid) memset(logits, 0, (size_t)(rows * V) * sizeof *logits);
    for (int64_t first = 0; first < rows; first += a->head_chunk) {
        const chunk c = {.rows = rows,
                         .first = first,
                         .count = ml_min(a->head_chunk, rows - first),
                         .predicted = true};
        const ml_pass pass = pass_over(m, batch, &c);
        float *to = logits + first * V + m->vocab_first;
        head_input(m, c.count, a->x + first * d);
        head_multiply(m, c.count);
        ml_linear_forward(&m->head, &pass, a->n, a->logits);
        if (m->spec.logit_cap > 0.0)
            k->soft_cap(c.count * own, (float)m->spec.logit_cap, a->logits, NULL);
        for (int64_t i = 0; i < c.count; i++)
            memcpy(to + i * V, a->logits + i * own, (size_t)own * sizeof *to);
    }
    if (m->grid) ml_grid_sum_float(m->grid, ML_GROUP_TP, logits, rows * V);
}

/* What the layers start from: embedded tokens, or what the stage before has made of them. */
static void begin(ml_model *m, const ml_batch *batch, bool prompts)
{
    if (stage_receive(m, batch->tokens)) return;
    embed_forward(m, batch);
    if (prompts) virtual_forward(m, 0, batch->tokens, batch->token, m->act.x);
    embed_norm_forward(m, batch->tokens, false);
}

/* Logits behind the last stage. */
static void end(ml_model *m, const ml_batch *batch, float *logits)
{
    if (!stage_send(m, batch->tokens)) all_logits(m, batch, logits);
}

/* Rows of the pool for every sequence of the batch, shared ones from the sequence before. */
static void place_prompts(ml_cache *c, const int64_t *slot, const ml_sequences *sequences)
{
    for (int64_t s = 0; s < sequences->count; s++) {
        int64_t shared = ml_sequences_shared(sequences, s),
                own = sequences->start[s + 1] - sequences->start[s];
        if (shared > 0)
            ml_cache_share(c, slot[s - 1], slot[s], shared);
        else
            ml_cache_clear(c, slot[s]);
        for (int64_t j = 0; j < own; j++) cache_append(c, slot[s]);
    }
}

static void store_prompts(const ml_model *m, ml_cache *c, int64_t layer, const int64_t *slot,
                          const ml_sequences *sequences)
{
    for (int64_t s = 0; s < sequences->count; s++) {
        const int32_t *own = cache_path(c, slot[s]) + ml_sequences_shared(sequences, s);
        for (int64_t t = sequences->start[s]; t < sequences->start[s + 1]; t++)
            store_token(m, c, layer, own[t - sequences->start[s]], t);
    }
}

void ml_model_prefill(ml_model *m, ml_cache *c, const int64_t *slot, const ml_batch *batch,
                      float *logits)
{
    place_prompts(c, slot, &batch->sequences);
    place_tokens(m, batch);
    begin(m, batch, true);
    for (int64_t l = m->first_layer; l < m->end_layer; l++) {
        if (l > 0) virtual_forward(m, l, batch->tokens, batch->token, m->act.x);
        layer_attend(m, l, batch, false);
        store_prompts(m, c, l, slot, &batch->sequences);
        layer_finish(m, l, batch, false);
    }
    end(m, batch, logits);
}

/* Attention of one layer: each token against its own slot, which has a row for it already. */
static void attend_cache(ml_model *m, ml_cache *c, int64_t layer, int64_t count,
                         const int64_t *slot)
{
    activations *a = &m->act;
    const ml_kernels *k = m->kernels;
    const ml_attention_shape shape = attention_shape(m, layer);
    const float *key = cache_row(c, layer, 0), *value = key + kv_width(m);
    for (int64_t i = 0; i < count; i++) {
        const int32_t *path = cache_path(c, slot[i]);
        int64_t n = c->length[slot[i]];
        store_token(m, c, layer, path[n - 1], i);
        k->attention_decode(k, &shape, n, path, a->qkv + i * qkv_width(m), key, value, c->width,
                            a->attention + i * q_width(m));
    }
}

void ml_model_decode(ml_model *m, ml_cache *c, int64_t count, const int64_t *slot,
                     const int32_t *token, float *logits)
{
    activations *a = &m->act;
    const ml_batch batch = {.tokens = count, .token = token, .rows = count};
    for (int64_t i = 0; i < count; i++) {
        a->position[i] = (int32_t)c->length[slot[i]];
        cache_append(c, slot[i]);
        place_rope(m, i, c->length[slot[i]]);
    }
    begin(m, &batch, false);
    for (int64_t l = m->first_layer; l < m->end_layer; l++) {
        const ml_layer *layer = &m->layers[l];
        project_qkv(m, l, &batch, NULL);
        round_qkv(m, count);
        attend_cache(m, c, l, count, slot);
        add_attention_and_mlp(m, layer, &batch, count, false, NULL);
    }
    end(m, &batch, logits);
}
