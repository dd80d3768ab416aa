/* The keys that are read in a config.json of Hugging Face and the kinds that each may have: those
 * of the family's table, of rotary positions and of windows. */
#include "store/formats/huggingface/huggingface.h"

enum {
    INTEGER = ML_JSON_INTEGER | ML_JSON_NULL,
    NUMBER = INTEGER | ML_JSON_REAL,
    FLAG = ML_JSON_FLAG | ML_JSON_NULL,
    OBJECT = ML_JSON_OBJECT | ML_JSON_NULL
};

/* What is read of each family beside the keys of its table. */
static const ml_json_key rope_keys[] = {
    {"rope_theta", NUMBER},
    {"partial_rotary_factor", NUMBER},
    {"rope_parameters", OBJECT},
    {"rope_parameters.rope_theta", NUMBER},
    {"rope_parameters.partial_rotary_factor", NUMBER},
    {"rope_parameters.rope_type", ML_JSON_TEXT},
    {"rope_parameters.type", ML_JSON_TEXT},
    {"rope_parameters.factor", NUMBER},
    {"rope_parameters.low_freq_factor", NUMBER},
    {"rope_parameters.high_freq_factor", NUMBER},
    {"rope_parameters.original_max_position_embeddings", INTEGER},
    {"rope_scaling", OBJECT},
    {"rope_scaling.rope_theta", NUMBER},
    {"rope_scaling.partial_rotary_factor", NUMBER},
    {"rope_scaling.rope_type", ML_JSON_TEXT},
    {"rope_scaling.type", ML_JSON_TEXT},
    {"rope_scaling.factor", NUMBER},
    {"rope_scaling.low_freq_factor", NUMBER},
    {"rope_scaling.high_freq_factor", NUMBER},
    {"rope_scaling.original_max_position_embeddings", INTEGER},
    {NULL, 0},
};

/* The kinds of a family's key; 0 for one that must be off, whose every other value is refused. */
static unsigned kinds_of(ml_key_kind kind)
{
    switch (kind) {
    case ML_KEY_SIZE:
        return INTEGER;
    case ML_KEY_REAL:
        return NUMBER;
    case ML_KEY_FLAG:
    case ML_KEY_ON:
        return FLAG;
    case ML_KEY_ACTIVATION:
        return ML_JSON_TEXT;
    case ML_KEY_OFF:
        return 0;
    }
    return 0;
}

static void add_key(hf_config_keys *to, const char *path, unsigned kinds)
{
    if (path && kinds) to->keys[to->count++] = (ml_json_key){path, kinds};
}

ml_status hf_config_keys_of(const ml_family *family, hf_config_keys *out)
{
    const ml_window_keys *w = &family->hf.windows;
    int64_t own = 0, rope = sizeof rope_keys / sizeof *rope_keys - 1;
    *out = (hf_config_keys){0};
    while (family->hf.keys[own].key) own++;
    if (own + rope + 6 >= HF_CONFIG_KEYS)
        return ml_fail(ML_INPUT, "the %s family has more keys than can be checked", family->title);
    for (int64_t i = 0; i < own; i++)
        add_key(out, family->hf.keys[i].key, kinds_of(family->hf.keys[i].kind));
    if (family->defaults.positions == ML_POSITIONS_ROTARY)
        for (int64_t i = 0; i < rope; i++) add_key(out, rope_keys[i].path, rope_keys[i].kinds);
    add_key(out, family->hf.rope.part, NUMBER);
    if (!w->size) return ML_OK;
    add_key(out, w->size, INTEGER);
    add_key(out, w->on, FLAG);
    add_key(out, w->first_layer, INTEGER);
    add_key(out, w->types, ML_JSON_ARRAY | ML_JSON_NULL);
    if (w->types) {
        snprintf(out->element, sizeof out->element, "%s[]", w->types);
        add_key(out, out->element, ML_JSON_TEXT);
    }
    return ML_OK;
}
