/* mpilora bench attention: the rate of attention, forward and backward, beside the
 * multiply-add peak of the same run. */
#include <inttypes.h>
#include <math.h>

#include "cli/bench/bench.h"

static const double seconds_wanted = 2, most_elements = 1e10;

typedef struct attention_options {
    bool json, both_ways, relative;
    int64_t tokens, length, window, heads, kv_heads, head_dim;
} attention_options;

static const char usage[] =
    "mpilora bench attention [--json] [--tokens T] [--length N] "
    "[--window W] [--both-ways] [--relative] [--heads H] [--kv-heads K] [--head-dim D]";

static const option options[] = {
    {"--tokens", OPTION_INT, offsetof(attention_options, tokens), "T", "all tokens", "2048"},
    {"--length", OPTION_INT, offsetof(attention_options, length), "N", "of a sequence", "512"},
    {"--window", OPTION_INT, offsetof(attention_options, window), "W",
     "keys that a query sees, itself one of them; 0: all", "0"},
    {"--both-ways", OPTION_FLAG, offsetof(attention_options, both_ways), NULL,
     "queries see the keys behind them too, with a window those at most W / 2 away", NULL},
    {"--relative", OPTION_FLAG, offsetof(attention_options, relative), NULL,
     "with --both-ways: scores get terms of the distance too, as DeBERTa's", NULL},
    {"--heads", OPTION_INT, offsetof(attention_options, heads), "H", "query heads", "12"},
    {"--kv-heads", OPTION_INT, offsetof(attention_options, kv_heads), "K",
     "key and value heads; else as many as query heads", NULL},
    {"--head-dim", OPTION_INT, offsetof(attention_options, head_dim), "D", "width of a head", "64"},
    {"--json", OPTION_FLAG, offsetof(attention_options, json), NULL,
     "one JSON object on standard output", NULL},
    {NULL, OPTION_FLAG, 0, NULL, NULL, NULL}};

enum { Q, K, V, O, LSE, DO, DQ, DK, DV, KEYS, QUERIES, D_KEYS, D_QUERIES, TENSORS };
enum { RELATIVE_ROWS = 512 }; /* further distances have the last ones */

typedef struct attention {
    ml_kernels *k;
    ml_attention_shape shape;
    ml_relative relative;
    ml_sequences sequences;
    int64_t *start;
    int32_t *row;
    float *t[TENSORS];
} attention;

static ml_status prepare_relative(attention *a, const attention_options *o)
{
    ml_status st = ML_OK;
    int64_t most = ml_min(o->length, o->tokens) - 1, middle = RELATIVE_ROWS / 2;
    ML_NEW(a->row, 2 * most + 1, ML_MEM_OTHER, "distances");
    for (int64_t d = -most; d <= most; d++)
        a->row[most + d] = (int32_t)ml_max(0, ml_min(RELATIVE_ROWS - 1, middle + d));
    a->relative = (ml_relative){.rows = RELATIVE_ROWS,
                                .most = most,
                                .row = a->row,
                                .keys = a->t[KEYS],
                                .queries = a->t[QUERIES],
                                .ld = o->heads * o->head_dim,
                                .d_keys = a->t[D_KEYS],
                                .d_queries = a->t[D_QUERIES]};
    a->shape.relative = &a->relative;
done:
    return st;
}

static ml_status prepare_attention(attention *a, const attention_options *o)
{
    ml_status st = ML_OK;
    static const char *const names[TENSORS] = {"q",
                                               "k",
                                               "v",
                                               "o",
                                               "log-sum-exp",
                                               "do",
                                               "dq",
                                               "dk",
                                               "dv",
                                               "relative keys",
                                               "relative queries",
                                               "their gradient",
                                               "their gradient"};
    int64_t query = o->tokens * o->heads * o->head_dim, key = o->tokens * o->kv_heads * o->head_dim;
    const int64_t sizes[TENSORS] = {query, key,   key, query, o->tokens * o->heads,
                                    query, query, key, key};
    int64_t distances = o->relative ? RELATIVE_ROWS * o->heads * o->head_dim : 0;
    /* bf16: MPILORA_PRODUCT_PATH may name a path that has attention of its own. */
    const ml_kernels_options options = {.backend = "blas",
                                        .weight_dtype = ML_BF16,
                                        .tokens = o->tokens,
                                        .head_dim = o->head_dim,
                                        .heads = o->heads,
                                        .kv_heads = o->kv_heads,
                                        .relative = o->relative};
    int64_t count = (o->tokens + o->length - 1) / o->length;
    a->shape = (ml_attention_shape){.heads = o->heads,
                                    .kv_heads = o->kv_heads,
                                    .head_dim = o->head_dim,
                                    .scale = 1 / sqrtf((float)o->head_dim),
                                    .window = o->window,
                                    .both_ways = o->both_ways};
    ML_TRY(ml_kernels_create(&a->k, &options));
    for (int i = 0; i < KEYS; i++) ML_TRY(bench_new_floats(&a->t[i], sizes[i], names[i]));
    for (int i = KEYS; i < TENSORS && o->relative; i++)
        ML_TRY(bench_new_floats(&a->t[i], distances, names[i]));
    if (o->relative) ML_TRY(prepare_relative(a, o));
    ML_NEW(a->start, count + 1, ML_MEM_OTHER, "sequences");
    for (int64_t i = 0; i <= count; i++) a->start[i] = ml_min(i * o->length, o->tokens);
    a->sequences = (ml_sequences){.count = count, .start = a->start};
    st = ml_attention_check(&a->shape, &a->sequences);
done:
    return st;
}

