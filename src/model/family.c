/* The families of src/model/families/, and what their tables say of one model. */
#include "mpilora/family.h"

#include <inttypes.h>
#include <stdlib.h>

#include "model/families/families.h"

const char *const ml_activation_words[] = {"gelu_tanh", "gelu_erf", "relu", "silu", "tanh", NULL};
const char *const ml_norm_places_words[] = {"before", "behind", "both",   "parallel",
                                            "twin",   "sum",    "stream", NULL};
const char *const ml_positions_words[] = {"rotary",       "learned", "alibi",
                                          "alibi_scaled", "none",    NULL};
const char *const ml_head_words[] = {"language", "sequence", "tokens", NULL};

#define FAMILY(name) &ml_family_##name,
static const ml_family *const families[] = {
#include "model/families.inc"
    NULL};
#undef FAMILY

const ml_family *const *ml_families(void) { return families; }

const ml_family *ml_family_find(const char *name)
{
    for (const ml_family *const *f = families; *f; f++)
        if (!strcmp((*f)->name, name)) return *f;
    return NULL;
}

/* ---- heads --------------------------------------------------------------------------------- */

bool ml_family_scores(const ml_family *family, ml_head_kind head)
{
    ml_model_spec spec = family->defaults;
    spec.head = head;
    for (const ml_family_tensor *row = family->tensors; row->module; row++)
        if (row->role == ML_ROLE_CLASSIFY && ml_family_has(&spec, row)) return true;
    return false;
}

ml_head_kind ml_family_head(const ml_family_tensor *row)
{
    return row->present == ML_PRESENT_TOKENS ? ML_HEAD_TOKENS : ML_HEAD_SEQUENCE;
}

bool ml_model_predicts_masked(const ml_model_spec *s)
{
    return s->head == ML_HEAD_LANGUAGE && (s->transform || s->masked);
}

void ml_family_class(const ml_model_spec *spec, char *out, size_t size)
{
    static const char *const ends[] = {"ForCausalLM", "LMHeadModel", "Model"},
                             *const heads[] = {"MaskedLM", "SequenceClassification",
                                               "TokenClassification"};
    const ml_family *family = spec->family;
    const char *whole = family->hf.architecture, *end = NULL;
    for (int i = 0; i < 3 && !end; i++) end = strstr(whole, ends[i]);
    int stem = end ? (int)(end - whole) : (int)strlen(whole);
    if (spec->head == ML_HEAD_LANGUAGE && !ml_model_predicts_masked(spec))
        snprintf(out, size, "%s", whole);
    else if (family->hf.stem)
        snprintf(out, size, "%sFor%s", family->hf.stem, heads[spec->head]);
    else
        snprintf(out, size, "%.*sFor%s", stem, whole, heads[spec->head]);
}

bool ml_family_is_new(const ml_model_spec *base, const ml_family_tensor *row)
{
    switch (row->role) {
    case ML_ROLE_CLASSIFY:
        return true;
    case ML_ROLE_POOL:
        return !base->pool;
    case ML_ROLE_TRANSFORM:
    case ML_ROLE_TRANSFORM_NORM:
        return !base->transform;
    case ML_ROLE_HEAD:
        return !base->transform &&
               (row->present == ML_PRESENT_MASKED || row->present == ML_PRESENT_LEGACY ||
                row->present == ML_PRESENT_RENAMED);
    default:
        return false;
    }
}

bool ml_family_predicts_masked(const ml_family *family)
{
    const ml_family_tensor *row = family->tensors;
    while (row->module && row->role != ML_ROLE_TRANSFORM) row++;
    return row->module != NULL;
}

/* ---- adapters' modules --------------------------------------------------------------------- */

const ml_family_tensor *ml_family_target(const ml_family_tensor *row)
{
    while (row->module && !*row->target) row++;
    return row->module ? row : NULL;
}

const ml_family_tensor *ml_model_target(const ml_model_spec *spec, const ml_family_tensor *row)
{
    row = ml_family_target(row);
    while (row && row->present != ML_PRESENT_FUSED && !ml_family_has(spec, row))
        row = ml_family_target(row + 1);
    return row;
}

