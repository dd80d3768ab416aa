/* A trial is a training step in memory: the session of a run of a base, or of random weights, on
 * random tokens and without files, so that a step can be timed by itself. */
#include "bench/trial.h"

#include <inttypes.h>

const char *ml_trial_method_name(ml_trial_method method)
{
    static const char *const names[ML_TRIAL_METHODS] = {"lora", "full", "frozen"};
    return names[method];
}

const ml_role trial_role[TRIAL_LINEARS] = {ML_ROLE_QKV, ML_ROLE_O, ML_ROLE_UP, ML_ROLE_DOWN};

int first_adapted(const ml_model_spec *spec, unsigned targets)
{
    int first = TRIAL_DOWN;
    for (const ml_family_tensor *row = ml_family_target(spec->family->tensors); row;
         row = ml_family_target(row + 1))
        for (int linear = 0; linear < first; linear++)
            if (trial_role[linear] == row->role && (targets & ml_target_find(row->target)))
                first = linear;
    /* Of distances, in the place of q, k and v. */
    return targets & (ML_TARGET_POS_Q | ML_TARGET_POS_K) ? TRIAL_QKV : first;
}

/* ---- creation ------------------------------------------------------------------------------ */

static ml_run_config configure(const ml_trial_options *o)
{
    return (ml_run_config){
        .base = (char *)(uintptr_t)o->base,
        .seed = 1,
        .method = {.name = o->method == ML_TRIAL_FULL ? ML_METHOD_FULL : ML_METHOD_LORA,
                   .rank = o->rank,
                   .alpha = 2.0 * (double)o->rank,
                   .dropout = o->dropout,
                   .targets = o->targets},
        .data = {.max_len = o->length},
        .batch = {o->sequences, o->sequences},
        .optim = {.lr = 1e-4,
                  .beta1 = 0.9,
                  .beta2 = 0.999,
                  .eps = 1e-8,
                  .weight_decay = 0.01,
                  .clip_norm = 1.0},
        .train = {.steps = INT64_MAX},
        .parallel = {o->tp, 1, 1},
        .precision = o->precision};
}

static ml_status check(ml_trial *t)
{
    ml_trial_options *o = &t->options;
    int dp = ml_grid_dp(t->session.grid);
    if (o->sequences < dp)
        return ml_fail(ML_USAGE,
                       "sequences: %" PRId64 " is less than the %d data-parallel replicas",
                       o->sequences, dp);
    if (o->length > t->spec.context)
        return ml_fail(ML_USAGE, "length: %" PRId64 " is more than the model's context of %" PRId64,
                       o->length, t->spec.context);
    return ml_targets_resolve(&t->spec, o->targets, &o->targets);
}

void trial_fill_batch(session *s, int64_t vocab, int64_t first, int64_t count, int64_t n)
{
    packer *p = &s->packer;
    p->batch = (ml_batch){.tokens = count * n, .token = p->token, .rows = count * n, .row = p->row};
    p->batch.targets = (ml_targets){p->target_start, p->target, 0, NULL};
    ml_random_key key = ml_random_key_make(1, "tokens");
    for (int64_t i = 0; i < count; i++) {
        p->start[i] = i * n;
        p->key_sequence[i] = first + i;
        for (int64_t j = 0; j < n; j++) {
            int64_t at = i * n + j;
            p->row[at] = p->target_start[at] = at;
            p->token[at] =
                (int32_t)(ml_random_u64(key, (uint64_t)(first + i), (uint64_t)j) % (uint64_t)vocab);
            p->target[at] =
                (int32_t)(ml_random_u64(key, (uint64_t)(first + i), (uint64_t)((j + 1) % n)) %
                          (uint64_t)vocab);
        }
    }
    p->start[count] = p->target_start[count * n] = count * n;
    p->batch.sequences = (ml_sequences){.count = count, .start = p->start};
}

/* This replica's sequences in one micro-batch. */
static void fill_batch(ml_trial *t)
{
    session *s = &t->session;
    int64_t dp = ml_grid_dp(s->grid), mine = ml_grid_dp_rank(s->grid);
    trial_fill_batch(s, t->spec.vocab, ml_part_start(t->options.sequences, dp, mine),
                     ml_part_count(t->options.sequences, dp, mine), t->options.length);
    s->packer.batch.key_sequence = t->options.dropout > 0.0 ? s->packer.key_sequence : NULL;
}

static ml_status open_base(ml_trial *t)
{
    session *s = &t->session;
    ml_status st = t->options.base ? ml_base_open(&s->base, t->options.base) : ML_OK;
    if (st != ML_OK) return st;
    t->spec = s->base ? *ml_base_spec(s->base) : *t->options.spec;
    s->spec = &t->spec;
    s->max_len = t->options.length;
    st = check(t);
    int64_t most = ml_part_count(t->options.sequences, ml_grid_dp(s->grid), 0);
    s->tokens = most * t->options.length;
    return st;
}

/* Frozen: the first layer that LoRA would adapt trains its bias, so that backward goes exactly as
 * far as LoRA's. */
