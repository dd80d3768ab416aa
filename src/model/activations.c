/* The activations' memory: one function lays it out, once to count, once to point into it, so that
 * plan and training cannot disagree.
 *
 * Kept for backward are per layer, as ml_activation_mode says. The work space is shared by all
 * layers, and what is never needed at the same time lies in the same place: the matrices of
 * attention, [T, …] each; those of the MLP, which goes chunk by chunk of the tokens; the logits,
 * chunk by chunk, too. */
#include "mpilora/stages.h"

#include "model/model_private.h"

enum { ALIGNMENT = 64 };

/* Rows of a piece of gradients, in layers and in the head: no more than the least that a chunk has
 * room for. What does not know of pieces sums over a chunk, so these are as long as that may be. */
enum { PIECE = ML_MODEL_PIECE, HEAD_PIECE = 64 };

/* A cursor over one block; with base NULL it only counts. */
typedef struct cursor {
    char *base;
    int64_t used, most;
} cursor;

static void *take(cursor *c, int64_t count, size_t size)
{
    void *at = c->base ? c->base + c->used : NULL;
    c->used = ml_round_up(c->used + count * (int64_t)size, ALIGNMENT);
    c->most = ml_max(c->most, c->used);
    return at;
}

static float *take_floats(cursor *c, int64_t count) { return take(c, count, sizeof(float)); }

/* Behind the first layer, on its stage. */
static bool has_convolution(const ml_model *m)
{
    return m->spec.conv_kernel > 0 && m->first_layer == 0;
}

/* What checkpoint mode computes again from x1. The adapters' part of `down` is not among it:
 * nothing else after x2 is. */
static void lay_out_recomputed(const ml_model *m, int64_t l, int64_t T, saved_layer *k, cursor *c)
{
    const ml_layer *layer = &m->layers[l];
    size_t size = ml_dtype_size(m->dtype);
    bool means = m->spec.norm == ML_NORM_LAYER;
    if (keeps_part(m)) k->x1 = take_floats(c, stream_words(m, T));
    k->qkv = take(c, T * qkv_width(m), size);
    k->attention = take(c, ml_dtype_bytes(attention_dtype(m, l), T * q_width(m)), 1);
    k->x2 = is_parallel(m) && l < m->spec.layers - 1
                ? k->x1
                : take(c, ml_dtype_bytes(mlp_input_dtype(m, l), T * m->spec.width), 1);
    if (is_normed_behind(m)) k->y1 = take(c, T * m->spec.width, size);
    if (m->mode == ML_ACTIVATIONS_FULL && keeps_slopes(m, l))
        k->slopes = take(c, T * layer->up.out, sizeof *k->slopes);
    else if (m->mode == ML_ACTIVATIONS_FULL)
        k->h = take(c, T * layer->up.out, size);
    if (means) k->mean1 = take_floats(c, T);
    if (means) k->mean2 = take_floats(c, T);
    k->rstd1 = take_floats(c, T);
    k->rstd2 = take_floats(c, T);
    k->lse = take_floats(c, T * m->heads);
    k->hook_qkv = take_floats(c, T * layer->qkv.hook.saved_per_token);
    k->hook_o = take_floats(c, T * layer->o.hook.saved_per_token);
    k->hook_up = take_floats(c, T * layer->up.hook.saved_per_token);
}

/* What each micro-batch on its way has for itself: in checkpoint mode every layer's x1, or this
 * rank's part of it. */
static void lay_out_place(const ml_model *m, activations *a, int64_t T, cursor *c)
{
    size_t size = ml_dtype_size(m->dtype);
    int64_t start = c->used, d = m->spec.width;
    for (int64_t l = m->first_layer; l < m->end_layer; l++) {
        saved_layer k = {0};
        if (keeps_part(m))
            k.x1_part = take_floats(c, ml_part_count(stream_words(m, T), m->tp, 0));
        else
            k.x1 = take(c, T * d, size);
        k.hook_down = take_floats(c, T * m->layers[l].down.hook.saved_per_token);
        if (is_normed_behind(m)) k.y2 = take(c, T * d, size);
        if (m->mode != ML_ACTIVATIONS_CHECKPOINT) lay_out_recomputed(m, l, T, &k, c);
        if (a->layers) a->layers[l] = k;
    }
    if (has_convolution(m)) a->convolution.sum = take(c, T * d, size);
    if (m->has_embed_norm && m->first_layer == 0) a->embedded = take(c, T * d, size);
    a->kept = c->used - start;
}

