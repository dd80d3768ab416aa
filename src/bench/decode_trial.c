/* Generation in memory, to be measured: one sequence or several, greedy, beside a plain read of the
 * same weights. */
#include "mpilora/generate.h"

#include <time.h>

#include "mpilora/trial.h"
#include "session/session.h"

struct ml_decode_trial {
    session session;
    ml_run_config config;
    ml_model_spec spec;
    ml_decode_options options;
    ml_adapter adapter;
    int64_t count, bytes;
    ml_memory_span *spans;
    ml_request *requests;   /* [sequences] */
    int32_t *prompts, *out; /* [sequences][prompt], [sequences][tokens] */
};

static ml_generation greedy_of(const ml_decode_trial *t)
{
    return (ml_generation){.max_new = t->options.tokens, .beams = 1, .top_p = 1.0};
}

/* Prompts that differ from their first token on, so that none shares what another has computed. */
static ml_status write_prompts(ml_decode_trial *t)
{
    ml_status st = ML_OK;
    const ml_decode_options *o = &t->options;
    const ml_generation greedy = greedy_of(t);
    ML_NEW(t->requests, o->sequences, ML_MEM_OTHER, "sequences");
    ML_NEW(t->prompts, o->sequences * o->prompt, ML_MEM_OTHER, "prompts");
    ML_NEW(t->out, o->sequences * o->tokens, ML_MEM_OTHER, "continuations");
    for (int64_t i = 0; i < o->sequences; i++) {
        int32_t *prompt = t->prompts + i * o->prompt;
        for (int64_t j = 0; j < o->prompt; j++) prompt[j] = (int32_t)((i + 31 * j) % t->spec.vocab);
        t->requests[i] = (ml_request){
            .prompt = prompt, .length = o->prompt, .number = i, .out = t->out + i * o->tokens};
    }
    t->session.tokens = ml_generation_tokens(&greedy, o->sequences, t->requests, o->sequences);
done:
    return st;
}

static ml_status open_model(ml_decode_trial *t)
{
    ml_status st = ML_OK;
    session *s = &t->session;
    const ml_decode_options *o = &t->options;
    if (o->base) ML_TRY(ml_base_open(&s->base, o->base));
    t->spec = s->base ? *ml_base_spec(s->base) : *o->spec;
    s->spec = &t->spec;
    s->max_len = 1;
    if (t->spec.both_ways)
        return ml_fail(ML_USAGE, "an encoder writes no text: there is nothing to generate");
    if (o->prompt + o->tokens > t->spec.context)
        return ml_fail(ML_USAGE,
                       "tokens: %lld and %lld before them are more than the model's context of "
                       "%lld",
                       (long long)o->tokens, (long long)o->prompt, (long long)t->spec.context);
    if (o->rounds_activations && !t->spec.formats)
        return ml_fail(ML_USAGE, "--activations q8: is for a --base that keeps weights in blocks");
    ML_TRY(write_prompts(t));
    if (o->adapter)
        ML_TRY(s->base ? ml_adapter_read_for(&t->adapter, o->adapter, s->base)
                       : ml_adapter_read(&t->adapter, o->adapter, s->spec, NULL));
done:
    return st;
}

/* The weights that every token is multiplied with: a row of the embedding is nothing beside
 * them. */
static ml_status list_spans(ml_decode_trial *t)
{
    ml_status st = ML_OK;
    int64_t slots = ml_model_slots(t->session.model);
    ML_NEW(t->spans, slots, ML_MEM_OTHER, "a list of weights");
    for (int64_t i = 0; i < slots; i++) {
        const ml_model_slot *slot = ml_model_slot_at(t->session.model, i);
        bool looked_up = !strcmp(slot->name, "position.weight") ||
                         (!strcmp(slot->name, "embed.weight") && !t->spec.tied_head);
        if (looked_up) continue;
        t->spans[t->count] = (ml_memory_span){slot->data, ml_dtype_bytes(slot->dtype, slot->count)};
        t->bytes += t->spans[t->count++].bytes;
    }
done:
    return st;
}

