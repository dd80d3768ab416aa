/* This file makes a model's structure on one rank out of its family's table: the linear layers
 * with their parts, and for each tensor a slot that says which rows or columns of it this rank
 * has. Nothing is allocated for weights here; bind.c does that. */
#include <inttypes.h>

#include "model/model_private.h"

/* ---- linear layers ------------------------------------------------------------------------- */

/* What tp never cuts: an MLP's width is made of the blocks of the matrices that have it as
 * columns. */
static int64_t units_of(const ml_model *m, ml_extent extent)
{
    int64_t units = ml_extent_units(&m->spec, extent);
    return extent == ML_EXTENT_MLP ? units / m->mlp_block : units;
}

/* Key/value heads that are fewer than the ranks are held by several of these, each with those of
 * its queries that attend to them. */
static bool repeats(ml_extent extent) { return extent == ML_EXTENT_KEYS; }

static bool is_weight_of(const ml_model *m, const ml_family_tensor *row, ml_role role)
{
    return row->role == role && !row->bias && ml_family_has(&m->spec, row);
}

/* One linear layer out of the rows of its role: the parts of its output, one for each weight. */
static void describe_linear(ml_model *m, ml_linear *linear, int64_t layer, ml_role role)
{
    const ml_model_spec *s = &m->spec;
    char text[ML_LINEAR_PARTS][64];
    const char *modules[ML_LINEAR_PARTS];
    int64_t outs[ML_LINEAR_PARTS], units[ML_LINEAR_PARTS], in = 0;
    bool repeat[ML_LINEAR_PARTS];
    ml_linear_kind kind = ML_LINEAR_COLUMN;
    int n = 0;
    for (const ml_family_tensor *row = s->family->tensors; row->module; row++) {
        if (!is_weight_of(m, row, role) || n == ML_LINEAR_PARTS) continue;
        kind = row->cut == ML_CUT_COLS ? ML_LINEAR_ROW : ML_LINEAR_COLUMN;
        snprintf(text[n], sizeof text[n], "layers.%" PRId64 ".%s", layer, row->module);
        modules[n] = text[n];
        outs[n] = ml_extent_size(s, row->rows);
        in = ml_extent_size(s, row->cols);
        repeat[n] = repeats(row->rows);
        units[n++] = units_of(m, kind == ML_LINEAR_ROW ? row->cols : row->rows);
    }
    ml_linear_describe(linear, kind, n, modules, outs, in, units, repeat, m->tp, m->tp_rank);
}

static void describe_layer(ml_model *m, int64_t l)
{
    ml_layer *layer = &m->layers[l];
    describe_linear(m, &layer->qkv, l, ML_ROLE_QKV);
    describe_linear(m, &layer->pos, l, ML_ROLE_POS);
    describe_linear(m, &layer->o, l, ML_ROLE_O);
    describe_linear(m, &layer->up, l, ML_ROLE_UP);
    describe_linear(m, &layer->down, l, ML_ROLE_DOWN);
}

/* The embedding and the head, both cut over the vocabulary. */
static void describe_ends(ml_model *m)
{
    const ml_model_spec *s = &m->spec;
    const char *const embed[] = {ml_family_end(s->family, ML_ROLE_EMBED)->module},
                      *const head[] = {ml_family_end(s->family, ML_ROLE_HEAD)->module};
    int64_t width = ml_model_embed_width(s), one = 1;
    ml_linear_describe(&m->embed, ML_LINEAR_ROW, 1, embed, &width, s->vocab, &s->vocab, NULL, m->tp,
                       m->tp_rank);
    ml_linear_describe(&m->head, ML_LINEAR_COLUMN, 1, head, &s->vocab, width, &s->vocab, NULL,
                       m->tp, m->tp_rank);
    if (s->embed_width > 0) {
        static const char *const in[] = {"project_in"}, *const out[] = {"project_out"};
        ml_linear_describe(&m->project_in, ML_LINEAR_ROW, 1, in, &s->width, width, &one, NULL, 1,
                           0);
        ml_linear_describe(&m->project_out, ML_LINEAR_ROW, 1, out, &width, s->width, &one, NULL, 1,
                           0);
    }
    if (s->conv_kernel > 0) {
        static const char *const conv[] = {"conv"};
        ml_linear_describe(&m->conv, ML_LINEAR_ROW, 1, conv, &s->width,
                           ml_extent_size(s, ML_EXTENT_CONV), &one, NULL, 1, 0);
    }
    m->embed.lookup = true;
    m->embed.multiplier = (float)ml_model_embed_multiplier(s);
}

