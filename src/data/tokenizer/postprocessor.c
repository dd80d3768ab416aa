/* Reading templates. */
#include "data/tokenizer/postprocessor.h"

#include <inttypes.h>

#include "data/tokenizer/stages.h"

typedef struct reader {
    ml_postprocessor *to;
    const ml_vocabulary *vocabulary;
} reader;

static ml_status add_part(ml_template *t, json_int_t id, json_int_t type)
{
    ml_status st = ML_OK;
    ML_GROW(t->parts, t->count, t->capacity, ML_MEM_OTHER, "a template");
    t->parts[t->count++] = (ml_template_part){(int32_t)id, (int32_t)type};
done:
    return st;
}

static ml_status add_token(const reader *r, ml_template *t, json_int_t id, json_int_t type)
{
    if (id < 0 || id >= r->vocabulary->size)
        return ml_fail(ML_INPUT, "its token %" JSON_INTEGER_FORMAT " is not in the vocabulary", id);
    return add_part(t, id, type);
}

/* ---- TemplateProcessing -------------------------------------------------------------------- */

static ml_status add_special(const reader *r, ml_template *t, const json_t *specials,
                             const json_t *part)
{
    const char *name = ml_stage_text(part, "id");
    const json_t *ids = json_object_get(json_object_get(specials, name), "ids"), *id;
    json_int_t type = json_integer_value(json_object_get(part, "type_id"));
    size_t i;
    if (!json_is_array(ids)) {
        int32_t found = ml_vocabulary_find(r->vocabulary, name, (int64_t)strlen(name));
        return found < 0 ? ml_fail(ML_INPUT, "its special token \"%s\" is not known", name)
                         : add_part(t, found, type);
    }
    json_array_foreach(ids, i, id)
    {
        ml_status st = add_token(r, t, json_is_integer(id) ? json_integer_value(id) : -1, type);
        if (st != ML_OK) return st;
    }
    return ML_OK;
}

static ml_status read_parts(const reader *r, ml_template *t, const json_t *parts,
                            const json_t *specials)
{
    size_t i;
    json_t *part;
    json_array_foreach(parts, i, part)
    {
        const json_t *text = json_object_get(part, "Sequence"),
                     *special = json_object_get(part, "SpecialToken");
        ml_status st = ML_OK;
        if (json_is_object(special))
            st = add_special(r, t, specials, special);
        else if (json_is_object(text))
            st = add_part(t, strcmp(ml_stage_text(text, "id"), "B") ? ML_TEMPLATE_A : ML_TEMPLATE_B,
                          json_integer_value(json_object_get(text, "type_id")));
        else
            st = ml_fail(ML_INPUT, "part %zu is neither a Sequence nor a SpecialToken", i);
        if (st != ML_OK) return st;
    }
    return ML_OK;
}

static ml_status read_template(const reader *r, const json_t *json)
{
    static const ml_json_key keys[] = {{"single", ML_JSON_ARRAY},
                                       {"pair", ML_JSON_ARRAY | ML_JSON_NULL},
                                       {"special_tokens", ML_JSON_OBJECT | ML_JSON_NULL},
                                       {NULL, 0}};
    ml_status st = ML_OK;
    const json_t *specials = json_object_get(json, "special_tokens");
    ML_TRY(ml_json_check(json, keys));
    ML_TRY(read_parts(r, &r->to->single, json_object_get(json, "single"), specials));
    ML_TRY(read_parts(r, &r->to->pair, json_object_get(json, "pair"), specials));
done:
    return st;
}

/* ---- BERT's and RoBERTa's ------------------------------------------------------------------ */

static ml_status read_pair(const reader *r, const json_t *json, bool bert)
{
    static const ml_json_key keys[] = {{"cls", ML_JSON_ARRAY}, {"sep", ML_JSON_ARRAY}, {NULL, 0}};
    ml_status st = ML_OK;
    ML_TRY(ml_json_check(json, keys));
    const json_t *cls = json_array_get(json_object_get(json, "cls"), 1),
                 *sep = json_array_get(json_object_get(json, "sep"), 1);
    json_int_t begin = json_is_integer(cls) ? json_integer_value(cls) : -1,
               end = json_is_integer(sep) ? json_integer_value(sep) : -1;
    for (int i = 0; i < 2; i++) {
        ml_template *t = i ? &r->to->pair : &r->to->single;
        ML_TRY(add_token(r, t, begin, 0));
        ML_TRY(add_part(t, ML_TEMPLATE_A, 0));
        ML_TRY(add_token(r, t, end, 0));
    }
    if (!bert) ML_TRY(add_token(r, &r->to->pair, end, 0));
    ML_TRY(add_part(&r->to->pair, ML_TEMPLATE_B, bert));
    ML_TRY(add_token(r, &r->to->pair, end, bert));
done:
    return st;
}

/* ---- all ----------------------------------------------------------------------------------- */

static ml_status add_stage(void *self, const char *type, const json_t *json)
{
    const reader *r = self;
    if (!strcmp(type, "ByteLevel")) return ML_OK; /* it moves offsets, which nobody asks for here */
    if (r->to->single.count) return ml_fail(ML_INPUT, "there is a second template");
    if (!strcmp(type, "TemplateProcessing")) return read_template(r, json);
    if (!strcmp(type, "BertProcessing")) return read_pair(r, json, true);
    if (!strcmp(type, "RobertaProcessing")) return read_pair(r, json, false);
    return ml_fail(ML_INPUT, "is not known");
}

ml_status ml_postprocessor_read(ml_postprocessor *p, const json_t *json,
                                const ml_vocabulary *vocabulary)
{
    ml_status st = ML_OK;
    reader r = {p, vocabulary};
    ML_TRY(ml_stages_each(json, "post-processor", "processors", add_stage, &r));
    if (!p->single.count) ML_TRY(add_part(&p->single, ML_TEMPLATE_A, 0));
    if (!p->pair.count) {
        ML_TRY(add_part(&p->pair, ML_TEMPLATE_A, 0));
        ML_TRY(
            add_part(&p->pair, ML_TEMPLATE_B, 1)); /* as `tokenizers` has it without a template */
    }
done:
    return st;
}

void ml_postprocessor_destroy(ml_postprocessor *p)
{
    ml_memory_free(p->single.parts);
    ml_memory_free(p->pair.parts);
    *p = (ml_postprocessor){0};
}
