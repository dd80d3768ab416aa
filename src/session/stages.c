/* One stage of a pipeline in a session: what can be divided so, and which part of it a rank has. */
#include "session/pipeline.h"
#include "session/pipeline_order.h"

/* ---- what is known of stages --------------------------------------------------------------- */

static ml_status refuse(const ml_run_config *c, const char *what, const char *advice)
{
    return ml_run_config_refuse(c, "parallel.pp", "%d does not know %s yet; %s",
                                (int)c->parallel.pp, what, advice);
}

/* Keys of the method that look at weights or layers of another stage than their own. */
static const char *unknown_key(const ml_run_config *c)
{
    bool starts = c->method.prefix_init != ML_PREFIX_RANDOM, /* from a pass over tokens */
        in_layers = ml_method_has_keys(c->method.name) ||
                    c->method.name == ML_METHOD_PREFIX_LAYER ||
                    c->method.name == ML_METHOD_LORA_PREFIX_LAYER;
    if (ml_run_config_is_pissa(c)) return "method.init pissa";
    if (ml_run_config_is_loftq(c)) return "method.init loftq";
    if (starts && in_layers) return "method.prefix_init other than random in layers";
    return NULL;
}

/* Those whose passes need more than one stage's part of a micro-batch. */
static bool knows_objective(ml_objective name)
{
    return name <= ML_OBJECTIVE_TOKENS && name != ML_OBJECTIVE_KTO;
}

ml_status ml_stages_check_config(const ml_run_config *c, const ml_model_spec *spec, bool training)
{
    char what[96];
    int pp = (int)c->parallel.pp;
    if (pp == 1) return ML_OK;
    ml_status st = ml_stages_check(spec, pp);
    if (st != ML_OK) return st;
    if (training && c->method.name == ML_METHOD_COMPACTER)
        return refuse(c, "method compacter, whose layers share a tensor", "take another, or pp 1");
    const char *key = training ? unknown_key(c) : NULL;
    if (key) return refuse(c, key, "change it, or take pp 1");
    if (!knows_objective(c->objective.name)) {
        snprintf(what, sizeof what, "objective %s", ml_objective_name(c->objective.name));
        return refuse(c, what, "take another, or pp 1");
    }
    if (ml_model_is_relative(spec))
        return refuse(c, "relative positions, which all layers share", "take pp 1");
    return ML_OK;
}

/* ---- what a rank has ----------------------------------------------------------------------- */

int64_t ml_stages_in_flight(const ml_run_config *c, int dp, int pp, int stage)
{
    int64_t most = ml_part_count(c->batch.sequences, dp, 0), micro = ml_run_config_micro(c, dp);
    return ml_pipeline_order(pp, stage, (most + micro - 1) / micro, true).ahead;
}

void ml_stages_place(const ml_model *model, int pp, int stage, ml_parameters *p)
{
    p->pp = pp;
    p->stage = stage;
    for (int64_t i = 0; i < p->count; i++) {
        int first, also;
        ml_model_stages_of(model, p->items[i].name, &first, &also);
        ml_parameters_place(p, i, first, also);
    }
}

int64_t ml_stages_buffers(int64_t tokens, int64_t width, int pp, int stage)
{
    return tokens * width * ((stage < pp - 1 ? 1 : 0) + (stage > 0 ? 1 : 0));
}
