/* mpilora bench generate: tokens a second of one sequence or several, beside what reading the
 * weights once a token allows. The base, the base with an adapter beside it, the base with the
 * adapter merged into it, and plain reads of the same weights take turns. */
#include <inttypes.h>
#include <omp.h>

#include "cli/bench/bench.h"
#include "mpilora/trial.h"

static const char usage[] = "mpilora bench generate [--json] [--base BASE.h5 | --model MODEL.yaml] "
                            "[--adapter A | --targets q,v [--rank R]] [--merged] "
                            "[--tokens N] [--sequences N] [--prompt N] [--precision bf16|fp32] "
                            "[--activations exact|q8] [--rounds N] [--seconds X]";

enum { VARIANTS = 3 };
static const char *const variant_names[VARIANTS] = {"base", "unmerged", "merged"};

typedef struct generate_options {
    bool json, merged;
    const char *base, *model, *adapter, *targets, *precision, *activations;
    int64_t rounds;
    double seconds;
    ml_model_spec spec;
    ml_decode_options trial;
} generate_options;

typedef struct generate_bench {
    ml_grid *grid;
    ml_decode_trial *trial[VARIANTS];               /* NULL: not asked for */
    bench_times seconds[VARIANTS], ratio[VARIANTS]; /* a token; to the base's of the same round */
    bench_times processor[VARIANTS];                /* seconds of a token */
    bench_times share[VARIANTS];                    /* of the bound of the same round */
    bench_times read;
} generate_bench;

/* ---- measurement --------------------------------------------------------------------------- */

static ml_status create_trials(generate_bench *b, const generate_options *o)
{
    ml_status st = ML_OK;
    bool adapted = o->adapter || o->targets;
    const bool wanted[VARIANTS] = {true, adapted, adapted && o->merged};
    for (int v = 0; v < VARIANTS && st == ML_OK; v++) {
        ml_decode_options options = o->trial;
        options.how = (ml_decode_adapter)v;
        if (wanted[v]) st = ml_decode_trial_create(&b->trial[v], &options);
    }
    return st;
}

static ml_status measure(generate_bench *b, const generate_options *o)
{
    ml_status st = ML_OK;
    double start = ml_seconds();
    for (int64_t round = -1; bench_goes_on(b->grid, round, o->rounds, start, o->seconds); round++) {
        double seconds[VARIANTS] = {0}, processor;
        for (int v = 0; v < VARIANTS; v++) {
            if (!b->trial[v]) continue;
            double read = ml_decode_trial_read(b->trial[v]);
            ML_TRY(ml_decode_trial_run(b->trial[v], &seconds[v], &processor));
            seconds[v] /= (double)o->trial.tokens;
            read = (read + ml_decode_trial_read(b->trial[v])) / 2.0;
            if (round < 0) continue;
            bench_add(&b->read, read);
            bench_add(&b->seconds[v], seconds[v]);
            bench_add(&b->processor[v], processor / (double)o->trial.tokens);
            bench_add(&b->share[v], read / seconds[v]);
            bench_add(&b->ratio[v], seconds[v] / seconds[0]);
        }
    }
done:
    return st;
}

/* ---- report -------------------------------------------------------------------------------- */

static const char *model_name(const generate_options *o)
{
    return o->base ? o->base : o->model ? o->model : "gpt2-small";
}

static json_t *describe(const generate_bench *b, const generate_options *o)
{
    json_t *variants = json_object();
    double read = bench_median(&b->read), bytes = (double)ml_decode_trial_bytes(b->trial[0]),
           sequences = (double)o->trial.sequences;
    for (int v = 0; v < VARIANTS; v++) {
        if (!b->trial[v]) continue;
        double seconds = bench_median(&b->seconds[v]);
        json_object_set_new(
            variants, variant_names[v],
            json_pack("{s:f, s:f, s:f, s:f, s:f}", "tokens_per_s", sequences / seconds, "token_s",
                      seconds, "cpu_token_s", bench_median(&b->processor[v]), "bound_share",
                      bench_median(&b->share[v]), "time_to_base", bench_median(&b->ratio[v])));
    }
    return json_pack("{s:s, s:s, s:s, s:I, s:I, s:i, s:i, s:I, s:I, s:s, s:I, s:f, s:f, s:o}",
                     "model", model_name(o), "precision", ml_dtype_name(o->trial.precision),
                     "activations", o->activations, "sequences", (json_int_t)o->trial.sequences,
                     "prompt", (json_int_t)o->trial.prompt, "ranks", ml_grid_size(b->grid),
                     "threads", omp_get_max_threads(), "tokens", (json_int_t)o->trial.tokens,
                     "rounds", (json_int_t)b->seconds[0].count, "vector_path",
                     ml_decode_trial_vector_path(b->trial[0]), "weight_bytes",
                     (json_int_t)ml_decode_trial_bytes(b->trial[0]), "memory_bytes_per_s",
                     bytes / read, "bound_tokens_per_s", 1.0 / read, "variants", variants);
}

static void print_table(const generate_bench *b, const generate_options *o)
{
    double read = bench_median(&b->read), bytes = (double)ml_decode_trial_bytes(b->trial[0]);
    printf("%s, %s, activations %s; %" PRId64 " tokens of %" PRId64
           " sequences; %d rank%s of %d thread%s, %s\n",
           model_name(o), ml_dtype_name(o->trial.precision), o->activations, o->trial.tokens,
           o->trial.sequences, ml_grid_size(b->grid), ml_grid_size(b->grid) > 1 ? "s" : "",
           omp_get_max_threads(), omp_get_max_threads() > 1 ? "s" : "",
           ml_decode_trial_vector_path(b->trial[0]));
    printf("a token reads %.1f MB a rank; a plain read of them: %.2f GB/s, which allows %.1f "
           "tokens/s\n",
           1e-6 * bytes, 1e-9 * bytes / read, 1.0 / read);
    for (int v = 0; v < VARIANTS; v++)
        if (b->trial[v])
            printf("  %-9s %8.2f tokens/s, %5.1f %% of the bound, time beside the base %.3f\n",
                   variant_names[v], (double)o->trial.sequences / bench_median(&b->seconds[v]),
                   100.0 * bench_median(&b->share[v]), bench_median(&b->ratio[v]));
}

