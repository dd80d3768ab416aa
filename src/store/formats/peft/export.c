/* Writing a PEFT directory: adapter_config.json and adapter_model.safetensors, as PEFT itself
 * would save them. */
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>

#include "io/durable.h"
#include "io/json.h"
#include "store/formats/huggingface/export_directory.h"
#include "store/formats/peft/export.h"
#include "store/formats/peft/fuse.h"
#include "store/formats/peft/masked_head.h"
#include "store/formats/peft/prompt.h"
#include "store/formats/peft/stored.h"
#include "store/formats/peft/token_rows.h"

static const char config_name[] = "adapter_config.json",
                  tensors_name[] = "adapter_model.safetensors";
static const char *const own_names[] = {config_name, tensors_name, NULL};
enum { PATH = 112 };

typedef struct export
{
    const ml_adapter *adapter;
    const ml_model_spec *spec;
    ml_peft_module *modules;
    ml_peft_stored stored; /* what trained of the base itself */
    int64_t count;
    int64_t rank; /* of the configuration; modules that differ stand in the patterns */
    double alpha;
    ml_head_kind head;
    bool masked; /* a new head for masked tokens stands beside the factors */
    int64_t
        layers; /* that names without a layer's number mean: all, or those in layers_to_transform */
}
export;

static ml_status no_memory(void) { return ml_fail(ML_RESOURCE, "out of memory: %s", config_name); }

static json_t *number(double x)
{
    return floor(x) == x && fabs(x) < 1e15 ? json_integer((json_int_t)x) : json_real(x);
}

static int64_t count_of(const export *e, const char *module)
{
    int64_t n = 0;
    for (int64_t i = 0; i < e->count; i++) n += !strcmp(e->modules[i].module, module);
    return n;
}

/* Modules stand in the model's order: whether another layer than before begins with the i-th. */
static bool begins_layer(const export *e, int64_t i)
{
    if (e->modules[i].layer < 0) return false;
    return i == 0 || e->modules[i].layer != e->modules[i - 1].layer;
}

/* Where some layers have the same modules and the others none, these layers can be listed. */
static int64_t layers_meant(const export *e)
{
    int64_t layers = 0;
    for (int64_t i = 0; i < e->count; i++) layers += begins_layer(e, i);
    if (layers == 0) return e->spec->layers;
    for (int64_t i = 0; i < e->count; i++)
        if (e->modules[i].layer >= 0 && count_of(e, e->modules[i].module) != layers)
            return e->spec->layers;
    return layers;
}

static json_t *layers_to_transform(const export *e)
{
    if (e->layers == e->spec->layers) return json_null();
    json_t *list = json_array();
    for (int64_t i = 0; i < e->count; i++)
        if (begins_layer(e, i) && json_array_append_new(list, json_integer(e->modules[i].layer)))
            break;
    return list;
}

/* Modules of an encoder without a new head are named as the bare model has them, without the
 * family's prefix. */
static void leave_prefix_out(const export *e, char *name)
{
    const char *prefix = e->spec->family->hf.prefix;
    size_t n = strlen(prefix);
    if (e->spec->both_ways && e->head == ML_HEAD_LANGUAGE && !e->masked &&
        !strncmp(name, prefix, n))
        memmove(name, name + n, strlen(name + n) + 1);
}

static void path_of(const export *e, const ml_family_tensor *row, int64_t layer, char out[PATH])
{
    ml_peft_path(e->spec->family, row, layer, out, PATH);
    leave_prefix_out(e, out);
}

/* NULL: PEFT has no word for masked tokens. */
static const char *task_type(const export *e)
{
    if (e->masked) return NULL;
    if (e->head == ML_HEAD_SEQUENCE) return "SEQ_CLS";
    if (e->head == ML_HEAD_TOKENS) return "TOKEN_CLS";
    return e->spec->both_ways ? "FEATURE_EXTRACTION" : "CAUSAL_LM";
}

/* Whether all layers in question have this module; with `alike` also with the same rank and alpha
 * as m. */
static bool in_every_layer(const export *e, const char *module, const ml_peft_module *alike)
{
    int64_t layers = 0;
    for (int64_t i = 0; i < e->count; i++) {
        const ml_peft_module *m = &e->modules[i];
        if (strcmp(m->module, module) != 0) continue;
        if (alike && (m->rank != alike->rank || m->alpha != alike->alpha)) return false;
        layers++;
    }
    return layers == e->layers;
}