static ml_status build(ml_decode_trial *t)
{
    ml_status st = ML_OK;
    session *s = &t->session;
    bool adapted = t->options.how != ML_DECODE_BASE;
    if (adapted && !t->options.adapter)
        ML_TRY(ml_session_attach_method(s));
    else
        ML_TRY(ml_session_attach_adapter(s, adapted ? &t->adapter : NULL));
    ML_TRY(ml_session_build(s, false, NULL, NULL));
    if (adapted && t->options.adapter)
        ML_TRY(ml_grid_agree(s->grid, ml_peft_load(s->peft, &t->adapter)));
    else if (adapted)
        ml_peft_initialise(s->peft);
    if (adapted) ml_peft_after_update(s->peft);
    if (t->options.how == ML_DECODE_MERGED && t->spec.formats)
        ML_TRY(ml_fail(ML_USAGE, "%s keeps its weights in blocks, into which nothing can be merged",
                       t->options.base));
    if (t->options.how == ML_DECODE_MERGED) ml_peft_merge(s->peft);
    ML_TRY(ml_grid_agree(s->grid, list_spans(t)));
done:
    return st;
}

ml_status ml_decode_trial_create(ml_decode_trial **out, const ml_decode_options *options)
{
    ml_status st = ML_OK;
    ml_decode_trial *t = NULL;
    ML_NEW(t, 1, ML_MEM_OTHER, "a trial");
    t->options = *options;
    t->config = (ml_run_config){.base = (char *)(uintptr_t)options->base,
                                .seed = 1,
                                .method = {.rank = options->rank,
                                           .alpha = 2.0 * (double)options->rank,
                                           .targets = options->targets},
                                .batch = {1, 1},
                                .parallel = {ml_grid_world_size(), 1, 1},
                                .memory.load = /* which merging writes to */
                                options->how == ML_DECODE_MERGED ? ML_LOAD_READ : ML_LOAD_AUTO,
                                .precision = options->precision,
                                .rounds_activations = options->rounds_activations};
    t->session.config = &t->config;
    ML_TRY(ml_grid_create(&t->session.grid, ml_grid_world_size()));
    ML_TRY(ml_grid_agree(t->session.grid, open_model(t)));
    ML_TRY(ml_session_agree_on_files(&t->session));
    if (options->adapter)
        ML_TRY(ml_grid_agree_on_file("the adapter", options->adapter, t->adapter.hash));
    ML_TRY(build(t));
    *out = t;
    t = NULL;
done:
    ml_decode_trial_destroy(t);
    return st;
}

void ml_decode_trial_destroy(ml_decode_trial *t)
{
    if (!t) return;
    ml_adapter_destroy(&t->adapter);
    ml_session_close(&t->session);
    ml_memory_free(t->spans);
    ml_memory_free(t->requests);
    ml_memory_free(t->prompts);
    ml_memory_free(t->out);
    ml_memory_free(t);
}

/* That this process has had of processors. */
static double processor_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

ml_status ml_decode_trial_run(ml_decode_trial *t, double *seconds, double *processor)
{
    const ml_generation greedy = greedy_of(t);
    int64_t count = t->options.sequences;
    ml_grid_barrier(t->session.grid);
    double start = ml_seconds(), worked = processor_seconds();
    ml_status st = ml_generate_tokens(t->session.model, &greedy, count, t->requests, count, NULL);
    *seconds = ml_seconds() - start;
    *processor = processor_seconds() - worked;
    return ml_grid_agree(t->session.grid, st);
}

double ml_decode_trial_read(ml_decode_trial *t)
{
    ml_grid_barrier(t->session.grid);
    double seconds = ml_kernels_read_seconds(t->session.kernels, t->count, t->spans);
    ml_grid_max_double(t->session.grid, ML_GROUP_WORLD, &seconds, 1);
    return seconds;
}

int64_t ml_decode_trial_bytes(const ml_decode_trial *t) { return t->bytes; }
const char *ml_decode_trial_vector_path(const ml_decode_trial *t)
{
    return t->session.kernels->vector_path;
}
