/* Keys of an architecture that no reader asks for: refused where they are known to change what a
 * model computes, silent where they say nothing, else named once. */
#include <inttypes.h>

#include "store/formats/gguf/import.h"

/* What import.c asks for by name, and what says nothing of the mathematics of a model that is fine-
 * tuned. */
static const char *const silent[] = {
    "attention.value_length", "rope.scaling.type",
    "rope.scaling.factor",    "rope.scaling.original_context_length",
    "rope.scale_linear",      "rope.dimension_count",
    "rope.scaling.finetuned", "vocab_size",
    "tensor_data_layout",     "expert_used_count",
    "pooling_type",           NULL};

/* Keys that llama.cpp reads, and the values with which they change nothing. */
static const struct {
    const char *key;
    double neutral, other;
} changing[] = {{"attention.causal", 1.0, 1.0},
                {"attention.clamp_kqv", 0.0, 0.0},
                {"attention.max_alibi_bias", 0.0, 0.0},
                {"attention.shared_kv_layers", 0.0, 0.0},
                {"attention.temperature_scale", 0.0, 0.0},
                {"attention.temperature_length", 0.0, 0.0},
                {"rope.scaling.attn_factor", 1.0, 0.0},
                {"rope.scaling.yarn_attn_factor", 1.0, 1.0},
                {"rope.scaling.yarn_beta_fast", 32.0, 32.0},
                {"rope.scaling.yarn_beta_slow", 1.0, 1.0},
                {"rope.scaling.yarn_ext_factor", 1.0, -1.0},
                {"rope.scaling.yarn_log_multiplier", 0.0, 0.0}};

enum { NAMED = 6 };

static bool is_read(const gguf_source *g, const char *name)
{
    const ml_model_spec *s = g->spec;
    /* Factors of attention belong to the two kinds of scaling that read them, the bias to ALiBi. */
    if (!strcmp(name, "rope.scaling.attn_factor"))
        return s->rope_scaling.kind == ML_ROPE_YARN || s->rope_scaling.kind == ML_ROPE_LONGROPE;
    if (!strcmp(name, "attention.max_alibi_bias")) return s->positions == ML_POSITIONS_ALIBI;
    for (const ml_family_key *k = s->family->gguf.keys; k->key; k++)
        if (!strcmp(k->key, name)) return true;
    return ml_find_word(name, silent) >= 0;
}

/* *known: the value changes nothing. */
static ml_status check_value(const gguf_source *g, const gguf_value *v, const char *name,
                             bool *known)
{
    *known = false;
    for (size_t i = 0; i < sizeof changing / sizeof *changing; i++) {
        if (strcmp(changing[i].key, name) != 0) continue;
        bool number = v->kind == GGUF_NUMBER || v->kind == GGUF_FLAG;
        *known = number && (v->real == changing[i].neutral || v->real == changing[i].other);
        if (!*known)
            return ml_fail(ML_INPUT,
                           "%s: %s: this changes what the model computes and is not supported",
                           g->file.path, v->key);
    }
    return ML_OK;
}

ml_status gguf_import_check_unread(const gguf_source *g)
{
    ml_status st = ML_OK;
    ml_text names = {0};
    int64_t count = 0;
    bool known;
    const size_t n = strlen(g->architecture);
    for (int64_t i = 0; i < g->file.nvalues; i++) {
        const gguf_value *v = &g->file.values[i];
        if (strncmp(v->key, g->architecture, n) != 0 || v->key[n] != '.') continue;
        if (is_read(g, v->key + n + 1)) continue;
        ML_TRY(check_value(g, v, v->key + n + 1, &known));
        if (!known && count++ < NAMED)
            ML_TRY(ml_text_printf(&names, "%s%.60s", count > 1 ? ", " : "", v->key));
    }
    if (count > 0)
        ml_warn("%s: %" PRId64 " %s not known of this architecture and ignored: %s%s", g->file.path,
                count, count > 1 ? "keys are" : "key is", names.data, count > NAMED ? ", …" : "");
done:
    ml_text_destroy(&names);
    return st;
}
