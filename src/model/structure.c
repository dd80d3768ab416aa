/* A model's structure on one rank: layers, slots, shards. */
#include <inttypes.h>

#include "model/model_private.h"

static ml_model_slot *add_slot(ml_model *m, const char *name, int64_t rows, int64_t cols,
                               bool vector, ml_shard shard, bool follows)
{
    ml_model_slot *slot = &m->slots[m->nslots];
    m->follows[m->nslots++] = follows;
    *slot = (ml_model_slot){.rows = rows,
                            .cols = cols,
                            .vector = vector,
                            .shard = shard,
                            .dtype = vector ? ML_FP32 : m->dtype};
    snprintf(slot->name, sizeof slot->name, "%s", name);
    slot->count = ml_shard_rows(&shard, rows) * ml_shard_cols(&shard, cols);
    return slot;
}

static void add_norm(ml_model *m, const char *prefix)
{
    const ml_shard whole = {.dim = ML_SHARD_WHOLE};
    char name[64];
    snprintf(name, sizeof name, "%s.weight", prefix);
    add_slot(m, name, m->spec.width, 1, true, whole, false);
    if (m->spec.family != ML_FAMILY_GPT2) return;
    snprintf(name, sizeof name, "%s.bias", prefix);
    add_slot(m, name, m->spec.width, 1, true, whole, false);
}

/* Weights of all parts, then biases of all parts: each kind contiguous. */
static void add_linear(ml_model *m, const ml_linear *linear, bool bias)
{
    char name[sizeof linear->part->module + sizeof ".weight"];
    for (int i = 0; i < linear->nparts; i++) {
        snprintf(name, sizeof name, "%s.weight", linear->part[i].module);
        add_slot(m, name, linear->part[i].out, linear->global_in, false,
                 ml_linear_weight_shard(linear, i), i > 0);
    }
    for (int i = 0; bias && i < linear->nparts; i++) {
        snprintf(name, sizeof name, "%s.bias", linear->part[i].module);
        add_slot(m, name, linear->part[i].out, 1, true, ml_linear_bias_shard(linear, i), i > 0);
    }
}

static void describe_linear(ml_model *m, ml_linear *linear, int64_t layer, ml_linear_kind kind,
                            const char *const *parts, const int64_t *outs, const int64_t *units,
                            int64_t in)
{
    char text[ML_LINEAR_PARTS][64];
    const char *modules[ML_LINEAR_PARTS];
    int n = 0;
    for (; n < ML_LINEAR_PARTS && parts[n]; n++) {
        snprintf(text[n], sizeof text[n], "layers.%" PRId64 ".%s", layer, parts[n]);
        modules[n] = text[n];
    }
    ml_linear_describe(linear, kind, n, modules, outs, in, units, m->tp, m->tp_rank);
}

static void describe_layer(ml_model *m, int64_t l)
{
    const ml_model_spec *s = &m->spec;
    ml_layer *layer = &m->layers[l];
    int64_t q = s->heads * s->head_dim, kv = s->kv_heads * s->head_dim, f = s->mlp_width;
    describe_linear(m, &layer->qkv, l, ML_LINEAR_COLUMN,
                    (const char *[]){"attn.q", "attn.k", "attn.v"}, (int64_t[]){q, kv, kv},
                    (int64_t[]){s->heads, s->kv_heads, s->kv_heads}, s->width);
    describe_linear(m, &layer->o, l, ML_LINEAR_ROW, (const char *[]){"attn.o", NULL},
                    (int64_t[]){s->width}, (int64_t[]){s->heads}, q);
    if (is_gated(m))
        describe_linear(m, &layer->up, l, ML_LINEAR_COLUMN,
                        (const char *[]){"mlp.gate", "mlp.up", NULL}, (int64_t[]){f, f},
                        (int64_t[]){f, f}, s->width);
    else
        describe_linear(m, &layer->up, l, ML_LINEAR_COLUMN, (const char *[]){"mlp.fc", NULL},
                        (int64_t[]){f}, (int64_t[]){f}, s->width);
    describe_linear(m, &layer->down, l, ML_LINEAR_ROW,
                    (const char *[]){is_gated(m) ? "mlp.down" : "mlp.proj", NULL},
                    (int64_t[]){s->width}, (int64_t[]){f}, f);
}

static ml_shard row_shard(int64_t first, int64_t count)
{
    return (ml_shard){.dim = ML_SHARD_ROWS, .nparts = 1, .part = {{first, count}}};
}

