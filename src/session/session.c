/* The life of a session: opened in the order grid, base, data, where every step ends in an
 * agreement of all ranks, and closed. Between them attach.c describes its model and build.c makes
 * it. */
#include "session/session_private.h"

#include <inttypes.h>

ml_status ml_session_check_replicas(const ml_run_config *c, int dp)
{
    if (c->batch.sequences >= dp) return ML_OK;
    return ml_run_config_refuse(
        c, "batch.sequences",
        "%" PRId64
        " is less than the %d data-parallel replicas; give each replica at least one sequence",
        c->batch.sequences, dp);
}

static ml_status open_masking(session *s)
{
    ml_status st = ML_OK;
    if (!ml_run_config_masks(s->config)) return ML_OK;
    ML_TRY(ml_session_check_masks(s->config, s->spec));
    ML_TRY(ml_masking_create(&s->masking, s->config, s->base));
done:
    return st;
}

static ml_status open_base(session *s, bool training)
{
    ml_status st = ML_OK;
    const ml_run_config *c = s->config;
    ML_TRY(ml_base_open(&s->base, c->base));
    s->spec = ml_base_spec(s->base);
    if (training && ml_method_has_prefix(c->method.name))
        ML_TRY(ml_session_add_virtual(s, &c->method.sizes));
    ML_TRY(ml_session_find_length(c, s->spec, s->prefix + s->infix, &s->max_len));
    ML_TRY(open_masking(s));
done:
    return st;
}

static ml_status find_data(session *s, bool training)
{
    ml_status st = ML_OK;
    ML_TRY(ml_session_open_data(s, training));
    ML_TRY(ml_grid_agree(s->grid, ml_session_choose_objective(s, training)));
    ML_TRY(ml_session_agree_on_files(s));
    ML_TRY(ml_grid_agree(s->grid, ml_session_prepare_data(s)));
done:
    return st;
}

static ml_status check_rounding(const session *s)
{
    if (!s->config->rounds_activations || s->spec->formats) return ML_OK;
    return ml_fail(ML_USAGE,
                   "--activations q8: is for weights in blocks, but %s keeps none in blocks; "
                   "import it with --quantise or --dtype keep, or leave the option out",
                   ml_base_path(s->base));
}

ml_status ml_session_open(session *s, const ml_run_config *config, bool training)
{
    ml_status st = ML_OK;
    *s = (session){.config = config};
    ML_TRY(ml_grid_create_shape(&s->grid, ml_session_grid_shape(config)));
    if (config->wait_limit > 0.0)
        ML_TRY(ml_grid_agree(s->grid, ml_grid_limit_waits(s->grid, config->wait_limit)));
    if (training) ML_TRY(ml_session_check_replicas(config, ml_grid_dp(s->grid)));
    ML_TRY(ml_grid_agree(s->grid, open_base(s, training)));
    ML_TRY(ml_grid_agree(s->grid, check_rounding(s)));
    ML_TRY(find_data(s, training));
done:
    return st;
}

ml_status ml_session_open_beside(session *s, const ml_run_config *config, session *const *others,
                                 int64_t count)
{
    ml_status st = ML_OK;
    const session *host = others[0];
    *s = (session){
        .config = config, .host = host, .grid = host->grid, .base = host->base, .spec = host->spec};
    ML_TRY(ml_session_check_replicas(config, ml_grid_dp(s->grid)));
    ML_TRY(ml_session_find_length(config, s->spec, 0, &s->max_len));
    ML_TRY(ml_grid_agree(s->grid, open_masking(s)));
    ml_session_share_data(s, others, count);
    ML_TRY(find_data(s, true));
done:
    return st;
}

static void close_own(session *s)
{
    ml_bank_destroy(s->bank);
    ml_model_destroy(s->model);
    ml_session_give_up_weights(s);
    ml_kernels_destroy(s->kernels);
    ml_base_close(s->base);
}

void ml_session_close(session *s)
{
    ml_packer_destroy(&s->packer);
    ml_memory_free(s->sent[ML_TO_NEXT]);
    ml_memory_free(s->sent[ML_TO_PREVIOUS]);
    ml_masking_destroy(s->masking);
    ml_session_free_ahead(s);
    ml_contrast_destroy(&s->contrast);
    ml_peft_destroy(s->peft);
    if (!s->host) close_own(s);
    ml_parameters_destroy(&s->parameters);
    ml_session_close_data(s);
    if (!s->host) ml_grid_destroy(s->grid);
    *s = (session){0};
}
