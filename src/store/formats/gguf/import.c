/* A GGUF file as a source of weights, read by the names and keys of its family's table. */
#include <inttypes.h>
#include <math.h>

#include "mpilora/data.h"
#include "store/base/import_private.h"
#include "store/formats/gguf/import.h"
#include "store/formats/huggingface/huggingface.h"

static void source_close(void *self)
{
    gguf_source *g = self;
    gguf_close(&g->file);
    ml_memory_free(g);
}

static ml_status source_hash(void *self, atomic_bool *stop, char hex[ML_SHA256_HEX])
{
    const gguf_source *g = self;
    return ml_window_hash(g->file.window, g->file.number, stop, hex);
}

/* ---- metadata ------------------------------------------------------------------------------ */

const gguf_value *gguf_find_own(const gguf_source *g, const char *name)
{
    char key[128];
    snprintf(key, sizeof key, "%s.%s", g->architecture, name);
    return gguf_find(&g->file, key);
}

/* A size may be said for each layer, as llama.cpp reads it; here all of them are alike. */
static ml_status same_of_layers(const gguf_source *g, const gguf_value *v, gguf_value *out)
{
    const gguf_value *layers = gguf_find_own(g, "block_count");
    if (!layers || layers->kind != GGUF_NUMBER || v->count != layers->integer)
        return ml_fail(ML_INPUT,
                       "%s: key %s has %" PRId64 " numbers, expected one for each of the layers",
                       g->file.path, v->key, v->count);
    for (int64_t l = 1; l < v->count; l++)
        if (v->reals[l] != v->reals[0])
            return ml_fail(ML_INPUT,
                           "%s: key %s is %g in layer %" PRId64
                           " and %g in the first one: layers that differ in it are not supported",
                           g->file.path, v->key, v->reals[l], l, v->reals[0]);
    bool whole = v->whole && fabs(v->reals[0]) < 1e15;
    *out = (gguf_value){.key = v->key,
                        .kind = GGUF_NUMBER,
                        .whole = whole,
                        .integer = whole ? (int64_t)v->reals[0] : 0,
                        .real = v->reals[0]};
    return ML_OK;
}

static bool is_size(const ml_family_key *k)
{
    return k->kind == ML_KEY_SIZE || k->kind == ML_KEY_COUNT;
}

static ml_status check_number(const gguf_source *g, const ml_family_key *k, const gguf_value *v)
{
    bool whole = is_size(k);
    int64_t least = k->kind == ML_KEY_SIZE ? 1 : 0;
    if (!v && k->required)
        return ml_fail(ML_INPUT, "%s: key %s.%s is missing", g->file.path, g->architecture, k->key);
    if (!v) return ML_OK;
    ml_status st = gguf_check_kind(&g->file, v, GGUF_NUMBER, whole);
    if (st != ML_OK) return st;
    if (whole && v->integer < least)
        return ml_fail(ML_INPUT, "%s: key %s: %" PRId64 ", expected at least %" PRId64,
                       g->file.path, v->key, v->integer, least);
    return ML_OK;
}

static ml_status read_key(const gguf_source *g, const ml_family_key *k, ml_model_spec *s)
{
    const gguf_value *v = gguf_find_own(g, k->key);
    if (k->kind == ML_KEY_OFF) {
        bool number = v && (v->kind == GGUF_NUMBER || v->kind == GGUF_FLAG);
        if (!v || (number && v->real == 0.0)) return ML_OK;
        return ml_fail(ML_INPUT,
                       "%s: %s: this changes what the model computes and is not supported",
                       g->file.path, v->key);
    }
    if (k->kind == ML_KEY_CHOICE) {
        if (!v) return ML_OK;
        if (v->kind != GGUF_FLAG)
            return ml_fail(ML_INPUT, "%s: key %s: expected a truth value", g->file.path, v->key);
        *(int *)((char *)s + k->field) = v->real != 0.0 ? k->yes : k->no;
        return ML_OK;
    }
    ml_status st = ML_OK;
    gguf_value alike;
    if (v && is_size(k) && v->kind == GGUF_NUMBERS && v->count > 0) {
        st = same_of_layers(g, v, &alike);
        v = &alike;
    }
    if (st == ML_OK) st = check_number(g, k, v);
    if (st != ML_OK || !v) return st;
    if (is_size(k))
        *(int64_t *)((char *)s + k->field) = v->integer;
    else
        *(double *)((char *)s + k->field) = k->kind == ML_KEY_INVERSE ? 1.0 / v->real : v->real;
    return ML_OK;
}

