/* This file gives the weights their storage, one block in the order of the slots, and points the
 * layers into it. Slots that train or that a method replaces lie apart. Where a base file is going
 * to be laid over the block, slots lie in it as they do in the file's pages. */
#include <math.h>

#include "model/model_private.h"

enum { ALIGNMENT = 64 };

static int64_t slot_bytes(const ml_model_slot *slot)
{
    return ml_dtype_bytes(slot->dtype, slot->count);
}

typedef bool (*slot_filter)(const ml_model_slot *slot);

/* Whether the slot's numbers lie right behind those of the slot before: parts of one layer in one
 * format are one matrix. */
static bool adjoins(const ml_model *m, int64_t i)
{
    return m->follows[i] && m->slots[i].dtype == m->slots[i - 1].dtype;
}

/* Of a slot and those that lie right behind it. */
static int64_t run_bytes(const ml_model *m, int64_t i)
{
    int64_t bytes = slot_bytes(&m->slots[i]);
    while (++i < m->nslots && adjoins(m, i)) bytes += slot_bytes(&m->slots[i]);
    return bytes;
}

/* Where a run of slots begins behind `used` bytes of the block. */
static int64_t run_start(const ml_model *m, int64_t i, int64_t used)
{
    int64_t aligned = ml_round_up(used, ALIGNMENT), place = m->slots[i].place;
    if (place == 0) return aligned;
    int64_t page = ml_memory_page(), ahead = ((place - used) % page + page) % page;
    return ahead < ALIGNMENT || run_bytes(m, i) >= m->least_placed ? used + ahead : aligned;
}

/* Where each chosen slot lies in one block, at its place in a page of the file where `placed`.
 * Returns the block's size; with a `block` the slots are pointed into it. */
static int64_t lay_out_slots(const ml_model *m, slot_filter chosen, bool placed, char *block)
{
    int64_t used = 0;
    for (int64_t i = 0; i < m->nslots; i++) {
        ml_model_slot *slot = &m->slots[i];
        if (!chosen(slot)) continue;
        if (!adjoins(m, i)) used = placed ? run_start(m, i, used) : ml_round_up(used, ALIGNMENT);
        if (block) slot->data = block + used;
        used += slot_bytes(slot);
    }
    return used;
}

static bool is_apart_bf16(const ml_model_slot *slot)
{
    return slot->apart && slot->dtype == ML_BF16;
}
static bool is_ours(const ml_model_slot *slot) { return !slot->apart; }

int64_t ml_model_lay_out_apart(ml_model *m, void *block)
{
    return lay_out_slots(m, is_apart_bf16, false, block);
}
int64_t ml_model_weight_bytes(const ml_model *m) { return lay_out_slots(m, is_ours, false, NULL); }

int64_t ml_model_storage_bytes(ml_model *m, int64_t least)
{
    m->least_placed = least;
    return lay_out_slots(m, is_ours, true, NULL);
}

static void point_norm(ml_norm *norm, const ml_model_slot *slot)
{
    if (slot->row->bias) {
        norm->bias = slot->data;
        norm->bias_gradient = slot->gradient;
    } else {
        norm->weight = slot->data;
        norm->weight_gradient = slot->gradient;
    }
}

static void point_whole(whole_linear *linear, const ml_model_slot *slot)
{
    if (slot->row->bias) {
        linear->bias = slot->data;
        linear->bias_gradient = slot->gradient;
    } else {
        linear->weight = slot->data;
        linear->weight_gradient = slot->gradient;
    }
}

/* The part that a bias belongs to: not all have one. */
static int part_of(const ml_linear *linear, const ml_model_slot *bias)
{
    int part = linear->nparts - 1;
    for (size_t n; part > 0; part--) {
        n = strlen(linear->part[part].module);
        if (!strncmp(bias->name, linear->part[part].module, n) && bias->name[n] == '.') break;
    }
    return part;
}

/* The layer's first part, or one that follows: its rows lie behind, or begin a weight in another
 * format. */
