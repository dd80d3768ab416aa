/* A set is read from the jsonl that `mpilora eval --generate` writes: each line an output with its
 * references. */
#include <inttypes.h>
#include <jansson.h>

#include "io/json.h"
#include "score/characters.h"
#include "score/set.h"
#include "score/text_lines.h"

static ml_status add_references(ml_score_set *set, const json_t *references)
{
    ml_status st = ML_OK;
    if (!references)
        return ml_fail(
            ML_INPUT,
            "there is no \"references\"; expected {\"output\": …, \"references\": [ … ]}");
    if (!json_is_array(references))
        return ml_fail(ML_INPUT, "\"references\" is not a list of strings");
    if (json_array_size(references) == 0)
        return ml_fail(ML_INPUT,
                       "\"references\" is empty; an output needs at least one to be scored");
    for (size_t i = 0; i < json_array_size(references); i++) {
        const json_t *one = json_array_get(references, i);
        if (!json_is_string(one)) return ml_fail(ML_INPUT, "references[%zu] is not a string", i);
        ML_TRY(ml_score_set_add_reference(set, json_string_value(one),
                                          (int64_t)json_string_length(one)));
    }
done:
    return st;
}

static ml_status add_line(ml_score_set *set, const char *line, int64_t length)
{
    ml_status st = ML_OK;
    json_error_t error;
    json_t *object = NULL;
    int64_t wrong = utf8_invalid(line, length);
    if (wrong >= 0) return ml_fail(ML_INPUT, "column %" PRId64 ": not valid UTF-8", wrong + 1);
    st = ml_json_parse(&object, line, length, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
    if (st != ML_OK) return ml_fail_within(st, "column %d: not valid JSON", error.column);
    const json_t *output = json_object_get(object, "output");
    if (!json_is_object(object)) {
        st =
            ml_fail(ML_INPUT, "not a JSON object; expected {\"output\": …, \"references\": [ … ]}");
    } else if (!output) {
        st = ml_fail(ML_INPUT,
                     "there is no \"output\"; expected {\"output\": …, \"references\": [ … ]}");
    } else if (!json_is_string(output)) {
        st = ml_fail(ML_INPUT, "\"output\" is not a string");
    } else {
        ML_TRY(ml_score_set_add_output(set, json_string_value(output),
                                       (int64_t)json_string_length(output)));
        ML_TRY(add_references(set, json_object_get(object, "references")));
    }
done:
    json_decref(object);
    return st;
}

ml_status ml_score_set_read_jsonl(ml_score_set **out, const char *path)
{
    ml_status st = ML_OK;
    ml_score_set *set = NULL;
    text_lines file = {0};
    const char *line;
    int64_t length;
    ML_TRY(text_lines_open(&file, path));
    ML_TRY(ml_score_set_create(&set));
    while (text_lines_next(&file, &line, &length)) {
        const char *text = line;
        int64_t left = length;
        while (left > 0 && (*text == ' ' || *text == '\t' || *text == '\r')) text++, left--;
        if (left == 0) continue;
        st = add_line(set, line, length);
        if (st == ML_INPUT) st = ml_fail_within(st, "%s: line %" PRId64, path, file.number);
        if (st != ML_OK) goto done;
    }
    if (ml_score_set_items(set) == 0)
        st = ml_fail(ML_INPUT, "%s: no line has an output; there is nothing to score", path);
done:
    text_lines_close(&file);
    if (st != ML_OK) {
        ml_score_set_destroy(set);
        set = NULL;
    }
    *out = set;
    return st;
}
