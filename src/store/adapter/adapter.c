/* Adapters in memory are put together pair by pair, checked against a model (shapes, finite
 * numbers, one pair a module, DoRA's magnitudes) and sorted in the model's order; and they are
 * read from whichever kind of file a path leads to. */
#include "store/adapter/adapter.h"

#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "mpilora/family.h"

void ml_adapter_destroy(ml_adapter *adapter)
{
    for (int64_t i = 0; i < adapter->count; i++) {
        ml_memory_free(adapter->pairs[i].a);
        ml_memory_free(adapter->pairs[i].b);
        ml_memory_free(adapter->pairs[i].m);
    }
    ml_memory_free(adapter->pairs);
    for (int64_t i = 0; i < adapter->ntensors; i++) ml_memory_free(adapter->tensors[i].value);
    ml_memory_free(adapter->tensors);
    ml_memory_free(adapter->label_names);
    *adapter = (ml_adapter){0};
}

float ml_adapter_scale(double alpha, int64_t rank, bool rslora)
{
    return (float)(rslora ? alpha / sqrt((double)rank) : alpha / (double)rank);
}

ml_status ml_adapter_add(ml_adapter *adapter, int64_t *capacity, const char *module, int64_t rank,
                         int64_t in, int64_t out, ml_adapter_pair **pair)
{
    ml_status st = ML_OK;
    if (!adapter->pairs) {
        *capacity = 32;
        ML_NEW(adapter->pairs, *capacity, ML_MEM_OTHER, "an adapter");
    } else if (adapter->count == *capacity) {
        ml_adapter_pair *grown =
            ml_memory_resize(adapter->pairs, 2 * *capacity, sizeof *grown, "an adapter");
        if (!grown) return ML_RESOURCE;
        adapter->pairs = grown;
        *capacity *= 2;
    }
    ml_adapter_pair *p = *pair = &adapter->pairs[adapter->count++];
    *p = (ml_adapter_pair){.rank = rank, .in = in, .out = out};
    snprintf(p->module, sizeof p->module, "%s", module);
    ML_NEW(p->a, rank * in, ML_MEM_OTHER, "an adapter");
    ML_NEW(p->b, out * rank, ML_MEM_OTHER, "an adapter");
done:
    return st;
}

ml_status ml_adapter_add_magnitudes(ml_adapter_pair *pair)
{
    ml_status st = ML_OK;
    ML_NEW(pair->m, pair->out, ML_MEM_OTHER, "an adapter");
done:
    return st;
}

ml_status ml_adapter_add_tensor(ml_adapter *adapter, const char *name, int64_t rows, int64_t cols,
                                float **value)
{
    ml_status st = ML_OK;
    ml_adapter_tensor *all, *t;
    ML_NEW(all, adapter->ntensors + 1, ML_MEM_OTHER, "an adapter");
    if (adapter->ntensors > 0)
        memcpy(all, adapter->tensors, (size_t)adapter->ntensors * sizeof *all);
    ml_memory_free(adapter->tensors);
    adapter->tensors = all;
    t = &all[adapter->ntensors];
    *t = (ml_adapter_tensor){.rows = rows, .cols = cols};
    snprintf(t->name, sizeof t->name, "%s", name);
    ML_NEW(t->value, rows * cols, ML_MEM_OTHER, "an adapter");
    adapter->ntensors++;
    *value = t->value;
done:
    return st;
}

ml_adapter_tensor *ml_adapter_find(const ml_adapter *adapter, const char *name)
{
    for (int64_t i = 0; i < adapter->ntensors; i++)
        if (!strcmp(adapter->tensors[i].name, name)) return &adapter->tensors[i];
    return NULL;
}

/* ---- a head for labels --------------------------------------------------------------------- */

static const ml_adapter_tensor *find_scores(const ml_adapter *adapter, const ml_family_tensor *row)
{
    char name[64];
    snprintf(name, sizeof name, "%s.weight", row->module);
    return ml_adapter_find(adapter, name);
}

/* The layer between the first token and the scores, where the base has none: without it the scores
 * would be those of numbers drawn anew. */
