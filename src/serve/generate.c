/* Continuations of texts, each under its own adapter: the session of one set of prompts. */
#include "mpilora/generate.h"

#include <inttypes.h>

#include "io/durable.h"
#include "mpilora/family.h"
#include "serve/requests.h"
#include "session/session.h"

typedef struct job {
    const ml_generate_options *options;
    session session;
    requests requests;
    ml_adapter *adapters;
    ml_generation generation;
    bool *refused; /* [prompts] */
} job;

static ml_status read_adapters(job *j)
{
    ml_status st = ML_OK;
    const ml_generate_options *o = j->options;
    ml_base *base = j->session.base;
    ML_NEW(j->adapters, o->nadapters, ML_MEM_OTHER, "adapters");
    for (int64_t i = 0; i < o->nadapters; i++)
        ML_TRY(ml_adapter_read_for(&j->adapters[i], o->adapters[i], base));
done:
    return st;
}

/* That prompt i has a token, and with its continuation no more than the model's context. */
static ml_status check_prompt(const job *j, int64_t i, int64_t tokens)
{
    const ml_generate_options *o = j->options;
    const ml_prompt *prompt = &o->prompts[i];
    const ml_model_spec *spec = ml_base_spec(j->session.base);
    int64_t length = j->requests.request[i].length, context = spec->context,
            end = length + o->generation.max_new;
    ml_status st = ML_OK;
    if (tokens == 0)
        st = ml_fail(o->file ? ML_INPUT : ML_USAGE,
                     "the prompt is empty, and the base names no token that begins a text");
    else if (ml_model_is_beyond(spec, end) && !ml_model_is_beyond(spec, length))
        st = ml_fail(o->file ? ML_INPUT : ML_USAGE,
                     "the prompt has %" PRId64 " tokens, with %" PRId64
                     " new ones it passes longrope's original context of %" PRId64
                     ", where every position turns in another way; ask for fewer",
                     length, o->generation.max_new, spec->rope_scaling.original_context);
    else if (end > context)
        st = ml_fail(o->file ? ML_INPUT : ML_USAGE,
                     "the prompt has %" PRId64 " tokens, with %" PRId64
                     " new ones more than the context of %" PRId64,
                     length, o->generation.max_new, context);
    if (st == ML_OK) return ML_OK;
    return o->file ? ml_fail_within(st, "%s:%" PRId64, o->file, prompt->line)
                   : ml_fail_within(st, "--prompt, number %" PRId64, prompt->line);
}

static ml_status encode_prompt(job *j, int64_t i)
{
    ml_status st = ML_OK;
    const ml_generate_options *o = j->options;
    const ml_prompt *prompt = &o->prompts[i];
    const ml_adapter *adapter = prompt->adapter < 0 ? NULL : &j->adapters[prompt->adapter];
    bool dressed = adapter && ml_method_has_prefix(adapter->method);
    ML_TRY(requests_encode(&j->requests, i, prompt->text, !o->specials_are_text, o->whole));
    int64_t tokens = j->requests.prompt[i].count;
    ML_TRY(requests_dress(&j->requests, i, prompt->adapter, dressed ? adapter->sizes.prefix : 0,
                          dressed ? adapter->sizes.infix : 0));
    st = check_prompt(j, i, tokens);
done:
    return st;
}

/* A prompt that cannot be answered is left out, unless there is no other. */
static ml_status encode_prompts(job *j, ml_generate_report *report)
{
    ml_status st = ML_OK;
    const ml_generate_options *o = j->options;
    ML_TRY(requests_create(&j->requests, j->session.base, o->count, o->generation.max_new));
    ML_TRY(requests_find_ends(&j->requests, j->session.base, &j->generation));
    if (o->turn_end)
        ML_TRY(
            requests_add_end(&j->generation, *o->turn_end, ml_base_spec(j->session.base)->vocab));
    ML_NEW(j->refused, o->count, ML_MEM_OTHER, "prompts");
    for (int64_t i = 0; i < o->count; i++) {
        const char *text = o->prompts[i].text;
        if (o->specials_are_text)
            report->spelled +=
                ml_tokenizer_spelled(j->requests.tokenizer, text, (int64_t)strlen(text));
        ml_status good = encode_prompt(j, i);
        if (good == ML_OK) continue;
        bool last = report->refused + 1 == o->count;
        if (report->refused == 0)
            snprintf(report->refusal, sizeof report->refusal, "%s", ml_error_text());
        if ((good != ML_INPUT && good != ML_USAGE) || last)
            return last ? ml_fail(good, "%s", report->refusal) : good;
        j->refused[i] = true;
        report->refused++;
    }
    requests_leave_out(&j->requests, j->refused);
    j->session.tokens =
        ml_generation_tokens(&j->generation, j->requests.count, j->requests.request, o->together);
done:
    return st;
}

