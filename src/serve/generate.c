/* Continuations of texts, each under its own adapter: the session of one set of prompts. */
#include "mpilora/generate.h"

#include <inttypes.h>

#include "io/durable.h"
#include "io/json.h"
#include "mpilora/family.h"
#include "serve/log_probs.h"
#include "serve/requests.h"
#include "session/session.h"

typedef struct job {
    const ml_generate_options *options;
    session session;
    requests requests;
    ml_adapter *adapters;
    ml_generation generation;
    bool *refused; /* [prompts] */
    log_probs log_probs;
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

/* The error of prompt i says where the prompt is from. */
static ml_status name_prompt(const ml_generate_options *o, int64_t i, ml_status st)
{
    return o->file ? ml_fail_within(st, "%s:%" PRId64, o->file, o->prompts[i].line)
                   : ml_fail_within(st, "--prompt, number %" PRId64, o->prompts[i].line);
}

/* That prompt i has a token, and with its continuation no more than the model's context. */
static ml_status check_prompt(const job *j, int64_t i, int64_t tokens)
{
    const ml_generate_options *o = j->options;
    const ml_model_spec *spec = ml_base_spec(j->session.base);
    int64_t length = j->requests.request[i].length, context = spec->context,
            end = length + o->generation.max_new;
    if (o->echo && o->generation.max_new == 0) context++; /* nothing comes behind the last token */
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
    return st == ML_OK ? ML_OK : name_prompt(o, i, st);
}

/* It ends where the base has lost weights, and not with the last of a thousand prompts. */
static ml_generation generation_of(job *j)
{
    ml_generation generation = j->options->generation;
    generation.may_go_on = ml_session_may_go_on;
    generation.self = &j->session;
    return generation;
}

static ml_status encode_prompt(job *j, int64_t i)
{
    ml_status st = ML_OK;
    const ml_generate_options *o = j->options;
    const ml_prompt *prompt = &o->prompts[i];
    const ml_adapter *adapter = prompt->adapter < 0 ? NULL : &j->adapters[prompt->adapter];
    bool dressed = adapter && ml_method_has_prefix(adapter->method);
    if (prompt->text)
        ML_TRY(requests_encode(&j->requests, i, prompt->text, !o->specials_are_text, o->whole));
    else if ((st = requests_take(&j->requests, i, prompt->ids, prompt->nids)) != ML_OK)
        return name_prompt(o, i, st);
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
        if (o->specials_are_text && text)
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

static ml_status add_scored(const job *j, int64_t i, ml_text *out)
{
    ml_status st = ML_OK;
    char number[ML_JSON_NUMBER];
    const log_probs *p = &j->log_probs;
    const requests *r = &j->requests;
    int64_t count = log_probs_count(p, i);
    ml_text text = {0};
    ML_TRY(ml_text_printf(out, "{\"tokens\": ["));
    for (int64_t n = 0; n < count; n++)
        ML_TRY(ml_text_printf(out, "%s%" PRId32, n ? ", " : "", log_probs_at(p, r, i, n).token));
    ML_TRY(ml_text_printf(out, "], \"texts\": ["));
    for (int64_t n = 0; n < count; n++) {
        const int32_t token = log_probs_at(p, r, i, n).token;
        text.length = 0;
        ML_TRY(ml_tokenizer_decode(r->tokenizer, &token, 1, &text));
        if (n) ML_TRY(ml_text_printf(out, ", "));
        ML_TRY(json_text_add(out, text.data ? text.data : "", text.length));
    }
    ML_TRY(ml_text_printf(out, "], \"logprobs\": ["));
    for (int64_t n = 0; n < count; n++) {
        const scored_token s = log_probs_at(p, r, i, n);
        ML_TRY(ml_text_printf(out, "%s%s", n ? ", " : "",
                              s.known ? ml_json_number(number, (double)s.log_p) : "null"));
    }
    ML_TRY(ml_text_printf(out, "], \"top\": ["));
    for (int64_t n = 0; n < count; n++) {
        const scored_token s = log_probs_at(p, r, i, n);
        ML_TRY(ml_text_printf(out, "%s%s", n ? ", " : "", s.known ? "[" : "null"));
        for (int64_t t = 0; s.known && t < p->top; t++)
            ML_TRY(ml_text_printf(out, "%s[%d, %s]", t ? ", " : "", (int)s.top[2 * t],
                                  ml_json_number(number, (double)s.top[2 * t + 1])));
        if (s.known) ML_TRY(ml_text_printf(out, "]"));
    }
    ML_TRY(ml_text_printf(out, "], \"prompt\": %" PRId64 "}", count - r->request[i].count));
done:
    ml_text_destroy(&text);
    return st;
}

/* Collective over the grid. */
static ml_status score(job *j, ml_text *out)
{
    const ml_generate_options *o = j->options;
    const ml_router router = ml_bank_router(j->session.bank);
    if (!o->log_probs) return ML_OK;
    j->log_probs.top = ml_min(o->top, ml_base_spec(j->session.base)->vocab);
    j->log_probs.echo = o->echo;
    ml_status st =
        log_probs_find(&j->log_probs, &j->requests, j->session.grid, j->session.model, &router);
    for (int64_t i = 0; i < j->requests.count && st == ML_OK; i++)
        st = add_scored(j, i, &out[j->requests.request[i].number]);
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

/* The largest divisor of a stage's ranks that the model can be divided by; what is left of the
 * ranks are replicas. */
static ml_status choose_tp(const ml_generate_options *o, int64_t pp, int64_t *tp)
{
    ml_status st = ML_OK;
    ml_grid *world = NULL;
    ml_base *base = NULL;
    char good[ML_GRID_DIVISORS];
    int64_t world_size = ml_grid_world_size(), ranks = *tp = world_size / pp;
    if (world_size % pp != 0)
        return ml_fail(ML_USAGE,
                       "--pp: %" PRId64 " does not divide the %" PRId64 " ranks; choose %s", pp,
                       world_size, ml_grid_list_divisors((int)world_size, good));
    if (o->tp > 0) *tp = o->tp;
    if (ranks % *tp != 0)
        return ml_fail(ML_USAGE,
                       "--tp: %" PRId64 " does not divide the %" PRId64 " ranks%s; choose %s", *tp,
                       ranks, pp > 1 ? " of a stage" : "", ml_grid_list_divisors((int)ranks, good));
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

/* `config` is the session's, and has to stay as long. */
static ml_status open_session(session *s, const ml_generate_options *o, ml_run_config *config)
{
    ml_status st = ML_OK;
    *config = (ml_run_config){.base = (char *)(uintptr_t)o->base,
                              .batch = {1, 1},
                              .parallel = {.tp = 1, .cp = 1, .pp = ml_max(o->pp, 1)},
                              .precision = o->precision,
                              .rounds_activations = o->rounds_activations};
    ML_TRY(choose_tp(o, config->parallel.pp, &config->parallel.tp));
    ML_TRY(ml_session_open(s, config, false));
    ML_TRY(ml_grid_agree(s->grid, check_direction(s)));
done:
    return st;
}

ml_status ml_generate_run(const ml_generate_options *o, ml_text *out, ml_text *log_probs,
                          ml_generate_report *report)
{
    ml_status st = ML_OK;
    job j = {.options = o};
    session *s = &j.session;
    ml_run_config config;
    j.generation = generation_of(&j);
    ML_TRY(open_session(s, o, &config));
    *report = (ml_generate_report){0};
    ML_TRY(prepare(&j, report));
    ML_TRY(ml_session_attach_bank(s, o->nadapters, j.adapters));
    ML_TRY(ml_session_build(s, false, NULL, NULL));
    ML_TRY(prepare_adapters(&j, &report->adapter_seconds));
    double start = ml_seconds();
    ML_TRY(ml_session_agree(s, generate(&j, out)));
    ML_TRY(ml_session_agree(s, score(&j, log_probs)));
    report->seconds = ml_seconds() - start;
    describe(&j, report);
done:
    for (int64_t i = 0; j.adapters && i < o->nadapters; i++) ml_adapter_destroy(&j.adapters[i]);
    ml_memory_free(j.adapters);
    ml_memory_free(j.refused);
    log_probs_destroy(&j.log_probs);
    requests_destroy(&j.requests);
    ml_session_close(s);
    return st;
}

/* ---- conversations -------------------------------------------------------------------------- */

enum { TALK_TOKENS = 8192 }; /* of a conversation and its next answer: room is made once */

/* World rank 0's next prompt to all ranks; *more false: there is none. */
static ml_status next_prompt(const ml_talk *talk, const ml_text *answer, ml_text *prompt,
                             bool *more)
{
    ml_status st = ML_OK;
    ml_text text = {0};
    *more = true;
    prompt->length = 0;
    if (ml_grid_world_rank() == 0) st = talk->next(talk->self, answer, &text, more);
    if (st == ML_OK)
        st = ml_text_printf(prompt, "%s%s", *more ? "+" : "-", text.data ? text.data : "");
    st = ml_grid_settle(st);
    if (st == ML_OK) st = ml_grid_share_text(prompt);
    if (st == ML_OK) *more = *prompt->data == '+';
    ml_text_destroy(&text);
    return st;
}

static ml_status encode_turn(job *j, const char *prompt)
{
    ml_status st = ML_OK;
    const ml_adapter *adapter = j->options->nadapters ? &j->adapters[0] : NULL;
    bool dressed = adapter && ml_method_has_prefix(adapter->method);
    j->generation = generation_of(j);
    ML_TRY(requests_create(&j->requests, j->session.base, 1, j->generation.max_new));
    ML_TRY(requests_find_ends(&j->requests, j->session.base, &j->generation));
    if (j->options->turn_end)
        ML_TRY(requests_add_end(&j->generation, *j->options->turn_end,
                                ml_base_spec(j->session.base)->vocab));
    ML_TRY(requests_encode(&j->requests, 0, prompt, true, true));
    ML_TRY(requests_dress(&j->requests, 0, adapter ? 0 : -1, dressed ? adapter->sizes.prefix : 0,
                          dressed ? adapter->sizes.infix : 0));
    int64_t length = j->requests.request[0].length, room = j->session.tokens;
    if (length + j->generation.max_new > room)
        st = ml_fail(ML_INPUT,
                     "the conversation has %" PRId64 " tokens, with %" PRId64
                     " new ones more than the %" PRId64 " that there is room for: begin a new one",
                     length, j->generation.max_new, room);
done:
    return st;
}

static ml_status answer_turn(job *j, const char *prompt, ml_text *out)
{
    ml_status st = ml_grid_agree(j->session.grid, encode_turn(j, prompt));
    const ml_router router = ml_bank_router(j->session.bank);
    if (st == ML_OK)
        st = requests_generate(&j->requests, j->session.grid, j->session.model, &j->generation, 1,
                               &router);
    if (st == ML_OK) st = requests_decode(&j->requests, 0, out);
    requests_destroy(&j->requests);
    j->requests = (requests){0};
    return ml_session_agree(&j->session, st);
}

ml_status ml_generate_talk(const ml_generate_options *o, const ml_talk *talk)
{
    ml_status st = ML_OK;
    job j = {.options = o};
    session *s = &j.session;
    double seconds;
    bool more;
    ml_text prompt = {0}, answer = {0};
    ml_run_config config;
    ML_TRY(open_session(s, o, &config));
    ML_TRY(ml_grid_agree(s->grid, open_here(&j, &seconds)));
    for (int64_t i = 0; i < o->nadapters; i++)
        ML_TRY(ml_grid_agree_on_file("the adapter", o->adapters[i], j.adapters[i].hash));
    s->tokens = ml_min(TALK_TOKENS, s->spec->context);
    ML_TRY(ml_session_attach_bank(s, o->nadapters, j.adapters));
    ML_TRY(ml_session_build(s, false, NULL, NULL));
    ML_TRY(prepare_adapters(&j, &seconds));
    ML_TRY(next_prompt(talk, NULL, &prompt, &more));
    while (more) {
        answer.length = 0;
        ML_TRY(answer_turn(&j, prompt.data + 1, &answer));
        ML_TRY(next_prompt(talk, &answer, &prompt, &more));
    }
done:
    ml_text_destroy(&prompt);
    ml_text_destroy(&answer);
    for (int64_t i = 0; j.adapters && i < o->nadapters; i++) ml_adapter_destroy(&j.adapters[i]);
    ml_memory_free(j.adapters);
    ml_session_close(s);
    return st;
}