/* "q_proj" of "self_attn.q_proj"; OPT has "fc1" alone. */
static const char *last_word(const char *module)
{
    const char *dot = strrchr(module, '.');
    return dot ? dot + 1 : module;
}

/* Whether all modules that end in this word are adapted in every layer (GPT-2's attn.c_proj and
 * mlp.c_proj end alike). */
static bool means_no_other(const export *e, const char *last)
{
    for (const ml_family_tensor *row = ml_model_target(e->spec, e->spec->family->tensors); row;
         row = ml_model_target(e->spec, row + 1)) {
        const char *module = ml_peft_module_name(row);
        if (!strcmp(last_word(module), last) && !in_every_layer(e, module, NULL)) return false;
    }
    return true;
}

/* Whether the name means a module of another kind as well, which is not adapted in every layer:
 * BERT has output.dense and attention.output.dense. An encoder may have a pooler beside them, whose
 * `dense` nobody means. */
static bool means_another(const export *e, const char *module)
{
    for (const ml_family_tensor *row = ml_model_target(e->spec, e->spec->family->tensors); row;
         row = ml_model_target(e->spec, row + 1)) {
        const char *other = ml_peft_module_name(row);
        if (strcmp(other, module) != 0 && ml_peft_ends_with(other, module) &&
            (e->spec->both_ways || !in_every_layer(e, other, NULL)))
            return true;
    }
    return false;
}

/* PEFT's fan_in_fan_out: the weights of the modules are stored in × out. */
static bool is_transposed(const ml_family *family)
{
    return ml_family_target(family->tensors)->hf.layout == ML_LAYOUT_TRANSPOSED;
}

/* The shortest name in target_modules that means exactly this module: of all layers, or its whole
 * path. */
static void target_name(const export *e, const ml_peft_module *m, char out[PATH])
{
    if (m->layer < 0 || !in_every_layer(e, m->module, NULL)) {
        path_of(e, m->row, m->layer, out);
        return;
    }
    const char *last = last_word(m->module);
    if (means_no_other(e, last) && !means_another(e, last))
        snprintf(out, PATH, "%s", last);
    else if (!means_another(e, m->module))
        snprintf(out, PATH, "%s", m->module);
    else
        path_of(e, m->row, m->layer, out);
}

static bool contains(const json_t *list, const char *word)
{
    for (size_t i = 0; i < json_array_size(list); i++)
        if (!strcmp(json_string_value(json_array_get(list, i)), word)) return true;
    return false;
}

static json_t *target_modules(const export *e)
{
    json_t *list = json_array();
    char name[PATH];
    for (int64_t i = 0; i < e->count; i++) {
        target_name(e, &e->modules[i], name);
        if (!contains(list, name) && json_array_append_new(list, json_string(name))) break;
    }
    return list;
}

/* rank_pattern or alpha_pattern: the modules that differ from the configuration's own value. */
static json_t *pattern(const export *e, bool rank)
{
    json_t *object = json_object();
    char name[PATH];
    for (int64_t i = 0; i < e->count; i++) {
        const ml_peft_module *m = &e->modules[i];
        if (rank ? m->rank == e->rank : m->alpha == e->alpha) continue;
        if (m->layer >= 0 && in_every_layer(e, m->module, m) && !means_another(e, m->module))
            snprintf(name, sizeof name, "%s", m->module);
        else
            path_of(e, m->row, m->layer, name);
        if (json_object_set_new(object, name, rank ? json_integer(m->rank) : number(m->alpha)))
            break;
    }
    return object;
}

/* r and lora_alpha: those of all modules where they agree, since some readers know no patterns;
 * else those of the first pair. */
static void choose_own(export *e)
{
    const ml_peft_module *first = &e->modules[0];
    bool alike = true;
    for (int64_t i = 1; i < e->count; i++)
        alike = alike && e->modules[i].rank == first->rank && e->modules[i].alpha == first->alpha;
    e->rank = alike ? first->rank : e->adapter->pairs[0].rank;
    e->alpha = alike ? first->alpha : e->adapter->pairs[0].alpha;
}

