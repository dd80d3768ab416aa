/* Ranks that share out the tokens of their sequences: each has the queries, keys and values of its
 * own, and gathers in every layer the keys and values of all, which its queries attend to; backward
 * they give gradients to all keys and values, and each rank gets the sums of its own (Llama Team
 * 2024, arXiv:2407.21783, section 3.3.2). Backward gathers again: what is kept is each rank's
 * part. */
#include "model/model_private.h"

void ml_model_share_tokens(ml_model *m, const ml_grid *grid, int cp, int64_t keys)
{
    m->sharers = cp > 1 ? grid : NULL;
    m->shared_tokens = cp > 1 ? keys : 0;
}

int64_t positions_most(const ml_model *m, int64_t tokens)
{
    return ml_min(ml_max(tokens, m->shared_tokens), m->spec.context);
}

/* Floats of a token's key and value. */
static int64_t pair_width(const ml_model *m) { return 2 * kv_width(m); }

int64_t gathered_bytes(const ml_model *m, int64_t tokens, bool backward)
{
    int64_t rows = backward ? 2 * m->shared_tokens + tokens : m->shared_tokens;
    return m->shared_tokens > 0 ? rows * pair_width(m) * (int64_t)sizeof(float) : 0;
}

ml_status reserve_gathered(ml_model *m, int64_t tokens, bool backward)
{
    ml_status st = ML_OK;
    gathered_keys *g = &m->act.gathered;
    int64_t count = m->shared_tokens * pair_width(m);
    char *storage = NULL;
    if (m->shared_tokens == 0) return ML_OK;
    ML_NEW(storage, gathered_bytes(m, tokens, backward), ML_MEM_COMMUNICATION,
           "keys and values of all ranks");
    g->storage = storage;
    g->kv = g->storage;
    if (backward) {
        g->d_kv = g->kv + count;
        g->came = g->d_kv + count;
        ml_memory_take_pages(g->storage);
    }
done:
    return st;
}

static const ml_row_runs *own_runs(const ml_model *m, const ml_batch *batch)
{
    return &batch->part[ml_grid_cp_rank(m->sharers)];
}

/* Keys and values of this rank's tokens to their rows among all. */
static void put_own(const ml_model *m, const ml_batch *batch, const float *qkv)
{
    const ml_row_runs *own = own_runs(m, batch);
    int64_t width = qkv_width(m), pair = pair_width(m);
    const float *from = qkv + q_width(m);
    for (int i = 0; i < own->count; i++)
        for (int64_t row = 0; row < own->rows[i]; row++, from += width)
            memcpy(m->act.gathered.kv + (own->first[i] + row) * pair, from,
                   (size_t)pair * sizeof *from);
}

attended attended_keys(const ml_model *m, const ml_batch *batch, const float *qkv, float *dqkv)
{
    int64_t q = q_width(m), kv = kv_width(m);
    const gathered_keys *g = &m->act.gathered;
    if (!batch->part) {
        float *d_key = dqkv ? dqkv + q : NULL;
        return (attended){.q = qkv,
                          .key = qkv + q,
                          .value = qkv + q + kv,
                          .d_key = d_key,
                          .d_value = d_key ? d_key + kv : NULL,
                          .ld = qkv_width(m)};
    }
    put_own(m, batch, qkv);
    ml_grid_gather_rows(m->sharers, ML_GROUP_CP, batch->part, pair_width(m), g->kv);
    return (attended){.q = qkv,
                      .key = g->kv,
                      .value = g->kv + kv,
                      .d_key = g->d_kv,
                      .d_value = g->d_kv ? g->d_kv + kv : NULL,
                      .ld = pair_width(m)};
}

void give_key_gradients(const ml_model *m, const ml_batch *batch, float *dqkv)
{
    const gathered_keys *g = &m->act.gathered;
    int64_t width = qkv_width(m), pair = pair_width(m);
    float *to = dqkv + q_width(m);
    if (!batch->part) return;
    const ml_row_runs *own = own_runs(m, batch);
    ml_grid_scatter_row_sums(m->sharers, ML_GROUP_CP, batch->part, pair, g->d_kv, g->came);
    for (int i = 0; i < own->count; i++)
        for (int64_t row = 0; row < own->rows[i]; row++, to += width)
            memcpy(to, g->d_kv + (own->first[i] + row) * pair, (size_t)pair * sizeof *to);
}
