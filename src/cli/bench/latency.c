/* mpilora bench latency: a forward pass of the base (which a merged adapter is), and under
 * adapters, at several batches and lengths: table 1 of Hu et al. 2021. The variants take turns;
 * the increase is that beside the base of the same round. AdapterH has two adapters a layer where
 * AdapterL has one: at half the width it adds about as many parameters, as in that table. */
#include <inttypes.h>
#include <math.h>
#include <omp.h>
#include <time.h>

#include "cli/bench/bench.h"
#include "mpilora/trial.h"

static const char usage[] =
    "mpilora bench latency [--json] [--base BASE.h5 | --model MODEL.yaml] [--batches 32,16,1] "
    "[--lengths 512,256,128] [--every] [--rank R] "
    "[--bottleneck 9,224,224] [--precision bf16|fp32] [--rounds N] [--cpu-time]";

enum { VARIANTS = 4, SHAPES = 16 };

static const struct {
    const char *name;
    bool adapted;
    ml_method method;
    int64_t share; /* of the bottleneck */
} variants[VARIANTS] = {{"merged LoRA", false, ML_METHOD_LORA, 1},
                        {"unmerged LoRA", true, ML_METHOD_LORA, 1},
                        {"AdapterL", true, ML_METHOD_ADAPTER_L, 1},
                        {"AdapterH", true, ML_METHOD_ADAPTER_H, 2}};

typedef struct latency_shape {
    int64_t sequences, length, bottleneck;
    char backend[32];
    int64_t parameters[VARIANTS];
    bench_times seconds[VARIANTS], ratio[VARIANTS];
} latency_shape;

typedef struct latency_bench {
    bool json, cpu_time;
    bool every; /* every: each batch with each length; else the first batch with the first length,
                   and so on */
    const char *base, *model, *batches, *lengths, *bottlenecks, *precision;
    int64_t rank, rounds;
    ml_model_spec spec;
    ml_dtype dtype;
    int64_t shapes;
    latency_shape shape[SHAPES];
} latency_bench;

/* ---- measurement --------------------------------------------------------------------------- */

/* All variants multiply by the path that the first one finds fastest. */
static ml_status create_trials(ml_forward_trial **trial, const latency_bench *b,
                               latency_shape *shape)
{
    for (int v = 0; v < VARIANTS; v++) {
        const ml_forward_options options = {
            .base = b->base,
            .spec = &b->spec,
            .adapted = variants[v].adapted,
            .method = variants[v].method,
            .sizes = {.bottleneck =
                          (shape->bottleneck + variants[v].share - 1) / variants[v].share},
            .targets = ML_TARGET_Q | ML_TARGET_V,
            .rank = b->rank,
            .sequences = shape->sequences,
            .length = shape->length,
            .precision = b->dtype,
            .backend = v > 0 ? shape->backend : NULL};
        ml_status st = ml_forward_trial_create(&trial[v], &options);
        if (st != ML_OK) return st;
        shape->parameters[v] = ml_forward_trial_parameters(trial[v]);
        if (v == 0)
            snprintf(shape->backend, sizeof shape->backend, "%s",
                     ml_forward_trial_backend(trial[v]));
    }
    return ML_OK;
}

/* Processor time is what the clock would show of one rank with one thread, were it alone on its
 * core. */
static double run_pass(const latency_bench *b, ml_forward_trial *trial, const latency_shape *shape)
{
    clock_t since = clock();
    double seconds = ml_forward_trial_run(trial, shape->sequences, shape->length);
    return b->cpu_time ? (double)(clock() - since) / CLOCKS_PER_SEC : seconds;
}

/* The first round warms up. */
static ml_status measure(const latency_bench *b, latency_shape *shape)
{
    ml_forward_trial *trial[VARIANTS] = {NULL};
    ml_status st = create_trials(trial, b, shape);
    for (int64_t round = -1; st == ML_OK && round < b->rounds; round++) {
        double base = 0.0;
        for (int v = 0; v < VARIANTS; v++) {
            double seconds = run_pass(b, trial[v], shape);
            if (v == 0) base = seconds;
            if (round < 0) continue;
            bench_add(&shape->seconds[v], seconds);
            bench_add(&shape->ratio[v], seconds / base);
        }
    }
    for (int v = 0; v < VARIANTS; v++) ml_forward_trial_destroy(trial[v]);
    return st;
}

/* ---- report -------------------------------------------------------------------------------- */

