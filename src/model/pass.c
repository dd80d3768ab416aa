/* A pass over a micro-batch: embedding, layers, head; then back as far as something trains. What it
 * takes is timed, forward and backward apart. */
#include "model/model_private.h"

/* ---- the clock ----------------------------------------------------------------------------- */

/* It stands still inside collectives: their time is the grid's. */
static double busy_seconds(const ml_model *m)
{
    const ml_grid *grid = m->grid ? m->grid : m->sharers;
    return ml_seconds() - (grid ? ml_grid_comm_seconds(grid) : 0.0);
}

void pass_enter(ml_model *m, pass_phase phase)
{
    double now = busy_seconds(m);
    m->clock.seconds[m->clock.phase] += now - m->clock.since;
    m->clock.phase = phase;
    m->clock.since = now;
}

double ml_model_forward_seconds(const ml_model *m) { return m->clock.seconds[PASS_FORWARD]; }
double ml_model_backward_seconds(const ml_model *m) { return m->clock.seconds[PASS_BACKWARD]; }

/* ---- embedding ----------------------------------------------------------------------------- */

/* Onto x `factor` times the `count` weights from `first` on, whole blocks of them. */
static void add_blocks(const ml_model_slot *slot, int64_t first, int64_t count, float factor,
                       float *x)
{
    float part[ML_BLOCK_WEIGHTS_MOST];
    for (int64_t at = 0; at < count; at += ML_BLOCK_WEIGHTS_MOST) {
        int64_t n = ml_min(ML_BLOCK_WEIGHTS_MOST, count - at);
        ml_dtype_decode(slot->dtype, slot->data, first + at, n, part);
        for (int64_t j = 0; j < n; j++) x[at + j] += factor * part[j];
    }
}

/* Of tokens and positions, both cut by rows over tp: each rank adds the rows that it holds, one sum
 * makes the whole; tokens that are projected have a sum of their own before it.
 *
 * Row `index` of a slot held by this rank, multiplied by `factor`, onto x; nothing where another
 * rank holds it. */
static void add_row(const ml_model *m, int64_t slot_index, int64_t first, int64_t count,
                    int64_t index, float factor, float *x)
{
    if (index < first || index >= first + count) return;
    const ml_model_slot *slot = &m->slots[slot_index];
    int64_t d = slot->cols, at = (index - first) * d;
    if (ml_dtype_is_block(slot->dtype)) {
        add_blocks(slot, at, d, factor, x);
    } else if (slot->dtype == ML_BF16) {
        const uint16_t *row = (const uint16_t *)slot->data + at;
        for (int64_t j = 0; j < d; j++) x[j] += factor * ml_bf16_to_float(row[j]);
    } else {
        const float *row = (const float *)slot->data + at;
        for (int64_t j = 0; j < d; j++) x[j] += factor * row[j];
    }
}

/* This rank's part of the embeddings of `count` tokens, [count, e]. */
static void look_up(const ml_model *m, int64_t count, const int32_t *token, float *out)
{
    int64_t e = m->embed.out;
    float factor = (float)ml_model_embed_multiplier(&m->spec);
    memset(out, 0, (size_t)(count * e) * sizeof *out);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < count; i++)
        add_row(m, m->embed_slot, m->vocab_first, m->vocab_count, token[i], factor, out + i * e);
}

static void sum_over_tp(const ml_model *m, float *x, int64_t count)
{
    if (m->grid) ml_grid_sum_float(m->grid, ML_GROUP_TP, x, count);
}

void ml_model_embed(const ml_model *m, int64_t count, const int32_t *token, float *out)
{
    look_up(m, count, token, out);
    sum_over_tp(m, out, count * m->embed.out);
}

static ml_pass look_up_pass(const ml_model *m, const ml_batch *batch, const chunk *c)
{
    ml_pass pass = pass_over(m, batch, c);
    pass.token = batch->token + c->first;
    return pass;
}

