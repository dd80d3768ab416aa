/* mpilora bench step: a training step of several methods on the same tokens, in turn. */
#include <inttypes.h>

#include "cli/bench/step.h"

static const char usage[] = "mpilora bench step [--json] [--base BASE.h5 | --model MODEL.yaml] "
                            "[--methods lora,full,frozen] [--targets q,v] [--rank R] "
                            "[--dropout P] [--sequences S] [--length N | --tokens T] [--tp N] "
                            "[--precision bf16|fp32] [--rounds N] [--seconds X]";

/* ---- measurement --------------------------------------------------------------------------- */

/* All methods multiply by the path that the first one chose. */
static ml_status create_trial(step_bench *b, const step_options *o, int i)
{
    ml_trial_options options = o->trial;
    options.method = o->method[i];
    options.backend = b->backend;
    ml_status st = ml_trial_create(&b->trial[i], &options);
    if (st != ML_OK || b->backend) return st;
    ml_trial_facts facts;
    ml_trial_get_facts(b->trial[i], &facts);
    b->backend = facts.backend;
    return ML_OK;
}

static void destroy_trials(step_bench *b)
{
    for (int i = 0; i < ML_TRIAL_METHODS; i++) {
        ml_trial_destroy(b->trial[i]);
        b->trial[i] = NULL;
    }
}

static ml_status create_trials(step_bench *b, const step_options *o)
{
    ml_status st = ML_OK;
    for (int i = 0; i < o->methods && st == ML_OK; i++) st = create_trial(b, o, i);
    b->in_turn = st == ML_RESOURCE && o->methods > 1;
    if (st != ML_OK) destroy_trials(b);
    return b->in_turn ? ML_OK : st;
}

/* One step of method i and, around it, the peak. */
static ml_status one_step(step_bench *b, const step_options *o, int i, ml_trial_step *step)
{
    ml_status st = ML_OK;
    if (b->in_turn) {
        ML_TRY(create_trial(b, o, i));
        ml_trial_run(b->trial[i], step);
    }
    bench_add(&b->peaks, ml_trial_peak_gflops(b->trial[i]));
    ml_trial_run(b->trial[i], step);
    ml_trial_get_facts(b->trial[i], &b->results[i].facts);
    if (b->in_turn) {
        ml_trial_destroy(b->trial[i]);
        b->trial[i] = NULL;
    }
done:
    return st;
}

static ml_status measure(step_bench *b, const step_options *o)
{
    ml_status st = ML_OK;
    double start = ml_seconds();
    ML_TRY(create_trials(b, o));
    for (int64_t round = b->in_turn ? 0 : -1;
         bench_goes_on(b->grid, round, o->rounds, start, o->seconds); round++) {
        ml_trial_step step[ML_TRIAL_METHODS];
        for (int i = 0; i < o->methods; i++) ML_TRY(one_step(b, o, i, &step[i]));
        for (int i = 0; i < o->methods && round >= 0; i++) {
            method_results *r = &b->results[i];
            r->steps[r->count++] = step[i];
            bench_add(&r->seconds, step[i].seconds);
            bench_add(&r->ratio, step[i].seconds / step[0].seconds);
        }
    }
done:
    return st;
}

/* ---- command line -------------------------------------------------------------------------- */

static ml_status read_methods(const char *text, step_options *o)
{
    for (const char *word = text;; word++) {
        size_t length = strcspn(word, ",");
        int m = 0;
        while (m < ML_TRIAL_METHODS) {
            const char *name = ml_trial_method_name((ml_trial_method)m);
            if (strlen(name) == length && !strncmp(name, word, length)) break;
            m++;
        }
        if (m == ML_TRIAL_METHODS)
            return ml_fail(ML_USAGE, "--methods: \"%.*s\" is not one of lora, full, frozen",
                           (int)length, word);
        for (int i = 0; i < o->methods; i++)
            if ((int)o->method[i] == m)
                return ml_fail(ML_USAGE, "--methods: %.*s is named twice", (int)length, word);
        o->method[o->methods++] = (ml_trial_method)m;
        word += length;
        if (!*word) return ML_OK;
    }
}

/* T tokens are as many whole sequences. */
static ml_status read_tokens(ml_trial_options *t, int64_t tokens)
{
    const bench_size size[] = {{"--tokens", tokens, 1 << 24}, {NULL, 0, 0}};
    if (tokens == INT64_MIN) return ML_OK;
    ml_status st = bench_check_sizes(size);
    if (st != ML_OK) return st;
    if (tokens % t->length != 0)
        return ml_fail(ML_USAGE, "--tokens: %" PRId64 " is not a multiple of --length %" PRId64,
                       tokens, t->length);
    t->sequences = tokens / t->length;
    return ML_OK;
}

