/* mpilora bench gemm|attention: rates of the kernels beside the multiply-add peak of the same run. Candidates run in turn, so that a
 * disturbance of the machine meets all of them; the median counts, of the peak the largest. */
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>

#include "cli/cli.h"
#include "cli/options.h"
#include "mpilora/kernels.h"

enum { PATHS_MOST = 8, ROUNDS_MOST = 64 };
static const double seconds_wanted = 2, most_elements = 1e10;

#define USAGE "mpilora bench gemm|attention [--json] [options]"

typedef struct bench_options {
    bool json;
    int64_t tokens, rows, cols, heads, kv_heads, head_dim, length;
    const char *dtype;
} bench_options;

/* ---- what is measured: seconds (of the peak: rates) of some rounds -------------------------------------------------- */

typedef struct times {
    int64_t count;
    double seconds[ROUNDS_MOST];
} times;

static void add_time(times *t, double seconds)
{
    if (t->count < ROUNDS_MOST) t->seconds[t->count++] = seconds;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(times *t)
{
    qsort(t->seconds, (size_t)t->count, sizeof *t->seconds, compare_doubles);
    return t->count ? t->seconds[t->count / 2] : NAN;
}

/* A peak is what is possible: a disturbed round says nothing about it. */
static double largest(const times *t)
{
    double most = 0;
    for (int64_t i = 0; i < t->count; i++) most = fmax(most, t->seconds[i]);
    return most;
}

typedef struct result {
    char path[32];
    double forward, backward; /* GF/s */
} result;

/* One table or one JSON object. `facts`: what was measured; consumed. */
static ml_status report(bool json, json_t *facts, const char *title, double peak, const ml_kernels *k, const result *results, int64_t count)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < count; i++)
        json_array_append_new(list, json_pack("{s:s, s:f, s:f, s:f, s:f}", "path", results[i].path, "forward_gflops", results[i].forward,
                                              "backward_gflops", results[i].backward, "forward_share", results[i].forward / peak,
                                              "backward_share", results[i].backward / peak));
    json_object_set_new(facts, "threads", json_integer(omp_get_max_threads()));
    json_object_set_new(facts, "vector_path", json_string(k->vector_path));
    json_object_set_new(facts, "fma_peak_gflops", json_real(peak));
    json_object_set_new(facts, "paths", list);
    if (json) {
        json_dumpf(facts, stdout, JSON_REAL_PRECISION(6));
        putchar('\n');
    } else {
        printf("%s, %d threads, %s; fp32 multiply-add peak %.1f GF/s\n", title, omp_get_max_threads(), k->vector_path, peak);
        printf("  %-16s %22s %22s\n", "path", "forward GF/s (of peak)", "backward GF/s (of peak)");
        for (int64_t i = 0; i < count; i++)
            printf("  %-16s %13.1f  (%4.0f %%) %13.1f  (%4.0f %%)\n", results[i].path, results[i].forward, 100 * results[i].forward / peak,
                   results[i].backward, 100 * results[i].backward / peak);
    }
    json_decref(facts);
    return ML_OK;
}

static ml_status random_floats(float **out, int64_t n, const char *name)
{
    float *x = ml_memory_alloc(n, sizeof *x, ML_MEM_OTHER, name);
    if (!x) return ML_RESOURCE;
    for (int64_t i = 0; i < n; i++) x[i] = (float)((i * 7919) % 1000 - 500) / 1000;
    *out = x;
    return ML_OK;
}

/* ---- gemm ------------------------------------------------------------------------------------------------------------ */

typedef struct gemm {
    ml_weight w;
    float *full, *x, *y;
    uint16_t *narrow;
    ml_kernels *paths[PATHS_MOST];
    int64_t count;
} gemm;

/* A table for each path that "auto" would measure. */
static ml_status create_paths(gemm *g, ml_kernels_options *options)
{
    ml_status st = ML_OK;
    const ml_kernels_rate *rates;
    ml_kernels *chosen = NULL;
    ML_TRY(ml_kernels_create(&chosen, options));
    int64_t count = ml_kernels_rates(chosen, &rates);
    for (int64_t i = 0; i < count && i < PATHS_MOST; i++) {
        ml_kernels_options forced = *options;
        forced.product_path = rates[i].path;
        ML_TRY(ml_kernels_create(&g->paths[g->count], &forced));
        g->count++;
    }
done:
    ml_kernels_destroy(chosen);
    return st;
}