const ml_family_tensor *ml_family_end(const ml_family *family, ml_role role)
{
    const ml_family_tensor *row = family->tensors;
    while (row->module && (row->role != role || row->bias)) row++;
    return row;
}

const ml_family_tensor *ml_family_fused(const ml_family *family, const ml_family_tensor *row)
{
    for (const ml_family_tensor *r = ml_family_target(family->tensors); r;
         r = ml_family_target(r + 1))
        if (r->present == ML_PRESENT_FUSED && r->role == row->role) return r;
    return NULL;
}

const ml_family_tensor *ml_family_find_target(const ml_family *family, const char *module)
{
    for (const ml_family_tensor *row = ml_family_target(family->tensors); row;
         row = ml_family_target(row + 1))
        if (!strcmp(row->module, module)) return row;
    return NULL;
}

/* ---- a row in numbers ---------------------------------------------------------------------- */

bool ml_role_in_layer(ml_role role) { return role >= ML_ROLE_NORM1 && role < ML_ROLE_FINAL_NORM; }

int64_t ml_extent_size(const ml_model_spec *s, ml_extent extent)
{
    switch (extent) {
    case ML_EXTENT_ONE:
        return 1;
    case ML_EXTENT_WIDTH:
        return s->width;
    case ML_EXTENT_HEAD:
        return s->head_dim;
    case ML_EXTENT_QUERIES:
        return s->heads * s->head_dim;
    case ML_EXTENT_KEYS:
        return s->kv_heads * s->head_dim;
    case ML_EXTENT_QKV:
        return (s->heads + 2 * s->kv_heads) * s->head_dim;
    case ML_EXTENT_MLP:
        return s->mlp_width;
    case ML_EXTENT_GATE_UP:
        return 2 * s->mlp_width;
    case ML_EXTENT_VOCAB:
        return s->vocab;
    case ML_EXTENT_EMBED:
        return ml_model_embed_width(s);
    case ML_EXTENT_CONTEXT:
        return s->context + s->position_offset;
    case ML_EXTENT_LABELS:
        return s->labels;
    case ML_EXTENT_TYPES:
        return s->token_types;
    case ML_EXTENT_DISTANCES:
        return ml_model_relative_rows(s);
    case ML_EXTENT_CONV:
        return s->width * s->conv_kernel;
    }
    return 0;
}

int64_t ml_extent_units(const ml_model_spec *s, ml_extent extent)
{
    if (extent == ML_EXTENT_QUERIES) return s->heads;
    if (extent == ML_EXTENT_KEYS) return s->kv_heads;
    return ml_extent_size(s, extent);
}

/* Of families that score labels through it. */
static bool has_transform(const ml_model_spec *s)
{
    return s->head != ML_HEAD_LANGUAGE || ml_model_predicts_masked(s);
}

