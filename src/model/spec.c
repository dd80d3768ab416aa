/* What a model is: checks of a specification, and its tensors in their fixed order. */
#include <inttypes.h>
#include <math.h>

#include "mpilora/family.h"

/* ---- checks -------------------------------------------------------------------------------- */

enum { LARGEST = 1 << 26 };

static ml_status check_size(ml_status bad, const char *field, int64_t value)
{
    if (value >= 1 && value <= LARGEST) return ML_OK;
    return ml_fail(bad, "model: %s is %" PRId64 ", expected 1 to %d", field, value, (int)LARGEST);
}

static ml_status check_sizes(const ml_model_spec *s, ml_status bad)
{
    const struct {
        const char *field;
        int64_t value;
    } sizes[] = {{"layers", s->layers}, {"width", s->width},       {"mlp_width", s->mlp_width},
                 {"heads", s->heads},   {"kv_heads", s->kv_heads}, {"head_dim", s->head_dim},
                 {"vocab", s->vocab},   {"context", s->context}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        ml_status st = check_size(bad, sizes[i].field, sizes[i].value);
        if (st != ML_OK) return st;
    }
    if (s->embed_width < 0 || s->embed_width > LARGEST)
        return ml_fail(bad, "model: embed_width is %" PRId64 ", expected 0 (the width) to %d",
                       s->embed_width, (int)LARGEST);
    if (s->token_types < 0 || s->token_types > 256)
        return ml_fail(bad, "model: token_types is %" PRId64 ", expected 0 (none) to 256",
                       s->token_types);
    if (s->position_offset < 0 || s->position_offset > LARGEST)
        return ml_fail(bad, "model: position_offset is %" PRId64 ", expected 0 to %d",
                       s->position_offset, (int)LARGEST);
    if (s->layers > 10000)
        return ml_fail(bad, "model: layers is %" PRId64 ", expected at most 10000", s->layers);
    if (s->head_dim > 1024)
        return ml_fail(bad, "model: head_dim is %" PRId64 ", expected at most 1024", s->head_dim);
    return ML_OK;
}

static ml_status check_factors(const ml_model_spec *s, const ml_rope_scaling *r, ml_status bad)
{
    int64_t pairs = ml_model_rope_width(s) / 2;
    if (pairs > ML_ROPE_FACTORS)
        return ml_fail(bad, "model: longrope is for at most %d pairs of a head, found %" PRId64,
                       (int)ML_ROPE_FACTORS, pairs);
    for (int64_t i = 0; i < pairs; i++)
        if (!(r->short_factor[i] > 0.0F && r->long_factor[i] > 0.0F))
            return ml_fail(bad,
                           "model: rope_scaling: longrope's factors of pair %" PRId64
                           " are %g and %g, expected > 0",
                           i, (double)r->short_factor[i], (double)r->long_factor[i]);
    return ML_OK;
}

static ml_status check_scaling(const ml_model_spec *s, const ml_rope_scaling *r, ml_status bad)
{
    bool original = r->kind >= ML_ROPE_LLAMA3;
    if (r->kind == ML_ROPE_DEFAULT) return ML_OK;
    if (!(r->factor >= 1.0) || (original && r->original_context < 1))
        return ml_fail(bad,
                       "model: rope_scaling %s {factor %g, original_context %" PRId64
                       "}: expected factor >= 1%s",
                       ml_rope_kind_words[r->kind], r->factor, r->original_context,
                       original ? ", context > 0" : "");
    if (r->kind == ML_ROPE_LLAMA3 &&
        !(r->low_freq_factor > 0.0 && r->high_freq_factor > r->low_freq_factor))
        return ml_fail(bad,
                       "model: rope_scaling llama3 {low_freq_factor %g, high_freq_factor %g}: "
                       "expected 0 < low < high",
                       r->low_freq_factor, r->high_freq_factor);
    if (!(r->attention_factor >= 0.0 && r->beta_fast >= 0.0 && r->beta_slow >= 0.0))
        return ml_fail(bad,
                       "model: rope_scaling {attention_factor %g, beta_fast %g, beta_slow %g}: "
                       "expected 0 or more",
                       r->attention_factor, r->beta_fast, r->beta_slow);
    return r->kind == ML_ROPE_LONGROPE ? check_factors(s, r, bad) : ML_OK;
}