/* ---- tensors of the base ------------------------------------------------------------------- */

/* "model.norm" of "model.norm.weight". */
static void module_of(const ml_safetensors_item *item, char path[PATH])
{
    snprintf(path, PATH, "%.*s", (int)(strrchr(item->name, '.') - item->name), item->name);
}

static bool is_adapted(const export *e, const char *module)
{
    char path[PATH];
    for (int64_t i = 0; i < e->count; i++) {
        path_of(e, e->modules[i].row, e->modules[i].layer, path);
        if (!strcmp(path, module)) return true;
    }
    return false;
}

/* Heads are saved as a whole: "classifier" of RoBERTa's classifier.dense, "cls" or "lm_head" of one
 * for masked tokens. */
static void whole_head(const export *e, char path[PATH])
{
    static const char classifier[] = "classifier.";
    const char *prefix = e->spec->family->hf.prefix;
    if (!strncmp(path, classifier, strlen(classifier) - 1) ||
        (e->masked && strncmp(path, prefix, strlen(prefix)) != 0))
        path[strcspn(path, ".")] = '\0';
}

static json_t *modules_to_save(const export *e)
{
    json_t *list = json_array();
    char path[PATH];
    for (int64_t i = 0; i < e->stored.count; i++) {
        module_of(&e->stored.items[i], path);
        whole_head(e, path);
        if (e->stored.bias_alone[i] || contains(list, path)) continue;
        if (json_array_append_new(list, json_string(path))) break;
    }
    if (json_array_size(list) > 0) return list;
    json_decref(list);
    return json_null();
}

/* Which biases PEFT would have trained. */
static const char *biases(const export *e)
{
    const char *word = "none";
    char path[PATH];
    for (int64_t i = 0; i < e->stored.count; i++) {
        if (!e->stored.bias_alone[i]) continue;
        module_of(&e->stored.items[i], path);
        if (!is_adapted(e, path)) return "all";
        word = "lora_only";
    }
    return word;
}

/* The bias of an adapted module belongs to the layer that PEFT has wrapped. */
static void put_saved(const export *e, ml_safetensors_item *items, int64_t *count)
{
    char path[PATH];
    for (int64_t i = 0; i < e->stored.count; i++) {
        ml_safetensors_item *to = &items[(*count)++];
        *to = e->stored.items[i];
        module_of(to, path);
        bool wrapped = e->stored.bias_alone[i] && is_adapted(e, path);
        snprintf(to->name, sizeof to->name, "base_model.model.%s%s%s", path,
                 wrapped ? ".base_layer" : "", strrchr(e->stored.items[i].name, '.'));
    }
}

static json_t *lora_config(const export *e, const char *base_name)
{
    return json_pack(
        "{s:s,s:s?,s:I,s:o,s:f,s:o,s:b,s:s,s:b,s:b,s:b,s:s?,s:o,s:o,s:n,s:o,s:o,s:b,s:o}",
        "peft_type", "LORA", "task_type", task_type(e), "r", (json_int_t)e->rank, "lora_alpha",
        number(e->alpha), "lora_dropout", e->adapter->dropout, "target_modules", target_modules(e),
        "fan_in_fan_out", is_transposed(e->spec->family), "bias", biases(e), "use_rslora",
        e->adapter->rslora, "use_dora", e->adapter->pairs[0].m != NULL, "inference_mode", 1,
        "base_model_name_or_path", base_name, "modules_to_save", modules_to_save(e),
        "layers_to_transform", layers_to_transform(e), "layers_pattern", "rank_pattern",
        pattern(e, true), "alpha_pattern", pattern(e, false), "init_lora_weights", 1,
        "trainable_token_indices", ml_peft_token_indices(e->adapter, e->spec));
}

static ml_status config_text(json_t *config, ml_text *out)
{
    char *text = config ? ml_json_dump(config, JSON_INDENT(2)) : NULL;
    json_decref(config);
    if (!text) return no_memory();
    ml_status st = ml_text_printf(out, "%s\n", text);
    free(text);
    return st;
}