/* Of a chunk, its adapter's part with it, in `out` [count, e]: this rank's part. */
static void look_up_chunk(const ml_model *m, const ml_batch *batch, const chunk *c, float *out)
{
    const ml_linear_hook *hook = &m->embed.hook;
    const ml_pass pass = look_up_pass(m, batch, c);
    look_up(m, c->count, pass.token, out);
    if (hook->forward) hook->forward(hook->self, &pass, NULL, out);
}

static void add_positions(const ml_model *m, int64_t T)
{
    int64_t d = m->spec.width;
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < T; t++)
        add_row(m, m->position_slot, m->position_first, m->position_count,
                m->act.position[t] + m->spec.position_offset, 1.0F, m->act.x + t * d);
}

/* A few rows, which every rank has whole: the first adds them; with leaves all do, behind the sum,
 * which then has no more than two addends that are not zero. */
static void add_types(const ml_model *m, const ml_batch *batch)
{
    int64_t d = m->spec.width, types = m->spec.token_types;
    if (m->tp_rank != 0 && m->leaves == 0) return;
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < batch->tokens; t++)
        add_row(m, m->type_slot, 0, types, batch->type ? batch->type[t] : 0, 1.0F,
                m->act.x + t * d);
}

/* x += what the tokens' embeddings, in a->n, are projected to. */
static void add_projected(const ml_model *m, const ml_batch *batch)
{
    const activations *a = &m->act;
    int64_t d = m->spec.width;
    for (chunk c = {.rows = batch->tokens}; next_chunk(m, &c);) {
        look_up_chunk(m, batch, &c, a->n);
        sum_over_tp(m, a->n, c.count * m->embed.out);
        ml_linear_product(&m->project_in, m->kernels, c.count, a->n, a->y);
        m->kernels->add(c.count * d, a->y, a->x + c.first * d);
    }
}

void embed_forward(ml_model *m, const ml_batch *batch)
{
    int64_t d = m->spec.width, T = batch->tokens;
    bool projected = m->spec.embed_width > 0;
    if (projected)
        memset(m->act.x, 0, (size_t)(T * d) * sizeof *m->act.x);
    else
        for (chunk c = {.rows = T}; next_chunk(m, &c);)
            look_up_chunk(m, batch, &c, m->act.x + c.first * d);
    bool types = m->type_slot >= 0, leaves = m->leaves > 0;
    if (types && !leaves) add_types(m, batch);
    if (m->position_slot >= 0) add_positions(m, T);
    sum_over_tp(m, m->act.x, T * d);
    if (types && leaves) add_types(m, batch);
    if (projected) add_projected(m, batch);
}

/* x ← norm(x), chunk by chunk; with `backward` x as it was is kept. */
void embed_norm_forward(ml_model *m, int64_t T, bool backward)
{
    activations *a = &m->act;
    int64_t d = m->spec.width;
    if (!m->has_embed_norm) return;
    if (backward) save_rows(m, a->embedded, 0, a->x, T * d);
    for (chunk c = {.rows = T}; next_chunk(m, &c);) {
        float *x = a->x + c.first * d;
        norm_forward(m, &m->embed_norm, c.count, x, a->n, a->mean, a->rstd);
        memcpy(x, a->n, (size_t)(c.count * d) * sizeof *x);
    }
}

static void add_gradient(const ml_model *m, int64_t slot_index, int64_t first, int64_t count,
                         int64_t index, float factor, const float *dx)
{
    const ml_model_slot *slot = &m->slots[slot_index];
    if (index < first || index >= first + count) return;
    float *row = slot->gradient + (index - first) * slot->cols;
    for (int64_t j = 0; j < slot->cols; j++) row[j] += factor * dx[j];
}