static ml_status check_rotation(const ml_model_spec *s, ml_status bad)
{
    if (s->rope_width < 0 || s->rope_width > s->head_dim)
        return ml_fail(bad, "model: rope_width is %" PRId64 ", expected 0 (all) to head_dim",
                       s->rope_width);
    if (ml_model_rope_width(s) % 2 != 0)
        return ml_fail(bad,
                       "model: rotary embedding turns an even number of a head's elements, found "
                       "%" PRId64,
                       ml_model_rope_width(s));
    if (!(s->rope_theta > 0.0))
        return ml_fail(bad, "model: rope_theta is %g, expected > 0", s->rope_theta);
    if (!(s->rope_local_theta >= 0.0))
        return ml_fail(bad, "model: rope_local_theta is %g, expected 0 (the same) or more",
                       s->rope_local_theta);
    return check_scaling(s, &s->rope_scaling, bad);
}

static ml_status check_window(const ml_model_spec *s, ml_status bad)
{
    static const ml_layer_set none = {{0}};
    if (s->window < 0 || s->window > LARGEST)
        return ml_fail(bad, "model: window is %" PRId64 ", expected 0 (none) to %d", s->window,
                       (int)LARGEST);
    if (s->layers > ML_LAYER_SET && (memcmp(&s->full_layers, &none, sizeof none) != 0 ||
                                     memcmp(&s->unrotated_layers, &none, sizeof none) != 0))
        return ml_fail(bad,
                       "model: windows and rotations that differ by layer are for at most %d "
                       "layers, found %" PRId64,
                       (int)ML_LAYER_SET, s->layers);
    return ML_OK;
}

static bool must_have_bias(const ml_family *f, ml_role role)
{
    for (const ml_family_tensor *row = f->tensors; row->module; row++)
        if (row->bias && row->role == role) return row->present == ML_PRESENT_ALWAYS;
    return false;
}

static bool must_have(const ml_family *family, ml_role role)
{
    for (const ml_family_tensor *row = family->tensors; row->module; row++)
        if (row->role == role) return row->present == ML_PRESENT_ALWAYS;
    return false;
}

static bool has_role(const ml_family *family, ml_role role)
{
    for (const ml_family_tensor *row = family->tensors; row->module; row++)
        if (row->role == role) return true;
    return false;
}

