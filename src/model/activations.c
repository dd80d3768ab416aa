/* The activations' memory: one function lays it out, once to count, once to point into it, so that plan and training cannot disagree. */
#include "model/model_private.h"

enum { ALIGNMENT = 64 };

/* A cursor over one block; with base NULL it only counts. */
typedef struct cursor {
    char *base;
    int64_t used;
} cursor;

static void *take(cursor *c, int64_t count, size_t size)
{
    void *at = c->base ? c->base + c->used : NULL;
    c->used = ml_round_up(c->used + count * (int64_t)size, ALIGNMENT);
    return at;
}

static float *take_floats(cursor *c, int64_t count) { return take(c, count, sizeof(float)); }

static kept_layer lay_out_layer(const ml_model *m, const ml_layer *layer, int64_t T, cursor *c)
{
    size_t size = ml_dtype_size(m->dtype);
    bool means = m->spec.family == ML_FAMILY_GPT2;
    kept_layer k = {0};
    k.x1 = take(c, T * m->spec.width, size);
    k.qkv = take(c, T * qkv_width(m), size);
    k.attention = take(c, T * q_width(m), size);
    k.x2 = take(c, T * m->spec.width, size);
    k.h = take(c, T * layer->up.out, size);
    if (means) k.mean1 = take_floats(c, T);
    if (means) k.mean2 = take_floats(c, T);
    k.rstd1 = take_floats(c, T);
    k.rstd2 = take_floats(c, T);
    k.lse = take_floats(c, T * m->heads);
    k.hook_qkv = take_floats(c, T * layer->qkv.hook.kept_per_token);
    k.hook_o = take_floats(c, T * layer->o.hook.kept_per_token);
    k.hook_up = take_floats(c, T * layer->up.hook.kept_per_token);
    k.hook_down = take_floats(c, T * layer->down.hook.kept_per_token);
    return k;
}

/* Logits of a chunk stay near 32 MiB whatever the vocabulary. */
static int64_t chunk_tokens(const ml_model *m, int64_t T)
{
    enum { LEAST = 32, MOST = 512 };
    int64_t fit = ((int64_t)32 << 20) / ((int64_t)sizeof(float) * ml_max(m->vocab_count, 1));
    return ml_min(T, ml_max(LEAST, ml_min(MOST, fit / LEAST * LEAST)));
}

static int64_t hook_scratch(const ml_model *m)
{
    int64_t most = 0;
    for (int64_t l = 0; l < m->spec.layers; l++) {
        const ml_layer *layer = &m->layers[l];
        const ml_linear *linear[] = {&layer->qkv, &layer->o, &layer->up, &layer->down};
        for (int i = 0; i < 4; i++) most = ml_max(most, linear[i]->hook.scratch_per_token);
    }
    return most;
}

static void lay_out_backward(const ml_model *m, activations *a, int64_t T, cursor *c)
{
    bool bf16 = m->dtype == ML_BF16;
    a->d_attention = take_floats(c, T * q_width(m));
    a->dh = bf16 ? take_floats(c, T * h_width(m)) : a->h; /* in fp32 backward reads h where it was kept */
    if (is_gated(m)) a->d_mlp = take_floats(c, T * a_width(m));
    if (bf16) a->wide_x = take_floats(c, T * m->spec.width);
    if (bf16) a->wide_qkv = take_floats(c, T * qkv_width(m));
    if (bf16) a->wide_attention = take_floats(c, T * q_width(m));
}

static void lay_out_work(const ml_model *m, activations *a, int64_t T, bool backward, cursor *c)
{
    int64_t d = m->spec.width;
    a->x = take_floats(c, T * d);
    a->n = take_floats(c, T * d);
    a->y = take_floats(c, T * d);
    a->qkv = take_floats(c, T * qkv_width(m));
    a->attention = take_floats(c, T * q_width(m));
    a->h = take_floats(c, T * h_width(m));
    a->a = take_floats(c, T * a_width(m));
    a->mean = take_floats(c, T);
    a->rstd = take_floats(c, T);
    a->lse = take_floats(c, T * m->heads);
    a->chunk = chunk_tokens(m, T);
    a->logits = take_floats(c, a->chunk * m->vocab_count);
    a->row_max = take_floats(c, a->chunk);
    a->row_sums = take_floats(c, 2 * a->chunk);
    a->scratch = take_floats(c, T * hook_scratch(m));
    a->position = take(c, T, sizeof *a->position);
    a->row_position = take(c, T, sizeof *a->row_position);
    a->key_sequence = take(c, T, sizeof *a->key_sequence);
    a->row_key_sequence = take(c, T, sizeof *a->row_key_sequence);
    if (m->spec.family == ML_FAMILY_LLAMA) {
        int64_t positions = ml_min(T, m->spec.context) * (m->spec.head_dim / 2);
        a->cosine = take_floats(c, positions);
        a->sine = take_floats(c, positions);
    }
    if (backward) lay_out_backward(m, a, T, c);
}

/* Fills pointers of `a` (and of a->layers where there are any) and advances both cursors. */
static void lay_out(const ml_model *m, activations *a, int64_t T, bool backward, cursor *kept, cursor *work)
{
    lay_out_work(m, a, T, backward, work);
    for (int64_t l = 0; backward && l < m->spec.layers; l++) {
        kept_layer k = lay_out_layer(m, &m->layers[l], T, kept);
        if (a->layers) a->layers[l] = k;
    }
}

void ml_model_reserve_bytes(const ml_model *m, int64_t tokens, bool backward, int64_t bytes[ML_MEM_CATEGORIES])
{
    activations a = {0};
    cursor kept = {0}, work = {0};
    lay_out(m, &a, tokens, backward, &kept, &work);
    bytes[ML_MEM_ACTIVATION] += kept.used;
    bytes[ML_MEM_WORKSPACE] += work.used;
    bytes[ML_MEM_OTHER] += m->spec.layers * (int64_t)sizeof *a.layers;
}

ml_status ml_model_reserve(ml_model *m, int64_t tokens, bool backward)
{
    ml_status st = ML_OK;
    activations *a = &m->act;
    cursor kept = {0}, work = {0};
    release_activations(m);
    ML_NEW(a->layers, m->spec.layers, ML_MEM_OTHER, "layers' activations");
    lay_out(m, a, tokens, backward, &kept, &work);
    ML_NEW(kept.base, kept.used, ML_MEM_ACTIVATION, "activations kept for backward");
    a->kept_storage = kept.base;
    ML_NEW(work.base, work.used, ML_MEM_WORKSPACE, "activations' work space");
    a->work_storage = work.base;
    kept.used = work.used = 0;
    lay_out(m, a, tokens, backward, &kept, &work);
    a->tokens = tokens;
    a->backward = backward;
    if (a->cosine) fill_rope_table(&m->spec, ml_min(tokens, m->spec.context), a->cosine, a->sine);
done:
    if (st != ML_OK) release_activations(m);
    return st;
}

void release_activations(ml_model *m)
{
    ml_memory_free(m->act.kept_storage);
    ml_memory_free(m->act.work_storage);
    ml_memory_free(m->act.layers);
    m->act = (activations){0};
}

void keep_rows(const ml_model *m, void *kept, const float *x, int64_t count)
{
    if (m->dtype == ML_BF16)
        m->kernels->narrow(count, x, kept);
    else
        memcpy(kept, x, (size_t)count * sizeof *x);
}

const float *kept_rows(const ml_model *m, const void *kept, float *wide, int64_t count)
{
    if (m->dtype != ML_BF16) return kept;
    m->kernels->widen(count, kept, wide);
    return wide;
}
