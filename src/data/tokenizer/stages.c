/* Walking through the stages of a tokenizer.json. */
#include "data/tokenizer/stages.h"

static ml_status walk(const json_t *json, const char *part, const char *list, int depth,
                      ml_status (*one)(void *self, const char *type, const json_t *json),
                      void *self)
{
    if (!json || json_is_null(json)) return ML_OK;
    const char *type = json_string_value(json_object_get(json, "type"));
    if (!type) return ml_fail(ML_INPUT, "the %s is not an object with a \"type\"", part);
    if (strcmp(type, "Sequence") != 0) {
        ml_status st = one(self, type, json);
        return st == ML_INPUT ? ml_fail_within(st, "the %s \"%s\"", part, type) : st;
    }
    const json_t *stages = json_object_get(json, list), *stage;
    if (!json_is_array(stages) || depth == ML_DEEPEST_SEQUENCE)
        return ml_fail(ML_INPUT, "the %s \"Sequence\" has no list \"%s\", or lies too deep", part,
                       list);
    size_t i;
    json_array_foreach(stages, i, stage)
    {
        ml_status st = walk(stage, part, list, depth + 1, one, self);
        if (st != ML_OK) return st;
    }
    return ML_OK;
}

ml_status ml_stages_each(const json_t *json, const char *part, const char *list,
                         ml_status (*one)(void *self, const char *type, const json_t *json),
                         void *self)
{
    return walk(json, part, list, 0, one, self);
}

const char *ml_stage_text(const json_t *json, const char *key)
{
    const char *text = json_string_value(json_object_get(json, key));
    return text ? text : "";
}

bool ml_stage_flag(const json_t *json, const char *key, bool absent)
{
    const json_t *value = json_object_get(json, key);
    return json_is_boolean(value) ? json_is_true(value) : absent;
}