/* What is the same in every model of the family. */
static ml_status check_features(const ml_model_spec *s, ml_status bad)
{
    const ml_family *f = s->family;
    const ml_model_spec *own = &f->defaults;
    unsigned places = f->norm_places ? f->norm_places : 1U << own->norm_places,
             positions = f->positions ? f->positions : 1U << own->positions;
    if (s->norm != own->norm || s->gated != own->gated || s->qk_norm_kind != own->qk_norm_kind ||
        s->norm_plus_one != own->norm_plus_one || s->embed_root != own->embed_root ||
        s->rope_neighbours != own->rope_neighbours || s->both_ways != own->both_ways ||
        (s->position_offset != own->position_offset && !f->padded) ||
        !(places >> s->norm_places & 1U) || !(positions >> s->positions & 1U))
        return ml_fail(bad, "model: norms, positions or MLP are not those of the %s family",
                       f->title);
    if (f->plain_heads && s->kv_heads != s->heads)
        return ml_fail(bad,
                       "model: the %s family has as many key/value heads as heads, found %" PRId64
                       " and %" PRId64,
                       f->title, s->kv_heads, s->heads);
    if (f->plain_heads && s->heads * s->head_dim != s->width)
        return ml_fail(bad,
                       "model: in the %s family width = heads x head_dim, found %" PRId64
                       " and %" PRId64 " x %" PRId64,
                       f->title, s->width, s->heads, s->head_dim);
    if (own->qk_norm && !s->qk_norm)
        return ml_fail(bad, "model: queries and keys of the %s family have norms", f->title);
    if (s->embed_width > 0 && !has_role(f, ML_ROLE_PROJECT_IN))
        return ml_fail(bad, "model: the embedding of the %s family has the model's width",
                       f->title);
    if (s->token_types > 0 && !has_role(f, ML_ROLE_TOKEN_TYPE))
        return ml_fail(bad, "model: tokens of the %s family have no types", f->title);
    if ((ml_model_is_relative(s) && !has_role(f, ML_ROLE_RELATIVE)) ||
        (s->relative_norm && !has_role(f, ML_ROLE_RELATIVE_NORM)) ||
        (s->conv_kernel > 0 && !has_role(f, ML_ROLE_CONV)))
        return ml_fail(bad,
                       "model: the %s family has no relative terms, no norm of their rows or no "
                       "convolution",
                       f->title);
    if (s->no_final_norm && must_have(f, ML_ROLE_FINAL_NORM))
        return ml_fail(bad, "model: the %s family has a norm behind its last layer", f->title);
    if (s->qk_norm && !has_role(f, ML_ROLE_Q_NORM))
        return ml_fail(bad, "model: queries and keys of the %s family have no norms", f->title);
    if ((!s->qkv_bias && must_have_bias(f, ML_ROLE_QKV)) ||
        (!s->o_bias && must_have_bias(f, ML_ROLE_O)) ||
        (!s->mlp_bias && must_have_bias(f, ML_ROLE_UP)))
        return ml_fail(bad, "model: %s of the %s family has a bias",
                       own->o_bias     ? "every linear layer"
                       : own->qkv_bias ? "each of q, k and v"
                                       : "the MLP",
                       f->title);
    if (ml_model_has_alibi(s) && s->score_cap > 0.0)
        return ml_fail(bad, "model: ALiBi and score_cap together are not supported");
    return ML_OK;
}

/* What DeBERTa's models may differ in. */
static ml_status check_relative(const ml_model_spec *s, ml_status bad)
{
    if (s->relative_distances < 0 || s->relative_distances > LARGEST / 2 ||
        s->relative_buckets < 0 || s->relative_buckets > LARGEST / 2 || s->conv_kernel < 0 ||
        s->conv_kernel > 1024)
        return ml_fail(
            bad,
            "model: relative_distances, relative_buckets or conv_kernel is out of range: "
            "%" PRId64 ", %" PRId64 ", %" PRId64,
            s->relative_distances, s->relative_buckets, s->conv_kernel);
    if (ml_model_is_relative(s) && s->relative_distances == 0)
        return ml_fail(bad, "model: relative terms need relative_distances, found 0");
    if (s->relative_buckets > 0 && s->relative_distances - 1 <= s->relative_buckets / 2)
        return ml_fail(bad,
                       "model: relative_buckets is %" PRId64 ", half of which expects "
                       "relative_distances beyond it, found %" PRId64,
                       s->relative_buckets, s->relative_distances);
    if (s->relative_buckets == 1)
        return ml_fail(bad, "model: relative_buckets is 1, expected 0 (none) or 2 and more");
    if (has_role(s->family, ML_ROLE_RELATIVE) && s->embed_width > 0 &&
        (s->positions == ML_POSITIONS_LEARNED || s->token_types > 0))
        return ml_fail(bad,
                       "model: an embedding of its own width (%" PRId64 ") beside learned "
                       "positions or token types is not supported in the %s family",
                       s->embed_width, s->family->title);
    if (s->conv_kernel > 0 && s->conv_kernel % 2 == 0)
        return ml_fail(bad, "model: conv_kernel is %" PRId64 ", expected an odd number",
                       s->conv_kernel);
    if (s->conv_kernel > 0 && s->layers < 2)
        return ml_fail(bad, "model: a convolution behind the first layer needs a second one");
    return ML_OK;
}

