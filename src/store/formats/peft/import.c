/* Reading a PEFT directory: LoRA's factors, the embeddings of prompt tuning, or the keys and
 * values of prefix tuning. Every module that the configuration means must have both factors, and
 * every tensor must belong to one of them: nothing is dropped, nothing stays silently zero. */
#include <inttypes.h>
#include <math.h>

#include "io/durable.h"
#include "store/adapter/adapter.h"
#include "store/formats/peft/changed_base.h"
#include "store/formats/peft/config.h"
#include "store/formats/peft/embeddings.h"
#include "store/formats/peft/fuse.h"
#include "store/formats/peft/masked_head.h"
#include "store/formats/peft/prompt.h"
#include "store/formats/peft/stored.h"
#include "store/formats/peft/token_rows.h"
#include "store/formats/safetensors/safetensors.h"

static const char config_name[] = "adapter_config.json",
                  tensors_name[] = "adapter_model.safetensors", pickle_name[] = "adapter_model.bin";
static const int64_t largest_config = 1 << 20;
static const char magnitude[] = "lora_magnitude_vector"; /* as PEFT saves it, without ".weight" */
enum { PATH = 128, NAME = ML_PEFT_NAME, MODULES_A_LAYER = 9 };

typedef struct import {
    const ml_model_spec *spec; /* with the head that the adapter brings */
    ml_model_spec own;
    ml_base *base; /* NULL: only its specification is at hand */
    ml_peft_config config;
    ml_safetensors *tensors;
    bool *used; /* [tensors] */
    ml_adapter *out;
    int64_t capacity;
} import;

/* ---- names --------------------------------------------------------------------------------- */

static const char *without(const char *name, const char *prefix)
{
    size_t n = strlen(prefix);
    return strncmp(name, prefix, n) != 0 ? name : name + n;
}

/* Whether a tensor's name is the factor of the module's path: with or without "base_model.model.",
 * the model's own prefix, "default", ".weight" (which magnitudes and factors of embeddings lack).
 */
static bool is_factor(const ml_model_spec *spec, const char *name, const char *path,
                      const char *factor)
{
    const char *prefix = spec->family->hf.prefix;
    char plain[NAME];
    ml_peft_plain_name(spec->family, name, plain);
    name = without(plain, prefix);
    path = without(path, prefix);
    size_t n = strlen(path), m = strlen(factor);
    if (strncmp(name, path, n) != 0 || name[n] != '.' || strncmp(name + n + 1, factor, m) != 0)
        return false;
    const char *rest = name + n + 1 + m;
    return !strcmp(rest, ".weight") || !strcmp(rest, ".default.weight") || !*rest ||
           !strcmp(rest, ".default");
}

static ml_status find_factor(import *in, const char *path, const char *factor,
                             const ml_safetensors_entry **found)
{
    *found = NULL;
    for (int64_t i = 0; i < ml_safetensors_count(in->tensors); i++) {
        const ml_safetensors_entry *e = ml_safetensors_at(in->tensors, i);
        if (in->used[i] || !is_factor(in->spec, e->name, path, factor)) continue;
        if (*found)
            return ml_fail(ML_INPUT, "%s and %s are the same factor", (*found)->name, e->name);
        *found = e;
        in->used[i] = true;
    }
    return ML_OK;
}

/* ---- one module ---------------------------------------------------------------------------- */

static ml_status check_shape(const ml_safetensors_entry *e, int64_t rows, int64_t cols)
{
    int64_t found_rows = e->dims > 0 ? e->shape[0] : 0, found_cols = e->dims > 1 ? e->shape[1] : 0;
    if (e->dims == 2 && found_rows == rows && found_cols == cols) return ML_OK;
    return ml_fail(ML_INPUT,
                   "%s: is %" PRId64 " × %" PRId64 " (%d dimensions), expected %" PRId64
                   " × %" PRId64 " (rank and the base's width)",
                   e->name, found_rows, found_cols, e->dims, rows, cols);
}

