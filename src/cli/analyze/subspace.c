/* mpilora analyze subspace: how much two adapters' subspaces have in common. */
#include <inttypes.h>

#include "cli/analyze/analyze.h"

static const char usage[] = "mpilora analyze subspace A B --base BASE.h5 [--of A|B|right|left] "
                            "[--targets q,v] [--layers 0-3] [--out F.h5] [--json]";

enum { COLUMNS = 6 };

static ml_status read_factor(const char *text, ml_factor *out)
{
    for (int i = 0; i < ML_FACTORS; i++) {
        *out = (ml_factor)i;
        if (!strcmp(text, ml_factor_name(*out))) return ML_OK;
    }
    return ml_fail(ML_USAGE, "--of: \"%s\" is not one of A, B, right, left", text);
}

static const char *describe(ml_factor factor)
{
    static const char *const text[ML_FACTORS] = {
        "right-singular directions of A", "left-singular directions of B",
        "right-singular directions of dW", "left-singular directions of dW"};
    return text[factor];
}

/* ---- table: φ(n, n) for n = 1, 2, 4, …, then φ of all directions, and chance --------------- */

static double phi_at(const double *phi, const ml_subspace *s, int64_t i, int64_t j)
{
    return phi[(i - 1) * s->nb + j - 1];
}

static void print_row(const ml_study_module *module, const ml_subspace *s, int columns)
{
    int64_t k = ml_min(s->na, s->nb);
    printf("%-22s %5" PRId64 " %5" PRId64, module->name, s->na, s->nb);
    for (int c = 0; c < columns; c++) {
        if (INT64_C(1) << c > k)
            printf("         -");
        else
            printf("  %8.4f", phi_at(s->phi, s, INT64_C(1) << c, INT64_C(1) << c));
    }
    printf("  %8.4f  %8.4f\n", phi_at(s->phi, s, s->na, s->nb),
           phi_at(s->phi_random, s, s->na, s->nb));
}

static void print_means(const ml_study *study, const ml_subspace *s)
{
    for (int64_t i = 0; i < study->count; i++) {
        const char *target = study->modules[i].target;
        double phi = 0.0, chance = 0.0, first = 0.0, first_chance = 0.0;
        int64_t n = 0;
        bool seen = false;
        for (int64_t j = 0; j < study->count; j++) {
            if (strcmp(study->modules[j].target, target) != 0) continue;
            seen = seen || j < i;
            first += phi_at(s[j].phi, &s[j], 1, 1);
            first_chance += phi_at(s[j].phi_random, &s[j], 1, 1);
            phi += phi_at(s[j].phi, &s[j], s[j].na, s[j].nb);
            chance += phi_at(s[j].phi_random, &s[j], s[j].na, s[j].nb);
            n++;
        }
        if (!seen)
            printf("mean of %-5s (%" PRId64
                   " layers): phi(1,1) %.4f (random %.4f), all directions %.4f (random %.4f)\n",
                   target, n, first / (double)n, first_chance / (double)n, phi / (double)n,
                   chance / (double)n);
    }
}

static void print_table(const ml_study *study, const ml_subspace *s, ml_factor factor)
{
    int64_t most = 1;
    int columns = 1;
    for (int64_t i = 0; i < study->count; i++) most = ml_max(most, ml_min(s[i].na, s[i].nb));
    while (columns < COLUMNS && INT64_C(1) << columns <= most) columns++;
    printf("phi of the %s\n  A %s\n  B %s\n", describe(factor), study->path[0], study->path[1]);
    printf("%-22s %5s %5s", "module", "A", "B");
    for (int c = 0; c < columns; c++) printf("%*s(%d,%d)", c < 4 ? 5 : 3, "", 1 << c, 1 << c);
    printf("  %8s  %8s\n", "all", "random");
    for (int64_t i = 0; i < study->count; i++) print_row(&study->modules[i], &s[i], columns);
    print_means(study, s);
}

/* ---- JSON ---------------------------------------------------------------------------------- */

static json_t *matrix(const double *x, int64_t rows, int64_t cols)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < rows; i++)
        json_array_append_new(list, analyze_json_numbers(x + i * cols, cols));
    return list;
}

static void print_json(const ml_study *study, const ml_subspace *s, ml_factor factor)
{
    json_t *result = analyze_json(study, "subspace"), *modules = json_object_get(result, "sites");
    json_object_set_new(result, "of", json_string(ml_factor_name(factor)));
    for (int64_t i = 0; i < study->count; i++) {
        json_t *module = analyze_json_module(&study->modules[i]);
        json_object_set_new(module, "sigma_a", analyze_json_numbers(s[i].sigma_a, s[i].na));
        json_object_set_new(module, "sigma_b", analyze_json_numbers(s[i].sigma_b, s[i].nb));
        json_object_set_new(module, "phi", matrix(s[i].phi, s[i].na, s[i].nb));
        json_object_set_new(module, "phi_random", matrix(s[i].phi_random, s[i].na, s[i].nb));
        json_array_append_new(modules, module);
    }
    analyze_print_json(result);
}

typedef struct given {
    analyze_options common;
    const char *of;
} given;

static const option options[] = {
    ANALYZE_OPTIONS(given),
    {"--of", OPTION_TEXT, offsetof(given, of), "A|B|right|left",
     "A: columns of the right-singular unitary matrix of A, as in the paper; B: left-singular ones "
     "of B; right, left: singular directions of dW itself",
     "A"},
    {NULL, OPTION_FLAG, 0, NULL, NULL, NULL}};

static ml_status run(int argc, char **argv)
{
    ml_status st = ML_OK;
    analyze_run run = {0};
    given g = {0};
    const analyze_options *o = &g.common;
    const char *adapters[ML_STUDY_ADAPTERS];
    ml_factor factor;
    ml_subspace *s = NULL;
    ML_TRY(options_read(argc, argv, options, &g, 2, 2, adapters, usage));
    ML_TRY(read_factor(g.of, &factor));
    ML_TRY(analyze_open(&run, o, adapters, usage));
    ML_TRY(ml_subspaces_compute(&s, &run.study, factor, (uint64_t)o->seed));
    if (o->out)
        st = analyze_speaks() ? ml_subspaces_write(o->out, &run.study, factor, (uint64_t)o->seed, s)
                              : ML_OK;
    ML_TRY(ml_grid_agree(run.grid, st));
    if (analyze_speaks()) (o->json ? print_json : print_table)(&run.study, s, factor);
done:
    ml_subspaces_destroy(s, run.study.count);
    analyze_close(&run);
    return st;
}

const ml_command analyze_subspace = {
    .name = "subspace",
    .summary = "the subspaces of two adapters beside chance",
    .usage = usage,
    .about = "phi(i, j) = ||U_i' V_j||_F^2 / min(i, j) of the first i singular directions of the "
             "one adapter and the first j of the other: 0 orthogonal, 1 the smaller lies in the "
             "larger; beside it phi of two random Gaussian matrices.",
    .options = options,
    .run = run,
    .parallel = true,
};
