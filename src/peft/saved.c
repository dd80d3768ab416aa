/* Whole modules of the base that train beside a method, as PEFT's modules_to_save, and biases, as
 * its `bias`: slots of the model, chosen by the names of their modules or by what an adapter has.
 */
#include "peft/peft_private.h"

/* The whole path or its end behind a dot. */
static bool ends_with(const char *path, const char *name)
{
    size_t n = strlen(path), m = strlen(name);
    return m <= n && !strcmp(path + n - m, name) && (m == n || path[n - m - 1] == '.');
}

/* Whether a module is called so here or in Hugging Face's model, today or before. */
static bool is_called(const ml_model_spec *spec, const ml_model_slot *slot, const char *name)
{
    char own[sizeof slot->name], foreign[128];
    snprintf(own, sizeof own, "%s", slot->name);
    *strrchr(own, '.') = '\0'; /* ".weight" or ".bias" */
    ml_peft_path(spec->family, slot->row, slot->layer, foreign, sizeof foreign);
    const char *former =
        slot->row->role == ML_ROLE_HEAD && !slot->row->bias ? spec->family->hf.former_head : NULL;
    return ends_with(own, name) || ends_with(foreign, name) || (former && ends_with(former, name));
}

static bool is_named(const ml_model *model, const ml_model_slot *slot, const void *by)
{
    const ml_module_patterns *names = by;
    for (int64_t i = 0; i < names->count; i++)
        if (is_called(ml_model_get_spec(model), slot, names->item[i].module)) return true;
    return false;
}

/* What trains of the base: modules of these names, and biases of all modules or of those that the
 * method has adapted. */
typedef struct choice {
    const ml_module_patterns *names;
    ml_bias bias;
    const ml_peft *first;
} choice;

/* Whether LoRA is on this module of Hugging Face's model, in which several of ours may be one. */
static bool is_adapted(const ml_peft *peft, const ml_model_slot *slot)
{
    const ml_model_spec *spec = ml_model_get_spec(peft->model);
    char path[128], other[128];
    ml_peft_path(spec->family, slot->row, slot->layer, path, sizeof path);
    for (int64_t g = 0; g < peft->ngroups; g++)
        for (int p = 0; p < peft->groups[g].npairs; p++) {
            int64_t layer;
            const ml_family_tensor *row =
                ml_module_parse(spec, peft->groups[g].pair[p].module, &layer);
            ml_peft_path(spec->family, row, layer, other, sizeof other);
            if (!strcmp(path, other)) return true;
        }
    return false;
}

static bool is_chosen(const ml_model *model, const ml_model_slot *slot, const void *by)
{
    const choice *c = by;
    const char *dot = strrchr(slot->name, '.');
    if (slot_is_score(model, slot) || is_named(model, slot, c->names)) return true;
    if (c->bias == ML_BIAS_NONE || !dot || strcmp(dot, ".bias") != 0) return false;
    return c->bias == ML_BIAS_ALL || is_adapted(c->first, slot);
}

static bool is_in_adapter(const ml_model *model, const ml_model_slot *slot, const void *by)
{
    (void)model;
    return ml_adapter_find(by, slot->name) != NULL;
}

/* ---- a head of its own --------------------------------------------------------------------- */

static void untie(ml_model_spec *spec, const char *name)
{
    const ml_role ends[] = {ML_ROLE_EMBED, ML_ROLE_HEAD};
    for (int i = 0; i < 2; i++) {
        ml_model_slot slot = {.row = ml_family_end(spec->family, ends[i]), .layer = -1};
        snprintf(slot.name, sizeof slot.name, "%s.weight", slot.row->module);
        if (!strcmp(slot.name, name) || is_called(spec, &slot, name)) spec->tied_head = false;
    }
}

void ml_peft_untie(ml_model_spec *spec, ml_method method, const ml_module_patterns *modules)
{
    for (int64_t i = 0; ml_method_saves_modules(method) && i < modules->count; i++)
        untie(spec, modules->item[i].module);
}

void ml_peft_untie_for(ml_model_spec *spec, const ml_adapter *adapter)
{
    for (int64_t i = 0; i < adapter->ntensors; i++) untie(spec, adapter->tensors[i].name);
}

/* ---- attaching ----------------------------------------------------------------------------- */

/* Fails with the modules that the model has: "embed, layers.N.{norm1, attn.q}, norm". A tied head
 * is one, too: where it is named it gets weights of its own. */