static void point_linear(const ml_model *m, ml_linear *linear, int64_t i)
{
    const ml_model_slot *slot = &m->slots[i];
    const ml_weight own = {slot->data, slot->dtype, ml_shard_rows(&slot->shard, slot->rows),
                           linear->in};
    if (slot->row->bias) {
        int part = part_of(linear, slot);
        linear->bias[part] = slot->data;
        linear->bias_gradient[part] = slot->gradient;
    } else if (adjoins(m, i)) {
        linear->weight[linear->nweights - 1].rows += own.rows;
    } else {
        if (!m->follows[i]) {
            linear->nweights = 0;
            linear->weight_gradient = slot->gradient;
        }
        linear->weight[linear->nweights++] = own;
    }
}

static void point_embed(ml_model *m, int64_t i)
{
    const ml_model_slot *slot = &m->slots[i];
    m->embed.nweights = 1;
    m->embed.weight[0] = (ml_weight){slot->data, slot->dtype, m->embed.in, m->embed.out};
    m->embed.weight_gradient = slot->gradient;
    if (m->spec.tied_head) point_linear(m, &m->head, i);
}

/* What the slots of a role are pointed from: a struct at an offset of the model, or of the slot's
 * layer. */
typedef enum place_kind {
    PLACE_NONE, /* passes read them from their slot */
    PLACE_EMBED,
    PLACE_NORM,
    PLACE_LINEAR,
    PLACE_WHOLE
} place_kind;
typedef struct place {
    place_kind kind;
    bool in_layer;
    size_t offset;
} place;

#define OF_MODEL(kind, field)                          \
    {                                                  \
        PLACE_##kind, false, offsetof(ml_model, field) \
    }
#define OF_LAYER(kind, field)                         \
    {                                                 \
        PLACE_##kind, true, offsetof(ml_layer, field) \
    }
static const place places[] = {
    [ML_ROLE_EMBED] = {.kind = PLACE_EMBED},
    [ML_ROLE_PROJECT_IN] = OF_MODEL(LINEAR, project_in),
    [ML_ROLE_POSITION] = {.kind = PLACE_NONE},
    [ML_ROLE_TOKEN_TYPE] = {.kind = PLACE_NONE},
    [ML_ROLE_EMBED_NORM] = OF_MODEL(NORM, embed_norm),
    [ML_ROLE_RELATIVE] = {.kind = PLACE_NONE},
    [ML_ROLE_RELATIVE_NORM] = OF_MODEL(NORM, relative_norm),
    [ML_ROLE_CONV] = OF_MODEL(LINEAR, conv),
    [ML_ROLE_CONV_NORM] = OF_MODEL(NORM, conv_norm),
    [ML_ROLE_NORM1] = OF_LAYER(NORM, norm1),
    [ML_ROLE_QKV] = OF_LAYER(LINEAR, qkv),
    [ML_ROLE_POS] = OF_LAYER(LINEAR, pos),
    [ML_ROLE_Q_NORM] = OF_LAYER(NORM, q_norm),
    [ML_ROLE_K_NORM] = OF_LAYER(NORM, k_norm),
    [ML_ROLE_O] = OF_LAYER(LINEAR, o),
    [ML_ROLE_NORM1_BEHIND] = OF_LAYER(NORM, norm1_behind),
    [ML_ROLE_NORM2] = OF_LAYER(NORM, norm2),
    [ML_ROLE_UP] = OF_LAYER(LINEAR, up),
    [ML_ROLE_DOWN] = OF_LAYER(LINEAR, down),
    [ML_ROLE_NORM2_BEHIND] = OF_LAYER(NORM, norm2_behind),
    [ML_ROLE_FINAL_NORM] = OF_MODEL(NORM, final_norm),
    [ML_ROLE_PROJECT_OUT] = OF_MODEL(LINEAR, project_out),
    [ML_ROLE_TRANSFORM] = OF_MODEL(WHOLE, transform),
    [ML_ROLE_TRANSFORM_NORM] = OF_MODEL(NORM, transform_norm),
    [ML_ROLE_HEAD] = OF_MODEL(LINEAR, head),
    [ML_ROLE_POOL] = OF_MODEL(WHOLE, pool),
    [ML_ROLE_CLASSIFY] = OF_MODEL(WHOLE, score),
};
_Static_assert(sizeof places / sizeof *places == ML_ROLE_CLASSIFY + 1, "a role without its place");