/* Of a chunk's embeddings, from that of the residual stream: where they are projected in a->y. */
static const float *look_up_gradient(const ml_model *m, const ml_batch *batch, const chunk *c)
{
    const activations *a = &m->act;
    const float *dx = a->x + c->first * m->spec.width;
    if (m->spec.embed_width == 0) return dx;
    const ml_pass pass = look_up_pass(m, batch, c), whole = whole_pass(&pass);
    if (ml_linear_needs_input(&m->project_in)) {
        look_up_chunk(m, batch, c, a->n);
        sum_over_tp(m, a->n, c->count * m->embed.out);
    }
    ml_linear_backward(&m->project_in, &whole, a->n, dx, a->y);
    return a->y;
}

static void look_up_backward(const ml_model *m, const ml_batch *batch, const chunk *c)
{
    const ml_linear_hook *hook = &m->embed.hook;
    const ml_pass pass = look_up_pass(m, batch, c);
    float factor = (float)ml_model_embed_multiplier(&m->spec);
    const float *dy = look_up_gradient(m, batch, c);
    if (hook->backward) hook->backward(hook->self, &pass, NULL, dy, NULL);
    for (int64_t i = 0; m->slots[m->embed_slot].gradient && i < c->count; i++)
        add_gradient(m, m->embed_slot, m->vocab_first, m->vocab_count, pass.token[i], factor,
                     dy + i * m->embed.out);
}

/* A tensor that a model may not have: slot −1. */
static bool trains(const ml_model *m, int64_t slot) { return slot >= 0 && m->slots[slot].gradient; }

/* In the order of the tokens, by one thread: the same bits every time. */
static void embed_backward(ml_model *m, const ml_batch *batch)
{
    int64_t d = m->spec.width;
    for (chunk c = {.rows = batch->tokens}; next_chunk(m, &c);) look_up_backward(m, batch, &c);
    for (int64_t t = 0; trains(m, m->position_slot) && t < batch->tokens; t++)
        add_gradient(m, m->position_slot, m->position_first, m->position_count,
                     m->act.position[t] + m->spec.position_offset, 1.0F, m->act.x + t * d);
    for (int64_t t = 0; trains(m, m->type_slot) && t < batch->tokens; t++)
        add_gradient(m, m->type_slot, 0, m->spec.token_types, batch->type ? batch->type[t] : 0,
                     1.0F, m->act.x + t * d);
}

/* a->x: the gradient of what came out → of what went in. The statistics are found again. */
static void embed_norm_backward(ml_model *m, int64_t T)
{
    activations *a = &m->act;
    int64_t d = m->spec.width;
    if (!m->has_embed_norm) return;
    for (chunk c = {.rows = T}; next_chunk(m, &c);) {
        float *dx = a->x + c.first * d;
        const float *x = saved_rows(m, a->embedded, c.first * d, a->wide_x, c.count * d);
        norm_forward(m, &m->embed_norm, c.count, x, a->n, a->mean, a->rstd);
        norm_backward(m, &m->embed_norm, c.count, x, a->mean, a->rstd, dx, a->n, false);
        memcpy(dx, a->n, (size_t)(c.count * d) * sizeof *dx);
    }
}

/* ---- the pass ------------------------------------------------------------------------------ */

/* The row of the rotary table that turns token t, of a sequence of so many. */
void place_rope(ml_model *m, int64_t t, int64_t length)
{
    activations *a = &m->act;
    if (!a->rope_row) return;
    int64_t beyond = ml_model_is_beyond(&m->spec, length) ? positions_most(m, a->tokens) : 0;
    a->rope_row[t] = (int32_t)(a->position[t] + beyond);
}

/* In RoBERTa and its kin a padding token that a text spells takes the row before those of
 * positions, and no position from the others. */
static bool stands_nowhere(const ml_model *m, int32_t token)
{
    return m->spec.family->padded && token == m->spec.position_offset - 1;
}

