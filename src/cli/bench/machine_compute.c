/* The rates of one core: products of several shapes, attention, and what goes over numbers once,
 * in turn, with all threads at work.
 *
 * A probe is one operation of one size. The median of its rounds and its flops and numbers are one
 * equation; ml_cost_fit solves those of one kind together. */
#include <math.h>
#include <omp.h>

#include "cli/bench/machine.h"

enum {
    PROBES_MOST = 64,
    ROUNDS_LEAST = 3,
    FLOATS = 1 << 22,
    WIDTH = 1024,
    HEADS = 12,
    HEAD_DIM = 64
};

typedef struct probe {
    int kind; /* ml_cost_kind, or ML_COSTS + ml_element_kind */
    int64_t T, m, n;
    bench_times seconds;
} probe;

typedef struct lab {
    ml_kernels *k[2]; /* by ml_dtype */
    float *a, *b, *c, *d, *lse;
    uint16_t *a_bf16;
    int64_t count;
    probe probes[PROBES_MOST];
} lab;

/* Rows and columns of weights: of small models, of tp's slices, of heads. */
static const int64_t shapes[][2] = {{576, 576},  {192, 576},  {1536, 576}, {768, 768},
                                    {2304, 768}, {3072, 768}, {768, 3072}, {2048, 2048}};
enum { SHAPES = sizeof shapes / sizeof *shapes };

static void add(lab *l, int kind, int64_t T, int64_t m, int64_t n)
{
    l->probes[l->count++] = (probe){.kind = kind, .T = T, .m = m, .n = n};
}

/* Each of the first four kinds meets every second shape with many tokens, and one with few. */
static void list_probes(lab *l)
{
    for (int kind = ML_COST_BF16_FORWARD; kind <= ML_COST_WEIGHT_GRADIENT; kind++) {
        for (int i = 0; i < SHAPES; i++)
            if (kind <= ML_COST_BF16_BACKWARD || i % 2)
                add(l, kind, 512, shapes[i][0], shapes[i][1]);
        add(l, kind, 64, 2304, 768);
    }
    for (int kind = ML_COST_ADAPTER_FORWARD; kind <= ML_COST_ADAPTER_BACKWARD; kind++)
        for (int64_t r = 8; r <= 64; r *= 8) add(l, kind, 512, r, 768);
    for (int kind = ML_COST_ATTENTION_FORWARD; kind <= ML_COST_FP32_ATTENTION_BACKWARD; kind++)
        for (int64_t length = 64; length <= 1024; length *= 4)
            add(l, kind, 1024, length, HEADS * HEAD_DIM);
    for (int kind = 0; kind < ML_ELEMENT_DROPOUT; kind++) add(l, ML_COSTS + kind, 512, 1, WIDTH);
    add(l, ML_COSTS + ML_ELEMENT_DROPOUT, 512, 1, WIDTH);
}

/* ---- one run of a probe -------------------------------------------------------------------- */

static void run_product(const lab *l, const probe *p)
{
    const ml_dtype dtype = p->kind <= ML_COST_BF16_BACKWARD ? ML_BF16 : ML_FP32;
    const ml_kernels *k = l->k[dtype];
    const ml_weight w = {dtype == ML_BF16 ? (const void *)l->a_bf16 : l->a, dtype, p->m, p->n};
    if (p->kind == ML_COST_WEIGHT_GRADIENT)
        k->gemm(k, true, false, p->m, p->n, p->T, 1.0F, l->b, p->m, l->c, p->n, 0.0F, l->d, p->n);
    else if (p->kind == ML_COST_BF16_FORWARD || p->kind == ML_COST_FP32_FORWARD)
        k->weight_forward(k, p->T, l->b, p->n, &w, 0.0F, l->c, p->m);
    else
        k->weight_backward(k, p->T, l->b, p->m, &w, 0.0F, l->c, p->n);
}

/* As lora_hook.c has them, in and out equally wide. */
static void run_adapter(const lab *l, const probe *p)
{
    const ml_kernels *k = l->k[ML_FP32];
    int64_t T = p->T, r = p->m, n = p->n;
    if (p->kind == ML_COST_ADAPTER_FORWARD) {
        k->gemm(k, false, true, T, r, n, 1.0F, l->b, n, l->a, n, 0.0F, l->d, r);
        k->gemm(k, false, true, T, n, r, 0.5F, l->d, r, l->a, r, 1.0F, l->c, n);
        return;
    }
    float *h = l->d, *gradient = l->d + T * r;
    k->gemm(k, true, false, n, r, T, 0.5F, l->b, n, h, r, 0.0F, gradient, r);
    k->gemm(k, false, false, T, r, n, 0.5F, l->b, n, l->a, r, 0.0F, h, r);
    k->gemm(k, true, false, r, n, T, 1.0F, h, r, l->b, n, 0.0F, gradient, n);
    k->gemm(k, false, false, T, n, r, 1.0F, h, r, l->a, n, 0.0F, l->c, n);
}