/* ---- command line -------------------------------------------------------------------------- */

static ml_status check(const generate_options *o)
{
    const bench_size sizes[] = {
        {"--tokens", o->trial.tokens, 1 << 24},     {"--sequences", o->trial.sequences, 1 << 10},
        {"--prompt", o->trial.prompt, 1 << 24},     {"--rank", o->trial.rank, 1 << 16},
        {"--rounds", o->rounds, BENCH_ROUNDS_MOST}, {NULL, 0, 0}};
    if (o->adapter && o->targets)
        return ml_fail(ML_USAGE,
                       "--adapter and --targets: give one of them; an adapter has its own targets");
    if (o->adapter && !o->base)
        return ml_fail(ML_USAGE, "--adapter: needs --base, the base that it belongs to");
    if (o->merged && !o->adapter && !o->targets)
        return ml_fail(ML_USAGE, "--merged: needs --adapter, or --targets for a random adapter");
    if (!(o->seconds >= 0.0)) return ml_fail(ML_USAGE, "--seconds: %g is negative", o->seconds);
    return bench_check_sizes(sizes);
}

static const option options[] = {
    {"--base", OPTION_TEXT, offsetof(generate_options, base), "BASE.h5",
     "the base; without it and --model GPT-2 of 124 M with random weights", NULL},
    {"--model", OPTION_TEXT, offsetof(generate_options, model), "MODEL.yaml",
     "a model description in place of a base, with random weights", NULL},
    {"--adapter", OPTION_TEXT, offsetof(generate_options, adapter), "A",
     "also through this adapter of --base", NULL},
    {"--targets", OPTION_TEXT, offsetof(generate_options, targets), "LIST",
     "in place of --adapter: a random adapter of these", NULL},
    {"--rank", OPTION_INT, offsetof(generate_options, trial.rank), "R", "of --targets", "8"},
    {"--merged", OPTION_FLAG, offsetof(generate_options, merged), NULL,
     "also with the adapter merged into the weights", NULL},
    {"--tokens", OPTION_INT, offsetof(generate_options, trial.tokens), "N", "of a sequence", "64"},
    {"--sequences", OPTION_INT, offsetof(generate_options, trial.sequences), "N",
     "at once; a token a second of each counts", "1"},
    {"--prompt", OPTION_INT, offsetof(generate_options, trial.prompt), "N",
     "tokens before the first new one, of each sequence", "1"},
    {"--precision", OPTION_TEXT, offsetof(generate_options, precision), "bf16|fp32",
     "of weights and activations", "bf16"},
    {"--activations", OPTION_TEXT, offsetof(generate_options, activations), "exact|q8",
     "q8: products with weights in blocks take activations rounded to 8 bits, as llama.cpp's do: "
     "faster, and other results",
     "exact"},
    {"--rounds", OPTION_INT, offsetof(generate_options, rounds), "N", "rounds, at least", "5"},
    {"--seconds", OPTION_NUMBER, offsetof(generate_options, seconds), "X", "seconds, at least",
     "5"},
    {"--json", OPTION_FLAG, offsetof(generate_options, json), NULL,
     "one JSON object on standard output", NULL},
    {NULL, OPTION_FLAG, 0, NULL, NULL, NULL}};

static ml_status read_options(int argc, char **argv, generate_options *o)
{
    ml_status st = ML_OK;
    ml_decode_options *t = &o->trial;
    ML_TRY(options_read(argc, argv, options, o, 0, 0, NULL, usage));
    ML_TRY(check(o));
    if (o->targets) ML_TRY(bench_read_targets(o->targets, &t->targets));
    ML_TRY(options_choose("--activations", o->activations, "exact", "q8", &t->rounds_activations));
    ML_TRY(bench_check_dtype("--precision", o->precision, &t->precision));
    ML_TRY(bench_read_model(o->base, o->model, &o->spec));
    t->base = o->base;
    t->spec = &o->spec;
    t->adapter = o->adapter;
done:
    return st;
}

static ml_status run(int argc, char **argv)
{
    ml_status st = ML_OK;
    generate_bench *b = NULL;
    generate_options o = {0};
    ML_TRY(read_options(argc, argv, &o));
    ML_NEW(b, 1, ML_MEM_OTHER, "results");
    ML_TRY(ml_grid_create(&b->grid, 1));
    ML_TRY(create_trials(b, &o));
    ML_TRY(measure(b, &o));
    if (o.json)
        bench_print_json(describe(b, &o));
    else if (bench_speaks())
        print_table(b, &o);
done:
    for (int v = 0; b && v < VARIANTS; v++) ml_decode_trial_destroy(b->trial[v]);
    if (b) ml_grid_destroy(b->grid);
    ml_memory_free(b);
    return st;
}

const ml_command bench_generate = {
    .name = "generate",
    .summary = "tokens a second of one sequence beside what reading the weights allows",
    .usage = usage,
    .about =
        "Tokens a second of one sequence beside what reading the weights once a token would allow.",
    .options = options,
    .run = run,
    .parallel = true,
};