void place_tokens(ml_model *m, const ml_batch *batch)
{
    activations *a = &m->act;
    for (int64_t s = 0; s < batch->sequences.count; s++) {
        int64_t own = batch->sequences.start[s + 1] - batch->sequences.start[s],
                start = ml_sequences_query(&batch->sequences, s);
        int64_t shared = ml_sequences_shared(&batch->sequences, s),
                length = batch->length ? batch->length[s] : shared + own;
        for (int64_t t = start, next = shared; start >= 0 && t < start + own; t++) {
            a->position[t] = stands_nowhere(m, batch->token[t]) ? -1 : (int32_t)next++;
            place_rope(m, t, length);
            a->key_sequence[t] = batch->key_sequence ? batch->key_sequence[s] : 0;
        }
    }
    place_pieces(m, batch);
    for (int64_t i = 0; i < batch->rows; i++) {
        a->row_position[i] = a->position[batch->row[i]];
        a->row_key_sequence[i] = a->key_sequence[batch->row[i]];
    }
    if (ml_model_is_relative(&m->spec)) relative_place(m, batch);
}

int64_t lowest_trained(const ml_model *m)
{
    if (m->virtual_hook.backward || ml_linear_trains(&m->embed) ||
        ml_linear_trains(&m->project_in) || norm_trains(&m->embed_norm) ||
        trains(m, m->position_slot) || trains(m, m->type_slot) || relative_trains(m) ||
        ml_linear_trains(&m->conv) || norm_trains(&m->conv_norm))
        return OP_EMBEDDING;
    for (int64_t l = 0; l < m->spec.layers; l++) {
        const ml_layer *layer = &m->layers[l];
        const bool trains[OPS_A_LAYER] = {
            norm_trains(&layer->norm1),
            ml_linear_trains(&layer->qkv) || ml_linear_trains(&layer->pos) ||
                norm_trains(&layer->q_norm) || norm_trains(&layer->k_norm) ||
                m->virtual_hook.keys_backward,
            ml_linear_trains(&layer->o) || norm_trains(&layer->norm1_behind),
            norm_trains(&layer->norm2),
            ml_linear_trains(&layer->up),
            ml_linear_trains(&layer->down) || norm_trains(&layer->norm2_behind)};
        for (int op = 0; op < OPS_A_LAYER; op++)
            if (trains[op]) return l * OPS_A_LAYER + op;
    }
    return m->spec.layers * OPS_A_LAYER;
}

void virtual_forward(ml_model *m, int64_t level, int64_t T, const int32_t *token, float *x)
{
    if (m->virtual_hook.forward && level < m->spec.layers)
        m->virtual_hook.forward(m->virtual_hook.self, level, T, token, x);
}

static void virtual_backward(ml_model *m, int64_t level, const ml_batch *batch)
{
    if (m->virtual_hook.backward && level < m->spec.layers)
        m->virtual_hook.backward(m->virtual_hook.self, level, batch->tokens, batch->token,
                                 m->act.x);
}

void go_back(ml_model *m, const ml_batch *batch)
{
    pass_enter(m, PASS_BACKWARD);
    int64_t lowest = lowest_trained(m);
    for (int64_t l = m->end_layer - 1; l >= m->first_layer && lowest < (l + 1) * OPS_A_LAYER; l--) {
        if (l == 0 && m->spec.conv_kernel > 0)
            convolution_backward(m, batch, lowest == OP_EMBEDDING);
        layer_backward(m, l, batch, lowest);
        if (l > 0 && lowest < l * OPS_A_LAYER) virtual_backward(m, l, batch);
    }
    if (relative_trains(m)) relative_embedding_backward(m);
    if (lowest != OP_EMBEDDING || m->first_layer > 0) return;
    if (m->spec.conv_kernel > 0) convolution_add(m, batch->tokens);
    embed_norm_backward(m, batch->tokens);
    virtual_backward(m, 0, batch);
    embed_backward(m, batch);
}

