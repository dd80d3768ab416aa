/* The model of a session, with what is attached to it: a method that trains, an adapter that was
 * trained, or a bank of several. Structure alone: build.c gives it storage. */
#include <inttypes.h>

#include "session/pipeline.h"
#include "session/session_private.h"

/* ---- model --------------------------------------------------------------------------------- */

ml_status ml_session_create_model(session *s, const ml_model_spec *spec, int64_t in_flight)
{
    const ml_grid *g = s->grid;
    int pp = ml_grid_pp(g);
    ml_status st = ml_model_create(&s->model, spec, g, ml_grid_tp(g), ml_grid_tp_rank(g),
                                   s->config->precision);
    if (st == ML_OK && ml_run_config_is_exact(s->config)) {
        ml_model_cut_pieces(s->model);
        st = ml_model_sum_leaves(s->model);
    }
    if (st != ML_OK) return st;
    ml_model_share_tokens(s->model, g, ml_grid_cp(g), s->tokens);
    return pp == 1 ? ML_OK : ml_model_hold_stage(s->model, g, pp, ml_grid_stage(g), in_flight);
}

static ml_status create_model(session *s, const ml_model_spec *spec)
{
    const ml_grid *g = s->grid;
    return ml_session_create_model(
        s, spec, ml_stages_in_flight(s->config, ml_grid_dp(g), ml_grid_pp(g), ml_grid_stage(g)));
}

static void place_parameters(session *s)
{
    ml_peft_place(s->model, &s->parameters);
    ml_parameters_lay_out(&s->parameters);
}

void ml_session_lay_out(session *s)
{
    place_parameters(s);
    if (ml_run_config_is_exact(s->config)) ml_parameters_sum_exactly(&s->parameters);
    if (s->config->memory.shard_optimizer)
        ml_parameters_divide_moments(&s->parameters, ml_grid_replicas(s->grid),
                                     ml_grid_replica(s->grid), 0);
}

/* ---- a method ------------------------------------------------------------------------------ */

ml_status ml_session_check_method(const ml_run_config *c, const ml_model_spec *spec,
                                  const char *instead)
{
    bool blocks = spec->formats != NULL;
    if (blocks && c->method.name == ML_METHOD_FULL)
        return ml_run_config_refuse(
            c, "method.name",
            "full trains every weight, but %s keeps them in blocks, which cannot be updated; %s",
            c->base, instead ? instead : "import the model with --dtype bf16");
    if (!blocks && ml_run_config_is_pissa(c) && c->memory.share_frozen == ML_SHARE_ON)
        return ml_run_config_refuse(
            c, "memory.share_frozen",
            "on, but pissa changes the weights of each rank; set it to auto");
    return ML_OK;
}

static ml_status attach_method(session *s)
{
    ml_status st = ML_OK;
    const ml_run_config *c = s->config;
    ML_TRY(ml_session_check_method(c, s->spec, NULL));
    ml_model_spec spec = ml_peft_model_spec(s->spec, c->method.name, &c->method.sizes);
    ml_peft_untie(&spec, c->method.name, &c->method.modules_to_save);
    ML_TRY(ml_session_choose_head(c, s->train.dataset, &spec));
    if (spec.masked && ml_grid_rank(s->grid) == 0)
        ml_warn("%s: has no head for masked tokens; a new one is drawn, trains whole beside the "
                "method and is saved with it",
                c->base);
    ML_TRY(create_model(s, &spec));
    ML_TRY(ml_peft_attach_configured(&s->peft, s->model, &s->parameters, c, c->method.name));
done:
    return st;
}

/* The ranks' largest need decides, so that all take the same mode. */
ml_status ml_session_settle_activations(session *s, int64_t more)
{
    const ml_run_config *c = s->config;
    const ml_session_shape shape = ml_session_shape_of(s);
    int64_t need[ML_ACTIVATION_MODES];
    ml_activation_mode mode;
    ml_session_needs(s->model, s->peft, &s->parameters, &shape, need);
    for (int m = 0; m < ML_ACTIVATION_MODES; m++) need[m] += more;
    ml_grid_max_int64(s->grid, ML_GROUP_WORLD, need, ML_ACTIVATION_MODES);
    if (!ml_session_choose_activations(c, need, &mode))
        return ml_run_config_refuse(
            c, "memory.limit",
            "%" PRId64 " bytes, but a process needs %" PRId64
            " with memory.activations %s (MPI and libraries included)%s",
            c->memory.limit, need[mode], ml_activation_mode_name(mode),
            c->memory.activations == ML_KEEP_AUTO
                ? ", the least of all; lower batch.micro or data.max_len, or use more ranks"
                : "; choose auto, or raise the limit");
    ml_model_set_activations(s->model, mode, 0);
    s->activations = mode;
    return ML_OK;
}

ml_status ml_session_attach_method(session *s)
{
    ml_status st = ml_grid_agree(s->grid, attach_method(s));
    if (st != ML_OK) return st;
    ml_session_lay_out(s);
    st = ml_grid_agree(s->grid, ml_stages_check_common(s->config, &s->parameters));
    if (st != ML_OK) return st;
    return ml_session_settle_activations(s, 0);
}

/* ---- adapters ------------------------------------------------------------------------------ */

static ml_status attach_adapter(session *s, const ml_adapter *adapter)
{
    ml_status st = ML_OK;
    const ml_adapter none = {.method = ML_METHOD_LORA};
    const ml_adapter *a = adapter ? adapter : &none;
    ml_model_spec spec = ml_peft_model_spec(s->spec, a->method, &a->sizes);
    ml_peft_untie_for(&spec, a);
    ML_TRY(ml_adapter_take_head(a, &spec));
    if (s->valid.dataset) /* else hidden states are wanted, which are in front of any head */
        ML_TRY(ml_session_check_head(s->config, s->valid.dataset, &spec, adapter != NULL));
    ML_TRY(create_model(s, &spec));
    if (!adapter) return ML_OK;
    if (ml_method_has_prefix(a->method)) {
        ML_TRY(ml_session_add_virtual(s, &a->sizes));
        if (s->valid.sampler) ML_TRY(ml_session_make_room_for_virtual(s));
    }
    ML_TRY(ml_peft_attach_adapter(&s->peft, s->model, &s->parameters, adapter));
done:
    return st;
}

ml_status ml_session_attach_adapter(session *s, const ml_adapter *adapter)
{
    ml_status st = ml_grid_agree(s->grid, attach_adapter(s, adapter));
    if (st == ML_OK) place_parameters(s);
    return st;
}

static ml_status attach_bank(session *s, int64_t count, const ml_adapter *adapters)
{
    const ml_model_spec spec = ml_bank_model_spec(s->spec, count, adapters);
    ml_model_spec scoring = *s->spec;
    ml_status st = ML_OK;
    for (int64_t i = 0; st == ML_OK && i < count; i++)
        st = ml_adapter_take_head(&adapters[i], &scoring);
    if (st == ML_OK) st = ml_session_check_head(s->config, NULL, &scoring, count > 0);
    if (st == ML_OK) st = create_model(s, &spec);
    return st == ML_OK ? ml_bank_create(&s->bank, s->model, s->spec, count, adapters) : st;
}

ml_status ml_session_attach_bank(session *s, int64_t count, const ml_adapter *adapters)
{
    return ml_grid_agree(s->grid, attach_bank(s, count, adapters));
}
