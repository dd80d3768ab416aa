/* Passes with a cache of keys and values: a prompt at once, then one token for each of several sequences. */
#include "model/model_private.h"

struct ml_cache {
    int64_t slots, capacity, layers, width; /* width: keys and values of one token, 2·kv heads·h */
    int64_t *length;                        /* [slots] */
    float *data;                            /* [layers, slots, capacity, width] */
};

ml_status ml_cache_create(ml_cache **out, const ml_model *m, int64_t slots, int64_t capacity)
{
    ml_status st = ML_OK;
    ml_cache *c = NULL;
    ML_NEW(c, 1, ML_MEM_OTHER, "a cache");
    *c = (ml_cache){.slots = slots, .capacity = capacity, .layers = m->spec.layers, .width = 2 * kv_width(m)};
    ML_NEW(c->length, slots, ML_MEM_OTHER, "a cache");
    ML_NEW(c->data, c->layers * slots * capacity * c->width, ML_MEM_ACTIVATION, "keys and values of the sequences");
    *out = c;
    c = NULL;
done:
    ml_cache_destroy(c);
    return st;
}

void ml_cache_destroy(ml_cache *c)
{
    if (!c) return;
    ml_memory_free(c->data);
    ml_memory_free(c->length);
    ml_memory_free(c);
}

int64_t ml_cache_length(const ml_cache *c, int64_t slot) { return c->length[slot]; }

static float *cache_row(const ml_cache *c, int64_t layer, int64_t slot, int64_t position)
{
    return c->data + (((layer * c->slots + slot) * c->capacity) + position) * c->width;
}

void ml_cache_copy(ml_cache *c, int64_t from, int64_t to)
{
    for (int64_t l = 0; l < c->layers; l++)
        memcpy(cache_row(c, l, to, 0), cache_row(c, l, from, 0), (size_t)(c->length[from] * c->width) * sizeof(float));
    c->length[to] = c->length[from];
}

/* Keys and values of T tokens out of a->qkv. */
static void store_tokens(const ml_model *m, ml_cache *c, int64_t layer, int64_t slot, int64_t position, int64_t first, int64_t T)
{
    for (int64_t t = 0; t < T; t++)
        memcpy(cache_row(c, layer, slot, position + t), m->act.qkv + (first + t) * qkv_width(m) + q_width(m),
               (size_t)c->width * sizeof(float));
}

/* Final norm and head of the first `rows` rows of a->x; every rank gets all columns. */
static void all_logits(ml_model *m, int64_t rows, float *logits)
{
    const activations *a = &m->act;
    const ml_kernels *k = m->kernels;
    int64_t d = m->spec.width, V = m->spec.vocab;
    const ml_weight head = {m->slots[m->head_slot].data, m->dtype, m->vocab_count, d};
    if (m->grid) memset(logits, 0, (size_t)(rows * V) * sizeof *logits);
    for (chunk c = {.rows = rows}; next_chunk(m, &c);) {
        norm_forward(m, &m->final_norm, c.count, a->x + c.first * d, a->n, a->mean, a->rstd);
        k->weight_forward(k, c.count, a->n, d, &head, 0.0F, logits + c.first * V + m->vocab_first, V);
    }
    if (m->grid) ml_grid_sum_float(m->grid, ML_GROUP_TP, logits, rows * V);
}

void ml_model_prefill(ml_model *m, ml_cache *c, int64_t slot, const int32_t *token, int64_t n, float *logits)
{
    const int64_t start[2] = {0, n}, last = n - 1;
    const ml_batch batch = {.tokens = n, .token = token, .sequences = {1, start, NULL}, .rows = 1, .row = &last};
    place_tokens(m, &batch);
    embed_forward(m, &batch);
    virtual_forward(m, 0, n, token, m->act.x);
    for (int64_t l = 0; l < m->spec.layers; l++) {
        layer_attend(m, l, &batch, false);
        store_tokens(m, c, l, slot, 0, 0, n);
        layer_finish(m, l, &batch, false);
        virtual_forward(m, l + 1, n, token, m->act.x);
    }
    c->length[slot] = n;
    all_logits(m, 1, logits);
}

/* Attention of one layer: each token against its own slot. */
static void attend(ml_model *m, ml_cache *c, int64_t layer, const ml_batch *batch, const int64_t *slot)
{
    activations *a = &m->act;
    const ml_kernels *k = m->kernels;
    const ml_attention_shape shape = attention_shape(m);
    for (int64_t i = 0; i < batch->tokens; i++) {
        int64_t position = c->length[slot[i]];
        store_tokens(m, c, layer, slot[i], position, i, 1);
        const float *key = cache_row(c, layer, slot[i], 0), *value = key + kv_width(m);
        k->attention_decode(k, &shape, position + 1, a->qkv + i * qkv_width(m), key, value, c->width, a->attention + i * q_width(m));
    }
}

void ml_model_decode(ml_model *m, ml_cache *c, int64_t count, const int64_t *slot, const int32_t *token, float *logits)
{
    activations *a = &m->act;
    const ml_batch batch = {.tokens = count, .token = token, .rows = count};
    for (int64_t i = 0; i < count; i++) a->position[i] = (int32_t)c->length[slot[i]];
    embed_forward(m, &batch);
    for (int64_t l = 0; l < m->spec.layers; l++) {
        const ml_layer *layer = &m->layers[l];
        project_qkv(m, layer, &batch, NULL);
        attend(m, c, l, &batch, slot);
        finish_layer(m, layer, &batch, count, false, NULL);
    }
    for (int64_t i = 0; i < count; i++) c->length[slot[i]]++;
    all_logits(m, count, logits);
}