/* Biases, or what else is optional, are there where the first layer has them. */
static bool has_tensor(const gguf_source *g, ml_role role, bool bias)
{
    for (const ml_family_tensor *row = g->spec->family->tensors; row->module; row++) {
        ml_stored_place place;
        const ml_model_tensor first = {.row = row};
        if (row->role != role || row->bias != bias) continue;
        ml_stored_place_of(g->spec, &first, ML_FORMAT_GGUF, &place);
        if (gguf_find_tensor(&g->file, place.name)) return true;
    }
    return false;
}

/* A file has every norm of these places. */
static bool has_norms(const gguf_source *g, const ml_model_spec *s)
{
    for (const ml_family_tensor *row = s->family->tensors; row->module; row++) {
        ml_stored_place place;
        const ml_model_tensor first = {.row = row};
        if (!row->places || !ml_family_has(s, row)) continue;
        ml_stored_place_of(s, &first, ML_FORMAT_GGUF, &place);
        if (!gguf_find_tensor(&g->file, place.name)) return false;
    }
    return true;
}

/* Where norms stand, by those that are there: of two places that could be, the one with more. */
static void find_norms(const gguf_source *g, ml_model_spec *s)
{
    int64_t most = -1;
    ml_model_spec tried = *s;
    const ml_norm_places said = s->norm_places; /* by a key, or the family's own */
    for (unsigned p = 0; s->family->norm_places >> p; p++) {
        tried.norm_places = (ml_norm_places)p;
        if (!(s->family->norm_places >> p & 1U) || !has_norms(g, &tried)) continue;
        int64_t tensors = ml_model_tensor_count(&tried);
        bool better = tensors > most || (tensors == most && tried.norm_places == said);
        if (!better) continue;
        most = tensors;
        s->norm_places = tried.norm_places;
    }
}

/* What is not a size: of values as wide as keys, of the vocabulary by the embedding's rows. */
static ml_status read_shapes(const gguf_source *g, ml_model_spec *s)
{
    const gguf_value *v = gguf_find_own(g, "attention.value_length");
    if (v && (v->kind != GGUF_NUMBER || v->integer != s->head_dim))
        return ml_fail(ML_INPUT,
                       "%s: attention.value_length %" PRId64 " differs from key_length %" PRId64
                       ": not supported",
                       g->file.path, v->integer, s->head_dim);
    const gguf_tensor *embed = gguf_find_tensor(&g->file, "token_embd.weight");
    if (!embed) return ml_fail(ML_INPUT, "%s: tensor token_embd.weight is missing", g->file.path);
    s->vocab = embed->rows;
    find_norms(g, s);
    s->qkv_bias = has_tensor(g, ML_ROLE_QKV, true);
    s->o_bias = has_tensor(g, ML_ROLE_O, true);
    s->mlp_bias = has_tensor(g, ML_ROLE_UP, true);
    s->qk_norm = has_tensor(g, ML_ROLE_Q_NORM, false);
    return ML_OK;
}