/* The places one behind the other, of which the micro-batch under way has a->place, and behind
 * them what in checkpoint mode all layers and places share. */
static void lay_out_saved(const ml_model *m, activations *a, int64_t T, cursor *c)
{
    int64_t start = c->used;
    c->used += a->place * a->kept; /* known where there is more than one place: counted before */
    lay_out_place(m, a, T, c);
    c->used = start + m->in_flight * a->kept;
    c->most = ml_max(c->most, c->used);
    int64_t shared = c->used;
    for (int64_t l = m->first_layer; m->mode == ML_ACTIVATIONS_CHECKPOINT && l < m->end_layer;
         l++) {
        saved_layer k = a->layers ? a->layers[l] : (saved_layer){0};
        c->used = shared;
        lay_out_recomputed(m, l, T, &k, c);
        if (a->layers) a->layers[l] = k;
    }
    c->used = c->most;
}

void ml_model_choose_place(ml_model *m, int64_t place)
{
    activations *a = &m->act;
    cursor saved = {.base = a->saved_storage};
    if (!a->backward || a->place == place) return;
    a->place = place;
    lay_out_saved(m, a, a->tokens, &saved);
}

/* In floats. */
static int64_t hook_scratch(const ml_model *m, const activations *a)
{
    int64_t most = 0;
    for (int64_t l = m->first_layer; l < m->end_layer; l++) {
        const ml_layer *layer = &m->layers[l];
        const ml_linear *linear[ML_LINEARS_A_LAYER] = {&layer->qkv, &layer->pos, &layer->o,
                                                       &layer->up, &layer->down};
        for (int i = 0; i < ML_LINEARS_A_LAYER; i++)
            most = ml_max(most, linear[i]->hook.scratch_per_token);
    }
    most = ml_max(most, m->embed.hook.scratch_per_token);
    return ml_max(a->chunk * most, a->head_chunk * m->head.hook.scratch_per_token);
}

/* Attention's backward takes q, k and v as they were kept, unless they are gathered or normalised
 * first. */
static void lay_out_attention(const ml_model *m, activations *a, int64_t T, bool backward,
                              cursor *c)
{
    a->qkv = take_floats(c, T * qkv_width(m));
    a->attention = take_floats(c, T * q_width(m));
    if (!backward) return;
    a->d_attention = take_floats(c, T * q_width(m));
    bool gathers = m->dtype == ML_BF16 && m->shared_tokens > 0;
    if (gathers || m->spec.qk_norm) a->wide_qkv = take_floats(c, T * qkv_width(m));
}

/* In fp32 backward reads h where it was kept, of slopes it needs none of it: its gradient takes h's
 * own place. */
static void lay_out_mlp(const ml_model *m, activations *a, bool backward, cursor *c)
{
    a->h = take_floats(c, a->chunk * h_width(m));
    a->a = take_floats(c, a->chunk * a_width(m));
    if (!backward) return;
    a->dh = has_h_again(m, m->mode) ? take_floats(c, a->chunk * h_width(m)) : a->h;
    if (m->spec.gated) a->d_mlp = take_floats(c, a->chunk * a_width(m));
}

static void lay_out_head(const ml_model *m, activations *a, bool backward, cursor *c)
{
    if (m->spec.head != ML_HEAD_LANGUAGE) return;
    a->logits = take_floats(c, a->head_chunk * logits_of_row(m));
    if (backward && m->spec.logit_cap > 0.0)
        a->slope = take_floats(c, a->head_chunk * logits_of_row(m));
    a->row_max = take_floats(c, a->head_chunk);
    a->row_sums = take_floats(c, 2 * a->head_chunk);
    if (backward) a->hook_head = take_floats(c, a->head_chunk * m->head.hook.saved_per_token);
}