static ml_status means_none(const ml_model *model, const char *name)
{
    ml_text list = {0};
    ml_status st = ML_OK;
    ml_model_spec spec = *ml_model_get_spec(model);
    ml_model_tensor t, before = {.layer = -1};
    spec.tied_head = false;
    for (int64_t i = 0; i < ml_model_tensor_count(&spec); i++) {
        ml_model_tensor_at(&spec, i, &t);
        /* A bias is of a module that has a weight; the last layer lacks nothing. */
        if (t.row->bias || (t.layer >= 0 && t.layer < spec.layers - 1)) continue;
        bool enters = t.layer > before.layer, leaves = t.layer < before.layer;
        ML_TRY(ml_text_printf(&list, "%s%s%s%s", leaves ? "}" : "", list.data ? ", " : "",
                              enters ? "layers.N.{" : "", t.row->module));
        before = t;
    }
    st = ml_fail(ML_USAGE,
                 "method.modules_to_save: %s means no module of the model, which has %s%s; their "
                 "ends and Hugging Face's names mean them, too",
                 name, list.data, before.layer >= 0 ? "}" : "");
done:
    ml_text_destroy(&list);
    return st;
}

static ml_status check_names(ml_model *model, const ml_module_patterns *names)
{
    for (int64_t i = 0; i < names->count; i++) {
        const ml_module_patterns one = {1, &names->item[i]};
        int64_t found = 0;
        for (int64_t s = 0; s < ml_model_slots(model); s++)
            found += is_named(model, ml_model_slot_at(model, s), &one);
        if (found == 0) return means_none(model, names->item[i].module);
    }
    return ML_OK;
}

/* A weight that trains whole has no adapter beside it. */
static ml_status check_adapters(ml_model *model, const ml_module_patterns *names)
{
    for (int64_t i = 0; names->count > 0 && i < ml_model_linears(model); i++) {
        const ml_linear *layer = ml_model_linear(model, i);
        for (int p = 0; layer->hook.forward && p < layer->nparts; p++)
            for (int64_t s = 0; s < ml_model_slots(model); s++) {
                const ml_model_slot *slot = ml_model_slot_at(model, s);
                size_t n = strlen(layer->part[p].module);
                if (!is_named(model, slot, names) || strcmp(slot->name + n, ".weight") != 0 ||
                    strncmp(slot->name, layer->part[p].module, n) != 0)
                    continue;
                return ml_fail(ML_USAGE,
                               "method.modules_to_save: %s %s; leave it out here, or all of that "
                               "out of method.targets",
                               layer->part[p].module,
                               layer->nparts == 1 ? "has an adapter, too"
                                                  : "is one tensor here with what has an adapter");
            }
    }
    return ML_OK;
}

ml_status saved_attach(ml_peft **out, const ml_peft *first, ml_parameters *parameters,
                       const ml_peft_options *options, const ml_adapter *adapter)
{
    ml_status st = ML_OK;
    ml_model *model = first->model;
    bool any = false, scores = false;
    const ml_module_patterns *names = &options->modules_to_save;
    *out = NULL;
    if (!ml_method_saves_modules(options->method)) return ML_OK;
    if (adapter) {
        for (int64_t i = 0; i < ml_model_slots(model); i++)
            any = any || is_in_adapter(model, ml_model_slot_at(model, i), adapter);
        return any ? slots_attach(out, model, parameters, options, is_in_adapter, adapter,
                                  "its tensors")
                   : ML_OK;
    }
    const choice by = {names, options->bias, first};
    ML_TRY(check_names(model, names));
    ML_TRY(check_adapters(model, names));
    for (int64_t i = 0; i < ml_model_slots(model); i++) {
        const ml_model_slot *slot = ml_model_slot_at(model, i);
        scores = scores || slot_is_score(model, slot);
        any = any || (!slot_is_score(model, slot) && is_chosen(model, slot, &by));
    }
    if (!any && !scores && names->count == 0 && by.bias == ML_BIAS_NONE) return ML_OK;
    if (!any && by.bias != ML_BIAS_NONE)
        return ml_fail(ML_USAGE, "method.bias: %s means no bias of this model; leave it out",
                       by.bias == ML_BIAS_ALL ? "all" : "lora_only");
    ML_TRY(slots_attach(out, model, parameters, options, is_chosen, &by,
                        names->count > 0 ? "method.modules_to_save" : "method.bias"));
done:
    return st;
}
