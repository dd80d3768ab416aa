/* mpilora bench latency: a forward pass of the base (which a merged adapter is), and under adapters, at several batches and lengths: table 1 of Hu et al. 2021. The
 * variants take turns; the increase is that beside the base of the same round. */
#include <inttypes.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>

#include "cli/bench.h"
#include "mpilora/trial.h"

static const char usage[] =
    "mpilora bench latency [--json] [--base BASE.h5 | --model MODEL.yaml] [--batches 32,16,1] [--lengths 512,256,128] [--rank R] "
    "[--bottleneck R] [--precision bf16|fp32] [--rounds N]";

enum { VARIANTS = 4, SHAPES = 8 };

static const struct {
    const char *name;
    bool adapted;
    ml_method method;
} variants[VARIANTS] = {{"merged LoRA", false, ML_METHOD_LORA},
                        {"unmerged LoRA", true, ML_METHOD_LORA},
                        {"AdapterL", true, ML_METHOD_ADAPTER_L},
                        {"AdapterH", true, ML_METHOD_ADAPTER_H}};

typedef struct latency_options {
    bool json;
    const char *base, *model, *batches, *lengths, *precision;
    int64_t rank, bottleneck, rounds;
    int64_t shapes, sequences[SHAPES], length[SHAPES]; /* the i-th batch with the i-th length */
    ml_model_spec spec;
    ml_dtype dtype;
} latency_options;

typedef struct latency_bench {
    ml_forward_trial *trial[VARIANTS];
    bench_times seconds[SHAPES][VARIANTS], ratio[SHAPES][VARIANTS];
} latency_bench;

/* ---- measurement ---- */

static ml_status create_trials(latency_bench *b, const latency_options *o)
{
    ml_status st = ML_OK;
    int64_t sequences = 1, length = 1;
    for (int64_t i = 0; i < o->shapes; i++) { /* a batch of the most sequences need not be as long as the longest */
        if (o->sequences[i] * o->length[i] > sequences * length) sequences = o->sequences[i], length = o->length[i];
    }
    for (int v = 0; v < VARIANTS && st == ML_OK; v++) {
        const ml_forward_options options = {.base = o->base,
                                            .spec = &o->spec,
                                            .adapted = variants[v].adapted,
                                            .method = variants[v].method,
                                            .sizes = {.bottleneck = o->bottleneck},
                                            .targets = ML_TARGET_Q | ML_TARGET_V,
                                            .rank = o->rank,
                                            .sequences = sequences,
                                            .length = length,
                                            .precision = o->dtype};
        st = ml_forward_trial_create(&b->trial[v], &options);
    }
    return st;
}

/* The first round warms up. */
static void measure(latency_bench *b, const latency_options *o)
{
    for (int64_t shape = 0; shape < o->shapes; shape++) {
        for (int64_t round = -1; round < o->rounds; round++) {
            double base = 0.0;
            for (int v = 0; v < VARIANTS; v++) {
                double seconds = ml_forward_trial_run(b->trial[v], o->sequences[shape], o->length[shape]);
                if (v == 0) base = seconds;
                if (round < 0) continue;
                bench_add(&b->seconds[shape][v], seconds);
                bench_add(&b->ratio[shape][v], seconds / base);
            }
        }
    }
}

/* ---- report ---- */

static json_t *describe(const latency_bench *b, const latency_options *o)
{
    json_t *shapes = json_array();
    for (int64_t shape = 0; shape < o->shapes; shape++) {
        json_t *of = json_object();
        for (int v = 0; v < VARIANTS; v++)
            json_object_set_new(of, variants[v].name,
                                json_pack("{s:f, s:f, s:I}", "ms", 1e3 * bench_median(&b->seconds[shape][v]), "beside_merged",
                                          bench_median(&b->ratio[shape][v]), "parameters",
                                          (json_int_t)ml_forward_trial_parameters(b->trial[v])));
        json_array_append_new(shapes, json_pack("{s:I, s:I, s:o}", "batch", (json_int_t)o->sequences[shape], "length",
                                                (json_int_t)o->length[shape], "variants", of));
    }
    return json_pack("{s:s, s:s, s:i, s:i, s:I, s:o}", "model",
                     o->base    ? o->base
                     : o->model ? o->model
                                : "gpt2-small",
                     "precision", ml_dtype_name(o->dtype), "ranks", ml_grid_world_size(), "threads", omp_get_max_threads(), "rounds",
                     (json_int_t)o->rounds, "shapes", shapes);
}