static rope_table take_table(cursor *c, int64_t floats)
{
    rope_table t;
    t.cosine = take_floats(c, floats);
    t.sine = take_floats(c, floats);
    return t;
}

static void lay_out_rope(const ml_model *m, activations *a, int64_t T, cursor *c)
{
    int64_t positions = positions_most(m, T), pairs = ml_model_rope_width(&m->spec) / 2;
    a->rope = take_table(c, rope_rows(&m->spec, positions) * pairs);
    if (m->spec.rope_local_theta > 0.0) a->local_rope = take_table(c, positions * pairs);
    if (rope_has_beyond(&m->spec, positions)) a->rope_row = take(c, T, sizeof *a->rope_row);
}

/* Floats of a row of what is summed in leaves: the widths of linear layers' inputs and outputs, and
 * ranks of adapters. */
static int64_t widest_sum(const ml_model *m)
{
    int64_t most = ml_max(m->spec.width, m->spec.embed_width);
    for (int64_t l = m->first_layer; l < m->end_layer; l++) {
        const ml_layer *layer = &m->layers[l];
        const ml_linear *linear[ML_LINEARS_A_LAYER] = {&layer->qkv, &layer->pos, &layer->o,
                                                       &layer->up, &layer->down};
        for (int i = 0; i < ML_LINEARS_A_LAYER; i++)
            most = ml_max(most, linear[i]->hook.saved_per_token);
    }
    return ml_max(most, m->head.hook.saved_per_token);
}

static void lay_out_leaves(const ml_model *m, activations *a, int64_t T, int64_t rows, cursor *c)
{
    int leaves = m->leaves / m->tp;
    int64_t rooms = ml_linear_leaf_rooms(leaves);
    if (m->leaves == 0) return;
    if (rooms > 0) a->partial = take_floats(c, rooms * rows * widest_sum(m));
    if (m->spec.qk_norm && m->spec.qk_norm_kind == ML_QK_NORM_WIDTH)
        a->qk_partial = take_floats(c, rooms * 2 * T);
}

static void lay_out_work(const ml_model *m, activations *a, int64_t T, bool backward, cursor *c)
{
    int64_t start = c->used, d = m->spec.width;
    lay_out_attention(m, a, T, backward, c);
    choose_chunks(m, a, T, c->used - start, backward);
    c->used = start;
    lay_out_mlp(m, a, backward, c);
    c->used = start;
    lay_out_head(m, a, backward, c);
    c->used = c->most;
    a->x = take_floats(c, T * d);
    if (backward && m->mode == ML_ACTIVATIONS_CHECKPOINT) a->other_x = take_floats(c, T * d);
    if (is_parallel(m)) a->branch = take_floats(c, T * d);
    if (m->spec.qk_norm && m->spec.qk_norm_kind == ML_QK_NORM_WIDTH) {
        a->qk_rstd = take_floats(c, 2 * T);
        if (backward) a->qk_average = take_floats(c, 2 * T);
    }
    int64_t rows = ml_max(a->chunk, a->head_chunk);
    int64_t widest = ml_max(d, m->spec.embed_width);
    a->n = take_floats(c, rows * widest);
    a->y = take_floats(c, rows * widest);
    if (m->has_project_out) a->projected = take_floats(c, rows * d);
    if (backward && m->dtype == ML_BF16) a->wide_x = take_floats(c, a->chunk * d);
    if (m->has_pool) {
        a->pooled = take_floats(c, a->head_chunk * d);
        a->unpooled = take_floats(c, a->head_chunk * d);
    }
    if (m->has_transform) {
        a->raw = take_floats(c, a->head_chunk * widest);
        a->activated = take_floats(c, a->head_chunk * widest);
        a->transformed = take_floats(c, a->head_chunk * widest);
        a->transform_mean = take_floats(c, a->head_chunk);
        a->transform_rstd = take_floats(c, a->head_chunk);
    }
    if (m->spec.mean_pooled && m->spec.head == ML_HEAD_SEQUENCE) {
        a->means = take_floats(c, a->head_chunk * d);
        if (backward) a->d_means = take_floats(c, a->head_chunk * d);
    }
    a->mean = take_floats(c, rows);
    a->rstd = take_floats(c, rows);
    a->lse = take_floats(c, T * m->heads);
    a->scratch = take_floats(c, hook_scratch(m, a));
    if (m->pieces) a->starts = take(c, T, sizeof *a->starts);
    if (m->pieces) a->row_starts = take(c, T, sizeof *a->row_starts);
    if (m->pieces) a->head_starts = take(c, T, sizeof *a->head_starts);
    lay_out_leaves(m, a, T, rows, c);
    a->position = take(c, T, sizeof *a->position);
    a->row_position = take(c, T, sizeof *a->row_position);
    a->key_sequence = take(c, T, sizeof *a->key_sequence);
    a->row_key_sequence = take(c, T, sizeof *a->row_key_sequence);
    if (m->spec.positions == ML_POSITIONS_ROTARY) lay_out_rope(m, a, T, c);
    if (ml_model_has_alibi(&m->spec)) {
        a->key_bias_stride = alibi_stride(positions_most(m, T));
        a->key_bias = take_floats(c, m->heads * a->key_bias_stride);
    }
}

