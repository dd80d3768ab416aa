/* The keys of a model description. */
#include <math.h>

#include "config/table.h"
#include "mpilora/config.h"

static const char *const families[] = {"gpt2", "llama", NULL};
static const char *const activations[] = {"gelu_tanh", "gelu_erf", "relu", "silu", NULL};

/* Biases of the Llama family are asked for one kind at a time; the GPT-2 family has them all. */
#define AT(field) offsetof(ml_model_spec, field)
#define SIZE(name)                                                                      \
    {                                                                                   \
        .path = #name, .kind = KEY_INT, .offset = AT(name), .least = 1, .most = 1 << 26 \
    }

static const key table[] = {
    {.path = "family", .kind = KEY_CHOICE, .offset = AT(family), .choices = families},
    SIZE(layers),
    SIZE(width),
    SIZE(mlp_width),
    SIZE(heads),
    SIZE(kv_heads),
    SIZE(head_dim),
    SIZE(vocab),
    SIZE(context),
    {.path = "activation", .kind = KEY_CHOICE, .offset = AT(activation), .choices = activations},
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
     .most = HUGE_VAL},
    {.path = "rope_scaling.factor",
     .kind = KEY_REAL,
     .offset = AT(rope_scaling.factor),
     .least = 0,
     .most = HUGE_VAL},
    {.path = "rope_scaling.low_freq_factor",
     .kind = KEY_REAL,
     .offset = AT(rope_scaling.low_freq_factor),
     .least = 0,
     .most = HUGE_VAL},
    {.path = "rope_scaling.high_freq_factor",
     .kind = KEY_REAL,
     .offset = AT(rope_scaling.high_freq_factor),
     .least = 0,
     .most = HUGE_VAL},
    {.path = "rope_scaling.original_context",
     .kind = KEY_INT,
     .offset = AT(rope_scaling.original_context),
     .least = 0,
     .most = 1 << 30},
    {.path = "tied_head", .kind = KEY_BOOL, .offset = AT(tied_head)},
    {.path = "qkv_bias", .kind = KEY_BOOL, .offset = AT(qkv_bias)},
    {.path = "o_bias", .kind = KEY_BOOL, .offset = AT(o_bias)},
    {.path = "mlp_bias", .kind = KEY_BOOL, .offset = AT(mlp_bias)},
    {.path = NULL},
};
enum { KEYS = sizeof table / sizeof *table };

static bool was_given(const bool *given, const char *path)
{
    for (int i = 0; table[i].path; i++)
        if (!strcmp(table[i].path, path)) return given[i];
    return false;
}

/* What a description may leave out follows from the family and the rest. */
static void fill_in(ml_model_spec *s, const bool *given)
{
    bool gpt2 = s->family == ML_FAMILY_GPT2;
    if (!was_given(given, "kv_heads")) s->kv_heads = s->heads;
    if (!was_given(given, "head_dim") && s->heads > 0) s->head_dim = s->width / s->heads;
    if (!was_given(given, "mlp_width") && gpt2) s->mlp_width = 4 * s->width;
    if (!was_given(given, "activation")) s->activation = gpt2 ? ML_GELU_TANH : ML_SILU;
    if (!was_given(given, "norm_eps")) s->norm_eps = 1e-5;
    if (!was_given(given, "rope_theta") && !gpt2) s->rope_theta = 10000.0;
    if (!was_given(given, "tied_head")) s->tied_head = gpt2;
    if (!gpt2) return;
    if (!was_given(given, "qkv_bias")) s->qkv_bias = true;
    if (!was_given(given, "o_bias")) s->o_bias = true;
    if (!was_given(given, "mlp_bias")) s->mlp_bias = true;
}

ml_status ml_model_spec_read(ml_model_spec *out, const char *path)
{
    static const char *const needed[] = {"family", "layers",  "width", "heads",
                                         "vocab",  "context", NULL};
    bool given[KEYS] = {false};
    *out = (ml_model_spec){0};
    ml_status st = table_read_file(table, out, given, path);
    for (const char *const *key = needed; st == ML_OK && *key; key++)
        if (!was_given(given, *key)) st = ml_fail(ML_USAGE, "%s: %s: missing", path, *key);
    if (st != ML_OK) return st;
    fill_in(out, given);
    st = ml_model_spec_check(out, ML_USAGE);
    return st == ML_OK ? ML_OK : ml_fail_within(st, "%s", path);
}