static ml_status prepare_gemm(gemm *g, const bench_options *o)
{
    ml_status st = ML_OK;
    int64_t n = o->rows * o->cols;
    g->w = (ml_weight){NULL, strcmp(o->dtype, "fp32") ? ML_BF16 : ML_FP32, o->rows, o->cols};
    ml_kernels_options options = {.weight_dtype = g->w.dtype, .tokens = o->tokens, .shapes = &g->w, .nshapes = 1};
    ML_TRY(create_paths(g, &options));
    ML_TRY(random_floats(&g->full, n, "the weight"));
    ML_TRY(random_floats(&g->x, o->tokens * o->cols, "activations"));
    ML_TRY(random_floats(&g->y, o->tokens * o->rows, "results"));
    g->w.data = g->full;
    if (g->w.dtype == ML_BF16) {
        ML_NEW(g->narrow, n, ML_MEM_OTHER, "the weight in bf16");
        g->paths[0]->narrow(n, g->full, g->narrow);
        g->w.data = g->narrow;
    }
done:
    return st;
}

static double run_gemm(const gemm *g, const ml_kernels *k, int64_t T, bool backward)
{
    double start = ml_seconds();
    if (backward)
        k->weight_backward(k, T, g->y, g->w.rows, &g->w, 0, g->x, g->w.cols);
    else
        k->weight_forward(k, T, g->x, g->w.cols, &g->w, 0, g->y, g->w.rows);
    return ml_seconds() - start;
}

static ml_status bench_gemm(const bench_options *o)
{
    ml_status st = ML_OK;
    gemm g = {.count = 0};
    static times forward[PATHS_MOST], backward[PATHS_MOST], peaks;
    result results[PATHS_MOST];
    ML_TRY(prepare_gemm(&g, o));
    double start = ml_seconds(), flops = 2e-9 * (double)o->tokens * (double)o->rows * (double)o->cols;
    for (int round = -1; round < 3 || (round < ROUNDS_MOST && ml_seconds() - start < seconds_wanted); round++) {
        add_time(&peaks, ml_kernels_peak_gflops(g.paths[0]));
        for (int64_t p = 0; p < g.count; p++) {
            double f = run_gemm(&g, g.paths[p], o->tokens, false), b = run_gemm(&g, g.paths[p], o->tokens, true);
            if (round < 0) continue;
            add_time(&forward[p], f);
            add_time(&backward[p], b);
        }
    }
    for (int64_t p = 0; p < g.count; p++) {
        results[p] = (result){.forward = flops / median(&forward[p]), .backward = flops / median(&backward[p])};
        snprintf(results[p].path, sizeof results[p].path, "%s", g.paths[p]->product_path);
    }
    char title[128];
    snprintf(title, sizeof title, "%" PRId64 " tokens × W[%" PRId64 ", %" PRId64 "] %s", o->tokens, o->rows, o->cols, o->dtype);
    st = report(o->json,
                json_pack("{s:I, s:I, s:I, s:s}", "tokens", (json_int_t)o->tokens, "rows", (json_int_t)o->rows, "cols", (json_int_t)o->cols,
                          "dtype", o->dtype),
                title, largest(&peaks), g.paths[0], results, g.count);
done:
    for (int64_t p = 0; p < g.count; p++) ml_kernels_destroy(g.paths[p]);
    ml_memory_free(g.full);
    ml_memory_free(g.x);
    ml_memory_free(g.y);
    ml_memory_free(g.narrow);
    return st;
}

/* ---- attention ------------------------------------------------------------------------------------------------------- */

enum { Q, K, V, O, LSE, DO, DQ, DK, DV, TENSORS };

typedef struct attention {
    ml_kernels *k;
    ml_attention_shape shape;
    ml_sequences sequences;
    int64_t *start;
    float *t[TENSORS];
} attention;