static const char *model_name(const latency_bench *b)
{
    return b->base ? b->base : b->model ? b->model : "gpt2-small";
}

static json_t *describe(const latency_bench *b)
{
    json_t *shapes = json_array();
    for (const latency_shape *shape = b->shape; shape < b->shape + b->shapes; shape++) {
        json_t *of = json_object();
        for (int v = 0; v < VARIANTS; v++)
            json_object_set_new(of, variants[v].name,
                                json_pack("{s:f, s:f, s:I}", "ms",
                                          1e3 * bench_median(&shape->seconds[v]), "beside_merged",
                                          bench_median(&shape->ratio[v]), "parameters",
                                          (json_int_t)shape->parameters[v]));
        json_array_append_new(shapes, json_pack("{s:I, s:I, s:s, s:o}", "batch",
                                                (json_int_t)shape->sequences, "length",
                                                (json_int_t)shape->length, "product_path",
                                                shape->backend, "variants", of));
    }
    return json_pack("{s:s, s:b, s:s, s:i, s:i, s:I, s:o}", "model", model_name(b), "cpu_time",
                     b->cpu_time, "precision", ml_dtype_name(b->dtype), "ranks",
                     ml_grid_world_size(), "threads", omp_get_max_threads(), "rounds",
                     (json_int_t)b->rounds, "shapes", shapes);
}

static void print_table(const latency_bench *b)
{
    printf("%s, %s; forward pass in milliseconds%s (parameters, millions), medians of %" PRId64
           " rounds; %d rank%s of %d thread%s\n",
           model_name(b), ml_dtype_name(b->dtype), b->cpu_time ? " of processor time" : "",
           b->rounds, ml_grid_world_size(), ml_grid_world_size() > 1 ? "s" : "",
           omp_get_max_threads(), omp_get_max_threads() > 1 ? "s" : "");
    printf("%-14s", "batch x length");
    for (int v = 0; v < VARIANTS; v++) printf("  %*s", v > 0 ? 28 : 11, variants[v].name);
    printf("  products\n");
    for (const latency_shape *shape = b->shape; shape < b->shape + b->shapes; shape++) {
        printf("%5" PRId64 " x %-6" PRId64 "  %11.1f", shape->sequences, shape->length,
               1e3 * bench_median(&shape->seconds[0]));
        for (int v = 1; v < VARIANTS; v++)
            printf("  %9.1f %+7.1f %% (%6.2f)", 1e3 * bench_median(&shape->seconds[v]),
                   100.0 * (bench_median(&shape->ratio[v]) - 1.0),
                   1e-6 * (double)shape->parameters[v]);
        printf("  %s\n", shape->backend);
    }
}

/* ---- command line -------------------------------------------------------------------------- */

static ml_status add_shape(latency_bench *b, int64_t sequences, int64_t length)
{
    if (length > b->spec.context)
        return ml_fail(ML_USAGE,
                       "--lengths: %" PRId64 " is more than the model's context of %" PRId64,
                       length, b->spec.context);
    if (b->shapes == SHAPES)
        return ml_fail(ML_USAGE, "--batches and --lengths: more than %d shapes", SHAPES);
    b->shape[b->shapes++] = (latency_shape){.sequences = sequences, .length = length};
    return ML_OK;
}

static ml_status read_shapes(latency_bench *b)
{
    ml_status st = ML_OK;
    int64_t sequences[SHAPES], length[SHAPES], bottleneck[SHAPES], batches, lengths, bottlenecks;
    ML_TRY(options_read_numbers("--batches", b->batches, SHAPES, sequences, &batches));
    ML_TRY(options_read_numbers("--lengths", b->lengths, SHAPES, length, &lengths));
    ML_TRY(options_read_numbers("--bottleneck", b->bottlenecks, SHAPES, bottleneck, &bottlenecks));
    if (!b->every && lengths != batches)
        return ml_fail(ML_USAGE,
                       "--batches and --lengths: %" PRId64 " and %" PRId64
                       " numbers; the first batch goes with the first length, and so on; "
                       "--every for each with each",
                       batches, lengths);
    for (int64_t i = 0; i < batches; i++)
        for (int64_t j = b->every ? 0 : i; j < (b->every ? lengths : i + 1); j++)
            ML_TRY(add_shape(b, sequences[i], length[j]));
    if (bottlenecks != 1 && bottlenecks != b->shapes)
        return ml_fail(ML_USAGE,
                       "--bottleneck: %" PRId64 " numbers for %" PRId64
                       " shapes; expected one, or one for each",
                       bottlenecks, b->shapes);
    for (int64_t i = 0; i < b->shapes; i++)
        b->shape[i].bottleneck = bottleneck[bottlenecks > 1 ? i : 0];
done:
    return st;
}

