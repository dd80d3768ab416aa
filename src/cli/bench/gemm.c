/* mpilora bench gemm: the rate of a product with a weight by every path, measured as the start of a
 * run measures it but on the whole product, beside the multiply-add peak of the same run. */
#include <inttypes.h>
#include <math.h>

#include "cli/bench/gemm.h"
#include "cli/support/block_options.h"

enum { PATHS_MOST = 8 };
static const ml_kernels_effort whole = {.seconds = 2, .rounds = 5};
static const double most_elements = 1e10;

static const char usage[] =
    "mpilora bench gemm [--json] [--tokens T] [--rows R] [--cols C] [--dtype TYPE,…]";

static const option options[] = {
    {"--tokens", OPTION_INT, offsetof(gemm_options, tokens), "T", "rows of x", "2048"},
    {"--rows", OPTION_INT, offsetof(gemm_options, rows), "R", "outputs of the weight", "2304"},
    {"--cols", OPTION_INT, offsetof(gemm_options, cols), "C", "inputs of the weight", "768"},
    {"--dtype", OPTION_TEXT, offsetof(gemm_options, dtype_names), "TYPE,…",
     "of the weight: bf16, fp32, q8_0, q4_k, …; several are measured in turn", "bf16"},
    {"--json", OPTION_FLAG, offsetof(gemm_options, json), NULL,
     "one JSON object on standard output", NULL},
    {NULL, OPTION_FLAG, 0, NULL, NULL, NULL}};

typedef struct gemm {
    ml_kernels *paths[PATHS_MOST];
    int64_t count;
} gemm;

/* A table for each path that "auto" would measure. */
static ml_status create_paths(gemm *g, const ml_kernels_options *options)
{
    ml_status st = ML_OK;
    const ml_kernels_rate *rates;
    ml_kernels *chosen = NULL;
    ML_TRY(ml_kernels_create(&chosen, options));
    int64_t count = ml_kernels_rates(chosen, &rates, NULL);
    for (int64_t i = 0; i < count && i < PATHS_MOST; i++) {
        ml_kernels_options forced = *options;
        forced.backend = rates[i].path;
        ML_TRY(ml_kernels_create(&g->paths[g->count], &forced));
        g->count++;
    }
done:
    ml_kernels_destroy(chosen);
    return st;
}

/* Of rounds before and behind the measurement. */
static double find_peak(double peak, const ml_kernels *k)
{
    for (int round = 0; round < 3; round++) peak = fmax(peak, ml_kernels_peak_gflops(k));
    return peak;
}

/* What was measured, on which processor, and how the native product divided its work there. */
static ml_status describe(const gemm_options *o, const ml_kernels *k, json_t **out)
{
    char processor[ML_PROCESSOR_NAME];
    ml_product_blocking by;
    ml_status st = ml_kernels_blocking(k->vector_path, processor, &by);
    if (st == ML_OK)
        *out =
            json_pack("{s:I, s:I, s:I, s:s, s:s, s:[I, I, I, I]}", "tokens", (json_int_t)o->tokens,
                      "rows", (json_int_t)o->rows, "cols", (json_int_t)o->cols, "dtype",
                      ml_dtype_name(o->dtypes[0]), "processor", processor, "blocking",
                      (json_int_t)by.rows_in_l2, (json_int_t)by.group_columns,
                      (json_int_t)by.tasks_a_thread, (json_int_t)by.least_task_rows);
    return st;
}

static ml_status measure(const gemm_options *o)
{
    ml_status st = ML_OK;
    json_t *facts;
    gemm g = {.count = 0};
    const ml_weight w = {NULL, o->dtypes[0], o->rows, o->cols};
    const ml_kernels_options options = {
        .weight_dtype = o->dtypes[0], .tokens = o->tokens, .shapes = &w, .nshapes = 1};
    ml_kernels_rate rates[PATHS_MOST];
    const ml_kernels *each[PATHS_MOST];
    char title[128];
    ML_TRY(create_paths(&g, &options));
    for (int64_t i = 0; i < g.count; i++) {
        each[i] = g.paths[i];
        rates[i] = (ml_kernels_rate){.path = g.paths[i]->backend};
    }
    double peak = find_peak(0, g.paths[0]);
    ML_TRY(ml_kernels_measure(&options, &whole, g.count, each, rates));
    peak = find_peak(peak, g.paths[0]);
    ML_TRY(describe(o, g.paths[0], &facts));
    snprintf(title, sizeof title, "%" PRId64 " tokens × W[%" PRId64 ", %" PRId64 "] %s", o->tokens,
             o->rows, o->cols, ml_dtype_name(o->dtypes[0]));
    bench_report_rates(o->json, facts, title, peak, g.paths[0], rates, g.count);
done:
    for (int64_t p = 0; p < g.count; p++) ml_kernels_destroy(g.paths[p]);
    return st;
}

static ml_status read_type(gemm_options *o, const char *word)
{
    if (o->ndtypes == GEMM_TYPES_MOST)
        return ml_fail(ML_USAGE, "--dtype: \"%s\" has more than %d types", o->dtype_names,
                       GEMM_TYPES_MOST);
    ml_dtype *to = &o->dtypes[o->ndtypes++];
    if (!strcmp(word, "bf16") || !strcmp(word, "fp32"))
        return bench_check_dtype("--dtype", word, to);
    const ml_block_format *format;
    ml_status st = block_options_format("--dtype", word, "bf16, fp32, ", &format);
    if (st == ML_OK) *to = format->dtype;
    return st;
}

static ml_status read_types(gemm_options *o)
{
    ml_status st = ML_OK;
    for (const char *at = o->dtype_names; st == ML_OK; at++) {
        char word[32];
        size_t length = strcspn(at, ",");
        snprintf(word, sizeof word, "%.*s", (int)length, at);
        st = read_type(o, word);
        at += length;
        if (!*at) break;
    }
    return st;
}

static ml_status run(int argc, char **argv)
{
    gemm_options o = {0};
    ml_status st = options_read(argc, argv, options, &o, 0, 0, NULL, usage);
    if (st == ML_OK) st = read_types(&o);
    const bench_size sizes[] = {{"--tokens", o.tokens, 1 << 24},
                                {"--rows", o.rows, 1 << 24},
                                {"--cols", o.cols, 1 << 24},
                                {NULL, 0, 0}};
    if (st == ML_OK) st = bench_check_sizes(sizes);
    if (st != ML_OK) return st;
    if ((double)o.rows * (double)o.cols > most_elements ||
        (double)o.tokens * (double)ml_max(o.rows, o.cols) > most_elements)
        return ml_fail(ML_USAGE,
                       "--tokens, --rows, --cols: a matrix of more than %.0f elements is too large "
                       "to be measured here",
                       most_elements);
    return o.ndtypes > 1 || ml_dtype_is_block(o.dtypes[0]) ? gemm_compare_types(&o) : measure(&o);
}

const ml_command bench_gemm = {
    .name = "gemm",
    .summary = "products with a weight, by every path that the processor can run",
    .usage = usage,
    .about =
        "T tokens times a weight of R outputs x C inputs, forward (x·Wᵀ) and backward (dy·W), "
        "by every path that this processor can run. Each rate stands beside its share of the "
        "fp32 multiply-add peak that the same run measures; the median of some rounds counts, "
        "of the peak the largest. Of several types, or blocks, each is measured in turn beside "
        "the first, by the path that a run would take.",
    .options = options,
    .run = run,
    .parallel = true,
};