static void run_attention(const lab *l, const probe *p)
{
    const ml_kernels *k = l->k[p->kind < ML_COST_FP32_ATTENTION_FORWARD ? ML_BF16 : ML_FP32];
    int64_t start[1024 / 64 + 1], count = p->T / p->m, q = p->n, width = 3 * q;
    const ml_attention_shape shape = {
        .heads = HEADS, .kv_heads = HEADS, .head_dim = HEAD_DIM, .scale = 0.125F};
    for (int64_t i = 0; i <= count; i++) start[i] = i * p->m;
    const ml_sequences s = {.count = count, .start = start};
    const ml_attention_kept kept = {.q = l->a,
                                    .key = l->a + q,
                                    .value = l->a + 2 * q,
                                    .o = l->b,
                                    .ldq = width,
                                    .ldkv = width,
                                    .ldo = q,
                                    .lse = l->lse};
    if (p->kind == ML_COST_ATTENTION_FORWARD || p->kind == ML_COST_FP32_ATTENTION_FORWARD)
        k->attention_forward(k, &shape, &s, l->a, width, l->a + q, l->a + 2 * q, width, l->b, q,
                             l->lse);
    else
        k->attention_backward(k, &shape, &s, &kept, l->c, q, l->d, width, l->d + q, l->d + 2 * q,
                              width);
}

static void draw(const lab *l, int64_t n)
{
    const ml_random_key key = ml_random_key_make(1, "dropout");
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n / 4; i++) {
        uint32_t word[4];
        ml_random_block(key, 0, (uint64_t)i, word);
        for (int64_t j = 0; j < 4; j++)
            l->c[4 * i + j] = word[j] < 429496730U ? 0.0F : 1.1F * l->b[4 * i + j];
    }
}

static void run_cross_entropy(const lab *l, int64_t T, int64_t n)
{
    const ml_kernels *k = l->k[ML_BF16];
    int64_t start[WIDTH];
    int32_t token[WIDTH];
    float *row = l->d;
    for (int64_t i = 0; i <= T; i++) start[i] = i;
    for (int64_t i = 0; i < T; i++) token[i] = (int32_t)(i % n);
    const ml_targets targets = {start, token, 0, NULL};
    k->xent_max(T, n, l->c, n, row);
    k->xent_sum(T, n, l->c, n, row, &targets, row + T, row + 2 * T);
    k->xent_backward(T, n, l->c, n, row, row + T, &targets, 0.0F, n, 1.0F);
}

static void run_elements(const lab *l, ml_element_kind kind, int64_t T, int64_t n)
{
    const ml_kernels *k = l->k[ML_BF16];
    const ml_adamw step = {1e-4, 0.9, 0.999, 1e-8, 0.01, 1.0, 1};
    float *mean = l->lse, *rstd = l->lse + T;
    switch (kind) {
    case ML_ELEMENT_NORM_FORWARD:
        k->layernorm_forward(T, n, l->b, l->a, l->a, 1e-5F, l->c, mean, rstd);
        break;
    case ML_ELEMENT_NORM_BACKWARD:
        k->layernorm_backward(T, n, l->b, l->a, mean, rstd, l->c, l->d, true, NULL, NULL);
        break;
    case ML_ELEMENT_ACTIVATION_FORWARD:
        k->activation_forward(ML_GELU_TANH, T, n, l->b, n, l->c, n);
        break;
    case ML_ELEMENT_ACTIVATION_BACKWARD:
        k->activation_backward(ML_GELU_TANH, T, n, l->b, n, l->a, n, l->c, n);
        break;
    case ML_ELEMENT_GATED_FORWARD:
        k->gated_forward(ML_SILU, T, n, l->a, l->b, n, l->c, n);
        break;
    case ML_ELEMENT_GATED_BACKWARD:
        k->gated_backward(ML_SILU, T, n, l->a, l->b, n, l->b, n, l->c, l->d, n);
        break;
    case ML_ELEMENT_CROSS_ENTROPY:
        run_cross_entropy(l, T, n);
        break;
    case ML_ELEMENT_MOVE:
        k->fp32_to_bf16(T * n, l->b, l->a_bf16);
        break;
    case ML_ELEMENT_OPTIMIZER:
        memset(l->d, 0, (size_t)(T * n) * sizeof *l->d);
        (void)k->sum_squares(T * n, l->d);
        k->adamw(&step, T * n, l->b, l->d, l->d + T * n, l->d + 2 * T * n);
        break;
    default:
        draw(l, T * n);
        break;
    }
}

static double run_probe(const lab *l, const probe *p)
{
    double start = ml_seconds();
    if (p->kind <= ML_COST_WEIGHT_GRADIENT)
        run_product(l, p);
    else if (p->kind <= ML_COST_ADAPTER_BACKWARD)
        run_adapter(l, p);
    else if (p->kind < ML_COSTS)
        run_attention(l, p);
    else
        run_elements(l, (ml_element_kind)(p->kind - ML_COSTS), p->T, p->n);
    return ml_seconds() - start;
}

/* ---- from probes to rates ------------------------------------------------------------------ */