ml_pass whole_pass(const ml_pass *pass)
{
    ml_pass whole = *pass;
    whole.grid = NULL;
    return whole;
}

/* ---- slots --------------------------------------------------------------------------------- */

/* This rank's part: whole units of the rows or columns that the table says are cut. Columns are
 * those of queries, which no two ranks share. */
static ml_shard shard_of(const ml_model *m, const ml_family_tensor *row)
{
    if (row->cut == ML_CUT_NONE) return (ml_shard){.dim = ML_SHARD_WHOLE};
    ml_extent extent = row->cut == ML_CUT_ROWS ? row->rows : row->cols;
    int64_t units = units_of(m, extent), size = ml_extent_size(&m->spec, extent) / units;
    const ml_unit_range own = ml_shard_units(units, repeats(extent), m->tp, m->tp_rank);
    return (ml_shard){.dim = row->cut == ML_CUT_ROWS ? ML_SHARD_ROWS : ML_SHARD_COLS,
                      .nparts = 1,
                      .part = {{size * own.first, size * own.count}},
                      .copied = own.copies > 1,
                      .copies = own.copies,
                      .spare = own.spare};
}

/* Parts of one linear layer lie right behind one another, weights and biases apart. */
static bool follows_last(const ml_model *m, const ml_model_tensor *t)
{
    if (m->nslots == 0 || t->layer < 0) return false;
    const ml_model_slot *last = &m->slots[m->nslots - 1];
    return last->layer == t->layer && last->row->role == t->row->role &&
           last->row->bias == t->row->bias;
}

static ml_dtype slot_dtype(const ml_model *m, const ml_model_tensor *t)
{
    ml_dtype kept = ml_model_format(&m->spec, t);
    return t->norm_or_bias ? ML_FP32 : ml_dtype_is_block(kept) ? kept : m->dtype;
}

static void add_slot(ml_model *m, const ml_model_tensor *t)
{
    ml_model_slot *slot = &m->slots[m->nslots];
    m->follows[m->nslots] = follows_last(m, t);
    m->nslots++;
    *slot = (ml_model_slot){.row = t->row,
                            .layer = t->layer,
                            .rows = t->rows,
                            .cols = t->cols,
                            .vector = t->vector,
                            .shard = shard_of(m, t->row),
                            .dtype = slot_dtype(m, t),
                            .partial = t->row->rows == ML_EXTENT_HEAD};
    snprintf(slot->name, sizeof slot->name, "%s", t->name);
    slot->whole = slot->shard.dim == ML_SHARD_WHOLE;
    slot->count = ml_shard_rows(&slot->shard, slot->rows) * ml_shard_cols(&slot->shard, slot->cols);
}

static void add_slots(ml_model *m)
{
    int64_t count = ml_model_tensor_count(&m->spec);
    m->position_slot = m->type_slot = m->relative_slot = -1;
    for (int64_t i = 0; i < count; i++) {
        ml_model_tensor t;
        ml_model_tensor_at(&m->spec, i, &t);
        if (t.row->role == ML_ROLE_EMBED) m->embed_slot = m->nslots;
        if (t.row->role == ML_ROLE_POSITION) m->position_slot = m->nslots;
        if (t.row->role == ML_ROLE_TOKEN_TYPE) m->type_slot = m->nslots;
        if (t.row->role == ML_ROLE_RELATIVE) m->relative_slot = m->nslots;
        m->has_pool |= t.row->role == ML_ROLE_POOL && m->spec.head == ML_HEAD_SEQUENCE;
        m->has_transform |= t.row->role == ML_ROLE_TRANSFORM;
        m->has_project_out |= t.row->role == ML_ROLE_PROJECT_OUT;
        m->has_embed_norm |= t.row->role == ML_ROLE_EMBED_NORM;
        add_slot(m, &t);
    }
}

/* ---- the model ----------------------------------------------------------------------------- */

/* The largest block of the matrices whose columns are this extent; 1: none is kept in blocks. */
static int64_t largest_block(const ml_model_spec *spec, ml_extent columns, ml_model_tensor *where)
{
    int64_t most = 1;
    for (int64_t i = 0; spec->formats && i < ml_model_tensor_count(spec); i++) {
        ml_model_tensor t;
        ml_model_tensor_at(spec, i, &t);
        ml_dtype dtype = ml_model_format(spec, &t);
        if (t.row->cut != ML_CUT_COLS || t.row->cols != columns || !ml_dtype_is_block(dtype))
            continue;
        int64_t own = ml_block_format_of(dtype)->weights;
        if (own > most) *where = t;
        most = ml_max(most, own);
    }
    return most;
}