/* Llama-3's factors come as a tensor; they must be those of its scaling rule. */
static ml_status read_rope_factors(const gguf_source *g, ml_model_spec *s)
{
    ml_status st = ML_OK;
    float factor[512];
    const gguf_tensor *t = gguf_find_tensor(&g->file, "rope_freqs.weight");
    int64_t half = s->head_dim / 2;
    if (!t) return ML_OK;
    if (t->rows != 1 || t->cols != half || half > 512)
        return ml_fail(ML_INPUT, "%s: rope_freqs.weight has %" PRId64 " factors, expected %" PRId64,
                       g->file.path, t->rows * t->cols, half);
    ML_TRY(gguf_read_rows(&g->file, t, 0, 1, factor));
    ml_rope_scaling r = {.kind = ML_ROPE_LLAMA3,
                         .factor = (double)factor[half - 1],
                         .low_freq_factor = 1.0,
                         .high_freq_factor = 4.0,
                         .original_context = 8192};
    const ml_rope_scaling none = {0};
    if (!(r.factor >= 1.0 && r.factor < 1e6))
        return ml_fail(ML_INPUT, "%s: rope_freqs.weight: the last factor is %g, expected 1 or more",
                       g->file.path, r.factor);
    for (int64_t i = 0; i < half; i++) {
        double expected = ml_rope_frequency(&none, s->rope_theta, 2 * half, i, false) /
                          ml_rope_frequency(&r, s->rope_theta, 2 * half, i, false);
        if (!(fabs(expected - (double)factor[i]) <= 1e-3 * expected))
            return ml_fail(ML_INPUT,
                           "%s: rope_freqs.weight: factor %" PRId64
                           " is %g, Llama-3's scaling expects %g: not supported",
                           g->file.path, i, (double)factor[i], expected);
    }
    s->rope_scaling = r;
done:
    return st;
}

static double number_or(const gguf_value *v, double otherwise)
{
    return v && v->kind == GGUF_NUMBER ? v->real : otherwise;
}

static ml_status read_pair_factors(const gguf_source *g, const char *name, int64_t pairs,
                                   float *out)
{
    const gguf_tensor *t = gguf_find_tensor(&g->file, name);
    if (!t || t->rows != 1 || t->cols != pairs || pairs > ML_ROPE_FACTORS)
        return ml_fail(ML_INPUT, "%s: %s: expected a factor for each of the %" PRId64 " pairs",
                       g->file.path, name, pairs);
    return gguf_read_rows(&g->file, t, 0, 1, out);
}

/* rope.scaling: type, factor, original context and attention factor; longrope's factors are
 * tensors, and may be there without a type. A factor without a type is linear's. */
static ml_status read_scaling(const gguf_source *g, ml_model_spec *s)
{
    ml_status st = ML_OK;
    const gguf_value *type = gguf_find_own(g, "rope.scaling.type");
    double factor = number_or(gguf_find_own(g, "rope.scaling.factor"), 0.0);
    ml_rope_scaling r = {.attention_factor =
                             number_or(gguf_find_own(g, "rope.scaling.attn_factor"), 0)};
    bool longrope = gguf_find_tensor(&g->file, "rope_factors_long.weight") != NULL;
    if (type && type->kind != GGUF_TEXT)
        return ml_fail(ML_INPUT, "%s: rope.scaling.type: is no text", g->file.path);
    const char *word = longrope                         ? "longrope"
                       : type                           ? type->text
                       : factor != 0.0 && factor != 1.0 ? "linear"
                                                        : "none";
    if (!strcmp(word, "none")) return ML_OK;
    while (ml_rope_kind_words[r.kind] && strcmp(ml_rope_kind_words[r.kind], word) != 0) r.kind++;
    if (r.kind != ML_ROPE_LINEAR && r.kind != ML_ROPE_YARN && r.kind != ML_ROPE_LONGROPE)
        return ml_fail(ML_INPUT,
                       "%s: rope.scaling.type: \"%s\" is not known; known are none, "
                       "linear, yarn, longrope (and Llama-3's factors)",
                       g->file.path, word);
    r.original_context = (int64_t)number_or(
        gguf_find_own(g, "rope.scaling.original_context_length"), (double)s->context);
    r.factor = factor > 0.0 ? factor : (double)s->context / (double)ml_max(1, r.original_context);
    if (r.kind == ML_ROPE_LINEAR) r.original_context = 0;
    if (longrope) {
        int64_t pairs = ml_model_rope_width(s) / 2;
        ML_TRY(read_pair_factors(g, "rope_factors_long.weight", pairs, r.long_factor));
        ML_TRY(read_pair_factors(g, "rope_factors_short.weight", pairs, r.short_factor));
    }
    s->rope_scaling = r;
done:
    return st;
}

