/* Methods that train tensors of the base as they are: full (all of them), top (those of the last
 * layers), bitfit (the biases). Each is a choice of the model's slots; what is done with the chosen
 * ones is the same.
 *
 * Vectors, and in fp32 the matrices, lie in the parameters' buffer, which the model then computes
 * with. In bf16 the buffer holds fp32 masters of the matrices; the model computes with bf16 copies
 * of them, made anew after each update. */
#include <inttypes.h>

#include "peft/peft_private.h"

/* Parameter first_parameter + i of the list is slot slot[i] of the model. */
typedef struct slots {
    int64_t count, *slot;
    void *copies; /* of the bf16 slots */
} slots;

static ml_model_slot *slot_of(const ml_peft *peft, int64_t i)
{
    const slots *s = peft->own;
    return ml_model_slot_at(peft->model, s->slot[i]);
}

static void destroy(ml_peft *peft)
{
    slots *s = peft->own;
    if (!s) return;
    ml_memory_free(s->slot);
    ml_memory_free(s->copies);
}

static void point(ml_peft *peft)
{
    const slots *s = peft->own;
    for (int64_t i = 0; i < s->count; i++) {
        ml_model_slot *slot = slot_of(peft, i);
        if (slot->dtype == ML_FP32) slot->data = peft_value(peft, peft->first_parameter + i);
        slot->gradient = peft_gradient(peft, peft->first_parameter + i);
    }
}

static ml_status bind(ml_peft *peft)
{
    ml_status st = ML_OK;
    slots *s = peft->own;
    int64_t bytes = ml_model_lay_out_apart(peft->model, NULL);
    if (bytes > 0) {
        char *copies;
        ML_NEW(copies, bytes, ML_MEM_TRAINABLE, "bf16 copies of trained weights");
        s->copies = copies;
        ml_model_lay_out_apart(peft->model, copies);
    }
    point(peft);
done:
    return st;
}

static float *master(ml_peft *peft, int64_t index)
{
    const slots *s = peft->own;
    if (!ml_model_slot_at(peft->model, index)->apart ||
        ml_model_slot_at(peft->model, index)->dtype == ML_FP32)
        return NULL;
    for (int64_t i = 0; i < s->count; i++)
        if (s->slot[i] == index) return peft_value(peft, peft->first_parameter + i);
    return NULL;
}

static void after_update(ml_peft *peft)
{
    const slots *s = peft->own;
    for (int64_t i = 0; i < s->count; i++) {
        ml_model_slot *slot = slot_of(peft, i);
        if (slot->dtype == ML_BF16)
            ml_model_kernels(peft->model)
                ->fp32_to_bf16(slot->count, peft_value(peft, peft->first_parameter + i),
                               slot->data);
    }
}

static void bytes(const ml_peft *peft, bool training, int64_t bytes[ML_MEM_CATEGORIES])
{
    (void)training;
    bytes[ML_MEM_TRAINABLE] += ml_model_lay_out_apart(peft->model, NULL);
}

static const peft_operations operations = {.destroy = destroy,
                                           .bind = bind,
                                           .point = point,
                                           .master = master,
                                           .after_update = after_update,
                                           .bytes = bytes};

static bool are_parts(const ml_model_slot *a, const ml_model_slot *b)
{
    return a->layer == b->layer && a->row->role == b->row->role && a->row->bias == b->row->bias;
}

/* Parts of one layer are one product with one bias, so they train together or not at all. They lie
 * right behind one another. */
static ml_status check_parts(ml_model *model, int64_t i, slot_choice chosen, const void *by,
                             const char *key)
{
    const ml_model_slot *slot = ml_model_slot_at(model, i);
    int64_t k = i;
    while (k > 0 && are_parts(ml_model_slot_at(model, k - 1), slot)) k--;
    for (; k < ml_model_slots(model); k++) {
        const ml_model_slot *other = ml_model_slot_at(model, k);
        if (!are_parts(other, slot)) break;
        if (chosen(model, other, by)) continue;
        return ml_fail(ML_USAGE,
                       "%s: %s would train without %s, with which it is one tensor here; let both "
                       "train, or neither",
                       key, slot->name, other->name);
    }
    return ML_OK;
}