static ml_status prepare_attention(attention *a, const bench_options *o)
{
    ml_status st = ML_OK;
    static const char *const names[TENSORS] = {"q", "k", "v", "o", "log-sum-exp", "do", "dq", "dk", "dv"};
    int64_t query = o->tokens * o->heads * o->head_dim, key = o->tokens * o->kv_heads * o->head_dim;
    const int64_t sizes[TENSORS] = {query, key, key, query, o->tokens * o->heads, query, query, key, key};
    const ml_kernels_options options = {
        .product_path = "blas", .tokens = o->tokens, .head_dim = o->head_dim, .heads = o->heads, .kv_heads = o->kv_heads};
    int64_t count = (o->tokens + o->length - 1) / o->length;
    a->shape = (ml_attention_shape){o->heads, o->kv_heads, o->head_dim, 1 / sqrtf((float)o->head_dim)};
    ML_TRY(ml_kernels_create(&a->k, &options));
    for (int i = 0; i < TENSORS; i++) ML_TRY(random_floats(&a->t[i], sizes[i], names[i]));
    ML_NEW(a->start, count + 1, ML_MEM_OTHER, "sequences");
    for (int64_t i = 0; i <= count; i++) a->start[i] = ml_min(i * o->length, o->tokens);
    a->sequences = (ml_sequences){count, a->start, NULL};
done:
    return st;
}

/* 4·h a head and a pair of tokens that attend: two products forward, five backward. */
static double attention_gflops(const attention *a)
{
    double pairs = 0;
    for (int64_t i = 0; i < a->sequences.count; i++) {
        double n = (double)(a->start[i + 1] - a->start[i]);
        pairs += n * (n + 1) / 2;
    }
    return 4e-9 * pairs * (double)(a->shape.heads * a->shape.head_dim);
}

static double run_attention(const attention *a, bool backward)
{
    const ml_attention_shape *s = &a->shape;
    int64_t ldq = s->heads * s->head_dim, ldkv = s->kv_heads * s->head_dim;
    float *const *t = a->t;
    double start = ml_seconds();
    if (backward)
        a->k->attention_backward(a->k, s, &a->sequences, t[Q], ldq, t[K], t[V], ldkv, t[O], ldq, t[LSE], t[DO], ldq, t[DQ], ldq, t[DK],
                                 t[DV], ldkv);
    else
        a->k->attention_forward(a->k, s, &a->sequences, t[Q], ldq, t[K], t[V], ldkv, t[O], ldq, t[LSE]);
    return ml_seconds() - start;
}

static ml_status bench_attention(const bench_options *o)
{
    ml_status st = ML_OK;
    attention a = {.k = NULL};
    static times forward, backward, peaks;
    ML_TRY(prepare_attention(&a, o));
    double start = ml_seconds(), gflops = attention_gflops(&a);
    for (int round = -1; round < 3 || (round < ROUNDS_MOST && ml_seconds() - start < seconds_wanted); round++) {
        add_time(&peaks, ml_kernels_peak_gflops(a.k));
        double f = run_attention(&a, false), b = run_attention(&a, true);
        if (round < 0) continue;
        add_time(&forward, f);
        add_time(&backward, b);
    }
    char title[160];
    snprintf(title, sizeof title, "attention, %" PRId64 " tokens in sequences of %" PRId64 ", %" PRId64 " heads (%" PRId64 ") × %" PRId64,
             o->tokens, o->length, o->heads, o->kv_heads, o->head_dim);
    result r = {.path = "blockwise", .forward = gflops / median(&forward), .backward = 2.5 * gflops / median(&backward)};
    st = report(o->json,
                json_pack("{s:I, s:I, s:I, s:I, s:I}", "tokens", (json_int_t)o->tokens, "length", (json_int_t)o->length, "heads",
                          (json_int_t)o->heads, "kv_heads", (json_int_t)o->kv_heads, "head_dim", (json_int_t)o->head_dim),
                title, largest(&peaks), a.k, &r, 1);
done:
    ml_kernels_destroy(a.k);
    for (int i = 0; i < TENSORS; i++) ml_memory_free(a.t[i]);
    ml_memory_free(a.start);
    return st;
}