/* What the layers start from. */
static void go_in(ml_model *m, const ml_batch *batch, bool backward)
{
    embed_forward(m, batch);
    virtual_forward(m, 0, batch->tokens, batch->token, m->act.x);
    embed_norm_forward(m, batch->tokens, backward);
    if (m->spec.conv_kernel > 0) convolution_keep(m, batch->tokens);
}

void go_forward(ml_model *m, const ml_batch *batch, bool backward)
{
    pass_enter(m, PASS_FORWARD);
    place_tokens(m, batch);
    if (m->first_layer == 0) go_in(m, batch, backward);
    for (int64_t l = m->first_layer; l < m->end_layer; l++) {
        if (l > 0) virtual_forward(m, l, batch->tokens, batch->token, m->act.x);
        layer_attend(m, l, batch, backward);
        layer_finish(m, l, batch, backward);
        if (l == 0 && m->spec.conv_kernel > 0) convolution_forward(m, batch, backward);
    }
}

void ml_model_loss(ml_model *m, const ml_batch *batch, bool backward, double scale,
                   double smoothing, double *loss_sum)
{
    go_forward(m, batch, backward);
    *loss_sum = head_loss(m, batch, backward, scale, smoothing);
    if (backward) go_back(m, batch);
    pass_enter(m, PASS_NONE);
}

void ml_model_score_parts(ml_model *m, const ml_batch *batch, bool backward, int64_t count,
                          const ml_scored_part *parts)
{
    go_forward(m, batch, backward);
    for (int64_t i = 0; i < count; i++) {
        const ml_scored_part *part = &parts[i];
        if (part->choose) part->choose(part->self);
        head_scores(m, batch, part);
        part->judging.judge(part->judging.self, part->score, part->slope);
        if (!backward) continue;
        pass_enter(m, PASS_BACKWARD);
        head_scores_backward(m, batch, part);
        pass_enter(m, PASS_FORWARD);
    }
    if (backward) go_back(m, batch);
    pass_enter(m, PASS_NONE);
}

void ml_model_score(ml_model *m, const ml_batch *batch, bool backward, float *score, float *slope,
                    const ml_judging *judging)
{
    const ml_scored_part all = {.rows = batch->rows,
                                .sequences = batch->sequences.count,
                                .score = score,
                                .slope = slope,
                                .judging = *judging};
    ml_model_score_parts(m, batch, backward, 1, &all);
}

void ml_model_vectors(ml_model *m, const ml_batch *batch, bool backward, const ml_text_vectors *v,
                      const ml_judging *judging)
{
    go_forward(m, batch, backward);
    pool_vectors(m, batch, v);
    judging->judge(judging->self, v->vector, v->slope);
    if (backward) {
        pass_enter(m, PASS_BACKWARD);
        pool_vectors_backward(m, batch, v);
        go_back(m, batch);
    }
    pass_enter(m, PASS_NONE);
}

void ml_model_hidden(ml_model *m, const ml_batch *batch, float *out)
{
    go_forward(m, batch, false);
    head_states(m, batch->rows, m->act.x, out);
    pass_enter(m, PASS_NONE);
}

void ml_model_weighed(ml_model *m, const ml_batch *batch, bool backward, float *log_p,
                      const ml_weighing *weighing)
{
    go_forward(m, batch, backward);
    head_weighed(m, batch, backward, log_p, weighing);
    if (backward) go_back(m, batch);
    pass_enter(m, PASS_NONE);
}

void ml_model_watch(ml_model *m, const ml_batch *batch)
{
    stage_receive(m, batch->tokens);
    go_forward(m, batch, false);
    stage_send(m, batch->tokens);
    pass_enter(m, PASS_NONE);
}

void ml_model_logits(ml_model *m, const ml_batch *batch, const ml_logits_reader *reader)
{
    stage_receive(m, batch->tokens);
    go_forward(m, batch, false);
    if (!stage_send(m, batch->tokens)) head_logits(m, batch, reader);
    pass_enter(m, PASS_NONE);
}