/* Rows that the distances of sequences of at most T tokens fall on. */
static void lay_out_relative(const ml_model *m, activations *a, int64_t T, bool backward, cursor *c)
{
    int64_t longest = ml_min(T, m->spec.context), rows = relative_rows_most(&m->spec, longest),
            d = m->spec.width, width = relative_linear(m, 0)->out;
    relative_rows *r = &a->relative;
    r->row = take(c, 2 * longest - 1, sizeof *r->row);
    r->x = take_floats(c, rows * d);
    r->qk = take_floats(c, rows * width);
    if (!backward) return;
    r->d_x = take_floats(c, rows * d);
    r->d_qk = take_floats(c, rows * width);
    r->saved = take_floats(c, rows * relative_saved_per_row(m));
    r->key_sequence = take(c, rows, sizeof *r->key_sequence);
    r->key_position = take(c, rows, sizeof *r->key_position);
}

static void lay_out_convolution(const ml_model *m, activations *a, int64_t T, bool backward,
                                cursor *c)
{
    convolution *v = &a->convolution;
    v->input = take_floats(c, T * m->spec.width);
    v->columns = take_floats(c, a->chunk * m->conv.in);
    if (!backward) return;
    v->d_input = take_floats(c, T * m->spec.width);
    v->d_columns = take_floats(c, a->chunk * m->conv.in);
}

/* Fills pointers of `a` (and of a->layers where there are any) and advances both cursors. */
static void lay_out(const ml_model *m, activations *a, int64_t T, bool backward, cursor *saved,
                    cursor *work)
{
    lay_out_work(m, a, T, backward, work);
    if (backward) lay_out_saved(m, a, T, saved);
    if (ml_model_is_relative(&m->spec)) lay_out_relative(m, a, T, backward, work);
    if (has_convolution(m)) lay_out_convolution(m, a, T, backward, work);
}

void ml_model_chunks(const ml_model *m, int64_t tokens, bool backward, int64_t *chunk,
                     int64_t *head_chunk)
{
    activations a = {0};
    cursor attention = {0};
    lay_out_attention(m, &a, tokens, backward, &attention);
    choose_chunks(m, &a, tokens, attention.used, backward);
    *chunk = a.chunk;
    *head_chunk = a.head_chunk;
}

const char *ml_activation_mode_name(ml_activation_mode mode)
{
    static const char *const names[ML_ACTIVATION_MODES] = {"full", "selective", "checkpoint"};
    return names[mode];
}

void ml_model_set_activations(ml_model *m, ml_activation_mode mode, int64_t chunk)
{
    m->mode = mode;
    m->chunk_most = chunk;
}

void ml_model_reserve_bytes(const ml_model *m, int64_t tokens, bool backward,
                            int64_t bytes[ML_MEM_CATEGORIES])
{
    activations a = {0};
    cursor saved = {0}, work = {0};
    lay_out(m, &a, tokens, backward, &saved, &work);
    bytes[ML_MEM_ACTIVATION] += saved.used;
    bytes[ML_MEM_WORKSPACE] += work.used;
    bytes[ML_MEM_COMMUNICATION] += gathered_bytes(m, tokens, backward);
    bytes[ML_MEM_OTHER] += m->spec.layers * (int64_t)sizeof *a.layers;
}

