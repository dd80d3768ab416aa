/* mpilora analyze amplification: what of W an adapter makes stronger. */
#include <inttypes.h>
#include <math.h>

#include "cli/analyze/analyze.h"

static const char usage[] = "mpilora analyze amplification A --base BASE.h5 [--rank R] [--targets "
                            "q,v] [--layers 0-3] [--out F.h5] [--json]";

static void print_table(const ml_study *study, const ml_amplification *a)
{
    printf("||U' W V||_F with the top r singular directions of dW, of W and of a random matrix; "
           "factor = ||dW|| / that of dW\n");
    printf("%-22s %5s %10s %10s %10s %10s %10s %10s\n", "module", "r", "dW", "W", "random", "||W||",
           "||dW||", "factor");
    for (int64_t i = 0; i < study->count; i++, a++)
        printf("%-22s %5" PRId64 " %10.4f %10.4f %10.4f %10.4f %10.4f %10.3f\n",
               study->modules[i].name, a->rank, a->of_delta, a->of_weight, a->of_random,
               a->weight_norm, a->delta_norm, a->factor);
}

static void print_json(const ml_study *study, const ml_amplification *a)
{
    json_t *result = analyze_json(study, "amplification"),
           *modules = json_object_get(result, "sites");
    for (int64_t i = 0; i < study->count; i++, a++) {
        json_t *module = analyze_json_module(&study->modules[i]);
        json_t *factor = isfinite(a->factor) ? json_real(a->factor) : json_null();
        json_t *numbers =
            json_pack("{s:I, s:f, s:f, s:f, s:f, s:f, s:o}", "rank", (json_int_t)a->rank,
                      "projected_on_delta", a->of_delta, "projected_on_weight", a->of_weight,
                      "projected_on_random", a->of_random, "weight_norm", a->weight_norm,
                      "delta_norm", a->delta_norm, "amplification", factor);
        json_object_update_new(module, numbers);
        json_array_append_new(modules, module);
    }
    analyze_print_json(result);
}

typedef struct given {
    analyze_options common;
    int64_t rank;
} given;

static const option options[] = {ANALYZE_OPTIONS(given),
                                 {"--rank", OPTION_INT, offsetof(given, rank), "R",
                                  "how many top directions; else the adapter's rank", NULL},
                                 {NULL, OPTION_FLAG, 0, NULL, NULL, NULL}};

static ml_status run(int argc, char **argv)
{
    ml_status st = ML_OK;
    analyze_run run = {0};
    given g = {0};
    const analyze_options *o = &g.common;
    const char *adapters[ML_STUDY_ADAPTERS] = {NULL};
    ml_amplification *a = NULL;
    ML_TRY(options_read(argc, argv, options, &g, 1, 1, adapters, usage));
    if (g.rank < 0) return ml_fail(ML_USAGE, "--rank: %" PRId64 " is negative", g.rank);
    ML_TRY(analyze_open(&run, o, adapters, usage));
    a = ml_memory_alloc(run.study.count, sizeof *a, ML_MEM_OTHER, "results");
    ML_TRY(ml_grid_agree(run.grid, a ? ML_OK : ML_RESOURCE));
    ML_TRY(ml_amplification_compute(a, &run.study, g.rank, (uint64_t)o->seed, analyze_memory(o)));
    if (o->out)
        st = analyze_speaks() ? ml_amplification_write(o->out, &run.study, (uint64_t)o->seed, a)
                              : ML_OK;
    ML_TRY(ml_grid_agree(run.grid, st));
    if (analyze_speaks()) (o->json ? print_json : print_table)(&run.study, a);
done:
    ml_memory_free(a);
    analyze_close(&run);
    return st;
}

const ml_command analyze_amplification = {
    .name = "amplification",
    .summary = "what of W an adapter amplifies",
    .usage = usage,
    .about = "||U' W V||_F with U, V the R top singular directions of dW, of W, and of a random "
             "matrix, beside ||W||_F and ||dW||_F; the amplification factor is ||dW||_F / ||U' W "
             "V||_F for dW's directions.",
    .options = options,
    .run = run,
    .parallel = true,
};