static ml_status check_multipliers(const ml_model_spec *s, ml_status bad)
{
    const struct {
        const char *field;
        double value;
    } reals[] = {{"attention_scale", s->attention_scale},
                 {"score_cap", s->score_cap},
                 {"logit_cap", s->logit_cap},
                 {"embed_multiplier", s->embed_multiplier},
                 {"residual_multiplier", s->residual_multiplier},
                 {"logit_multiplier", s->logit_multiplier}};
    for (size_t i = 0; i < sizeof reals / sizeof *reals; i++)
        if (!(reals[i].value >= 0.0 && reals[i].value <= 1e9))
            return ml_fail(bad, "model: %s is %g, expected 0 (none) to 1e9", reals[i].field,
                           reals[i].value);
    return ML_OK;
}

static ml_status check_head(const ml_model_spec *s, ml_status bad)
{
    bool scores = s->head != ML_HEAD_LANGUAGE;
    if (s->labels < 0 || s->labels > LARGEST || scores != (s->labels > 0))
        return ml_fail(bad, "model: a %s head with %" PRId64 " labels, expected %s",
                       ml_head_words[s->head], s->labels, scores ? "at least 1" : "none");
    if (scores && !ml_family_scores(s->family, s->head))
        return ml_fail(bad, "model: the %s family has no head for labels", s->family->title);
    return ML_OK;
}

ml_status ml_model_spec_check(const ml_model_spec *s, ml_status bad)
{
    if (!s->family) return ml_fail(bad, "model: it belongs to no family");
    ml_status st = check_sizes(s, bad);
    if (st == ML_OK) st = check_head(s, bad);
    if (st != ML_OK) return st;
    if (s->heads % s->kv_heads != 0)
        return ml_fail(bad,
                       "model: %" PRId64 " heads are not a multiple of %" PRId64 " key/value heads",
                       s->heads, s->kv_heads);
    if (!(s->norm_eps > 0.0 && s->norm_eps < 1.0))
        return ml_fail(bad, "model: norm_eps is %g, expected between 0 and 1", s->norm_eps);
    st = check_features(s, bad);
    if (st == ML_OK) st = check_multipliers(s, bad);
    if (st == ML_OK && s->positions == ML_POSITIONS_ROTARY) st = check_rotation(s, bad);
    if (st == ML_OK) st = check_relative(s, bad);
    return st == ML_OK ? check_window(s, bad) : st;
}

void ml_model_spec_complete(ml_model_spec *s)
{
    if (s->kv_heads == 0) s->kv_heads = s->heads;
    if (s->head_dim == 0 && s->heads > 0) s->head_dim = s->width / s->heads;
    if (s->embed_width == s->width) s->embed_width = 0;
    if (s->mlp_width == 0 && s->width < LARGEST) s->mlp_width = s->family->mlp_factor * s->width;
}

double ml_model_attention_scale(const ml_model_spec *s)
{
    int64_t terms = 1 + s->relative_keys + s->relative_queries;
    return s->attention_scale > 0.0 ? s->attention_scale
                                    : 1.0 / sqrt((double)(s->head_dim * terms));
}

double ml_model_embed_multiplier(const ml_model_spec *s)
{
    double own = s->embed_multiplier > 0.0 ? s->embed_multiplier : 1.0;
    return s->embed_root ? own * sqrt((double)s->width) : own;
}

int64_t ml_model_embed_width(const ml_model_spec *s)
{
    return s->embed_width > 0 ? s->embed_width : s->width;
}

int64_t ml_model_hidden_width(const ml_model_spec *s)
{
    return has_role(s->family, ML_ROLE_PROJECT_OUT) ? ml_model_embed_width(s) : s->width;
}

int64_t ml_model_rope_width(const ml_model_spec *s)
{
    return s->rope_width > 0 ? s->rope_width : s->head_dim;
}

/* ---- windows ------------------------------------------------------------------------------- */