bool ml_family_has(const ml_model_spec *s, const ml_family_tensor *row)
{
    if (row->places && !(row->places >> s->norm_places & 1U)) return false;
    if (row->role == ML_ROLE_HEAD && s->head != ML_HEAD_LANGUAGE) return false;
    switch (row->present) {
    case ML_PRESENT_ALWAYS:
        return true;
    case ML_PRESENT_QKV_BIAS:
        return s->qkv_bias;
    case ML_PRESENT_O_BIAS:
        return s->o_bias;
    case ML_PRESENT_MLP_BIAS:
        return s->mlp_bias;
    case ML_PRESENT_QK_NORM:
        return s->qk_norm;
    case ML_PRESENT_UNTIED:
        return !s->tied_head && (!s->both_ways || ml_model_predicts_masked(s));
    case ML_PRESENT_FINAL_NORM:
        return !s->no_final_norm;
    case ML_PRESENT_TYPES:
        return s->token_types > 0;
    case ML_PRESENT_LEARNED:
        return s->positions == ML_POSITIONS_LEARNED;
    case ML_PRESENT_RELATIVE:
        return ml_model_is_relative(s);
    case ML_PRESENT_RELATIVE_NORM:
        return ml_model_is_relative(s) && s->relative_norm;
    case ML_PRESENT_POS_Q:
        return s->relative_queries && !s->relative_shared;
    case ML_PRESENT_POS_K:
        return s->relative_keys && !s->relative_shared;
    case ML_PRESENT_CONV:
        return s->conv_kernel > 0;
    case ML_PRESENT_PROJECTED:
        return s->embed_width > 0;
    case ML_PRESENT_SEQUENCE:
        return s->head == ML_HEAD_SEQUENCE;
    case ML_PRESENT_TOKENS:
        return s->head == ML_HEAD_TOKENS;
    case ML_PRESENT_MASKED:
        return ml_model_predicts_masked(s);
    case ML_PRESENT_LEGACY:
        return ml_model_predicts_masked(s) && s->legacy_head;
    case ML_PRESENT_RENAMED:
        return ml_model_predicts_masked(s) && !s->legacy_head;
    case ML_PRESENT_TRANSFORM:
        return has_transform(s);
    case ML_PRESENT_TRANSFORM_BIAS:
        return has_transform(s) && s->transform_bias;
    case ML_PRESENT_POOL:
        return s->head == ML_HEAD_SEQUENCE || s->pool;
    case ML_PRESENT_FUSED:
        return false;
    }
    return false;
}

void ml_module_shape(const ml_model_spec *spec, const ml_family_tensor *row, int64_t *in,
                     int64_t *out)
{
    bool turned = row->role == ML_ROLE_EMBED;
    *in = ml_extent_size(spec, turned ? row->rows : row->cols);
    *out = ml_extent_size(spec, turned ? row->cols : row->rows);
}

int64_t ml_module_first_row(const ml_model_spec *spec, const ml_family_tensor *row)
{
    int64_t first = 0;
    for (const ml_family_tensor *r = ml_family_target(spec->family->tensors); r && r != row;
         r = ml_family_target(r + 1))
        if (!strcmp(r->peft, row->peft)) first += ml_extent_size(spec, r->rows);
    return row->present == ML_PRESENT_FUSED ? 0 : first;
}

const ml_family_tensor *ml_module_parse(const ml_model_spec *spec, const char *module,
                                        int64_t *layer)
{
    char again[64];
    const ml_family_tensor *const ends[] = {ml_family_end(spec->family, ML_ROLE_EMBED),
                                            ml_family_end(spec->family, ML_ROLE_HEAD)};
    *layer = -1;
    for (int i = 0; i < 2; i++)
        if (!strcmp(module, ends[i]->module)) return i == 1 && spec->both_ways ? NULL : ends[i];
    if (strncmp(module, "layers.", 7) != 0) return NULL;
    char *rest;
    *layer = strtoll(module + 7, &rest, 10);
    if (*layer < 0 || *layer >= spec->layers || *rest != '.') return NULL;
    const ml_family_tensor *row = ml_family_find_target(spec->family, rest + 1);
    if (!row || ml_model_target(spec, row) != row) return NULL;
    snprintf(again, sizeof again, "layers.%" PRId64 ".%s", *layer, row->module);
    return strcmp(again, module) == 0 ? row : NULL;
}

static void add_every(const ml_model_spec *s, int64_t first, int64_t every, ml_layer_set *set)
{
    for (int64_t l = first; every > 0 && l < ml_min(s->layers, ML_LAYER_SET); l += every)
        ml_layer_set_add(set, l);
}

void ml_family_assume_layers(ml_model_spec *s)
{
    const ml_family_huggingface *hf = &s->family->hf;
    int64_t unrotated = hf->rope.unrotated_every, full = hf->windows.full_every;
    add_every(s, unrotated - 1, unrotated, &s->unrotated_layers);
    if (s->window > 0) add_every(s, hf->windows.first_full ? 0 : full - 1, full, &s->full_layers);
}

/* ---- names in other programs' files -------------------------------------------------------- */