/* What plan counts for the same operation. */
static void features(const probe *p, double x[3])
{
    double T = (double)p->T, m = (double)p->m, n = (double)p->n;
    bool attention = p->kind >= ML_COST_ATTENTION_FORWARD;
    double share = p->kind == ML_COST_ADAPTER_BACKWARD  ? 8.0
                   : p->kind == ML_COST_ADAPTER_FORWARD ? 4.0
                                                        : 2.0;
    x[0] = attention ? 4.0 * T * (m + 1.0) / 2.0 * n : share * T * m * n;
    x[1] = p->kind <= ML_COST_WEIGHT_GRADIENT ? m * n : 0.0;
    x[2] = attention ? T * n : p->kind <= ML_COST_WEIGHT_GRADIENT ? T * (m + n) : 2.0 * T * n;
}

static void fit_rates(const lab *l, ml_machine *out)
{
    double threads = omp_get_max_threads();
    for (int kind = 0; kind < ML_COSTS; kind++) {
        double x[PROBES_MOST][3], seconds[PROBES_MOST];
        int64_t count = 0;
        for (int64_t i = 0; i < l->count; i++) {
            if (l->probes[i].kind != kind) continue;
            features(&l->probes[i], x[count]);
            seconds[count++] = threads * bench_median(&l->probes[i].seconds);
        }
        out->cost[kind] = ml_cost_fit(count, (const double(*)[3])x, seconds);
    }
    for (int64_t i = 0; i < l->count; i++) {
        const probe *p = &l->probes[i];
        if (p->kind >= ML_COSTS)
            out->element_ns[p->kind - ML_COSTS] =
                1e9 * threads * bench_median(&p->seconds) / (double)(p->T * p->n);
    }
}

static ml_status prepare(lab *l)
{
    ml_status st = ML_OK;
    ml_weight w[SHAPES];
    for (int d = 0; d < 2; d++) {
        for (int i = 0; i < SHAPES; i++)
            w[i] = (ml_weight){NULL, (ml_dtype)d, shapes[i][0], shapes[i][1]};
        const ml_kernels_options o = {.weight_dtype = (ml_dtype)d,
                                      .tokens = 1024,
                                      .shapes = w,
                                      .nshapes = SHAPES,
                                      .head_dim = HEAD_DIM,
                                      .heads = HEADS,
                                      .kv_heads = HEADS};
        ML_TRY(ml_kernels_create(&l->k[d], &o));
    }
    ML_TRY(bench_new_floats(&l->a, FLOATS, "weights"));
    ML_TRY(bench_new_floats(&l->b, FLOATS, "inputs"));
    ML_TRY(bench_new_floats(&l->c, FLOATS, "outputs"));
    ML_TRY(bench_new_floats(&l->d, FLOATS, "gradients"));
    ML_TRY(bench_new_floats(&l->lse, 1024 * HEADS, "statistics"));
    ML_NEW(l->a_bf16, FLOATS, ML_MEM_OTHER, "weights in bf16");
    l->k[0]->fp32_to_bf16(FLOATS, l->a, l->a_bf16);
    list_probes(l);
done:
    return st;
}

/* Bytes a second of all ranks of a node together. */
static double read_rate(const lab *l, const ml_grid *grid)
{
    double bytes = 4.0 * FLOATS * sizeof(float), seconds;
    const ml_memory_span spans[] = {
        {l->a, FLOATS * 4}, {l->b, FLOATS * 4}, {l->c, FLOATS * 4}, {l->d, FLOATS * 4}};
    ml_grid_barrier(grid);
    seconds = ml_kernels_read_seconds(l->k[0], 4, spans);
    ml_grid_max_double(grid, ML_GROUP_NODE, &seconds, 1);
    return seconds > 0.0 ? bytes * ml_grid_ranks_on_node(grid) / seconds : 1e10;
}

ml_status bench_machine_compute(const ml_grid *grid, double seconds, ml_machine *out)
{
    ml_status st = ML_OK;
    lab *l = NULL;
    static bench_times peaks, rates;
    ML_NEW(l, 1, ML_MEM_OTHER, "measurements");
    ML_TRY(ml_grid_agree(grid, prepare(l)));
    double start = ml_seconds();
    for (int64_t round = -1; bench_goes_on(grid, round, ROUNDS_LEAST, start, seconds); round++) {
        ml_grid_barrier(grid);
        bench_add(&peaks, ml_kernels_peak_gflops(l->k[0]));
        bench_add(&rates, read_rate(l, grid));
        for (int64_t i = 0; i < l->count; i++) {
            double once = run_probe(l, &l->probes[i]);
            if (round >= 0) bench_add(&l->probes[i].seconds, once);
        }
    }
    out->peak_gflops = bench_median(&peaks) / omp_get_max_threads();
    if (!(out->peak_gflops > 0.0))
        out->peak_gflops = 1.0; /* not known under the reference's loops */
    out->memory_rate = bench_median(&rates);
    fit_rates(l, out);
done:
    if (l) {
        for (int d = 0; d < 2; d++) ml_kernels_destroy(l->k[d]);
        float *const floats[] = {l->a, l->b, l->c, l->d, l->lse};
        for (int i = 0; i < 5; i++) ml_memory_free(floats[i]);
        ml_memory_free(l->a_bf16);
    }
    ml_memory_free(l);
    return st;
}