static void point_slot(ml_model *m, int64_t i)
{
    const ml_model_slot *slot = &m->slots[i];
    const place *p = &places[slot->row->role];
    char *owner = p->in_layer ? (char *)&m->layers[slot->layer] : (char *)m;
    void *at = owner + p->offset;
    switch (p->kind) {
    case PLACE_NONE:
        return;
    case PLACE_EMBED:
        point_embed(m, i);
        return;
    case PLACE_NORM:
        point_norm(at, slot);
        return;
    case PLACE_LINEAR:
        point_linear(m, at, i);
        return;
    case PLACE_WHOLE:
        point_whole(at, slot);
        return;
    }
}

void ml_model_point(ml_model *m)
{
    for (int64_t i = 0; i < m->nslots; i++) point_slot(m, i);
    for (int64_t l = 0; l < m->spec.layers; l++) {
        ml_layer *layer = &m->layers[l];
        if (m->spec.norm_places == ML_NORMS_PARALLEL && !layer->norm2.weight)
            layer->norm2 = layer->norm1;
    }
}

void ml_model_bind_storage(ml_model *m, void *storage)
{
    lay_out_slots(m, is_ours, true, storage);
    ml_model_point(m);
}

ml_status ml_model_bind(ml_model *m)
{
    ml_status st = ML_OK;
    int64_t bytes = ml_model_weight_bytes(m);
    if (bytes > 0) {
        char *block;
        ML_NEW(block, bytes, ML_MEM_FROZEN, "the model's weights");
        m->storage = block;
    }
    ml_model_bind_storage(m, m->storage);
done:
    return st;
}

int64_t ml_model_shapes(const ml_model *m, ml_weight shapes[ML_MODEL_SHAPES])
{
    const ml_layer *layer = &m->layers[0];
    const ml_linear *linear[] = {&layer->qkv, &layer->o, &layer->up, &layer->down};
    int64_t n = 0;
    for (; n < 4; n++) shapes[n] = (ml_weight){NULL, m->dtype, linear[n]->out, linear[n]->in};
    if (m->spec.head == ML_HEAD_LANGUAGE)
        shapes[n++] = (ml_weight){NULL, m->dtype, m->vocab_count, ml_model_embed_width(&m->spec)};
    if (m->spec.embed_width > 0) {
        shapes[n++] = (ml_weight){NULL, m->dtype, m->project_in.out, m->project_in.in};
        shapes[n++] = (ml_weight){NULL, m->dtype, m->project_out.out, m->project_out.in};
    }
    if (m->spec.conv_kernel > 0) shapes[n++] = (ml_weight){NULL, m->dtype, m->conv.out, m->conv.in};
    return n;
}

ml_dtype ml_model_weight_dtype(const ml_model *m)
{
    for (int64_t i = 0; i < m->nslots; i++)
        if (ml_dtype_is_block(m->slots[i].dtype)) return m->slots[i].dtype;
    return m->dtype;
}

void ml_model_kernel_options(const ml_model *m, int64_t tokens, ml_kernels_options *options,
                             ml_weight shapes[ML_MODEL_SHAPES])
{
    options->weight_dtype = ml_model_weight_dtype(m);
    options->exact = m->dtype == ML_FP32;
    options->tokens = tokens;
    options->attended = m->pieces ? m->shared_tokens : 0; /* gathered.c */
    options->nshapes = ml_model_shapes(m, shapes);
    options->shapes = shapes;
    options->head_dim = m->spec.head_dim;
    options->heads = m->heads;
    options->kv_heads = m->kv_heads;
    options->relative = ml_model_is_relative(&m->spec);
}

static bool has_finite_blocks(const ml_model_slot *slot)
{
    const ml_block_format *f = ml_block_format_of(slot->dtype);
    return ml_block_find_bad(f, slot->data, slot->count / f->weights) < 0;
}

static bool is_finite(const ml_model_slot *slot)
{
    if (ml_dtype_is_block(slot->dtype)) return has_finite_blocks(slot);
    for (int64_t i = 0; i < slot->count; i++) {
        if (!isfinite(ml_number_at(slot->data, slot->dtype, i))) return false;
    }
    return true;
}

const char *ml_model_find_nonfinite(const ml_model *m)
{
    for (int64_t i = 0; i < m->nslots; i++)
        if (!is_finite(&m->slots[i])) return m->slots[i].name;
    return NULL;
}