static ml_status read_rotation(const gguf_source *g, ml_model_spec *s)
{
    double linear = number_or(gguf_find_own(g, "rope.scale_linear"), 1.0),
           rotated = number_or(gguf_find_own(g, "rope.dimension_count"), (double)s->head_dim);
    if (linear != 0.0 && linear != 1.0)
        return ml_fail(ML_INPUT, "%s: rope.scale_linear: %g is not supported", g->file.path,
                       linear);
    if (!(rotated >= 2.0 && rotated <= (double)s->head_dim))
        return ml_fail(ML_INPUT, "%s: rope.dimension_count %g of heads of %" PRId64, g->file.path,
                       rotated, s->head_dim);
    s->rope_width = rotated < (double)s->head_dim ? (int64_t)rotated : 0;
    ml_status st = read_scaling(g, s);
    if (st != ML_OK || s->rope_scaling.kind != ML_ROPE_DEFAULT) return st;
    return read_rope_factors(g, s);
}

static void assume_scale(ml_model_spec *s)
{
    int64_t wide = s->family->gguf.wide_layers;
    if (wide)
        s->attention_scale = 1.0 / sqrt(s->layers == wide ? (double)s->width / (double)s->heads
                                                          : (double)s->head_dim);
}

static ml_status read_family(const gguf_source *g, ml_model_spec *s)
{
    ml_status st = ML_OK;
    for (const ml_family_key *k = s->family->gguf.keys; k->key; k++) ML_TRY(read_key(g, k, s));
    ml_model_spec_complete(s);
    assume_scale(s);
    ML_TRY(read_shapes(g, s));
    if (s->positions == ML_POSITIONS_ROTARY) ML_TRY(read_rotation(g, s));
    ml_family_assume_layers(s);
done:
    return st;
}

/* ---- opening ------------------------------------------------------------------------------- */

const ml_family *gguf_import_family(const char *architecture)
{
    for (const ml_family *const *f = ml_families(); *f; f++)
        if (!(*f)->gguf.borrowed && !strcmp((*f)->gguf.architecture, architecture)) return *f;
    return NULL;
}

static ml_status unknown_architecture(const gguf_source *g)
{
    ml_text known = {0};
    ml_status st = ML_OK;
    for (const ml_family *const *f = ml_families(); *f && st == ML_OK; f++)
        if (!(*f)->gguf.borrowed)
            st = ml_text_printf(&known, "%s%s", known.length ? ", " : "", (*f)->gguf.architecture);
    if (st == ML_OK)
        st = ml_fail(ML_INPUT, "%s: general.architecture: \"%s\" is not supported, only %s",
                     g->file.path, g->architecture ? g->architecture : "(missing)", known.data);
    ml_text_destroy(&known);
    return st;
}

/* What a GGUF file, whose reals are fp32, and a config.json both say must agree. */
static ml_status check_agreement(const gguf_source *g, const ml_model_spec *file,
                                 const ml_model_spec *config, const char *path)
{
    bool dynamic = config->rope_scaling.kind == ML_ROPE_DYNAMIC; /* GGUF has no word for it */
    const struct {
        const char *what;
        double in_file, in_config;
    } values[] = {{"layers", (double)file->layers, (double)config->layers},
                  {"width", (double)file->width, (double)config->width},
                  {"MLP width", (double)file->mlp_width, (double)config->mlp_width},
                  {"heads", (double)file->heads, (double)config->heads},
                  {"key/value heads", (double)file->kv_heads, (double)config->kv_heads},
                  {"head size", (double)file->head_dim, (double)config->head_dim},
                  {"vocabulary", (double)file->vocab, (double)config->vocab},
                  {"norm's eps", file->norm_eps, config->norm_eps},
                  {"rope theta", file->rope_theta, config->rope_theta},
                  {"rope factor", dynamic ? config->rope_scaling.factor : file->rope_scaling.factor,
                   config->rope_scaling.factor}};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++)
        if (fabs(values[i].in_file - values[i].in_config) > 1e-6 * fabs(values[i].in_config))
            return ml_fail(ML_INPUT, "%s: %s is %g, but %s says %g: not the same model",
                           g->file.path, values[i].what, values[i].in_file, path,
                           values[i].in_config);
    return ML_OK;
}