/* A rank's queries attend to whole key/value heads, or all of them to the same one. */
static bool divides_heads(const ml_model_spec *s, int64_t tp)
{
    return s->heads % tp == 0 && (s->kv_heads % tp == 0 || tp % s->kv_heads == 0);
}

/* A rank's heads are whole blocks of the attention output's rows. */
static bool leaves_blocks(const ml_model_spec *s, int64_t tp, int64_t block)
{
    return tp == 1 || s->heads / tp * s->head_dim % block == 0;
}

/* The largest blocks that ranks would share out, and matrices that have them. */
typedef struct blocks_cut {
    int64_t heads, mlp;
    ml_model_tensor o, down;
} blocks_cut;

static blocks_cut find_blocks(const ml_model_spec *spec)
{
    blocks_cut b = {0};
    b.heads = largest_block(spec, ML_EXTENT_QUERIES, &b.o);
    b.mlp = largest_block(spec, ML_EXTENT_MLP, &b.down);
    return b;
}

/* Each rank has some of the MLP's units, in whole blocks, though not as many as the others. */
static bool fills_ranks(const ml_model_spec *s, int64_t tp, int64_t block)
{
    return s->mlp_width / block >= tp;
}

static bool can_divide(const ml_model_spec *spec, int64_t tp, const blocks_cut *b)
{
    return divides_heads(spec, tp) && leaves_blocks(spec, tp, b->heads) &&
           fills_ranks(spec, tp, b->mlp);
}

bool ml_model_can_divide(const ml_model_spec *spec, int64_t tp)
{
    blocks_cut b = find_blocks(spec);
    return can_divide(spec, tp, &b);
}

/* "1, 2 or 4": every tp that the model can be divided by. */
static void list_divisors(const ml_model_spec *spec, const blocks_cut *b, char *out, size_t size)
{
    int64_t most = spec->heads;
    while (!can_divide(spec, most, b)) most--;
    *out = '\0';
    for (int64_t n = 1; n <= most; n++) {
        size_t used = strlen(out);
        const char *before = used == 0 ? "" : n == most ? " or " : ", ";
        if (can_divide(spec, n, b)) snprintf(out + used, size - used, "%s%" PRId64, before, n);
    }
}

/* A rank would be left without a part of the MLP. */
static ml_status too_few_units(const ml_model_spec *spec, int tp, const blocks_cut *b,
                               const char *good)
{
    if (b->mlp == 1)
        return ml_fail(ML_USAGE,
                       "parallel.tp: %d ranks cannot share out an MLP %" PRId64 " wide; choose %s",
                       tp, spec->mlp_width, good);
    return ml_fail(ML_USAGE,
                   "parallel.tp: %d ranks cannot share out the %" PRId64
                   " %s blocks in a row of %s; choose %s, or a base in bf16",
                   tp, spec->mlp_width / b->mlp, ml_dtype_name(ml_model_format(spec, &b->down)),
                   b->down.name, good);
}

static ml_status check_tp(const ml_model_spec *spec, int tp)
{
    char good[256];
    blocks_cut b = find_blocks(spec);
    if (can_divide(spec, tp, &b)) return ML_OK;
    list_divisors(spec, &b, good, sizeof good);
    if (!divides_heads(spec, tp))
        return ml_fail(ML_USAGE,
                       "parallel.tp: %d ranks cannot share out the model's %" PRId64
                       " heads and %" PRId64 " key/value heads; choose %s",
                       tp, spec->heads, spec->kv_heads, good);
    if (leaves_blocks(spec, tp, b.heads)) return too_few_units(spec, tp, &b, good);
    return ml_fail(ML_USAGE,
                   "parallel.tp: %d would cut the %s blocks of %s (%" PRId64
                   " weights in a block, %" PRId64 " columns a rank); choose %s, or a base in bf16",
                   tp, ml_dtype_name(ml_model_format(spec, &b.o)), b.o.name, b.heads,
                   spec->heads / tp * spec->head_dim, good);
}

