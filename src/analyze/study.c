/* What a study is about: base, adapters and modules, opened and checked against each other on every
 * rank. */
#include "mpilora/analyze.h"

#include <inttypes.h>

#include "mpilora/config.h"
#include "store/adapter/adapter.h"

/* ---- targets and layers -------------------------------------------------------------------- */

static bool layer_is_selected(const ml_selection *s, int64_t layer)
{
    for (int i = 0; i < s->ranges; i++)
        if (layer >= s->range[i].first && layer <= s->range[i].last) return true;
    return s->ranges == 0;
}

static ml_status check_selection(const ml_selection *s, const ml_model_spec *spec)
{
    unsigned has = 0;
    for (const ml_family_tensor *row = ml_model_target(spec, spec->family->tensors); row;
         row = ml_model_target(spec, row + 1))
        has |= ml_target_find(row->target);
    for (unsigned bit = 1; bit < ML_TARGET_ALL; bit <<= 1)
        if (s->targets & ~has & bit)
            return ml_fail(ML_USAGE,
                           "--targets: the base has no %s: it is a model of the %s family",
                           ml_target_name((ml_target)bit), spec->family->title);
    for (int i = 0; i < s->ranges; i++)
        if (s->range[i].first < 0 || s->range[i].first > s->range[i].last ||
            s->range[i].last >= spec->layers)
            return ml_fail(ML_USAGE,
                           "--layers: %" PRId64 "-%" PRId64
                           " is not a range of the base's layers 0-%" PRId64,
                           s->range[i].first, s->range[i].last, spec->layers - 1);
    return ML_OK;
}

/* ---- adapters ------------------------------------------------------------------------------ */

static unsigned targets_of(const ml_adapter *adapter, const ml_model_spec *spec)
{
    unsigned bits = 0;
    for (int64_t i = 0; i < adapter->count; i++) {
        int64_t layer;
        bits |= ml_target_find(ml_module_parse(spec, adapter->pairs[i].module, &layer)->target);
    }
    return bits;
}

static ml_status read_adapters(ml_study *study, const ml_selection *selection)
{
    ml_status st = ML_OK;
    const ml_model_spec *spec = ml_base_spec(study->base);
    for (int i = 0; i < study->adapters; i++) {
        ML_TRY(ml_adapter_read_for(&study->adapter[i], study->path[i], study->base));
        if (study->adapter[i].count == 0)
            return ml_fail(ML_INPUT, "%s: was made by method %s, which has no ΔW = s·B·A to study",
                           study->path[i], ml_method_name(study->adapter[i].method));
        if (study->adapter[i].pairs[0].m)
            return ml_fail(ML_INPUT,
                           "%s: is a DoRA adapter: it scales the rows of W too, so its change is "
                           "no ΔW = s·B·A to study",
                           study->path[i]);
    }
    for (int i = 0; i < study->adapters; i++) {
        const ml_adapter *other = &study->adapter[study->adapters - 1 - i];
        unsigned wanted = selection->targets ? selection->targets : targets_of(other, spec);
        st = ml_adapter_split_fused(&study->adapter[i], spec, wanted);
        if (st != ML_OK) return ml_fail_within(ML_INPUT, "%s", study->path[i]);
    }
done:
    return st;
}

static const ml_adapter_pair *find_pair(const ml_adapter *adapter, const char *module)
{
    for (int64_t i = 0; i < adapter->count; i++)
        if (!strcmp(adapter->pairs[i].module, module)) return &adapter->pairs[i];
    return NULL;
}

/* ---- modules ------------------------------------------------------------------------------- */

/* Fills in the adapters' pairs; *any: one of them has the module. */
static ml_status find_pairs(const ml_study *study, ml_study_module *module, bool *any)
{
    const ml_adapter_pair *found = NULL;
    for (int i = 0; i < study->adapters; i++) {
        const ml_adapter_pair *p = module->pair[i] = find_pair(&study->adapter[i], module->name);
        if (!p) continue;
        found = p;
        if (p->rank > p->in || p->rank > p->out)
            return ml_fail(ML_INPUT,
                           "%s: %s: rank %" PRId64 " exceeds a side of its %" PRId64 " × %" PRId64
                           " weight",
                           study->path[i], module->name, p->rank, p->out, p->in);
    }
    *any = found != NULL;
    for (int i = 0; i < study->adapters && found; i++)
        if (!module->pair[i])
            return ml_fail(ML_INPUT,
                           "%s: has no pair at %s, but %s has: choose what both have by --targets "
                           "and --layers",
                           study->path[i], module->name, study->path[1 - i]);
    return ML_OK;
}

/* Without an adapter, the parts stand for a fused projection unless it is asked for. */
static bool is_chosen(unsigned targets, const ml_family_tensor *row)
{
    return targets ? (targets & ml_target_find(row->target)) != 0
                   : row->present != ML_PRESENT_FUSED;
}