static ml_status read_magnitudes(import *in, const char *path, ml_adapter_pair *pair)
{
    ml_status st = ML_OK;
    const ml_safetensors_entry *m;
    ML_TRY(find_factor(in, path, magnitude, &m));
    if (!m)
        return ml_fail(ML_INPUT, "%s: use_dora is true, but %s of %s is missing", tensors_name,
                       magnitude, path);
    if (m->dims != 1 || m->shape[0] != pair->out)
        return ml_fail(ML_INPUT,
                       "%s: has %d dimensions and %" PRId64
                       " numbers, expected a vector of %" PRId64,
                       m->name, m->dims, m->count, pair->out);
    ML_TRY(ml_adapter_add_magnitudes(pair));
    ML_TRY(ml_safetensors_read(in->tensors, m, 0, m->count, pair->m));
done:
    return st;
}

/* values[out, cols] in the order of the module's outputs become those of the target's. */
static ml_status reorder(const ml_model_spec *spec, const ml_family_tensor *row, int64_t out,
                         int64_t cols, float *values)
{
    ml_status st = ML_OK;
    int64_t *rows = NULL;
    float *stored = NULL;
    ML_NEW(rows, out, ML_MEM_OTHER, "the rows of an adapter");
    ML_NEW(stored, out * cols, ML_MEM_OTHER, "the rows of an adapter");
    ml_peft_rows(spec, row, rows);
    memcpy(stored, values, (size_t)(out * cols) * sizeof *values);
    for (int64_t i = 0; i < out; i++)
        memcpy(values + i * cols, stored + rows[i] * cols, (size_t)cols * sizeof *values);
done:
    ml_memory_free(rows);
    ml_memory_free(stored);
    return st;
}

static ml_status read_pair(import *in, const ml_family_tensor *row, int64_t layer, const char *path,
                           const ml_safetensors_entry *a, const ml_safetensors_entry *b)
{
    ml_status st = ML_OK;
    int64_t rank, width_in, width_out;
    double alpha;
    char module[64];
    ml_adapter_pair *pair;
    ml_module_shape(in->spec, row, &width_in, &width_out);
    ML_TRY(ml_peft_config_rank(&in->config, path, &rank));
    ML_TRY(ml_peft_config_alpha(&in->config, path, &alpha));
    ML_TRY(check_shape(a, rank, width_in));
    ML_TRY(check_shape(b, width_out, rank));
    if (layer < 0)
        snprintf(module, sizeof module, "%s", row->module);
    else
        snprintf(module, sizeof module, "layers.%" PRId64 ".%s", layer, row->module);
    ML_TRY(ml_adapter_add(in->out, &in->capacity, module, rank, width_in, width_out, &pair));
    pair->alpha = alpha;
    pair->scale = ml_adapter_scale(alpha, rank, in->config.rslora);
    ML_TRY(ml_safetensors_read(in->tensors, a, 0, a->count, pair->a));
    ML_TRY(ml_safetensors_read(in->tensors, b, 0, b->count, pair->b));
    if (layer >= 0) ML_TRY(reorder(in->spec, row, width_out, rank, pair->b));
    if (in->config.start != ML_PEFT_START_PLAIN) {
        if (!in->base || layer < 0)
            return ml_peft_refuse_start(
                json_string_value(json_object_get(in->config.json, "init_lora_weights")));
        ML_TRY(ml_peft_add_start(pair, in->config.start, in->config.rslora, row, layer, in->base));
    }
    if (in->config.dora) {
        ML_TRY(read_magnitudes(in, path, pair));
        if (layer >= 0) ML_TRY(reorder(in->spec, row, width_out, 1, pair->m));
    }
done:
    return st;
}

/* Whether the module of this path has factors. With ensure_weight_tying PEFT gives a head that is
 * tied to the embedding factors beside it where one of the two is meant, whichever that is. */
static ml_status find_whether_wanted(const import *in, const ml_family_tensor *row, int64_t layer,
                                     const char *path, bool *wanted)
{
    ml_status st = ML_OK;
    bool embed = row->role == ML_ROLE_EMBED;
    char other[PATH];
    ML_TRY(ml_peft_config_targets(&in->config, path, layer, wanted));
    if (*wanted || !(embed || row->role == ML_ROLE_HEAD) || !in->spec->tied_head ||
        !ml_peft_config_ties(&in->config))
        return ML_OK;
    ml_peft_path(in->spec->family,
                 ml_family_end(in->spec->family, embed ? ML_ROLE_HEAD : ML_ROLE_EMBED), -1, other,
                 sizeof other);
    ML_TRY(ml_peft_config_targets(&in->config, other, -1, wanted));
done:
    return st;
}