static ml_status check_pool(const ml_adapter *adapter, const ml_model_spec *base,
                            const ml_model_spec *spec)
{
    for (const ml_family_tensor *row = spec->family->tensors; row->module; row++)
        if (row->role != ML_ROLE_CLASSIFY && ml_family_is_new(spec, row) &&
            ml_family_has(spec, row) && base->head == ML_HEAD_LANGUAGE && !row->bias &&
            !find_scores(adapter, row))
            return ml_fail(
                ML_INPUT,
                "the adapter has a head for labels but not %s, which stands before it and "
                "which the base lacks, too: every process would draw another; save it "
                "with modules_to_save, or import a base that has it",
                row->peft);
    return ML_OK;
}

ml_status ml_adapter_take_head(const ml_adapter *adapter, ml_model_spec *spec)
{
    const ml_model_spec base = *spec;
    for (const ml_family_tensor *row = spec->family->tensors; row->module; row++) {
        const ml_adapter_tensor *t =
            row->role == ML_ROLE_CLASSIFY && !row->bias ? find_scores(adapter, row) : NULL;
        if (!t) continue;
        if (spec->head != ML_HEAD_LANGUAGE &&
            (spec->labels != t->rows || spec->head != ml_family_head(row)))
            return ml_fail(ML_INPUT,
                           "the adapter's head (%s) is for %" PRId64 " labels, the base's (%s) for "
                           "%" PRId64,
                           ml_head_words[ml_family_head(row)], t->rows, ml_head_words[spec->head],
                           spec->labels);
        spec->head = ml_family_head(row);
        spec->labels = t->rows;
    }
    for (const ml_family_tensor *row = spec->family->tensors; row->module; row++)
        if (row->role == ML_ROLE_TRANSFORM && !row->bias && !spec->transform &&
            spec->head == ML_HEAD_LANGUAGE && find_scores(adapter, row))
            spec->masked = true;
    return check_pool(adapter, &base, spec);
}

/* ---- checks -------------------------------------------------------------------------------- */

static bool all_finite(const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(x[i])) return false;
    return true;
}

static ml_status check_pair(const ml_adapter_pair *p, const ml_model_spec *spec)
{
    int64_t layer, in, out;
    const ml_family_tensor *row = ml_module_parse(spec, p->module, &layer);
    if (!row)
        return ml_fail(ML_INPUT,
                       "%s: the base has no such place for an adapter (it has %" PRId64
                       " layers of the %s family)",
                       p->module, spec->layers, spec->family->title);
    ml_module_shape(spec, row, &in, &out);
    if (p->in != in || p->out != out)
        return ml_fail(ML_INPUT,
                       "%s: A is %" PRId64 " × %" PRId64 " and B %" PRId64 " × %" PRId64
                       ", the base expects A %" PRId64 " × %" PRId64 " and B %" PRId64
                       " × %" PRId64,
                       p->module, p->rank, p->in, p->out, p->rank, p->rank, in, out, p->rank);
    if (!isfinite(p->alpha) || !isfinite(p->scale))
        return ml_fail(ML_INPUT, "%s: alpha is not a finite number", p->module);
    if (!all_finite(p->a, p->rank * p->in))
        return ml_fail(ML_INPUT, "%s: A has a NaN or Inf", p->module);
    if (!all_finite(p->b, p->out * p->rank))
        return ml_fail(ML_INPUT, "%s: B has a NaN or Inf", p->module);
    if (p->m && !all_finite(p->m, p->out))
        return ml_fail(ML_INPUT, "%s: the magnitudes have a NaN or Inf", p->module);
    return ML_OK;
}

/* The embedding and the head stand behind all layers. */
static long long layer_of(const char *module)
{
    const char *number = strchr(module, '.');
    return number ? strtoll(number + 1, NULL, 10) : LLONG_MAX;
}

static int in_model_order(const void *x, const void *y)
{
    const ml_adapter_pair *a = x, *b = y;
    long long i = layer_of(a->module), j = layer_of(b->module);
    return i != j ? (i > j) - (i < j) : strcmp(a->module, b->module);
}