/* 4·h a head and a pair of tokens that attend: two products forward, five backward. */
static double attention_gflops(const attention *a)
{
    double pairs = 0;
    for (int64_t i = 0; i < a->sequences.count; i++)
        pairs += ml_attention_pairs((double)(a->start[i + 1] - a->start[i]), a->shape.window,
                                    a->shape.both_ways);
    return 4e-9 * pairs * (double)(a->shape.heads * a->shape.head_dim);
}

static double run_attention(const attention *a, bool backward)
{
    const ml_attention_shape *s = &a->shape;
    int64_t ldq = s->heads * s->head_dim, ldkv = s->kv_heads * s->head_dim;
    float *const *t = a->t;
    double start = ml_seconds();
    const ml_attention_kept kept = {.q = t[Q],
                                    .key = t[K],
                                    .value = t[V],
                                    .o = t[O],
                                    .ldq = ldq,
                                    .ldkv = ldkv,
                                    .ldo = ldq,
                                    .lse = t[LSE]};
    if (backward)
        a->k->attention_backward(a->k, s, &a->sequences, &kept, t[DO], ldq, t[DQ], ldq, t[DK],
                                 t[DV], ldkv);
    else
        a->k->attention_forward(a->k, s, &a->sequences, t[Q], ldq, t[K], t[V], ldkv, t[O], ldq,
                                t[LSE]);
    return ml_seconds() - start;
}

static ml_status measure(const attention_options *o)
{
    ml_status st = ML_OK;
    attention a = {.k = NULL};
    static bench_times forward, backward, peaks;
    ML_TRY(prepare_attention(&a, o));
    double start = ml_seconds(), gflops = attention_gflops(&a);
    for (int64_t round = -1; bench_goes_on(NULL, round, 3, start, seconds_wanted); round++) {
        bench_add(&peaks, ml_kernels_peak_gflops(a.k));
        double f = run_attention(&a, false), b = run_attention(&a, true);
        if (round < 0) continue;
        bench_add(&forward, f);
        bench_add(&backward, b);
    }
    char title[200], window[80] = "";
    if (o->window > 0) snprintf(window, sizeof window, ", window %" PRId64, o->window);
    if (o->both_ways)
        snprintf(window + strlen(window), 36, ", both ways%s",
                 o->relative ? ", relative terms" : "");
    snprintf(title, sizeof title,
             "attention, %" PRId64 " tokens in sequences of %" PRId64 "%s, %" PRId64
             " heads (%" PRId64 ") × %" PRId64,
             o->tokens, o->length, window, o->heads, o->kv_heads, o->head_dim);
    const ml_kernels_rate r = {.path = "blockwise",
                               .forward = bench_rates(&forward, gflops),
                               .backward = bench_rates(&backward, 2.5 * gflops)};
    bench_report_rates(o->json,
                       json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:b, s:b, s:f, s:f}", "tokens",
                                 (json_int_t)o->tokens, "length", (json_int_t)o->length, "heads",
                                 (json_int_t)o->heads, "kv_heads", (json_int_t)o->kv_heads,
                                 "head_dim", (json_int_t)o->head_dim, "window",
                                 (json_int_t)o->window, "both_ways", o->both_ways, "relative",
                                 o->relative, "forward_seconds", bench_median(&forward),
                                 "backward_seconds", bench_median(&backward)),
                       title, bench_largest(&peaks), a.k, &r, 1);
done:
    ml_kernels_destroy(a.k);
    for (int i = 0; i < TENSORS; i++) ml_memory_free(a.t[i]);
    ml_memory_free(a.start);
    ml_memory_free(a.row);
    return st;
}

static ml_status run(int argc, char **argv)
{
    attention_options o = {.kv_heads = INT64_MIN};
    ml_status st = options_read(argc, argv, options, &o, 0, 0, NULL, usage);
    if (st != ML_OK) return st;
    if (o.kv_heads == INT64_MIN) o.kv_heads = o.heads;
    const bench_size sizes[] = {
        {"--tokens", o.tokens, 1 << 24}, {"--length", o.length, 1 << 24},
        {"--heads", o.heads, 1 << 16},   {"--kv-heads", o.kv_heads, 1 << 16},
        {"--head-dim", o.head_dim, 256}, {NULL, 0, 0}};
    st = bench_check_sizes(sizes);
    if (st != ML_OK) return st;
    if (o.window < 0 || o.window > 1 << 24)
        return ml_fail(ML_USAGE, "--window: %" PRId64 ", expected 0 (none) to %d keys", o.window,
                       1 << 24);
    if (o.heads % o.kv_heads != 0)
        return ml_fail(ML_USAGE, "--kv-heads: %" PRId64 " does not divide --heads %" PRId64,
                       o.kv_heads, o.heads);
    if ((double)o.tokens * (double)o.heads * (double)o.head_dim > most_elements)
        return ml_fail(ML_USAGE,
                       "--tokens, --heads, --head-dim: a matrix of more than %.0f elements is too "
                       "large to be measured here",
                       most_elements);
    return measure(&o);
}

const ml_command bench_attention = {
    .name = "attention",
    .summary = "blockwise attention, forward and backward",
    .usage = usage,
    .about = "T tokens in sequences of N. Each rate stands beside its share of the fp32 "
             "multiply-add peak that the same run measures; the median of some rounds counts, of "
             "the peak the largest.",
    .options = options,
    .run = run,
    .parallel = true,
};