static ml_status read_module(import *in, const ml_family_tensor *row, int64_t layer)
{
    ml_status st = ML_OK;
    char path[PATH];
    bool wanted;
    const ml_safetensors_entry *a, *b;
    ml_peft_path(in->spec->family, row, layer, path, sizeof path);
    ML_TRY(find_whether_wanted(in, row, layer, path, &wanted));
    if (!wanted) return ML_OK;
    bool embed = row->role == ML_ROLE_EMBED;
    if (embed && in->config.dora)
        return ml_fail(ML_INPUT,
                       "%s: use_dora is true and target_modules means %s: magnitudes of an "
                       "embedding are not supported (merge it into the base with PEFT first)",
                       config_name, path);
    ML_TRY(find_factor(in, path, embed ? "lora_embedding_A" : "lora_A", &a));
    ML_TRY(find_factor(in, path, embed ? "lora_embedding_B" : "lora_B", &b));
    if (!a || !b)
        return ml_fail(ML_INPUT,
                       "%s: target_modules means %s, but its lora_%c is missing (expected "
                       "base_model.model.%s.lora_%s%c%s)",
                       tensors_name, path, a ? 'B' : 'A', path, embed ? "embedding_" : "",
                       a ? 'B' : 'A', embed ? "" : ".weight");
    ML_TRY(read_pair(in, row, layer, path, a, b));
done:
    return st;
}

/* A fused module stands for its parts together, not for each of them. */
static bool is_whole_module(const ml_model_spec *spec, const ml_family_tensor *row)
{
    const ml_family_tensor *fused = ml_family_fused(spec->family, row);
    return !fused || fused == row;
}

/* ---- tensors of the base ------------------------------------------------------------------- */

/* "….c_attn.base_layer.bias", of a module that PEFT has wrapped, is the bias of c_attn. */
static bool is_bias(const import *in, const char *name, char plain[NAME])
{
    static const char wrapped[] = ".base_layer.bias";
    size_t n = strlen(name), m = sizeof wrapped - 1;
    snprintf(plain, NAME, "%s", name);
    if (n > m && !strcmp(name + n - m, wrapped)) snprintf(plain + n - m, NAME - n + m, ".bias");
    n = strlen(plain);
    return in->config.biases && n > 5 && !strcmp(plain + n - 5, ".bias");
}

/* `name` lacks prefixes: a tensor of a module that modules_to_save names, whose wrapper's name PEFT
 * leaves out, or a bias that was trained. */
static ml_status find_saved(import *in, const ml_safetensors_entry *e, const char *name,
                            bool *found)
{
    ml_model_spec untied = *in->spec;
    char bias[NAME], path[PATH];
    bool is_trained = is_bias(in, name, bias);
    untied.tied_head = *found = false;
    if (is_trained) name = bias;
    for (int64_t i = 0; i < ml_model_tensor_count(&untied) && !*found; i++) {
        ml_model_tensor t;
        ml_model_tensor_at(&untied, i, &t);
        if (!ml_peft_is_stored(&untied, &t, name)) continue;
        ml_peft_path(in->spec->family, t.row, t.layer, path, sizeof path);
        *found = is_trained || ml_peft_config_saves(&in->config, path, t.layer < 0);
    }
    return *found ? ml_peft_read_stored(in->tensors, e, name, &untied, in->out) : ML_OK;
}

/* A head, which the file has whole beside the factors: how many labels one for labels has stands
 * nowhere else. */