static void print_table(const latency_bench *b, const latency_options *o)
{
    printf("%s, %s; forward pass in milliseconds, medians of %" PRId64 " rounds; %d rank%s of %d thread%s\n",
           o->base    ? o->base
           : o->model ? o->model
                      : "gpt2-small",
           ml_dtype_name(o->dtype), o->rounds, ml_grid_world_size(), ml_grid_world_size() > 1 ? "s" : "", omp_get_max_threads(),
           omp_get_max_threads() > 1 ? "s" : "");
    printf("%-14s %12s", "batch x length", "");
    for (int64_t i = 0; i < o->shapes; i++) printf("  %9" PRId64 " x %-6" PRId64, o->sequences[i], o->length[i]);
    printf("\n");
    for (int v = 0; v < VARIANTS; v++) {
        printf("%-14s %12" PRId64, variants[v].name, ml_forward_trial_parameters(b->trial[v]));
        for (int64_t i = 0; i < o->shapes; i++)
            printf("  %9.1f %+6.1f %%", 1e3 * bench_median(&b->seconds[i][v]), 100.0 * (bench_median(&b->ratio[i][v]) - 1.0));
        printf("\n");
    }
}

/* ---- command line ---- */

static ml_status read_options(int argc, char **argv, latency_options *o)
{
    ml_status st = ML_OK;
    int64_t lengths;
    const option table[] = {{"--json", OPTION_FLAG, &o->json},
                            {"--base", OPTION_TEXT, &o->base},
                            {"--model", OPTION_TEXT, &o->model},
                            {"--batches", OPTION_TEXT, &o->batches},
                            {"--lengths", OPTION_TEXT, &o->lengths},
                            {"--rank", OPTION_INT, &o->rank},
                            {"--bottleneck", OPTION_INT, &o->bottleneck},
                            {"--precision", OPTION_TEXT, &o->precision},
                            {"--rounds", OPTION_INT, &o->rounds},
                            {NULL, OPTION_FLAG, NULL}};
    ML_TRY(options_read(argc, argv, table, 0, 0, NULL, usage));
    const bench_size sizes[] = {
        {"--rank", o->rank, 1 << 16}, {"--bottleneck", o->bottleneck, 1 << 16}, {"--rounds", o->rounds, BENCH_ROUNDS_MOST}, {NULL, 0, 0}};
    ML_TRY(bench_check_sizes(sizes));
    ML_TRY(bench_check_dtype("--precision", o->precision, &o->dtype));
    ML_TRY(options_read_numbers("--batches", o->batches, SHAPES, o->sequences, &o->shapes));
    ML_TRY(options_read_numbers("--lengths", o->lengths, SHAPES, o->length, &lengths));
    if (lengths != o->shapes)
        return ml_fail(
            ML_USAGE, "--batches and --lengths: %" PRId64 " and %" PRId64 " numbers; the first batch goes with the first length, and so on",
            o->shapes, lengths);
    ML_TRY(bench_read_model(o->base, o->model, &o->spec));
    for (int64_t i = 0; i < o->shapes; i++)
        if (o->length[i] > o->spec.context)
            return ml_fail(ML_USAGE, "--lengths: %" PRId64 " is more than the model's context of %" PRId64, o->length[i], o->spec.context);
done:
    return st;
}

ml_status bench_latency(int argc, char **argv)
{
    ml_status st = ML_OK;
    latency_bench *b = NULL;
    latency_options o = {.batches = "32,16,1", .lengths = "512,256,128", .precision = "fp32", .rank = 4, .bottleneck = 224, .rounds = 5};
    ML_TRY(read_options(argc, argv, &o));
    ML_NEW(b, 1, ML_MEM_OTHER, "results");
    ML_TRY(create_trials(b, &o));
    measure(b, &o);
    if (o.json)
        bench_print_json(describe(b, &o));
    else if (bench_speaks())
        print_table(b, &o);
done:
    for (int v = 0; b && v < VARIANTS; v++) ml_forward_trial_destroy(b->trial[v]);
    ml_memory_free(b);
    return st;
}