/* The adapters, and a place for the result. Local. */
static ml_status open_here(job *j, double *seconds)
{
    const char *out = j->options->out;
    double start = ml_seconds();
    ml_status st = out && ml_grid_rank(j->session.grid) == 0 ? ml_durable_may_write(out) : ML_OK;
    if (st == ML_OK) st = read_adapters(j);
    *seconds = ml_seconds() - start;
    return st;
}

static ml_status prepare(job *j, ml_generate_report *report)
{
    ml_status st = ML_OK;
    const ml_generate_options *o = j->options;
    const ml_grid *grid = j->session.grid;
    ML_TRY(ml_grid_agree(grid, open_here(j, &report->adapter_seconds)));
    for (int64_t i = 0; i < o->nadapters; i++)
        ML_TRY(ml_grid_agree_on_file("the adapter", o->adapters[i], j->adapters[i].hash));
    ML_TRY(ml_grid_agree(grid, encode_prompts(j, report)));
done:
    return st;
}

static ml_status prepare_adapters(job *j, double *seconds)
{
    double start = ml_seconds();
    ml_status st = ml_grid_agree(j->session.grid, ml_bank_load(j->session.bank, j->adapters));
    if (st == ML_OK) ml_bank_prepare(j->session.bank);
    *seconds += ml_seconds() - start;
    return st;
}

static ml_status generate(job *j, ml_text *out)
{
    const ml_generate_options *o = j->options;
    const ml_router router = ml_bank_router(j->session.bank);
    ml_status st = requests_generate(&j->requests, j->session.grid, j->session.model,
                                     &j->generation, o->together, &router);
    for (int64_t i = 0; i < j->requests.count && st == ML_OK; i++)
        st = requests_decode(&j->requests, i, &out[j->requests.request[i].number]);
    return st;
}

static void describe(const job *j, ml_generate_report *report)
{
    double seconds[] = {report->adapter_seconds, report->seconds};
    report->base_seconds = j->session.load_seconds;
    report->switches = ml_bank_count_switches(j->session.bank);
    report->tokens = 0;
    for (int64_t i = 0; i < j->requests.count; i++) report->tokens += j->requests.request[i].count;
    ml_grid_max_double(j->session.grid, ML_GROUP_WORLD, seconds, 2);
    report->adapter_seconds = seconds[0];
    report->seconds = seconds[1];
}

/* The largest divisor of the ranks that the model can be divided by; what is left of the ranks are
 * replicas. */
static ml_status choose_tp(const ml_generate_options *o, int64_t *tp)
{
    ml_status st = ML_OK;
    ml_grid *world = NULL;
    ml_base *base = NULL;
    int64_t ranks = *tp = ml_grid_world_size();
    if (o->tp > 0) *tp = o->tp;
    if (ranks % *tp != 0)
        return ml_fail(ML_USAGE, "--tp: %" PRId64 " does not divide the %" PRId64 " ranks", *tp,
                       ranks);
    if (ranks == 1 || o->tp > 0) return ML_OK;
    ML_TRY(ml_grid_create(&world, 1));
    ML_TRY(ml_grid_agree(world, ml_base_open(&base, o->base)));
    ML_TRY(ml_grid_agree_on_file("the base", o->base, ml_base_content_hash(base)));
    const ml_model_spec *spec = ml_base_spec(base);
    while (ranks % *tp != 0 || !ml_model_can_divide(spec, *tp)) --*tp;
done:
    ml_base_close(base);
    ml_grid_destroy(world);
    return st;
}

static ml_status check_direction(const session *s)
{
    if (!s->spec->both_ways) return ML_OK;
    return ml_fail(ML_USAGE,
                   "--base: %s is an encoder (%s) and writes no text; mpilora embed makes vectors "
                   "of texts",
                   ml_base_path(s->base), s->spec->family->title);
}

ml_status ml_generate_run(const ml_generate_options *o, ml_text *out, ml_generate_report *report)
{
    ml_status st = ML_OK;
    job j = {.options = o, .generation = o->generation};
    session *s = &j.session;
    ml_run_config config = {.base = (char *)(uintptr_t)o->base,
                            .batch = {1, 1},
                            .parallel = {1, 1},
                            .precision = o->precision};
    ML_TRY(choose_tp(o, &config.parallel.tp));
    ML_TRY(ml_session_open(s, &config, false));
    ML_TRY(ml_grid_agree(s->grid, check_direction(s)));
    *report = (ml_generate_report){0};
    ML_TRY(prepare(&j, report));
    ML_TRY(ml_session_attach_bank(s, o->nadapters, j.adapters));
    ML_TRY(ml_session_build(s, false, NULL, NULL));
    ML_TRY(prepare_adapters(&j, &report->adapter_seconds));
    double start = ml_seconds();
    ML_TRY(ml_grid_agree(s->grid, generate(&j, out)));
    report->seconds = ml_seconds() - start;
    describe(&j, report);
done:
    for (int64_t i = 0; j.adapters && i < o->nadapters; i++) ml_adapter_destroy(&j.adapters[i]);
    ml_memory_free(j.adapters);
    ml_memory_free(j.refused);
    requests_destroy(&j.requests);
    ml_session_close(s);
    return st;
}