static void add_slots(ml_model *m)
{
    const ml_model_spec *s = &m->spec;
    m->embed_slot = m->nslots;
    add_slot(m, "embed.weight", s->vocab, s->width, false,
             row_shard(m->vocab_first, m->vocab_count), false);
    m->position_slot = -1;
    if (s->family == ML_FAMILY_GPT2) {
        m->position_slot = m->nslots;
        add_slot(m, "position.weight", s->context, s->width, false,
                 row_shard(m->position_first, m->position_count), false);
    }
    for (int64_t l = 0; l < s->layers; l++) {
        ml_layer *layer = &m->layers[l];
        char prefix[48];
        m->layer_slot[l] = m->nslots;
        snprintf(prefix, sizeof prefix, "layers.%" PRId64 ".norm1", l);
        add_norm(m, prefix);
        add_linear(m, &layer->qkv, s->qkv_bias);
        add_linear(m, &layer->o, s->o_bias);
        snprintf(prefix, sizeof prefix, "layers.%" PRId64 ".norm2", l);
        add_norm(m, prefix);
        add_linear(m, &layer->up, s->mlp_bias);
        add_linear(m, &layer->down, s->mlp_bias);
    }
    m->final_norm_slot = m->nslots;
    add_norm(m, "norm");
    m->head_slot = m->embed_slot;
    if (!s->tied_head) {
        m->head_slot = m->nslots;
        add_slot(m, "head.weight", s->vocab, s->width, false,
                 row_shard(m->vocab_first, m->vocab_count), false);
    }
}

static ml_status check_tp(const ml_model_spec *spec, int tp)
{
    if (spec->heads % tp != 0)
        return ml_fail(ML_USAGE,
                       "parallel.tp: %d does not divide the model's %" PRId64
                       " heads; choose a divisor of both heads and key/value heads",
                       tp, spec->heads);
    if (spec->kv_heads % tp != 0)
        return ml_fail(ML_USAGE,
                       "parallel.tp: %d does not divide the model's %" PRId64
                       " key/value heads; choose a divisor of both heads and "
                       "key/value heads",
                       tp, spec->kv_heads);
    return ML_OK;
}

ml_status ml_model_create(ml_model **out, const ml_model_spec *spec, const ml_grid *grid, int tp,
                          int tp_rank, ml_dtype dtype)
{
    ml_status st = ML_OK;
    ml_model *m = NULL;
    ML_TRY(check_tp(spec, tp));
    ML_NEW(m, 1, ML_MEM_OTHER, "a model");
    m->spec = *spec;
    m->grid = grid && tp > 1 ? grid : NULL;
    m->tp = tp;
    m->tp_rank = tp_rank;
    m->dtype = dtype;
    m->heads = spec->heads / tp;
    m->kv_heads = spec->kv_heads / tp;
    m->vocab_first = ml_part_start(spec->vocab, tp, tp_rank);
    m->vocab_count = ml_part_count(spec->vocab, tp, tp_rank);
    m->position_first = ml_part_start(spec->context, tp, tp_rank);
    m->position_count = ml_part_count(spec->context, tp, tp_rank);
    ML_NEW(m->layers, spec->layers, ML_MEM_OTHER, "layers");
    ML_NEW(m->layer_slot, spec->layers, ML_MEM_OTHER, "layers");
    for (int64_t l = 0; l < spec->layers; l++) describe_layer(m, l);
    int64_t most = 8 + spec->layers * 20;
    ML_NEW(m->slots, most, ML_MEM_OTHER, "tensors of the model");
    ML_NEW(m->follows, most, ML_MEM_OTHER, "tensors of the model");
    add_slots(m);
    *out = m;
    m = NULL;
done:
    ml_model_destroy(m);
    return st;
}

void ml_model_destroy(ml_model *m)
{
    if (!m) return;
    release_activations(m);
    ml_memory_free(m->storage);
    ml_memory_free(m->slots);
    ml_memory_free(m->follows);
    ml_memory_free(m->layer_slot);
    ml_memory_free(m->layers);
    ml_memory_free(m);
}

const ml_model_spec *ml_model_get_spec(const ml_model *model) { return &model->spec; }
const ml_grid *ml_model_grid(const ml_model *model) { return model->grid; }

ml_layer *ml_model_layer(ml_model *model, int64_t layer) { return &model->layers[layer]; }
int64_t ml_model_slots(const ml_model *model) { return model->nslots; }
ml_model_slot *ml_model_slot_at(ml_model *model, int64_t index) { return &model->slots[index]; }
void ml_model_set_virtual(ml_model *model, ml_virtual_hook hook) { model->virtual_hook = hook; }
ml_virtual_hook ml_model_virtual(const ml_model *model) { return model->virtual_hook; }
void ml_model_use_kernels(ml_model *model, const ml_kernels *kernels) { model->kernels = kernels; }
const ml_kernels *ml_model_kernels(const ml_model *model) { return model->kernels; }