bool ml_model_is_sliding(const ml_model_spec *s, int64_t layer)
{
    return s->window > 0 && !ml_layer_set_has(&s->full_layers, layer);
}

int64_t ml_model_window(const ml_model_spec *s, int64_t layer)
{
    bool reaches = ml_attention_reach(s->window, s->both_ways) >= s->context;
    return ml_model_is_sliding(s, layer) && !reaches ? s->window : 0;
}

bool ml_model_is_beyond(const ml_model_spec *s, int64_t length)
{
    return s->rope_scaling.kind == ML_ROPE_LONGROPE && length > s->rope_scaling.original_context;
}

/* ---- tensors ------------------------------------------------------------------------------- */

/* Rows of the family's table that a model has: before its layers, in each, and behind them. */
typedef struct sections {
    int64_t front, layer, back;
    int64_t lacking; /* rows of a layer that the first layer lacks: the first ones */
} sections;

static sections count_rows(const ml_model_spec *s)
{
    sections n = {.lacking = s->family->first_unnormed};
    for (const ml_family_tensor *row = s->family->tensors; row->module; row++) {
        if (!ml_family_has(s, row)) continue;
        if (ml_role_in_layer(row->role))
            n.layer++;
        else if (row->role < ML_ROLE_NORM1)
            n.front++;
        else
            n.back++;
    }
    return n;
}

static const ml_family_tensor *row_at(const ml_model_spec *s, int64_t index)
{
    const ml_family_tensor *row = s->family->tensors;
    for (;; row++) {
        if (!ml_family_has(s, row)) continue;
        if (index-- == 0) return row;
    }
}

int64_t ml_model_tensor_count(const ml_model_spec *s)
{
    sections n = count_rows(s);
    return n.front + s->layers * n.layer - n.lacking + n.back;
}

void ml_model_tensor_at(const ml_model_spec *s, int64_t index, ml_model_tensor *out)
{
    sections n = count_rows(s);
    if (index >= n.front) index += n.lacking;
    int64_t in_layers = index - n.front, layer = -1;
    if (in_layers >= s->layers * n.layer) {
        index -= (s->layers - 1) * n.layer;
    } else if (in_layers >= 0) {
        layer = in_layers / n.layer;
        index = n.front + in_layers % n.layer;
    }
    const ml_family_tensor *row = row_at(s, index);
    bool vector = row->cols == ML_EXTENT_ONE;
    const char *kind = row->bias ? "bias" : "weight";
    *out = (ml_model_tensor){.row = row,
                             .layer = layer,
                             .rows = ml_extent_size(s, row->rows),
                             .cols = ml_extent_size(s, row->cols),
                             .vector = vector,
                             .norm_or_bias = row->storage == ML_STORED_FP32};
    if (layer >= 0)
        snprintf(out->name, sizeof out->name, "layers.%" PRId64 ".%s.%s", layer, row->module, kind);
    else
        snprintf(out->name, sizeof out->name, "%s.%s", row->module, kind);
}

int64_t ml_model_formats(const ml_model_spec *spec)
{
    int64_t rows = 0;
    while (spec->family->tensors[rows].module) rows++;
    return rows * spec->layers;
}

int64_t ml_model_format_place(const ml_model_spec *spec, const ml_model_tensor *t)
{
    return (t->row - spec->family->tensors) * spec->layers + ml_max(0, t->layer);
}

ml_dtype ml_model_format(const ml_model_spec *spec, const ml_model_tensor *t)
{
    return spec->formats ? spec->formats[ml_model_format_place(spec, t)] : ML_FP32;
}

int64_t ml_model_parameters_total(const ml_model_spec *s)
{
    int64_t total = 0;
    for (const ml_family_tensor *row = s->family->tensors; row->module; row++)
        if (ml_family_has(s, row))
            total += ml_extent_size(s, row->rows) * ml_extent_size(s, row->cols) *
                     (ml_role_in_layer(row->role) ? s->layers : 1);
    return s->family->first_unnormed ? total - s->width : total;
}
