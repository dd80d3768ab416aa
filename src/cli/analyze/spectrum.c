/* mpilora analyze spectrum: singular values of W and of dW. */
#include <inttypes.h>
#include <math.h>

#include "cli/analyze/analyze.h"

static const char usage[] = "mpilora analyze spectrum --base BASE.h5 [--adapter A] [--targets q,v] "
                            "[--layers 0-3] [--out F.h5] [--json] [--plan]";

/* How many of the largest hold nine tenths of Σσ². */
static int64_t count_ninety(const double *sigma, int64_t n)
{
    double all = 0.0, sum = 0.0;
    int64_t k = 0;
    for (int64_t i = 0; i < n; i++) all += sigma[i] * sigma[i];
    while (k < n && sum < 0.9 * all) {
        sum += sigma[k] * sigma[k];
        k++;
    }
    return k;
}

static void print_values(const char *name, const char *of, const double *sigma, int64_t n)
{
    double squares = 0.0;
    for (int64_t i = 0; i < n; i++) squares += sigma[i] * sigma[i];
    printf("%-22s %-3s %6" PRId64 " %10.5g %10.5g %10.5g %10.5g %10.5g %8" PRId64 "\n", name, of, n,
           sigma[0], sigma[ml_min(1, n - 1)], sigma[n / 2], sigma[n - 1], sqrt(squares),
           count_ninety(sigma, n));
}

static void print_table(const ml_study *study, const ml_spectrum *s)
{
    printf("%-22s %-3s %6s %10s %10s %10s %10s %10s %8s\n", "target module", "of", "values",
           "first", "second", "middle", "last", "norm", "for 90%");
    for (int64_t i = 0; i < study->count; i++) {
        print_values(study->modules[i].name, "W", s[i].weight, s[i].weights);
        if (s[i].deltas > 0) print_values("", "dW", s[i].delta, s[i].deltas);
    }
}

static void print_json(const ml_study *study, const ml_spectrum *s)
{
    json_t *result = analyze_json(study, "spectrum"), *modules = json_object_get(result, "sites");
    for (int64_t i = 0; i < study->count; i++) {
        json_t *module = analyze_json_module(&study->modules[i]);
        json_object_set_new(module, "weight", analyze_json_numbers(s[i].weight, s[i].weights));
        if (s[i].deltas > 0)
            json_object_set_new(module, "delta", analyze_json_numbers(s[i].delta, s[i].deltas));
        json_array_append_new(modules, module);
    }
    analyze_print_json(result);
}

typedef struct given {
    analyze_options common;
    const char *adapter;
    bool plan;
    int64_t ranks;
} given;

static const option options[] = {
    ANALYZE_OPTIONS(given),
    {"--adapter", OPTION_TEXT, offsetof(given, adapter), "A", "also of its dW", NULL},
    {"--plan", OPTION_FLAG, offsetof(given, plan), NULL, "only say what a rank would need", NULL},
    {"--ranks", OPTION_INT, offsetof(given, ranks), "N",
     "of --plan: on so many ranks; else on those that run", NULL},
    {NULL, OPTION_FLAG, 0, NULL, NULL, NULL}};

static ml_status run(int argc, char **argv)
{
    ml_status st = ML_OK;
    analyze_run run = {0};
    given g = {0};
    const analyze_options *o = &g.common;
    const char *adapters[ML_STUDY_ADAPTERS] = {NULL}, *none;
    ml_spectrum *s = NULL;
    ML_TRY(options_read(argc, argv, options, &g, 0, 0, &none, usage));
    adapters[0] = g.adapter;
    if (g.plan) return analyze_plan(o, g.ranks, usage);
    ML_TRY(analyze_open(&run, o, adapters, usage));
    ML_TRY(ml_spectra_compute(&s, &run.study, analyze_memory(o)));
    if (o->out) st = analyze_speaks() ? ml_spectra_write(o->out, &run.study, s) : ML_OK;
    ML_TRY(ml_grid_agree(run.grid, st));
    if (analyze_speaks()) (o->json ? print_json : print_table)(&run.study, s);
done:
    ml_spectra_destroy(s, run.study.count);
    analyze_close(&run);
    return st;
}

const ml_command analyze_spectrum = {
    .name = "spectrum",
    .summary = "singular values of W, and of dW",
    .usage = usage,
    .about = "Singular values of W, and with --adapter of dW.",
    .options = options,
    .run = run,
    .parallel = true,
};
