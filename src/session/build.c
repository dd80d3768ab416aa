/* A session whose model is described gets what it computes with: kernels that all ranks can run,
 * then storage, then weights. */
#include <inttypes.h>

#include "session/session_private.h"

ml_kernels_paths ml_session_common_paths(const session *s)
{
    enum { BITS = 16 };
    const ml_kernels_paths own = ml_kernels_available(ml_model_weight_dtype(s->model));
    ml_kernels_paths common = {0, 0};
    int64_t lacks[2 * BITS];
    for (int i = 0; i < BITS; i++) {
        lacks[i] = !(own.backends >> i & 1);
        lacks[BITS + i] = !(own.vector_paths >> i & 1);
    }
    ml_grid_max_int64(s->grid, ML_GROUP_WORLD, lacks, 2 * BITS);
    for (int i = 0; i < BITS; i++) {
        common.backends |= (unsigned)!lacks[i] << i;
        common.vector_paths |= (unsigned)!lacks[BITS + i] << i;
    }
    return common;
}

/* What the environment has forced. */
static ml_status check_paths(const session *s)
{
    const ml_kernels *k = s->kernels;
    bool invariant = !strcmp(k->backend, "native") && strcmp(k->vector_path, "ref") != 0;
    if (!ml_run_config_is_exact(s->config) || invariant) return ML_OK;
    return ml_run_config_refuse(
        s->config, "numerics",
        "grid, but the environment forces product path %s and vector path %s; let the product be "
        "native, and the vector path avx512, avx2 or generic, or set numerics to fast",
        k->backend, k->vector_path);
}

/* Rank 0 measures, the others take its choice. */
static ml_status create_kernels(session *s, const char *backend, const char *vector_path)
{
    ml_status st = ML_OK;
    ml_weight shapes[ML_MODEL_SHAPES];
    const ml_kernels_paths common = ml_session_common_paths(s);
    ml_kernels_options o = {.backend = backend,
                            .vector_path = vector_path,
                            .among = &common,
                            .recall = s->config->measure == ML_MEASURE_ONCE,
                            .rounded = s->config->rounds_activations,
                            .ordered = ml_run_config_is_exact(s->config),
                            .keep = true};
    struct {
        char product[32], vector[32];
    } choice = {"", ""};
    ml_model_kernel_options(s->model, ml_session_own_tokens(s), &o, shapes);
    bool first = ml_grid_rank(s->grid) == 0;
    ML_TRY(ml_grid_agree(s->grid, first ? ml_kernels_create(&s->kernels, &o) : ML_OK));
    if (first) {
        snprintf(choice.product, sizeof choice.product, "%s", s->kernels->backend);
        snprintf(choice.vector, sizeof choice.vector, "%s", s->kernels->vector_path);
    }
    ml_grid_broadcast(s->grid, ML_GROUP_WORLD, 0, &choice, (int64_t)sizeof choice);
    o.backend = choice.product;
    o.vector_path = choice.vector;
    ML_TRY(ml_grid_agree(s->grid, first ? ML_OK : ml_kernels_create(&s->kernels, &o)));
    ml_model_use_kernels(s->model, s->kernels);
    ML_TRY(check_paths(s));
done:
    return st;
}

static ml_status allocate_parameters(session *s, bool training)
{
    ml_status st = ml_parameters_allocate(&s->parameters, training);
    return st == ML_OK && s->peft ? ml_peft_bind(s->peft) : st;
}

static ml_status create_packer(session *s)
{
    int64_t sequences = s->config->batch.micro * ml_session_unit(s);
    ml_status st = ml_packer_create(&s->packer, s->tokens, sequences,
                                    s->max_len + s->prefix + s->infix, ml_model_get_spec(s->model));
    if (st == ML_OK && ml_run_config_contrasts(s->config))
        st = ml_packer_add_vectors(&s->packer, sequences, ml_model_hidden_width(s->spec));
    if (st == ML_OK) st = ml_shares_create(&s->packer.shares, ml_grid_cp(s->grid), sequences);
    return st;
}

/* For the neighbours that there are. */
static ml_status allocate_messages(session *s)
{
    ml_status st = ML_OK;
    int pp = ml_grid_pp(s->grid), stage = ml_grid_stage(s->grid);
    int64_t own = ml_session_own_tokens(s), n = own * s->spec->width;
    if (pp > 1 && n > INT32_MAX)
        return ml_run_config_refuse(s->config, "batch.micro",
                                    "a micro-batch of %" PRId64 " tokens of width %" PRId64
                                    " is more than one message between stages holds; lower it",
                                    own, s->spec->width);
    if (stage < pp - 1) ML_NEW(s->sent[ML_TO_NEXT], n, ML_MEM_COMMUNICATION, "a message");
    if (stage > 0) ML_NEW(s->sent[ML_TO_PREVIOUS], n, ML_MEM_COMMUNICATION, "a message");
done:
    return st;
}

static ml_status allocate_passes(session *s, bool training)
{
    if (training) ml_model_set_filter(s->model, s->config->loss.filter);
    ml_model_share_tokens(s->model, s->grid, ml_grid_cp(s->grid), s->tokens);
    ml_status st = ml_model_reserve(s->model, ml_session_own_tokens(s), training);
    if (st == ML_OK) st = allocate_messages(s);
    return st == ML_OK ? create_packer(s) : st;
}

ml_status ml_session_build(session *s, bool training, const char *backend, const char *vector_path)
{
    ml_status st = ML_OK;
    ML_TRY(create_kernels(s, backend, vector_path));
    ML_TRY(ml_grid_agree(s->grid, allocate_parameters(s, training)));
    ML_TRY(ml_session_store_weights(s));
    ML_TRY(ml_grid_agree(s->grid, allocate_passes(s, training)));
    ML_TRY(ml_session_read_weights(s));
done:
    return st;
}

ml_status ml_session_build_beside(session *s)
{
    ml_status st = allocate_parameters(s, true);
    return ml_grid_agree(s->grid, st == ML_OK ? create_packer(s) : st);
}
