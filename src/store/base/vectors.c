/* What makes a base's files those of a directory of sentence-transformers: the names of classes and
 * keys that its releases from 2 on read. */
#include <inttypes.h>
#include <stdlib.h>

#include "io/json.h"
#include "mpilora/store.h"

static ml_status put(ml_base_files *files, const char *name, json_t *root)
{
    ml_text *content = ml_base_files_place(files, name);
    char *text = root ? ml_json_dump(root, JSON_INDENT(2)) : NULL;
    content->length = 0;
    ml_status st = text ? ml_text_printf(content, "%s\n", text)
                        : ml_fail(ML_RESOURCE, "%s: out of memory", name);
    free(text);
    json_decref(root);
    return st;
}

static json_t *module(int at, const char *path, const char *type)
{
    char class[64];
    snprintf(class, sizeof class, "sentence_transformers.models.%s", type);
    return json_pack("{s:i,s:o,s:s,s:s}", "idx", at, "name", json_sprintf("%d", at), "path", path,
                     "type", class);
}

static json_t *describe_modules(bool normalised)
{
    json_t *list = json_array();
    int failed = json_array_append_new(list, module(0, "", "Transformer")) |
                 json_array_append_new(list, module(1, "1_Pooling", "Pooling"));
    if (normalised) failed |= json_array_append_new(list, module(2, "2_Normalize", "Normalize"));
    if (!failed) return list;
    json_decref(list);
    return NULL;
}

static json_t *describe_pooling(int64_t width, const char *pooling)
{
    return json_pack("{s:I,s:b,s:b,s:b,s:b,s:b,s:b,s:b}", "word_embedding_dimension",
                     (json_int_t)width, "pooling_mode_cls_token", !strcmp(pooling, "cls"),
                     "pooling_mode_mean_tokens", !strcmp(pooling, "mean"),
                     "pooling_mode_max_tokens", 0, "pooling_mode_mean_sqrt_len_tokens", 0,
                     "pooling_mode_weightedmean_tokens", 0, "pooling_mode_lasttoken",
                     !strcmp(pooling, "last"), "include_prompt", 1);
}

/* tokenizer_config.json's, which may be beyond 64 bits; at most the context. */
static ml_status find_length(const ml_base_files *files, int64_t context, int64_t *length)
{
    static const char name[] = "tokenizer_config.json";
    const ml_text *content = ml_base_files_find(files, name);
    json_t *root = NULL;
    json_error_t error;
    ml_status st = content ? ml_json_parse(&root, content->data, content->length,
                                           JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL, &error)
                           : ML_OK;
    double said = json_number_value(json_object_get(root, "model_max_length"));
    *length = said >= 1.0 && said < (double)context ? (int64_t)said : context;
    json_decref(root);
    return st == ML_OK ? ML_OK : ml_fail_within(st, "%s", name);
}

ml_status ml_base_files_make_vectors(ml_base_files *files, const ml_model_spec *spec,
                                     const char *pooling, bool normalised)
{
    ml_status st = ML_OK;
    int64_t length;
    ML_TRY(put(files, "modules.json", describe_modules(normalised)));
    ML_TRY(put(files, "1_Pooling/config.json", describe_pooling(spec->width, pooling)));
    if (ml_base_files_find(files, "sentence_bert_config.json")) goto done;
    ML_TRY(find_length(files, spec->context, &length));
    ML_TRY(put(files, "sentence_bert_config.json",
               json_pack("{s:I,s:b}", "max_seq_length", (json_int_t)length, "do_lower_case", 0)));
done:
    return st;
}