/* The module of this row in this layer, if it belongs to the study. */
static ml_status consider(ml_study *study, const ml_selection *selection, int64_t layer,
                          const ml_family_tensor *row)
{
    bool chosen =
        (study->adapters > 0 && selection->targets == 0) || is_chosen(selection->targets, row);
    if (!chosen || !layer_is_selected(selection, layer)) return ML_OK;
    ml_study_module module = {.layer = layer, .target = row->target};
    snprintf(module.name, sizeof module.name, "layers.%" PRId64 ".%s", layer, row->module);
    ml_module_shape(ml_base_spec(study->base), row, &module.in, &module.out);
    bool any = true;
    if (study->adapters > 0) {
        ml_status st = find_pairs(study, &module, &any);
        if (st != ML_OK) return st;
    }
    if (any) study->modules[study->count++] = module;
    return ML_OK;
}

/* Every target that was asked for by name is somewhere. */
static ml_status check_found(const ml_study *study, const ml_selection *selection)
{
    unsigned found = 0;
    for (int64_t i = 0; i < study->count; i++) found |= ml_target_find(study->modules[i].target);
    for (unsigned bit = 1; bit < ML_TARGET_ALL; bit <<= 1)
        if (selection->targets & ~found & bit)
            return ml_fail(ML_USAGE, "--targets: %s has no %s in the layers chosen", study->path[0],
                           ml_target_name((ml_target)bit));
    if (study->count > 0) return ML_OK;
    return ml_fail(ML_USAGE, "--layers: %s has no pairs in the layers chosen", study->path[0]);
}

static ml_status list_modules(ml_study *study, const ml_selection *selection)
{
    ml_status st = ML_OK;
    const ml_model_spec *spec = ml_base_spec(study->base);
    const ml_family_tensor *first = ml_model_target(spec, spec->family->tensors);
    int64_t targets = 0;
    for (const ml_family_tensor *row = first; row; row = ml_model_target(spec, row + 1)) targets++;
    ML_NEW(study->modules, spec->layers * targets, ML_MEM_OTHER, "a list of modules");
    for (int64_t layer = 0; layer < spec->layers; layer++)
        for (const ml_family_tensor *row = first; row; row = ml_model_target(spec, row + 1))
            ML_TRY(consider(study, selection, layer, row));
    st = check_found(study, selection);
done:
    return st;
}

static ml_status open_here(ml_study *study, const char *base, const ml_selection *selection)
{
    ml_status st = ML_OK;
    ML_TRY(ml_base_open(&study->base, base));
    ML_TRY(check_selection(selection, ml_base_spec(study->base)));
    ML_TRY(read_adapters(study, selection));
    st = list_modules(study, selection);
done:
    return st;
}

static ml_status agree_on_files(const ml_study *study)
{
    ml_status st = ML_OK;
    ML_TRY(ml_grid_agree_on_file("the base", ml_base_path(study->base),
                                 ml_base_content_hash(study->base)));
    for (int i = 0; i < study->adapters; i++)
        ML_TRY(ml_grid_agree_on_file("the adapter", study->path[i], study->adapter[i].hash));
done:
    return st;
}

ml_status ml_study_open(ml_study *out, const ml_grid *grid, const char *base,
                        const char *const adapters[ML_STUDY_ADAPTERS],
                        const ml_selection *selection)
{
    *out = (ml_study){.grid = grid};
    while (out->adapters < ML_STUDY_ADAPTERS && adapters[out->adapters]) {
        out->path[out->adapters] = adapters[out->adapters];
        out->adapters++;
    }
    ml_status st = ml_grid_agree(grid, open_here(out, base, selection));
    if (st == ML_OK) st = agree_on_files(out);
    if (st != ML_OK) ml_study_close(out);
    return st;
}

void ml_study_close(ml_study *study)
{
    for (int i = 0; i < study->adapters; i++) ml_adapter_destroy(&study->adapter[i]);
    ml_memory_free(study->modules);
    ml_base_close(study->base);
    *study = (ml_study){0};
}

ml_status ml_svd_plan_model(ml_svd_kind out[ML_SVD_KINDS], int64_t *count,
                            const ml_model_spec *spec, unsigned targets, int ranks)
{
    ml_status st = check_selection(&(ml_selection){.targets = targets}, spec);
    if (st != ML_OK) return st;
    *count = 0;
    for (const ml_family_tensor *row = ml_model_target(spec, spec->family->tensors); row;
         row = ml_model_target(spec, row + 1)) {
        int64_t width, rows;
        if (!is_chosen(targets, row)) continue;
        ml_module_shape(spec, row, &width, &rows);
        ml_svd_kind *k = &out[(*count)++];
        k->target = row->target;
        ml_svd_plan_make(&k->plan, rows, width, ranks);
    }
    return ML_OK;
}
