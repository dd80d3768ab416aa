/* Forward passes to be measured: a model under no adapter, or under one that nothing trains. */
#include "bench/trial.h"
#include "mpilora/trial.h"
#include "session/session.h"

struct ml_forward_trial {
    ml_forward_options options;
    ml_run_config config;
    ml_model_spec spec;
    session session;
};

static ml_run_config configure(const ml_forward_options *o)
{
    return (ml_run_config){.base = (char *)(uintptr_t)o->base,
                           .seed = 1,
                           .method = {.name = o->method,
                                      .rank = o->rank,
                                      .alpha = 2.0 * (double)o->rank,
                                      .targets = o->targets,
                                      .sizes = o->sizes},
                           .data = {.max_len = o->length},
                           .batch = {o->sequences, o->sequences},
                           .parallel = {ml_grid_world_size(), 1, 1},
                           .precision = o->precision};
}

static ml_status open_base(ml_forward_trial *t)
{
    session *s = &t->session;
    ml_status st = t->options.base ? ml_base_open(&s->base, t->options.base) : ML_OK;
    if (st != ML_OK) return st;
    t->spec = s->base ? *ml_base_spec(s->base) : *t->options.spec;
    s->spec = &t->spec;
    s->max_len = t->options.length;
    s->tokens = t->options.sequences * t->options.length;
    if (s->max_len <= t->spec.context) return ML_OK;
    return ml_fail(ML_USAGE, "length: %lld is more than the model's context of %lld",
                   (long long)s->max_len, (long long)t->spec.context);
}

/* U and B are zero at first, and products with zeros are as slow as others; but what adds nothing
 * could be left out one day. */
static void draw_adapter(session *s)
{
    ml_peft_initialise(s->peft);
    for (int64_t i = 0; i < s->parameters.count; i++) {
        const ml_parameter *item = &s->parameters.items[i];
        ml_random_key key = ml_random_key_make(2, item->name);
        ml_random_normals(key, 0, 0, item->count, 0.01, s->parameters.value + item->offset);
    }
    ml_peft_after_update(s->peft);
}

ml_status ml_forward_trial_create(ml_forward_trial **out, const ml_forward_options *options)
{
    ml_status st = ML_OK;
    ml_forward_trial *t = NULL;
    session *s;
    ML_NEW(t, 1, ML_MEM_OTHER, "a trial");
    t->options = *options;
    t->config = configure(options);
    s = &t->session;
    s->config = &t->config;
    ML_TRY(ml_grid_create(&s->grid, (int)t->config.parallel.tp));
    ML_TRY(ml_grid_agree(s->grid, open_base(t)));
    ML_TRY(ml_session_agree_on_files(s));
    ML_TRY(options->adapted ? ml_session_attach_method(s) : ml_session_attach_adapter(s, NULL));
    ML_TRY(ml_session_build(s, false, options->backend, NULL));
    if (s->peft) draw_adapter(s);
    *out = t;
    t = NULL;
done:
    ml_forward_trial_destroy(t);
    return st;
}

void ml_forward_trial_destroy(ml_forward_trial *t)
{
    if (!t) return;
    ml_session_close(&t->session);
    ml_memory_free(t);
}

double ml_forward_trial_run(ml_forward_trial *t, int64_t sequences, int64_t length)
{
    session *s = &t->session;
    double loss;
    trial_fill_batch(s, t->spec.vocab, 0, sequences, length);
    ml_grid_barrier(s->grid);
    double since = ml_seconds();
    ml_model_loss(s->model, &s->packer.batch, false, 0.0, 0.0, &loss);
    ml_grid_barrier(s->grid);
    return ml_seconds() - since;
}

int64_t ml_forward_trial_parameters(const ml_forward_trial *t)
{
    return t->session.parameters.global;
}

const char *ml_forward_trial_backend(const ml_forward_trial *t)
{
    return t->session.kernels->backend;
}