ml_status slots_attach(ml_peft **out, ml_model *model, ml_parameters *parameters,
                       const ml_peft_options *options, slot_choice chosen, const void *by,
                       const char *key)
{
    ml_status st = ML_OK;
    ml_peft *peft = NULL;
    slots *s = NULL;
    ML_TRY(peft_create(&peft, &operations, model, parameters, options));
    ML_NEW(s, 1, ML_MEM_OTHER, "a method");
    peft->own = s;
    peft->first_parameter = parameters->count;
    ML_NEW(s->slot, ml_model_slots(model), ML_MEM_OTHER, "a method's tensors");
    for (int64_t i = 0, added; i < ml_model_slots(model); i++) {
        ml_model_slot *slot = ml_model_slot_at(model, i);
        if (!chosen(model, slot, by)) continue;
        if (ml_dtype_is_block(slot->dtype)) {
            st = ml_fail(ML_USAGE,
                         "%s: %s is to train, but the base keeps it in %s blocks, which cannot be "
                         "updated; import the model with --dtype bf16",
                         key, slot->name, ml_dtype_name(slot->dtype));
            goto done;
        }
        ML_TRY(check_parts(model, i, chosen, by, key));
        if (slot->partial) ML_TRY(peft_check_leaves(model, options, slot->name));
        slot->apart = true;
        s->slot[s->count++] = i;
        ML_TRY(ml_parameters_add(
            parameters, slot->name, slot->rows, slot->cols, slot->vector, slot->shard,
            slot->partial ? ML_GRADIENT_PARTIAL : ML_GRADIENT_IDENTICAL, &added));
        parameters->items[added].whole = slot->whole;
    }
    *out = peft;
    peft = NULL;
done:
    ml_peft_destroy(peft);
    return st;
}

/* ---- full: every tensor of the base trains ------------------------------------------------- */

static bool every(const ml_model *model, const ml_model_slot *slot, const void *by)
{
    (void)model;
    (void)by;
    return slot != NULL;
}

ml_status full_attach(ml_peft **out, ml_model *model, ml_parameters *parameters,
                      const ml_peft_options *options)
{
    return slots_attach(out, model, parameters, options, every, &options->sizes,
                        "method.name: full");
}

/* ---- top: the last layers, with their norms and biases ------------------------------------- */

/* FT-Top2 of Hu et al., section 5.1: the last two. */
static bool in_last_layers(const ml_model *model, const ml_model_slot *slot, const void *by)
{
    const ml_method_sizes *sizes = by;
    int64_t layer;
    return slot_is_score(model, slot) || (sscanf(slot->name, "layers.%" SCNd64 ".", &layer) == 1 &&
                                          layer >= ml_model_get_spec(model)->layers - sizes->top);
}

ml_status top_attach(ml_peft **out, ml_model *model, ml_parameters *parameters,
                     const ml_peft_options *options)
{
    int64_t layers = ml_model_get_spec(model)->layers;
    if (options->sizes.top > layers)
        return ml_fail(ML_USAGE,
                       "method.top: %" PRId64 " layers are to train, the model has %" PRId64,
                       options->sizes.top, layers);
    return slots_attach(out, model, parameters, options, in_last_layers, &options->sizes,
                        "method.top");
}

/* ---- bitfit: every bias, those of norms among them ----------------------------------------- */

/* Zaken et al. 2021, arXiv:2106.10199. */
static bool is_bias(const ml_model *model, const ml_model_slot *slot, const void *by)
{
    (void)model;
    (void)by;
    const char *dot = strrchr(slot->name, '.');
    return slot_is_score(model, slot) || (dot && !strcmp(dot, ".bias"));
}

ml_status bitfit_attach(ml_peft **out, ml_model *model, ml_parameters *parameters,
                        const ml_peft_options *options)
{
    const ml_model_spec *spec = ml_model_get_spec(model);
    if (spec->norm != ML_NORM_LAYER && !spec->qkv_bias && !spec->o_bias && !spec->mlp_bias)
        return ml_fail(ML_USAGE, "method.name: bitfit trains biases, the model has none; "
                                 "method.new_biases: true makes some, as zeros");
    return slots_attach(out, model, parameters, options, is_bias, &options->sizes,
                        "method.name: bitfit");
}