ml_status ml_peft_write(const char *directory, json_t *config, const ml_safetensors_item *items,
                        int64_t count)
{
    ml_status st = ML_OK;
    ml_text text = {0}, tensors = {0};
    bool made = false;
    ML_TRY(config_text(config, &text));
    ML_TRY(ml_safetensors_image(items, count, &tensors));
    ML_TRY(export_directory_make(directory, own_names, &made));
    ML_TRY(export_directory_put(directory, tensors_name, &tensors));
    ML_TRY(export_directory_put(directory, config_name, &text));
done:
    if (made) st = export_directory_end(st, directory, own_names);
    ml_text_destroy(&tensors);
    ml_text_destroy(&text);
    return st;
}

static ml_status write_modules(const export *e, const char *base_name, const char *directory)
{
    ml_status st = ML_OK;
    ml_safetensors_item *items = NULL;
    char path[PATH];
    int64_t count = 0;
    ML_NEW(items, 3 * e->count + e->adapter->ntensors + e->stored.count, ML_MEM_OTHER,
           "exported tensors");
    for (int64_t i = 0; i < e->count; i++) {
        const ml_peft_module *m = &e->modules[i];
        ml_safetensors_item *a = &items[count++], *b = &items[count++];
        *a = (ml_safetensors_item){.rows = m->rank, .cols = m->in, .values = m->a};
        *b = (ml_safetensors_item){.rows = m->out, .cols = m->rank, .values = m->b};
        path_of(e, m->row, m->layer, path);
        bool embed = m->row->role == ML_ROLE_EMBED; /* which PEFT saves without ".weight" */
        snprintf(a->name, sizeof a->name,
                 embed ? "base_model.model.%s.lora_embedding_A"
                       : "base_model.model.%s.lora_A.weight",
                 path);
        snprintf(b->name, sizeof b->name,
                 embed ? "base_model.model.%s.lora_embedding_B"
                       : "base_model.model.%s.lora_B.weight",
                 path);
        if (!m->m) continue;
        ml_safetensors_item *magnitudes = &items[count++];
        *magnitudes =
            (ml_safetensors_item){.rows = m->out, .cols = 1, .vector = true, .values = m->m};
        snprintf(magnitudes->name, sizeof magnitudes->name,
                 "base_model.model.%s.lora_magnitude_vector", path);
    }
    put_saved(e, items, &count);
    ml_peft_put_tokens(e->adapter, e->spec, items, &count);
    ML_TRY(ml_peft_write(directory, lora_config(e, base_name), items, count));
done:
    ml_memory_free(items);
    return st;
}

ml_status ml_adapter_export_peft(const ml_adapter *adapter, const ml_model_spec *spec,
                                 ml_base *base, const char *base_name, const char *directory)
{
    ml_status st = ML_OK;
    export e = {.adapter = adapter, .spec = spec};
    ML_TRY(export_directory_check(directory, own_names));
    if (adapter->method == ML_METHOD_PREFIX_EMBED || adapter->method == ML_METHOD_PREFIX_KV)
        return ml_peft_prompt_write(adapter, spec, base_name, directory);
    if (adapter->method != ML_METHOD_LORA)
        return ml_fail(ML_USAGE,
                       "the adapter was made by method %s; only those of lora, prefix_embed and "
                       "prefix_kv are exported to PEFT",
                       ml_method_name(adapter->method));
    if (adapter->count == 0)
        return ml_fail(ML_INPUT, "the adapter has no pairs: nothing to export");
    ml_model_spec untied = *spec;
    untied.tied_head = false;
    ML_TRY(ml_adapter_take_head(adapter, &untied));
    e.head = untied.head;
    e.masked = untied.masked;
    ML_TRY(ml_peft_fuse(adapter, spec, &e.modules, &e.count));
    ML_TRY(ml_peft_collect_stored(adapter, &untied, &e.stored));
    if (e.masked) ML_TRY(ml_peft_add_masked_head(&untied, base, &e.stored));
    for (int64_t i = 0; i < e.stored.count; i++) leave_prefix_out(&e, e.stored.items[i].name);
    choose_own(&e);
    e.layers = layers_meant(&e);
    ML_TRY(write_modules(&e, base_name, directory));
done:
    ml_peft_modules_destroy(e.modules, e.count);
    ml_peft_stored_destroy(&e.stored);
    return st;
}
