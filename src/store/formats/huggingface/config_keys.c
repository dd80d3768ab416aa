/* The keys that are read in a config.json of Hugging Face and the kinds that each may have: those
 * of the family's table, of rotary positions and of windows. */
#include "store/formats/huggingface/huggingface.h"

enum {
    INTEGER = ML_JSON_INTEGER | ML_JSON_NULL,
    NUMBER = INTEGER | ML_JSON_REAL,
    FLAG = ML_JSON_FLAG | ML_JSON_NULL,
    OBJECT = ML_JSON_OBJECT | ML_JSON_NULL
};

/* The kinds of a family's key; 0 for one that must be off, whose every other value is refused. */
static unsigned kinds_of(ml_key_kind kind)
{
    switch (kind) {
    case ML_KEY_SIZE:
    case ML_KEY_COUNT:
    case ML_KEY_ONE:
    case ML_KEY_NEXT:
    case ML_KEY_PLACES:
    case ML_KEY_SOLE:
    case ML_KEY_BUCKETS:
    case ML_KEY_DISTANCES:
    case ML_KEY_CONV:
        return INTEGER;
    case ML_KEY_REAL:
    case ML_KEY_CAP:
    case ML_KEY_INVERSE:
    case ML_KEY_ROOT:
        return NUMBER;
    case ML_KEY_FLAG:
    case ML_KEY_CHOICE:
    case ML_KEY_GROUPED:
    case ML_KEY_SINGLE:
    case ML_KEY_ON:
    case ML_KEY_RELATIVE:
        return FLAG;
    case ML_KEY_IDLE:
        return NUMBER | FLAG | ML_JSON_TEXT;
    case ML_KEY_TERMS:
        return ML_JSON_TEXT | ML_JSON_ARRAY | ML_JSON_NULL;
    case ML_KEY_ABSOLUTE:
    case ML_KEY_NORMED:
        return ML_JSON_TEXT | ML_JSON_NULL;
    case ML_KEY_ACTIVATION:
    case ML_KEY_GELU:
    case ML_KEY_POOLING:
        return ML_JSON_TEXT;
    case ML_KEY_OFF:
        return 0;
    }
    return 0;
}

void hf_config_add_key(hf_config_keys *to, const char *place, const char *key, unsigned kinds)
{
    size_t room = sizeof to->text - to->used, length = strlen(place) + strlen(key) + 1;
    if (!kinds) return;
    to->full = to->full || length > room || to->count == HF_CONFIG_KEYS - 1;
    if (to->full) return;
    char *path = to->text + to->used;
    snprintf(path, room, "%s%s", place, key);
    to->used += length;
    to->keys[to->count++] = (ml_json_key){path, kinds};
}

static void add_windows(const ml_window_keys *w, hf_config_keys *to)
{
    if (!w->size) return;
    hf_config_add_key(to, "", w->size, INTEGER);
    if (w->on) hf_config_add_key(to, "", w->on, FLAG);
    if (w->every) hf_config_add_key(to, "", w->every, INTEGER);
    if (w->first_layer) hf_config_add_key(to, "", w->first_layer, INTEGER);
    if (!w->types) return;
    hf_config_add_key(to, "", w->types, ML_JSON_ARRAY | ML_JSON_NULL);
    hf_config_add_key(to, w->types, "[]", ML_JSON_TEXT);
}

ml_status hf_config_keys_of(const ml_family *family, hf_config_keys *out)
{
    *out = (hf_config_keys){0};
    for (const ml_family_key *k = family->hf.keys; k->key; k++) {
        hf_config_add_key(out, "", k->key, kinds_of(k->kind));
        if (k->kind == ML_KEY_TERMS) hf_config_add_key(out, k->key, "[]", ML_JSON_TEXT);
    }
    if (family->defaults.positions == ML_POSITIONS_ROTARY && !family->hf.rope.fixed)
        hf_rope_keys(family, out);
    add_windows(&family->hf.windows, out);
    hf_config_add_key(out, "", "quantization_config", OBJECT | FLAG);
    if (!out->full) return ML_OK;
    return ml_fail(ML_INPUT, "the %s family has more keys than can be checked", family->title);
}