/* ---- command line ---------------------------------------------------------------------------------------------------- */

static ml_status check(const bench_options *o)
{
    const struct {
        const char *name;
        int64_t value, most;
    } sizes[] = {{"--tokens", o->tokens, 1 << 24}, {"--rows", o->rows, 1 << 24},         {"--cols", o->cols, 1 << 24},
                 {"--heads", o->heads, 1 << 16},   {"--kv-heads", o->kv_heads, 1 << 16}, {"--head-dim", o->head_dim, 256},
                 {"--length", o->length, 1 << 24}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (sizes[i].value < 1 || sizes[i].value > sizes[i].most)
            return ml_fail(ML_USAGE, "%s: %" PRId64 " is out of range; 1 to %" PRId64 " is possible", sizes[i].name, sizes[i].value,
                           sizes[i].most);
    if (o->heads % o->kv_heads != 0)
        return ml_fail(ML_USAGE, "--kv-heads: %" PRId64 " does not divide --heads %" PRId64, o->kv_heads, o->heads);
    if (strcmp(o->dtype, "bf16") && strcmp(o->dtype, "fp32"))
        return ml_fail(ML_USAGE, "--dtype: \"%s\" is not known; bf16 or fp32", o->dtype);
    if ((double)o->rows * (double)o->cols > most_elements || (double)o->tokens * (double)ml_max(o->rows, o->cols) > most_elements ||
        (double)o->tokens * (double)o->heads * (double)o->head_dim > most_elements)
        return ml_fail(ML_USAGE, "--tokens, --rows, --cols, --heads: a matrix of more than %.0f elements is too large to be measured here",
                       most_elements);
    return ML_OK;
}

static ml_status run(int argc, char **argv)
{
    bench_options o = {
        .tokens = 2048, .rows = 2304, .cols = 768, .heads = 12, .kv_heads = INT64_MIN, .head_dim = 64, .length = 512, .dtype = "bf16"};
    const option table[] = {{"--json", OPTION_FLAG, &o.json},        {"--tokens", OPTION_INT, &o.tokens},
                            {"--rows", OPTION_INT, &o.rows},         {"--cols", OPTION_INT, &o.cols},
                            {"--dtype", OPTION_TEXT, &o.dtype},      {"--heads", OPTION_INT, &o.heads},
                            {"--kv-heads", OPTION_INT, &o.kv_heads}, {"--head-dim", OPTION_INT, &o.head_dim},
                            {"--length", OPTION_INT, &o.length},     {NULL, OPTION_FLAG, NULL}};
    static const char *const subjects[] = {"gemm", "attention", NULL};
    const char *subject;
    ml_status st = options_read(argc, argv, table, 1, 1, &subject, USAGE);
    if (st != ML_OK) return st;
    if (o.kv_heads == INT64_MIN) o.kv_heads = o.heads;
    st = check(&o);
    if (st != ML_OK) return st;
    if (!strcmp(subject, "gemm")) return bench_gemm(&o);
    if (!strcmp(subject, "attention")) return bench_attention(&o);
    const char *near = ml_nearest_word(subject, subjects);
    return ml_fail(ML_USAGE, "there is no bench \"%s\"%s%s%s; gemm and attention are there", subject, near ? "; did you mean \"" : "",
                   near ? near : "", near ? "\"?" : "");
}

const ml_command ml_command_bench = {
    .name = "bench",
    .summary = "measure the kernels on this processor",
    .help =
        "usage: mpilora bench gemm [--json] [--tokens T] [--rows R] [--cols C] [--dtype bf16|fp32]\n"
        "       mpilora bench attention [--json] [--tokens T] [--length N] [--heads H] [--kv-heads K] [--head-dim D]\n\n"
        "gemm: T tokens times a weight of R outputs × C inputs, forward (x·Wᵀ) and backward (dy·W), by every path that this processor\n"
        "can run. attention: T tokens in sequences of N. Each rate stands beside its share of the fp32 multiply-add peak that the same\n"
        "run measures; the median of some rounds counts, of the peak the largest. OMP_NUM_THREADS sets the threads,\n"
        "MPILORA_VECTOR_PATH the instructions.\n",
    .run = run,
};
