/* The keys of a model description, as configs/models/ has them. What a description leaves out is
 * what the family's table says. */
#include <float.h>

#include "config/table.h"
#include "mpilora/config.h"
#include "mpilora/family.h"

enum { MOST_FAMILIES = 64 };

/* A description as it is read: the family by its number, layers as ranges. */
typedef struct description {
    ml_model_spec spec;
    int family;
    ml_layer_ranges full_layers, unrotated_layers;
} description;

#define AT(field) offsetof(description, spec.field)
#define SIZE(name)                                                                      \
    {                                                                                   \
        .path = #name, .kind = KEY_INT, .offset = AT(name), .least = 1, .most = 1 << 26 \
    }

#define FACTOR(name)                                                                 \
    {                                                                                \
        .path = #name, .kind = KEY_REAL, .offset = AT(name), .least = 0, .most = 1e9 \
    }

static const char *family_words[MOST_FAMILIES + 1]; /* filled before the table is used */

static const key table[] = {
    {.path = "family",
     .kind = KEY_CHOICE,
     .offset = offsetof(description, family),
     .choices = family_words},
    SIZE(layers),
    SIZE(width),
    SIZE(mlp_width),
    SIZE(heads),
    SIZE(kv_heads),
    SIZE(head_dim),
    SIZE(vocab),
    SIZE(context),
    {.path = "embed_width",
     .kind = KEY_INT,
     .offset = AT(embed_width),
     .least = 0,
     .most = 1 << 26},
    {.path = "relative_keys", .kind = KEY_BOOL, .offset = AT(relative_keys)},
    {.path = "relative_queries", .kind = KEY_BOOL, .offset = AT(relative_queries)},
    {.path = "relative_shared", .kind = KEY_BOOL, .offset = AT(relative_shared)},
    {.path = "relative_norm", .kind = KEY_BOOL, .offset = AT(relative_norm)},
    {.path = "relative_distances",
     .kind = KEY_INT,
     .offset = AT(relative_distances),
     .least = 0,
     .most = 1 << 25},
    {.path = "relative_buckets",
     .kind = KEY_INT,
     .offset = AT(relative_buckets),
     .least = 0,
     .most = 1 << 25},
    {.path = "conv_kernel", .kind = KEY_INT, .offset = AT(conv_kernel), .least = 0, .most = 1024},
    {.path = "conv_activation",
     .kind = KEY_CHOICE,
     .offset = AT(conv_activation),
     .choices = ml_activation_words},
    {.path = "token_types", .kind = KEY_INT, .offset = AT(token_types), .least = 0, .most = 256},
    {.path = "activation",
     .kind = KEY_CHOICE,
     .offset = AT(activation),
     .choices = ml_activation_words},
    {.path = "norm_places",
     .kind = KEY_CHOICE,
     .offset = AT(norm_places),
     .choices = ml_norm_places_words},
    {.path = "no_final_norm", .kind = KEY_BOOL, .offset = AT(no_final_norm)},
    {.path = "positions",
     .kind = KEY_CHOICE,
     .offset = AT(positions),
     .choices = ml_positions_words},
    {.path = "norm_eps",
     .kind = KEY_REAL,
     .offset = AT(norm_eps),
     .least = 0,
     .open_least = true,
     .most = 1,
     .open_most = true},
    {.path = "rope_theta",
     .kind = KEY_REAL,
     .offset = AT(rope_theta),
     .least = 0,
     .open_least = true,
     .most = FLT_MAX},
    {.path = "rope_local_theta",
     .kind = KEY_REAL,
     .offset = AT(rope_local_theta),
     .least = 0,
     .most = FLT_MAX},
    {.path = "unrotated_layers",
     .kind = KEY_LAYERS,
     .offset = offsetof(description, unrotated_layers),
     .nullable = true},
    {.path = "rope_scaling.kind",
     .kind = KEY_CHOICE,
     .offset = AT(rope_scaling.kind),
     .choices = ml_rope_kind_words},
    {.path = "rope_scaling.factor",
     .kind = KEY_REAL,
     .offset = AT(rope_scaling.factor),
     .least = 0,
     .most = FLT_MAX},
    {.path = "rope_scaling.low_freq_factor",
     .kind = KEY_REAL,
     .offset = AT(rope_scaling.low_freq_factor),
     .least = 0,
     .most = FLT_MAX},
    {.path = "rope_scaling.high_freq_factor",
     .kind = KEY_REAL,
     .offset = AT(rope_scaling.high_freq_factor),
     .least = 0,
     .most = FLT_MAX},
    {.path = "rope_scaling.original_context",
     .kind = KEY_INT,
     .offset = AT(rope_scaling.original_context),
     .least = 0,
     .most = 1 << 30},
    {.path = "rope_width", .kind = KEY_INT, .offset = AT(rope_width), .least = 0, .most = 1024},
    {.path = "qk_norm", .kind = KEY_BOOL, .offset = AT(qk_norm)},
    FACTOR(attention_scale),
    FACTOR(score_cap),
    FACTOR(logit_cap),
    FACTOR(embed_multiplier),
    FACTOR(residual_multiplier),
    FACTOR(logit_multiplier),
    {.path = "tied_head", .kind = KEY_BOOL, .offset = AT(tied_head)},
    {.path = "qkv_bias", .kind = KEY_BOOL, .offset = AT(qkv_bias)},
    {.path = "o_bias", .kind = KEY_BOOL, .offset = AT(o_bias)},
    {.path = "mlp_bias", .kind = KEY_BOOL, .offset = AT(mlp_bias)},
    {.path = "window", .kind = KEY_INT, .offset = AT(window), .least = 0, .most = 1 << 26},
    {.path = "full_layers",
     .kind = KEY_LAYERS,
     .offset = offsetof(description, full_layers),
     .nullable = true},
    {.path = NULL},
};
enum { KEYS = sizeof table / sizeof *table };

