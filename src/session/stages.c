/* One stage of a pipeline in a session: what can be divided so, and which part of it a rank has. */
#include "session/pipeline.h"

/* ---- what is known of stages --------------------------------------------------------------- */

static ml_status refuse(const ml_run_config *c, const char *what, const char *advice)
{
    return ml_run_config_refuse(c, "parallel.pp", "%d does not know %s yet; %s",
                                (int)c->parallel.pp, what, advice);
}

/* Keys of the method that look at weights or layers of another stage than their own. */
static const char *unknown_key(const ml_run_config *c)
{
    if (c->method.dora) return "method.dora";
    if (ml_run_config_is_pissa(c)) return "method.init pissa";
    if (ml_run_config_is_loftq(c)) return "method.init loftq";
    if (c->method.modules_to_save.count > 0) return "method.modules_to_save";
    if (c->method.bias != ML_BIAS_NONE) return "method.bias";
    if (c->method.trainable_tokens.count > 0) return "method.trainable_tokens";
    if (c->method.trainable_head_tokens.count > 0) return "method.trainable_head_tokens";
    return NULL;
}

ml_status ml_stages_check_config(const ml_run_config *c, const ml_model_spec *spec, bool training)
{
    char what[96];
    int pp = (int)c->parallel.pp;
    if (pp == 1) return ML_OK;
    ml_status st = ml_stages_check(spec, pp);
    if (st != ML_OK) return st;
    if (training && c->method.name != ML_METHOD_LORA) {
        snprintf(what, sizeof what, "method %s", ml_method_name(c->method.name));
        return refuse(c, what, "take lora, or pp 1");
    }
    const char *key = training ? unknown_key(c) : NULL;
    if (key) return refuse(c, key, "leave it out, or take pp 1");
    if (c->objective.name != ML_OBJECTIVE_SFT) {
        snprintf(what, sizeof what, "objective %s", ml_objective_name(c->objective.name));
        return refuse(c, what, "take sft, or pp 1");
    }
    if (ml_model_is_relative(spec))
        return refuse(c, "relative positions, which all layers share", "take pp 1");
    if (training && c->train.samples.every > 0)
        return refuse(c, "train.samples", "leave them out, or take pp 1");
    if (training && c->memory.shard_optimizer)
        return refuse(c, "memory.shard_optimizer", "leave it out, or take pp 1");
    return ML_OK;
}

/* ---- what a rank has ----------------------------------------------------------------------- */

int64_t ml_stages_in_flight(const ml_run_config *c, int dp, int pp, int stage)
{
    int64_t most = ml_part_count(c->batch.sequences, dp, 0), micro = ml_run_config_micro(c, dp);
    return ml_max(1, ml_min(pp - stage, (most + micro - 1) / micro));
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