/* DoRA scales a row once: not for a fused projection and for its part. */
static ml_status check_magnitudes(const ml_adapter *adapter)
{
    for (int64_t i = 0; i < adapter->count; i++) {
        const ml_adapter_pair *p = &adapter->pairs[i];
        size_t stem = strlen(p->module) - strlen("qkv");
        if ((p->m != NULL) != (adapter->pairs[0].m != NULL))
            return ml_fail(ML_INPUT, "%s and %s: one has DoRA's magnitudes and the other has none",
                           p->module, adapter->pairs[0].module);
        if (!p->m || strcmp(p->module + stem, "qkv") != 0) continue;
        for (int64_t j = 0; j < adapter->count; j++) {
            const char *other = adapter->pairs[j].module;
            if (strlen(other) == stem + 1 && !strncmp(other, p->module, stem) &&
                strchr("qkv", other[stem]))
                return ml_fail(ML_INPUT,
                               "%s and %s: DoRA's magnitudes of both would scale the same rows",
                               p->module, other);
        }
    }
    return ML_OK;
}

ml_status ml_adapter_check(ml_adapter *adapter, const ml_model_spec *spec)
{
    if (adapter->count == 0 && ml_method_has_lora(adapter->method))
        return ml_fail(ML_INPUT, "the adapter has no pairs");
    if (adapter->count > 0 && !ml_method_has_lora(adapter->method))
        return ml_fail(ML_INPUT, "the adapter has pairs, but was made by method %s",
                       ml_method_name(adapter->method));
    for (int64_t i = 0; i < adapter->ntensors; i++) {
        const ml_adapter_tensor *t = &adapter->tensors[i];
        if (!all_finite(t->value, t->rows * t->cols))
            return ml_fail(ML_INPUT, "%s: has a NaN or Inf", t->name);
    }
    for (int64_t i = 0; i < adapter->count; i++) {
        ml_status st = check_pair(&adapter->pairs[i], spec);
        if (st != ML_OK) return st;
    }
    ml_status good = check_magnitudes(adapter);
    if (good != ML_OK) return good;
    if (adapter->count > 0)
        qsort(adapter->pairs, (size_t)adapter->count, sizeof *adapter->pairs, in_model_order);
    for (int64_t i = 1; i < adapter->count; i++)
        if (!strcmp(adapter->pairs[i].module, adapter->pairs[i - 1].module))
            return ml_fail(ML_INPUT, "%s: stands in the adapter twice", adapter->pairs[i].module);
    return ML_OK;
}

/* `given` is not known, or `home`, or anything is. */
static bool is_home(const char *home, const char *given)
{
    return !given || !home[0] || !strcmp(home, given);
}

ml_status ml_adapter_check_base(const ml_adapter *adapter, const char *source_hash,
                                const char *content_hash)
{
    if (!is_home(adapter->base_source_hash, source_hash))
        return ml_fail(ML_INPUT,
                       "this adapter belongs to another base: it was trained on %.16s…, the base "
                       "here is %.16s… (SHA-256 of the source)",
                       adapter->base_source_hash, source_hash);
    if (!is_home(adapter->base_content_hash, content_hash))
        return ml_fail(ML_INPUT,
                       "this adapter makes up for what the blocks of its base have lost "
                       "(method.init: loftq) and belongs to that base alone: it was trained on "
                       "%.16s…, the base here is %.16s… (content_sha256); give that base, or merge "
                       "the adapter into it",
                       adapter->base_content_hash, content_hash);
    return ML_OK;
}

static ml_status read_adapter(ml_adapter *out, const char *path, const ml_model_spec *spec,
                              const char *source_hash, ml_base *base)
{
    ml_status st = ML_OK;
    struct stat info;
    *out = (ml_adapter){0};
    bool directory = stat(path, &info) == 0 && S_ISDIR(info.st_mode);
    st = directory ? ml_adapter_read_peft(out, path, spec, base) : ml_adapter_read_file(out, path);
    if (st == ML_OK)
        st = ml_adapter_check_base(out, source_hash, base ? ml_base_content_hash(base) : NULL);
    if (st == ML_OK) st = ml_adapter_check(out, spec);
    if (st == ML_OK) return ML_OK;
    ml_adapter_destroy(out);
    return strncmp(ml_error_text(), path, strlen(path)) != 0 ? ml_fail_within(st, "%s", path) : st;
}

ml_status ml_adapter_read(ml_adapter *out, const char *path, const ml_model_spec *spec,
                          const char *source_hash)
{
    return read_adapter(out, path, spec, source_hash, NULL);
}

ml_status ml_adapter_read_for(ml_adapter *out, const char *path, ml_base *base)
{
    return read_adapter(out, path, ml_base_spec(base), ml_base_source_hash(base), base);
}