static ml_status find_head(import *in, const ml_model_spec *base)
{
    const char *task = json_string_value(json_object_get(in->config.json, "task_type"));
    bool tokens = task && !strcmp(task, "TOKEN_CLS"),
         scores = tokens || (task && !strcmp(task, "SEQ_CLS"));
    ml_head_kind kind = tokens ? ML_HEAD_TOKENS : ML_HEAD_SEQUENCE;
    in->own = *base;
    in->spec = &in->own;
    for (const ml_family_tensor *row = base->family->tensors; row->module; row++) {
        if (row->role != ML_ROLE_CLASSIFY || row->bias || ml_family_head(row) != kind) continue;
        for (int64_t i = 0; i < ml_safetensors_count(in->tensors); i++) {
            const ml_safetensors_entry *e = ml_safetensors_at(in->tensors, i);
            char plain[NAME];
            ml_peft_plain_name(in->spec->family, e->name, plain);
            if (strcmp(plain, row->hf.name) != 0) continue;
            if (base->head != ML_HEAD_LANGUAGE && e->dims > 0 &&
                (base->labels != e->shape[0] || base->head != kind))
                return ml_fail(ML_INPUT,
                               "%s: is for %" PRId64 " labels (%s), the base's head is for %" PRId64
                               " (%s)",
                               e->name, e->shape[0], ml_head_words[kind], base->labels,
                               ml_head_words[base->head]);
            in->own.head = kind;
            in->own.labels = e->dims > 0 ? e->shape[0] : 0;
        }
    }
    if (scores && in->own.head != kind)
        return ml_fail(ML_INPUT,
                       "task_type: is %s, but neither %s nor the base has such a head for labels "
                       "(base_model.model.score.weight)",
                       task, tensors_name);
    ml_peft_find_masked_head(in->tensors, &in->own);
    return ml_model_spec_check(&in->own, ML_INPUT);
}

/* PEFT lists both, whichever the model has. */
static bool is_head_of_either(const import *in, const char *name)
{
    return in->spec->head != ML_HEAD_LANGUAGE &&
           (!strcmp(name, "score") || !strcmp(name, "classifier"));
}

/* Rows of single tokens. */
static ml_status read_tokens(import *in)
{
    ml_status st = ML_OK;
    for (int head = 0; head < 2; head++) {
        const json_t *list;
        const ml_safetensors_entry *e;
        char path[PATH];
        ML_TRY(ml_peft_token_list(&in->config, in->spec, head, &list));
        if (!list) continue;
        ml_peft_path(in->spec->family,
                     ml_family_end(in->spec->family, head ? ML_ROLE_HEAD : ML_ROLE_EMBED), -1, path,
                     sizeof path);
        ML_TRY(find_factor(in, path, ml_peft_token_factor, &e));
        if (!e)
            return ml_fail(ML_INPUT,
                           "%s: trainable_token_indices is set, but base_model.model.%s.%s is "
                           "missing",
                           tensors_name, path, ml_peft_token_factor);
        ML_TRY(ml_peft_read_tokens(in->tensors, e, list, in->spec, head, in->out));
    }
done:
    return st;
}

/* A module that the list names and the file has not stays the base's, as in PEFT. */
static void warn_of_unsaved(const import *in)
{
    const json_t *names = json_object_get(in->config.json, "modules_to_save");
    ml_model_spec untied = *in->spec;
    untied.tied_head = false;
    for (size_t n = 0; n < json_array_size(names); n++) {
        const char *name = json_string_value(json_array_get(names, n));
        bool found = is_head_of_either(in, name);
        for (int64_t i = 0; i < ml_model_tensor_count(&untied) && !found; i++) {
            ml_model_tensor t;
            char path[PATH];
            ml_model_tensor_at(&untied, i, &t);
            ml_peft_path(in->spec->family, t.row, t.layer, path, sizeof path);
            for (int64_t k = 0; k < in->out->ntensors && !found; k++)
                found = !strcmp(in->out->tensors[k].name, t.name) && ml_peft_lies_in(path, name);
        }
        if (!found)
            ml_warn("%s: modules_to_save names %.80s, but %s has no tensor of such a module: the "
                    "base's own is taken, as in PEFT",
                    config_name, name, tensors_name);
    }
}

/* PEFT saves every tensor of an embedding or a head that it wraps, beside the one that it reads:
 * after resize_token_embeddings, or with save_embedding_layers. `name` lacks prefixes. */