/* `pattern` with '@' as `layers` and the layer's number. */
static void make_name(const char *pattern, const char *layers, int64_t layer, char *out,
                      size_t size)
{
    if (*pattern == '@')
        snprintf(out, size, "%s%" PRId64 "%s", layers, layer, pattern + 1);
    else
        snprintf(out, size, "%s", pattern);
}

static const ml_stored_name *stored_name(const ml_family_tensor *row, ml_format format)
{
    return format == ML_FORMAT_GGUF ? &row->gguf : &row->hf;
}

void ml_stored_place_of(const ml_model_spec *spec, const ml_model_tensor *tensor, ml_format format,
                        ml_stored_place *out)
{
    const ml_family *family = spec->family;
    const ml_stored_name *own = stored_name(tensor->row, format);
    *out = (ml_stored_place){.layout = own->layout, .pieces = 1};
    make_name(own->name, format == ML_FORMAT_GGUF ? "blk." : family->hf.layers, tensor->layer,
              out->name, sizeof out->name);
    for (const ml_family_tensor *row = family->tensors; row->module; row++) {
        if (!ml_family_has(spec, row) || strcmp(stored_name(row, format)->name, own->name) != 0)
            continue;
        if (row == tensor->row) out->first = out->total;
        out->total += ml_extent_size(spec, row->rows);
    }
    out->run = out->stride = ml_extent_size(spec, tensor->row->rows);
    if (out->layout == ML_LAYOUT_PAIRED) out->run = out->stride = spec->head_dim;
    if (out->layout == ML_LAYOUT_EACH_HEAD) {
        out->pieces = out->total / spec->head_dim;
        out->total = out->run = spec->head_dim;
        out->stride = 0;
    }
    if (out->layout == ML_LAYOUT_GROUPED) {
        out->first /= spec->kv_heads;
        out->run /= spec->kv_heads;
        out->stride = out->total / spec->kv_heads;
    }
}

void ml_stored_name_at(const ml_stored_place *place, int64_t row, char *out, size_t size)
{
    const char *mark = place->layout == ML_LAYOUT_EACH_HEAD ? strchr(place->name, '#') : NULL;
    if (mark)
        snprintf(out, size, "%.*s%" PRId64 "%s", (int)(mark - place->name), place->name,
                 row / place->run, mark + 1);
    else
        snprintf(out, size, "%s", place->name);
}

int64_t ml_stored_row(const ml_stored_place *place, int64_t row)
{
    int64_t within = row % place->run, half = place->run / 2;
    if (place->layout == ML_LAYOUT_PAIRED) within = 2 * (within % half) + within / half;
    return place->first + row / place->run * place->stride + within;
}

int64_t ml_stored_rows_together(const ml_stored_place *place, int64_t row)
{
    return place->layout == ML_LAYOUT_PAIRED ? 1 : place->run - row % place->run;
}

/* The rows of one part, from rows[0] on; returns how many. */
static int64_t rows_of_part(const ml_model_spec *spec, const ml_family_tensor *part, int64_t *rows)
{
    ml_stored_place place;
    const ml_model_tensor tensor = {.row = part};
    int64_t count = ml_extent_size(spec, part->rows);
    ml_stored_place_of(spec, &tensor, ML_FORMAT_HUGGINGFACE, &place);
    for (int64_t i = 0; i < count; i++) rows[i] = ml_stored_row(&place, i);
    return count;
}

void ml_peft_rows(const ml_model_spec *spec, const ml_family_tensor *row, int64_t *rows)
{
    if (row->present != ML_PRESENT_FUSED) {
        (void)rows_of_part(spec, row, rows);
        return;
    }
    for (const ml_family_tensor *r = spec->family->tensors; r->module; r++)
        if (r->role == row->role && !r->bias && r->present != ML_PRESENT_FUSED)
            rows += rows_of_part(spec, r, rows);
}

void ml_peft_path(const ml_family *family, const ml_family_tensor *row, int64_t layer, char *out,
                  size_t size)
{
    make_name(row->peft, family->hf.layers, layer, out, size);
}