static ml_status train_one_bias(ml_trial *t)
{
    ml_status st = ML_OK;
    ml_layer *layer = ml_model_layer(t->session.model, 0);
    ml_linear *const linears[TRIAL_LINEARS] = {&layer->qkv, &layer->o, &layer->up, &layer->down};
    ml_linear *first = linears[first_adapted(&t->spec, t->options.targets)];
    ML_NEW(t->bias_gradient, first->part[0].count, ML_MEM_GRADIENT, "a bias's gradient");
    first->bias_gradient[0] = t->bias_gradient;
done:
    return st;
}

static int64_t state_bytes(void)
{
    return ml_memory_current(ML_MEM_TRAINABLE) + ml_memory_current(ML_MEM_GRADIENT) +
           ml_memory_current(ML_MEM_OPTIMIZER);
}

static ml_status build(ml_trial *t)
{
    ml_status st = ML_OK;
    session *s = &t->session;
    int64_t state = state_bytes(), frozen = ml_memory_current(ML_MEM_FROZEN);
    ML_TRY(t->options.method == ML_TRIAL_FROZEN ? ml_session_attach_adapter(s, NULL)
                                                : ml_session_attach_method(s));
    ML_TRY(ml_session_build(s, true, t->options.backend, t->options.vector_path));
    if (s->peft) ml_peft_initialise(s->peft);
    ML_TRY(
        ml_grid_agree(s->grid, t->options.method == ML_TRIAL_FROZEN ? train_one_bias(t) : ML_OK));
    t->state_bytes = state_bytes() - state;
    t->frozen_bytes = ml_memory_current(ML_MEM_FROZEN) - frozen;
    fill_batch(t);
done:
    return st;
}

ml_status ml_trial_create(ml_trial **out, const ml_trial_options *options)
{
    ml_status st = ML_OK;
    ml_trial *t = NULL;
    ML_NEW(t, 1, ML_MEM_OTHER, "a trial");
    t->options = *options;
    t->config = configure(options);
    t->session.config = &t->config;
    ML_TRY(ml_grid_create(&t->session.grid, options->tp));
    ML_TRY(ml_grid_agree(t->session.grid, open_base(t)));
    ML_TRY(ml_session_agree_on_files(&t->session));
    ML_TRY(build(t));
    *out = t;
    t = NULL;
done:
    ml_trial_destroy(t);
    return st;
}

void ml_trial_destroy(ml_trial *t)
{
    if (!t) return;
    ml_session_close(&t->session);
    ml_memory_free(t->bias_gradient);
    ml_memory_free(t);
}

/* ---- a step -------------------------------------------------------------------------------- */

void ml_trial_run(ml_trial *t, ml_trial_step *out)
{
    session *s = &t->session;
    step_result result = {0};
    double loss, tokens = (double)(t->options.sequences * t->options.length);
    int64_t summed = ml_grid_summed_bytes(s->grid, ML_GROUP_TP);
    ml_grid_barrier(s->grid);
    step_clock clock = step_clock_start(s);
    clear_gradients(s, &result);
    ml_model_loss(s->model, &s->packer.batch, true, 1.0 / tokens, 0.0, &loss);
    t->tp_bytes = ml_grid_summed_bytes(s->grid, ML_GROUP_TP) - summed;
    ml_grid_barrier(s->grid);
    double comm = ml_grid_comm_seconds(s->grid);
    reduce_gradients(s, NULL, &result);
    out->gradient_seconds = ml_grid_comm_seconds(s->grid) - comm;
    update_parameters(s, t->steps++, &result);
    step_clock_stop(&clock, s, &result);
    if (ml_grid_tp_rank(s->grid) != 0) loss = 0.0;
    ml_grid_sum_double(s->grid, ML_GROUP_WORLD, &loss, 1);
    out->loss = loss / tokens;
    out->seconds = result.seconds;
    memcpy(out->phase, result.phase, sizeof out->phase);
}

double ml_trial_peak_gflops(ml_trial *t)
{
    ml_grid_barrier(t->session.grid);
    double peak = ml_kernels_peak_gflops(t->session.kernels);
    ml_grid_sum_double(t->session.grid, ML_GROUP_WORLD, &peak, 1);
    return peak;
}

void ml_trial_get_facts(const ml_trial *t, ml_trial_facts *out)
{
    const session *s = &t->session;
    *out = (ml_trial_facts){.backend = s->kernels->backend,
                            .vector_path = s->kernels->vector_path,
                            .ranks = ml_grid_size(s->grid),
                            .dp = ml_grid_dp(s->grid),
                            .tp = ml_grid_tp(s->grid),
                            .flops = trial_flops(t),
                            .params_trainable = s->parameters.global,
                            .state_bytes = t->state_bytes,
                            .frozen_bytes = t->frozen_bytes,
                            .allreduce_bytes = 4 * s->parameters.global,
                            .tp_bytes = t->tp_bytes,
                            .tp_bytes_expected = trial_tp_bytes(t)};
}