static bool is_copy(const import *in, const char *name)
{
    static const char *const wrappers[] = {".modules_to_save.", ".original_module."};
    for (size_t w = 0; w < sizeof wrappers / sizeof *wrappers; w++) {
        const char *at = strstr(name, wrappers[w]);
        char read[NAME], plain[NAME];
        if (!at) continue;
        snprintf(read, sizeof read, "%.*s.%s", (int)(at - name), name, at + strlen(wrappers[w]));
        for (int64_t i = 0; i < ml_safetensors_count(in->tensors); i++) {
            ml_peft_plain_name(in->spec->family, ml_safetensors_at(in->tensors, i)->name, plain);
            if (!strcmp(without(plain, in->spec->family->hf.prefix), read)) return true;
        }
    }
    return false;
}

/* Tokens of a tied head, which are the embedding's: PEFT writes them twice. */
static ml_status check_tied_tokens(const import *in, const ml_safetensors_entry *e, bool *found)
{
    const ml_family *family = in->spec->family;
    char path[PATH];
    const json_t *list;
    ml_peft_path(family, ml_family_end(family, ML_ROLE_HEAD), -1, path, sizeof path);
    *found = in->spec->tied_head && is_factor(in->spec, e->name, path, ml_peft_token_factor);
    if (!*found) return ML_OK;
    ml_status st = ml_peft_token_list(&in->config, in->spec, false, &list);
    return st == ML_OK ? ml_peft_check_tokens(in->tensors, e, list, in->out) : st;
}

/* The embedding or the head beside the adapter. */
static ml_status find_end(const import *in, const ml_safetensors_entry *e, const char *name,
                          bool *found)
{
    ml_status st = ML_OK;
    const ml_family *family = in->spec->family;
    ml_peft_ends said;
    for (int head = 0; head < 2; head++) {
        char path[PATH];
        ml_peft_path(family, ml_family_end(family, head ? ML_ROLE_HEAD : ML_ROLE_EMBED), -1, path,
                     sizeof path);
        said.saved[head] = ml_peft_config_saves(&in->config, path, true);
        ML_TRY(ml_peft_token_list(&in->config, in->spec, head, &said.apart[head]));
    }
    ML_TRY(ml_peft_read_embedding(in->tensors, e, name, in->base, &said, in->out, found));
done:
    return st;
}

/* A tensor that no module has: of a module that was saved whole, an embedding or a head beside the
 * adapter, or nothing that is known. */
static ml_status check_other(import *in, const ml_safetensors_entry *e)
{
    char first[PATH], plain[NAME];
    bool found = false;
    ml_status st = ML_OK;
    ml_peft_plain_name(in->spec->family, e->name, plain);
    const char *name = without(plain, in->spec->family->hf.prefix);
    st = ml_peft_read_masked_head(in->tensors, e, name, in->spec, in->base, in->out, &found);
    if (st == ML_OK && !found) st = find_saved(in, e, name, &found);
    if (st == ML_OK && !found && in->base) st = find_end(in, e, name, &found);
    if (st == ML_OK && !found) st = check_tied_tokens(in, e, &found);
    if (st != ML_OK || found || is_copy(in, name)) return st;
    ml_peft_path(in->spec->family, ml_family_target(in->spec->family->tensors), 0, first,
                 sizeof first);
    return ml_fail(ML_INPUT,
                   "%s: %.120s belongs to no module that target_modules means and this base has; "
                   "expected names like base_model.model.%s.lora_A.weight",
                   tensors_name, e->name, first);
}

static ml_status read_modules(import *in)
{
    ml_status st = ML_OK;
    const ml_family_tensor *rows = ml_model_target(in->spec, in->spec->family->tensors);
    for (int64_t layer = 0; layer < in->spec->layers; layer++)
        for (const ml_family_tensor *row = rows; row; row = ml_model_target(in->spec, row + 1))
            if (is_whole_module(in->spec, row)) ML_TRY(read_module(in, row, layer));
    ML_TRY(read_module(in, ml_family_end(in->spec->family, ML_ROLE_EMBED), -1));
    if (!in->spec->both_ways)
        ML_TRY(read_module(in, ml_family_end(in->spec->family, ML_ROLE_HEAD), -1));
    ML_TRY(read_tokens(in));
    for (int64_t i = 0; i < ml_safetensors_count(in->tensors); i++)
        if (!in->used[i]) ML_TRY(check_other(in, ml_safetensors_at(in->tensors, i)));
    warn_of_unsaved(in);
    if (in->out->count == 0)
        st = ml_fail(ML_INPUT, "%s: target_modules means no module of this base", config_name);
done:
    return st;
}

