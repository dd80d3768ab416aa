/* Ranks that share out the tokens of their sequences: each has the queries, keys and values of its
 * own, and gathers in every layer the keys and values of all, which its queries attend to; backward
 * they give gradients to all keys and values, and each rank gets the sums of its own (Llama Team
 * 2024, arXiv:2407.21783, section 3.3.2). Backward gathers again: what is kept is each rank's
 * part.
 *
 * Where gradients come in pieces the same bits are wanted as of one rank, but sums of several
 * ranks' parts would have another order. There the rank that has a key finds its gradient alone,
 * from the queries of all, which are gathered for one key/value head at a time. That computes the
 * scores of backward twice. */
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

/* Query heads of a key/value head. */
static int64_t group_heads(const ml_model *m) { return m->heads / m->kv_heads; }

/* Floats of a token's queries of one key/value head: q, o and the gradient of o of its group, and
 * lse, which attention takes by head, so that it stands there once more. */
static int64_t query_row(const ml_model *m) { return group_heads(m) * (3 * m->spec.head_dim + 1); }

static int64_t query_floats(const ml_model *m)
{
    return m->shared_tokens * (query_row(m) + group_heads(m));
}

int64_t gathered_bytes(const ml_model *m, int64_t tokens, bool backward)
{
    int64_t keys = m->shared_tokens * pair_width(m),
            more = m->pieces ? query_floats(m) : tokens * pair_width(m);
    if (m->shared_tokens == 0) return 0;
    return (backward ? 2 * keys + more : keys) * (int64_t)sizeof(float);
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

attended attended_keys(const ml_model *m, const ml_batch *batch, const void *qkv, ml_dtype dtype,
                       float *dqkv)
{
    int64_t q = q_width(m), kv = kv_width(m);
    const gathered_keys *g = &m->act.gathered;
    attended to = {.q = qkv, .dtype = dtype};
    if (batch->part) {
        put_own(m, batch, qkv);
        ml_grid_gather_rows(m->sharers, ML_GROUP_CP, batch->part, pair_width(m), g->kv);
        to.key = g->kv;
        to.d_key = g->d_kv;
        to.ld = pair_width(m);
    } else {
        to.key = (const char *)qkv + ml_dtype_bytes(dtype, q);
        to.d_key = dqkv ? dqkv + q : NULL;
        to.ld = qkv_width(m);
    }
    to.value = (const char *)to.key + ml_dtype_bytes(dtype, kv);
    to.d_value = to.d_key ? to.d_key + kv : NULL;
    return to;
}

/* The gradients of this rank's keys to those of its tokens. */
static void take_own(const ml_model *m, const ml_batch *batch, float *dqkv)
{
    const ml_row_runs *own = own_runs(m, batch);
    int64_t width = qkv_width(m), pair = pair_width(m);
    float *to = dqkv + q_width(m);
    for (int i = 0; i < own->count; i++)
        for (int64_t row = 0; row < own->rows[i]; row++, to += width)
            memcpy(to, m->act.gathered.d_kv + (own->first[i] + row) * pair,
                   (size_t)pair * sizeof *to);
}

/* ---- keys' gradients where the keys are ---------------------------------------------------- */

/* Of a key/value head this rank's queries, and all that backward takes of them, to their rows among
 * all. */
static void put_queries(const ml_model *m, const ml_batch *batch, const ml_attention_kept *kept,
                        const float *d_o, int64_t kv_head)
{
    const ml_row_runs *own = own_runs(m, batch);
    int64_t heads = group_heads(m), n = heads * m->spec.head_dim, first = kv_head * n, t = 0;
    const float *q = kept->q;
    for (int i = 0; i < own->count; i++)
        for (int64_t row = 0; row < own->rows[i]; row++, t++) {
            float *to = m->act.gathered.came + (own->first[i] + row) * query_row(m);
            memcpy(to, q + t * kept->ldq + first, (size_t)n * sizeof *to);
            ml_dtype_decode(kept->o_dtype, kept->o, t * kept->ldo + first, n, to + n);
            memcpy(to + 2 * n, d_o + t * q_width(m) + first, (size_t)n * sizeof *to);
            for (int64_t h = 0; h < heads; h++)
                to[3 * n + h] = kept->lse[(kv_head * heads + h) * batch->tokens + t];
        }
}

/* A shape's part of one key/value head. */
static ml_attention_shape shape_of_group(const ml_model *m, ml_attention_shape shape,
                                         int64_t kv_head)
{
    shape.heads = group_heads(m);
    shape.kv_heads = 1;
    if (shape.key_bias) shape.key_bias += kv_head * shape.heads * shape.key_bias_stride;
    return shape;
}

/* From the queries of all, for the keys of this rank's pieces. */
static void find_group_gradients(const ml_model *m, const ml_batch *batch, int64_t kv_head,
                                 const ml_attention_shape *shape, const attended *to)
{
    const ml_kernels *k = m->kernels;
    int64_t T = batch->sequences.start[batch->sequences.count], heads = group_heads(m),
            n = heads * m->spec.head_dim, width = query_row(m), first = kv_head * m->spec.head_dim;
    const float *q = m->act.gathered.came;
    float *lse = m->act.gathered.came + T * width;
    const ml_attention_kept kept = {.q = q,
                                    .key = (const float *)to->key + first,
                                    .value = (const float *)to->value + first,
                                    .o = q + n,
                                    .ldq = width,
                                    .ldkv = to->ld,
                                    .ldo = width,
                                    .dtype = ML_FP32,
                                    .o_dtype = ML_FP32,
                                    .lse = lse};
    ml_sequences all = batch->sequences;
    all.gives = all.query;
    all.query = NULL;
    for (int64_t h = 0; h < heads; h++)
        for (int64_t t = 0; t < T; t++) lse[h * T + t] = q[t * width + 3 * n + h];
    k->attention_backward(k, shape, &all, &kept, q + 2 * n, width, NULL, 0, to->d_key + first,
                          to->d_value + first, to->ld);
}

static void find_key_gradients(const ml_model *m, const ml_batch *batch,
                               const ml_attention_shape *shape, const ml_attention_kept *kept,
                               const attended *to, const float *d_o)
{
    for (int64_t head = 0; head < m->kv_heads; head++) {
        const ml_attention_shape group = shape_of_group(m, *shape, head);
        put_queries(m, batch, kept, d_o, head);
        ml_grid_gather_rows(m->sharers, ML_GROUP_CP, batch->part, query_row(m),
                            m->act.gathered.came);
        find_group_gradients(m, batch, head, &group, to);
    }
}

/* ---- backward ------------------------------------------------------------------------------ */

void attended_backward(const ml_model *m, const ml_batch *batch, const ml_attention_shape *shape,
                       const ml_attention_kept *kept, const attended *to, const float *d_o,
                       float *dqkv)
{
    const ml_kernels *k = m->kernels;
    const gathered_keys *g = &m->act.gathered;
    bool alone = batch->part && m->pieces;
    k->attention_backward(k, shape, &batch->sequences, kept, d_o, q_width(m), dqkv, qkv_width(m),
                          alone ? NULL : to->d_key, alone ? NULL : to->d_value, to->ld);
    if (!batch->part) return;
    if (alone)
        find_key_gradients(m, batch, shape, kept, to, d_o);
    else
        ml_grid_scatter_row_sums(m->sharers, ML_GROUP_CP, batch->part, pair_width(m), g->d_kv,
                                 g->came);
    take_own(m, batch, dqkv);
}