static const option options[] = {
    {"--base", OPTION_TEXT, offsetof(latency_bench, base), "BASE.h5",
     "the base; without it and --model GPT-2 of 124 M with random weights", NULL},
    {"--model", OPTION_TEXT, offsetof(latency_bench, model), "MODEL.yaml",
     "a model description in place of a base, with random weights", NULL},
    {"--batches", OPTION_TEXT, offsetof(latency_bench, batches), "LIST",
     "sequences of a batch; else 32,16,1", NULL},
    {"--lengths", OPTION_TEXT, offsetof(latency_bench, lengths), "LIST",
     "of a sequence; else 512,256,128. The first batch goes with the first length, and so on",
     NULL},
    {"--every", OPTION_FLAG, offsetof(latency_bench, every), NULL, "each batch with each length",
     NULL},
    {"--rank", OPTION_INT, offsetof(latency_bench, rank), "R", "of LoRA", "4"},
    {"--bottleneck", OPTION_TEXT, offsetof(latency_bench, bottlenecks), "LIST",
     "of AdapterL: one, or one a shape; else 9,224,224 with the default shapes, 224 with others",
     NULL},
    {"--precision", OPTION_TEXT, offsetof(latency_bench, precision), "bf16|fp32",
     "of weights and activations", "fp32"},
    {"--rounds", OPTION_INT, offsetof(latency_bench, rounds), "N", "rounds", "5"},
    {"--cpu-time", OPTION_FLAG, offsetof(latency_bench, cpu_time), NULL,
     "processor time in place of the clock's; one rank of one thread", NULL},
    {"--json", OPTION_FLAG, offsetof(latency_bench, json), NULL,
     "one JSON object on standard output", NULL},
    {NULL, OPTION_FLAG, 0, NULL, NULL, NULL}};

static ml_status read_options(int argc, char **argv, latency_bench *b)
{
    ml_status st = ML_OK;
    ML_TRY(options_read(argc, argv, options, b, 0, 0, NULL, usage));
    const bench_size sizes[] = {
        {"--rank", b->rank, 1 << 16}, {"--rounds", b->rounds, BENCH_ROUNDS_MOST}, {NULL, 0, 0}};
    ML_TRY(bench_check_sizes(sizes));
    if (b->cpu_time && (ml_grid_world_size() > 1 || omp_get_max_threads() > 1))
        return ml_fail(ML_USAGE, "--cpu-time: is for one rank of one thread (OMP_NUM_THREADS=1); "
                                 "ranks and threads that wait count as busy");
    ML_TRY(bench_check_dtype("--precision", b->precision, &b->dtype));
    if (!b->bottlenecks)
        b->bottlenecks = b->batches || b->lengths || b->every
                             ? "224"
                             : "9,224,224"; /* the paper's 0.5 M, 11 M, 11 M */
    if (!b->batches) b->batches = "32,16,1";
    if (!b->lengths) b->lengths = "512,256,128";
    ML_TRY(bench_read_model(b->base, b->model, &b->spec));
    ML_TRY(read_shapes(b));
done:
    return st;
}

static ml_status run(int argc, char **argv)
{
    ml_status st = ML_OK;
    latency_bench *b = NULL;
    ML_NEW(b, 1, ML_MEM_OTHER, "results");
    ML_TRY(read_options(argc, argv, b));
    for (int64_t i = 0; i < b->shapes; i++) ML_TRY(measure(b, &b->shape[i]));
    if (b->json)
        bench_print_json(describe(b));
    else if (bench_speaks())
        print_table(b);
done:
    ml_memory_free(b);
    return st;
}

const ml_command bench_latency = {
    .name = "latency",
    .summary =
        "a forward pass merged, under LoRA, and with adapters in sequence: table 1 of the paper",
    .usage = usage,
    .about =
        "A forward pass of a batch, all logits, merged (the base itself), under LoRA on q and v, "
        "AdapterL and AdapterH (at half the bottleneck), in turn; several ranks share the weights.",
    .options = options,
    .run = run,
    .parallel = true,
};