/* ---- the directory ------------------------------------------------------------------------- */

/* The head's former name in the text as that of today, which is no longer. */
static void rename_head(const ml_family *family, char *text, int64_t *length)
{
    const char *former = family->hf.former_head;
    if (!former) return;
    const char *name = ml_family_end(family, ML_ROLE_HEAD)->peft;
    size_t n = strlen(former), m = strlen(name);
    for (char *at = text; (at = strstr(at, former)) != NULL; at += m) {
        for (size_t i = 0; i < m; i++) at[i] = name[i];
        memmove(at + m, at + n, strlen(at + n) + 1);
        *length -= (int64_t)(n - m);
    }
}

static ml_status read_config(import *in, const char *directory, ml_sha256 *hash)
{
    ml_status st = ML_OK;
    char path[ML_DURABLE_PATH];
    char *text = NULL;
    int64_t length;
    ML_TRY(ml_durable_path(path, "%s/%s", directory, config_name));
    ML_TRY(ml_durable_read(path, largest_config, &text, &length));
    ml_sha256_add(hash, text, (size_t)length);
    rename_head(in->spec->family, text, &length);
    st = ml_peft_config_parse(&in->config, text, length);
    if (st != ML_OK) st = ml_fail_within(st, "%s", path);
done:
    ml_memory_free(text);
    return st;
}

static ml_status open_tensors(import *in, const char *directory, ml_sha256 *hash)
{
    ml_status st = ML_OK;
    char path[ML_DURABLE_PATH], pickle[ML_DURABLE_PATH], content[ML_SHA256_HEX];
    ML_TRY(ml_durable_path(path, "%s/%s", directory, tensors_name));
    ML_TRY(ml_durable_path(pickle, "%s/%s", directory, pickle_name));
    if (!ml_durable_exists(path) && ml_durable_exists(pickle))
        return ml_fail(ML_INPUT,
                       "%s: is a pickle, which could run anything when it is read; load it with "
                       "PEFT and save it again: PEFT writes %s",
                       pickle, tensors_name);
    ML_TRY(ml_safetensors_open(&in->tensors, path));
    if (ml_safetensors_count(in->tensors) > 4 * (MODULES_A_LAYER * in->spec->layers + 4))
        return ml_fail(ML_INPUT,
                       "%s: has %" PRId64 " tensors, more than %" PRId64 " layers can have factors",
                       path, ml_safetensors_count(in->tensors), in->spec->layers);
    ML_TRY(ml_sha256_of_file(path, content));
    ml_sha256_add(hash, content, sizeof content);
    ML_NEW(in->used, ml_safetensors_count(in->tensors), ML_MEM_OTHER, "a list of tensors");
done:
    return st;
}

ml_status ml_adapter_read_peft(ml_adapter *out, const char *directory, const ml_model_spec *spec,
                               ml_base *base)
{
    ml_status st = ML_OK;
import in = {.spec = spec, .base = base, .out = out };
    ml_sha256 *hash = NULL;
    ML_TRY(ml_sha256_create(&hash));
    ML_TRY(read_config(&in, directory, hash));
    out->rslora = in.config.rslora;
    out->dropout = in.config.dropout;
    ML_TRY(open_tensors(&in, directory, hash));
    if (!in.config.tokens) ML_TRY(find_head(&in, spec));
    ML_TRY(in.config.tokens ? ml_peft_prompt_read(out, &in.config, in.tensors, spec)
                            : read_modules(&in));
    ml_sha256_finish(hash, out->hash);
    hash = NULL;
done:
    ml_sha256_destroy(hash);
    ml_memory_free(in.used);
    ml_safetensors_close(in.tensors);
    ml_peft_config_destroy(&in.config);
    return st;
}