/* *s, read from the file's metadata, becomes what the config.json says. */
static ml_status take_config(const gguf_source *g, const char *path, ml_model_spec *s)
{
    ml_status st = ML_OK;
    ml_model_spec file = *s;
    ML_TRY(hf_config_read(path, s, NULL));
    if (strcmp(s->family->gguf.architecture, g->architecture) != 0)
        return ml_fail(ML_INPUT,
                       "%s: general.architecture is %s, but %s describes a %s model, which GGUF "
                       "calls %s",
                       g->file.path, g->architecture, path, s->family->title,
                       s->family->gguf.architecture);
    if (!gguf_find_own(g, "rope.freq_base")) file.rope_theta = s->rope_theta;
    ML_TRY(check_agreement(g, &file, s, path));
    s->tied_head = file.tied_head;
done:
    return st;
}

ml_status gguf_import_describe(gguf_source *g, ml_model_spec *s)
{
    const gguf_value *v = gguf_find(&g->file, "general.architecture");
    g->architecture = v && v->kind == GGUF_TEXT ? v->text : NULL;
    const ml_family *family = g->architecture ? gguf_import_family(g->architecture) : NULL;
    if (!family) return unknown_architecture(g);
    *s = family->defaults;
    return read_family(g, s);
}

static ml_status read_description(gguf_source *g, ml_model_spec *s, const char *hf_config)
{
    ml_status st = ML_OK;
    const gguf_value *type = gguf_find(&g->file, "general.type");
    if (type && type->kind == GGUF_TEXT && !strcmp(type->text, "adapter"))
        return ml_fail(ML_INPUT,
                       "%s: is a GGUF adapter, not a model; adapters are read as adapter.h5 or a "
                       "PEFT directory, with --adapter",
                       g->file.path);
    const gguf_value *files = gguf_find(&g->file, "split.count");
    if (files && files->kind == GGUF_NUMBER && files->integer > 1)
        return ml_fail(ML_INPUT,
                       "%s: is one of the %" PRId64 " files of a model that was split; join them "
                       "first (llama-gguf-split --merge)",
                       g->file.path, files->integer);
    ML_TRY(gguf_import_describe(g, s));
    const ml_family *family = s->family;
    ML_TRY(gguf_import_find_head(g, &s->tied_head));
    if (hf_config) ML_TRY(take_config(g, hf_config, s));
    if (!hf_config && family->gguf.unsaid)
        ml_warn("%s: GGUF says nothing of %s; --hf-config config.json says it", g->file.path,
                family->gguf.unsaid);
    st = ml_model_spec_check(s, ML_INPUT);
    if (st != ML_OK) return ml_fail_within(st, "%s", g->file.path);
    ML_TRY(gguf_import_check_unread(g));
    ML_TRY(gguf_import_check_tensors(g));
done:
    return st;
}

ml_status import_open_gguf(import_source *out, const char *path, const ml_import_options *options)
{
    ml_status st = ML_OK;
    gguf_source *g = NULL;
    ML_NEW(g, 1, ML_MEM_OTHER, "a source");
    g->file.fd = -1;
    g->spec = &out->spec;
    out->self = g;
    out->close = source_close;
    out->hash = source_hash;
    out->share = gguf_import_share;
    out->find = gguf_import_find;
    out->read_rows = gguf_import_rows;
    out->format_of = gguf_import_format;
    out->read_blocks = gguf_import_blocks;
    ML_TRY(gguf_open(&g->file, path));
    ML_TRY(read_description(g, &out->spec, options->hf_config));
    ML_TRY(gguf_import_files(g, options, out));
done:
    return st;
}