static ml_status check(const step_options *o)
{
    const ml_trial_options *t = &o->trial;
    const bench_size sizes[] = {{"--sequences", t->sequences, 1 << 20},
                                {"--length", t->length, 1 << 24},
                                {"--rank", t->rank, 1 << 16},
                                {"--tp", o->tp, 1 << 16},
                                {"--rounds", o->rounds, BENCH_ROUNDS_MOST},
                                {NULL, 0, 0}};
    if (!(t->dropout >= 0.0 && t->dropout < 1.0))
        return ml_fail(ML_USAGE, "--dropout: %g, expected in [0, 1)", t->dropout);
    if (!(o->seconds >= 0.0)) return ml_fail(ML_USAGE, "--seconds: %g is negative", o->seconds);
    return bench_check_sizes(sizes);
}

static const option options[] = {
    {"--base", OPTION_TEXT, offsetof(step_options, base), "BASE.h5",
     "the base; without it and --model GPT-2 of 124 M with random weights", NULL},
    {"--model", OPTION_TEXT, offsetof(step_options, model), "MODEL.yaml",
     "a model description in place of a base, with random weights", NULL},
    {"--methods", OPTION_TEXT, offsetof(step_options, methods_text), "LIST",
     "what takes turns: methods of method.name, and frozen", "lora,full"},
    {"--targets", OPTION_TEXT, offsetof(step_options, targets), "LIST", "what LoRA adapts", "q,v"},
    {"--rank", OPTION_INT, offsetof(step_options, trial.rank), "R", "of LoRA", "8"},
    {"--dropout", OPTION_NUMBER, offsetof(step_options, trial.dropout), "P", "of LoRA", NULL},
    {"--sequences", OPTION_INT, offsetof(step_options, trial.sequences), "S", "of a step", "4"},
    {"--length", OPTION_INT, offsetof(step_options, trial.length), "N", "tokens of a sequence",
     "512"},
    {"--tokens", OPTION_INT, offsetof(step_options, tokens), "T",
     "of a step, in place of --sequences; a multiple of --length", NULL},
    {"--tp", OPTION_INT, offsetof(step_options, tp), "N", "ranks that share the weights", "1"},
    {"--precision", OPTION_TEXT, offsetof(step_options, precision), "bf16|fp32",
     "of weights and activations", "bf16"},
    {"--rounds", OPTION_INT, offsetof(step_options, rounds), "N", "rounds, at least", "5"},
    {"--seconds", OPTION_NUMBER, offsetof(step_options, seconds), "X", "seconds, at least", "10"},
    {"--json", OPTION_FLAG, offsetof(step_options, json), NULL,
     "one JSON object on standard output", NULL},
    {NULL, OPTION_FLAG, 0, NULL, NULL, NULL}};

static ml_status read_options(int argc, char **argv, step_options *o)
{
    ml_status st = ML_OK;
    ml_trial_options *t = &o->trial;
    ML_TRY(options_read(argc, argv, options, o, 0, 0, NULL, usage));
    ML_TRY(check(o));
    ML_TRY(read_tokens(t, o->tokens));
    ML_TRY(read_methods(o->methods_text, o));
    ML_TRY(bench_read_targets(o->targets, &t->targets));
    ML_TRY(bench_check_dtype("--precision", o->precision, &t->precision));
    ML_TRY(bench_read_model(o->base, o->model, &o->spec));
    t->base = o->base;
    t->spec = &o->spec;
    t->tp = (int)o->tp;
done:
    return st;
}

static ml_status run(int argc, char **argv)
{
    ml_status st = ML_OK;
    step_bench *b = NULL;
    step_options o = {.tokens = INT64_MIN};
    ML_TRY(read_options(argc, argv, &o));
    ML_NEW(b, 1, ML_MEM_OTHER, "results");
    ML_TRY(ml_grid_create(&b->grid, 1));
    ML_TRY(measure(b, &o));
    bench_step_report(b, &o);
done:
    if (b) {
        destroy_trials(b);
        ml_grid_destroy(b->grid);
    }
    ml_memory_free(b);
    return st;
}

const ml_command bench_step = {
    .name = "step",
    .summary = "a training step of several methods in turn: times by phase, flops, training state",
    .usage = usage,
    .about =
        "Alternating training steps of several methods in memory, on S sequences of N random "
        "tokens; any number of ranks. `frozen` is LoRA's forward and backward without LoRA. Prints "
        "times by phase, tokens/s, model flops and their share of the peak, the bytes of what "
        "trains with its gradients and moments, and every other method beside the first.",
    .options = options,
    .run = run,
    .parallel = true,
};