static bool was_given(const int *line, const char *path)
{
    for (int i = 0; table[i].path; i++)
        if (!strcmp(table[i].path, path)) return line[i] != 0;
    return false;
}

static void list_families(void)
{
    int n = 0;
    for (const ml_family *const *f = ml_families(); *f && n < MOST_FAMILIES; f++)
        family_words[n++] = (*f)->name;
}

static ml_status take_layers(const char *key, const ml_layer_ranges *layers, const ml_model_spec *s,
                             ml_layer_set *out)
{
    for (int64_t i = 0; i < layers->count; i++) {
        if (layers->range[i].last >= ml_min(s->layers, ML_LAYER_SET))
            return ml_fail(ML_USAGE, "%s: there is no layer %lld, the last is %lld", key,
                           (long long)layers->range[i].last, (long long)s->layers - 1);
        for (int64_t l = layers->range[i].first; l <= layers->range[i].last; l++)
            ml_layer_set_add(out, l);
    }
    return ML_OK;
}

/* What a description leaves out is the family's own, or follows from the rest. The first reading
 * finds the family, the second puts what is given over its defaults. */
static ml_status read_description(description *d, int *line, const char *path, const ml_text *text)
{
    static const char *const needed[] = {"family", "layers",  "width", "heads",
                                         "vocab",  "context", NULL};
    ml_status st = table_read_text(table, d, line, path, text);
    for (const char *const *key = needed; st == ML_OK && *key; key++)
        if (!was_given(line, *key)) st = ml_fail(ML_USAGE, "%s: %s: missing", path, *key);
    if (st != ML_OK) return st;
    table_free_values(table, d);
    *d = (description){.spec = ml_families()[d->family]->defaults};
    d->spec.norm_eps = 1e-5;
    st = table_read_text(table, d, line, path, text);
    if (!was_given(line, "rope_scaling.kind") && d->spec.rope_scaling.factor > 0.0)
        d->spec.rope_scaling.kind = ML_ROPE_LLAMA3;
    if (st == ML_OK)
        st = take_layers("full_layers", &d->full_layers, &d->spec, &d->spec.full_layers);
    if (st == ML_OK)
        st = take_layers("unrotated_layers", &d->unrotated_layers, &d->spec,
                         &d->spec.unrotated_layers);
    return st;
}

bool ml_model_spec_is_description(const char *path)
{
    const char *dot = strrchr(path, '.');
    return dot && (!strcmp(dot, ".yaml") || !strcmp(dot, ".yml"));
}

ml_status ml_model_spec_read(ml_model_spec *out, const char *path)
{
    int line[KEYS] = {0};
    description d = {0};
    ml_text text = {0};
    list_families();
    ml_status st = table_get_text(path, &text);
    if (st == ML_OK) st = read_description(&d, line, path, &text);
    if (st == ML_OK) {
        ml_model_spec_complete(&d.spec);
        st = ml_model_spec_check(&d.spec, ML_USAGE);
        if (st != ML_OK) st = ml_fail_within(st, "%s", path);
    }
    *out = d.spec;
    table_free_values(table, &d);
    ml_text_destroy(&text);
    return st;
}