ml_status ml_model_reserve(ml_model *m, int64_t tokens, bool backward)
{
    ml_status st = ML_OK;
    activations *a = &m->act;
    cursor saved = {0}, work = {0};
    release_activations(m);
    ML_NEW(a->layers, m->spec.layers, ML_MEM_OTHER, "layers' activations");
    lay_out(m, a, tokens, backward, &saved, &work);
    ML_NEW(saved.base, saved.used, ML_MEM_ACTIVATION, "activations kept for backward");
    a->saved_storage = saved.base;
    work.base = ml_memory_alloc_shareable(work.used, 1, ML_MEM_WORKSPACE,
                                          "activations' work space"); /* sums over tp lie there */
    if (!work.base) {
        st = ML_RESOURCE;
        goto done;
    }
    a->work_storage = work.base;
    saved = (cursor){.base = saved.base};
    work = (cursor){.base = work.base};
    lay_out(m, a, tokens, backward, &saved, &work);
    ML_TRY(reserve_gathered(m, tokens, backward));
    a->tokens = tokens;
    a->backward = backward;
    if (backward) { /* training uses all of it at once: not the first step's time */
        ml_memory_take_pages(a->saved_storage);
        ml_memory_take_pages(a->work_storage);
    }
    if (a->key_bias) fill_alibi(m, positions_most(m, tokens), a->key_bias);
    if (a->rope.cosine)
        fill_rope_tables(&m->spec, positions_most(m, tokens), &a->rope, &a->local_rope);
done:
    if (st != ML_OK) release_activations(m);
    return st;
}

void ml_model_cut_pieces(ml_model *m) { m->pieces = true; }

/* Rows that are predicted begin a piece where their tokens begin one, and so do not depend on where
 * a sequence is cut, which is between pieces. */
void place_pieces(const ml_model *m, const ml_batch *batch)
{
    const activations *a = &m->act;
    if (!m->pieces) return;
    for (int64_t s = 0, row = 0; s < batch->sequences.count; s++) {
        int64_t start = ml_sequences_query(&batch->sequences, s),
                end = start + batch->sequences.start[s + 1] - batch->sequences.start[s];
        for (int64_t t = start; start >= 0 && t < end; t++) a->starts[t] = (t - start) % PIECE == 0;
        for (int64_t first = row, piece = -1;
             start >= 0 && row < batch->rows && batch->row[row] < end; row++) {
            bool begins = (batch->row[row] - start) / PIECE != piece;
            if (begins) first = row;
            piece = (batch->row[row] - start) / PIECE;
            a->row_starts[row] = begins;
            a->head_starts[row] = (row - first) % HEAD_PIECE == 0;
        }
    }
}

/* At most `most` rows behind the chunk, of whole pieces. */
static bool advance(const uint8_t *starts, int64_t most, chunk *c)
{
    c->first += c->count;
    c->count = ml_min(most, c->rows - c->first);
    while (starts && c->first + c->count < c->rows && !starts[c->first + c->count]) c->count--;
    return c->count > 0;
}

bool next_chunk(const ml_model *m, chunk *c)
{
    const activations *a = &m->act;
    return advance(c->predicted ? a->row_starts : a->starts, a->chunk, c);
}

bool next_distances(const ml_model *m, chunk *c) { return advance(NULL, m->act.chunk, c); }

bool next_head_chunk(const ml_model *m, chunk *c)
{
    return advance(m->act.head_starts, m->act.head_chunk, c);
}

int64_t ml_model_reserved_tokens(const ml_model *m) { return m->act.tokens; }

void release_activations(ml_model *m)
{
    ml_memory_free(m->act.saved_storage);
    ml_memory_free(m->act.work_storage);
    ml_memory_free(m->act.gathered.storage);
    ml_memory_free(m->act.layers);
    m->act = (activations){0};
}
