/* The window of attention in a config.json, and the layers that have none: read and written by the
 * family's keys. */
#include <inttypes.h>

#include "store/formats/huggingface/config_values.h"

static ml_status read_layer_types(const json_t *types, const char *name, ml_model_spec *s)
{
    if ((int64_t)json_array_size(types) != s->layers)
        return ml_fail(ML_INPUT, "%s: expected a word for each of the %" PRId64 " layers", name,
                       s->layers);
    for (int64_t l = 0; l < s->layers; l++) {
        const char *word = json_string_value(json_array_get(types, (size_t)l));
        bool full = !strcmp(word, "full_attention");
        if (!full && strcmp(word, "sliding_attention") != 0)
            return ml_fail(ML_INPUT,
                           "%s: \"%s\" is not known; known are full_attention, sliding_attention",
                           name, word);
        if (!full && s->window == 0)
            return ml_fail(ML_INPUT, "%s: layer %" PRId64 " has a window, but none is given", name,
                           l);
        if (full && s->window > 0) ml_layer_set_add(&s->full_layers, l);
    }
    return ML_OK;
}

/* Which layers have none, where no list of words says it. */
static ml_status read_full_layers(const json_t *o, const ml_window_keys *keys, ml_model_spec *s)
{
    ml_status st = ML_OK;
    int64_t first = 0, every = keys->full_every;
    if (keys->first_layer)
        ML_TRY(hf_get_int(o, keys->first_layer, &keys->default_first_layer, &first));
    if (keys->every) ML_TRY(hf_get_int(o, keys->every, &keys->full_every, &every));
    if (every < 0)
        return ml_fail(ML_INPUT, "%s: %" PRId64 ", expected at least 1", keys->every, every);
    for (int64_t l = 0; l < ml_min(s->layers, ML_LAYER_SET); l++)
        if (l < first || (every > 0 && (l + !keys->first_full) % every == 0) ||
            (keys->unrotated && !ml_layer_set_has(&s->unrotated_layers, l)))
            ml_layer_set_add(&s->full_layers, l);
done:
    return st;
}

ml_status hf_windows_read(const json_t *o, const ml_window_keys *keys, ml_model_spec *s)
{
    ml_status st = ML_OK;
    const json_t *size = keys->size ? json_object_get(o, keys->size) : NULL;
    if (!keys->size) return ML_OK;
    bool on = keys->on ? hf_get_bool(o, keys->on, false) : true;
    if (on && !json_is_null(size))
        ML_TRY(hf_get_int(o, keys->size, &keys->default_size, &s->window));
    if (on && json_is_integer(size) && s->window < 1) /* 0 is no window: nothing would be seen */
        return ml_fail(ML_INPUT, "%s: %" PRId64 ", expected at least 1, or null", keys->size,
                       s->window);
    const json_t *types = keys->types ? json_object_get(o, keys->types) : NULL;
    bool by_layer = keys->types || keys->first_layer;
    if (by_layer && s->window > 0 && s->layers > ML_LAYER_SET)
        return ml_fail(ML_INPUT, "%s: for at most %d layers", keys->size, (int)ML_LAYER_SET);
    if (types && !json_is_null(types)) return read_layer_types(types, keys->types, s);
    return s->window > 0 && by_layer ? read_full_layers(o, keys, s) : ML_OK;
done:
    return st;
}

/* layer_types says more than first_layer can, and every reader that knows it heeds it. */
int hf_windows_write(json_t *o, const ml_model_spec *s)
{
    const ml_window_keys *keys = &s->family->hf.windows;
    int failed = json_object_set_new(o, keys->size,
                                     s->window ? json_integer((json_int_t)s->window) : json_null());
    if (keys->on) failed |= json_object_set_new(o, keys->on, json_boolean(s->window > 0));
    int64_t full = 0;
    json_t *types = json_array();
    for (int64_t l = 0; l < ml_min(s->layers, ML_LAYER_SET); l++) {
        bool is_full = !ml_model_is_sliding(s, l);
        if (is_full && full == l) full++;
        failed |= json_array_append_new(
            types, json_string(is_full ? "full_attention" : "sliding_attention"));
    }
    if (keys->first_layer)
        failed |= json_object_set_new(o, keys->first_layer, json_integer((json_int_t)full));
    if (keys->types) return failed | json_object_set_new(o, keys->types, types);
    json_decref(types);
    return failed;
}