ml_status ml_model_create(ml_model **out, const ml_model_spec *spec, const ml_grid *grid, int tp,
                          int tp_rank, ml_dtype dtype)
{
    ml_status st = ML_OK;
    ml_model *m = NULL;
    ml_model_tensor largest;
    ML_TRY(check_tp(spec, tp));
    ML_NEW(m, 1, ML_MEM_OTHER, "a model");
    m->spec = *spec;
    m->grid = grid && tp > 1 ? grid : NULL;
    m->tp = tp;
    m->tp_rank = tp_rank;
    m->dtype = dtype;
    m->pp = 1;
    m->end_layer = spec->layers;
    m->in_flight = 1;
    m->mlp_block = largest_block(spec, ML_EXTENT_MLP, &largest);
    m->heads = spec->heads / tp;
    const ml_unit_range keys = ml_shard_units(spec->kv_heads, true, tp, tp_rank);
    m->kv_heads = keys.count;
    m->kv_copies = keys.copies;
    m->vocab_first = ml_part_start(spec->vocab, tp, tp_rank);
    m->vocab_count = ml_part_count(spec->vocab, tp, tp_rank);
    int64_t positions = ml_extent_size(spec, ML_EXTENT_CONTEXT);
    m->position_first = ml_part_start(positions, tp, tp_rank);
    m->position_count = ml_part_count(positions, tp, tp_rank);
    ML_NEW(m->layers, spec->layers, ML_MEM_OTHER, "layers");
    for (int64_t l = 0; l < spec->layers; l++) describe_layer(m, l);
    describe_ends(m);
    int64_t most = ml_model_tensor_count(spec);
    ML_NEW(m->slots, most, ML_MEM_OTHER, "tensors of the model");
    ML_NEW(m->follows, most, ML_MEM_OTHER, "tensors of the model");
    add_slots(m);
    *out = m;
    m = NULL;
done:
    ml_model_destroy(m);
    return st;
}

/* ---- leaves -------------------------------------------------------------------------------- */

int ml_model_leaves(const ml_model_spec *spec)
{
    static const int most_first[] = {8, 4, 2, 3};
    for (size_t i = 0; i < sizeof most_first / sizeof *most_first; i++)
        if (spec->kv_heads % most_first[i] == 0) return most_first[i];
    return 1;
}

ml_status ml_model_sum_leaves(ml_model *m)
{
    char good[64] = "1";
    int leaves = ml_model_leaves(&m->spec);
    for (int tp = 2; tp <= leaves; tp++) {
        size_t used = strlen(good);
        if (leaves % tp == 0)
            snprintf(good + used, sizeof good - used, "%s%d", tp == leaves ? " or " : ", ", tp);
    }
    if (leaves % m->tp != 0)
        return ml_fail(ML_USAGE,
                       "numerics is grid, which sums this model, of %" PRId64
                       " key/value heads, in %d shares, which parallel.tp: %d does not divide; "
                       "choose tp %s, or numerics: fast",
                       m->spec.kv_heads, leaves, m->tp, good);
    if (leaves == 1) return ML_OK;
    m->leaves = leaves;
    for (int64_t i = 0; i < ml_model_linears(m); i++)
        ml_linear_set_leaves(ml_model_linear(m, i), leaves, m->tp, m->tp_rank);
    return ML_OK;
}

/* ---- its parts ----------------------------------------------------------------------------- */

void ml_model_destroy(ml_model *m)
{
    if (!m) return;
    release_activations(m);
    ml_memory_free(m->storage);
    ml_memory_free(m->slots);
    ml_memory_free(m->follows);
    ml_memory_free(m->stage_end);
    ml_memory_free(m->layers);
    ml_memory_free(m);
}

const ml_model_spec *ml_model_get_spec(const ml_model *model) { return &model->spec; }
const ml_grid *ml_model_grid(const ml_model *model) { return model->grid; }

ml_layer *ml_model_layer(ml_model *model, int64_t layer) { return &model->layers[layer]; }

int64_t ml_model_linears(const ml_model *model)
{
    return ML_LINEARS_A_LAYER * model->spec.layers + ML_LINEARS_OUTSIDE;
}

ml_linear *ml_model_linear(ml_model *model, int64_t index)
{
    int64_t outside = index - ML_LINEARS_A_LAYER * model->spec.layers;
    if (outside >= 0) return outside == 0 ? &model->embed : &model->head;
    ml_layer *layer = &model->layers[index / ML_LINEARS_A_LAYER];
    ml_linear *const all[ML_LINEARS_A_LAYER] = {&layer->qkv, &layer->pos, &layer->o, &layer->up,
                                                &layer->down};
    return all[index % ML_LINEARS_A_LAYER];
}

int64_t ml_model_slots(const ml_model *model) { return model->nslots; }
ml_model_slot *ml_model_slot_at(ml_model *model, int64_t index) { return &model->slots[index]; }
void ml_model_set_virtual(ml_model *model, ml_virtual_hook hook) { model->virtual_hook = hook; }
ml_virtual_hook ml_model_virtual(const ml_model *model) { return model->virtual_hook; }
void ml_model_use_kernels(ml_model *model, const ml_kernels *kernels) { model->kernels = kernels; }
const ml_kernels *ml_model_kernels(const ml_model *model) { return model->kernels; }
