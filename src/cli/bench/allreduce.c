/* mpilora bench allreduce: sums over all ranks, as the gradients are summed once a step: at their
 * sizes, and from 4 bytes up.
 *
 * Formula: t(n) = α + 2·(p − 1)/p · n/β for n bytes on p ranks (what a ring or a reduce-scatter
 * with an all-gather has to move). α is the time of 4 bytes, β is taken from the largest size;
 * what the sizes between take beside it shows where the library changes its method. Where the ranks
 * share memory for sums, MPI's are measured in turn with them. */
#include <inttypes.h>

#include "cli/bench/bench.h"
#include "mpilora/peft.h"

static const char usage[] = "mpilora bench allreduce [--json] [--base BASE.h5 | --model "
                            "MODEL.yaml] [--targets q,v] [--rank R] [--largest BYTES]";

enum { SIZES_MOST = 24, ROUNDS_LEAST = 5, CALLS_MOST = 256 };
static const double seconds_wanted = 5, seconds_a_size = 0.02;

typedef struct allreduce_options {
    bool json;
    const char *base, *model;
    unsigned targets;
    int64_t rank, largest;
    ml_model_spec spec;
    const char *targets_text;
} allreduce_options;

typedef struct size_result {
    const char *name; /* "lora", "full", or "" in the sweep */
    int64_t bytes;    /* asked for */
    int64_t measured; /* ≤ largest */
    int64_t calls;    /* a round */
    bench_times seconds, by_mpi;
    bench_times gain; /* MPI's seconds to the sum's own, of each round */
} size_result;

typedef struct allreduce {
    ml_grid *grid;
    float *buffer;
    int64_t count;
    size_result sizes[SIZES_MOST];
} allreduce;

/* ---- sizes --------------------------------------------------------------------------------- */

/* Parameters that LoRA trains: Σ r·(in + out). */
static ml_status count_lora(const allreduce_options *o, int64_t *count)
{
    ml_status st = ML_OK;
    ml_model *model = NULL;
    ml_peft *peft = NULL;
    ml_parameters parameters = {0};
    ml_lora_options lora = {.rank = o->rank, .alpha = (double)o->rank};
    ML_TRY(ml_targets_resolve(&o->spec, o->targets, &lora.targets));
    ML_TRY(ml_model_create(&model, &o->spec, NULL, 1, 0, ML_BF16));
    ML_TRY(ml_peft_attach_lora(&peft, model, &parameters, &lora));
    ml_parameters_lay_out(&parameters);
    *count = parameters.global;
done:
    ml_peft_destroy(peft);
    ml_model_destroy(model);
    ml_parameters_destroy(&parameters);
    return st;
}

static void add_size(allreduce *a, const allreduce_options *o, const char *name, int64_t bytes)
{
    a->sizes[a->count++] =
        (size_result){.name = name, .bytes = bytes, .measured = ml_min(bytes, o->largest / 4 * 4)};
}

static ml_status list_sizes(allreduce *a, const allreduce_options *o)
{
    int64_t lora = 0, most = 0;
    ml_status st = count_lora(o, &lora);
    if (st != ML_OK) return st;
    for (int64_t bytes = 4; bytes <= o->largest && bytes <= 1 << 28; bytes *= 4)
        add_size(a, o, "", bytes);
    add_size(a, o, "lora", 4 * lora);
    add_size(a, o, "full", 4 * ml_model_parameters_total(&o->spec));
    for (int64_t i = 0; i < a->count; i++) most = ml_max(most, a->sizes[i].measured);
    a->buffer = ml_memory_alloc_shareable(most / 4, sizeof *a->buffer, ML_MEM_OTHER,
                                          "a buffer to be summed"); /* as gradients are */
    return a->buffer ? ML_OK : ML_RESOURCE;
}

/* ---- measurement --------------------------------------------------------------------------- */

/* Seconds of one sum, the slowest rank's. */
static double time_sums(const allreduce *a, const size_result *s, int64_t calls)
{
    ml_grid_barrier(a->grid);
    double start = ml_seconds();
    for (int64_t i = 0; i < calls; i++)
        ml_grid_sum_float(a->grid, ML_GROUP_WORLD, a->buffer, s->measured / 4);
    double seconds = (ml_seconds() - start) / (double)calls;
    ml_grid_max_double(a->grid, ML_GROUP_WORLD, &seconds, 1);
    memset(a->buffer, 0, (size_t)s->measured); /* no overflow to infinity */
    return seconds;
}

static bool is_shared(const allreduce *a) { return ml_grid_shares_sums(a->grid, ML_GROUP_WORLD); }

static void measure_round(const allreduce *a, size_result *s)
{
    double own = time_sums(a, s, s->calls);
    bench_add(&s->seconds, own);
    if (!is_shared(a)) return;
    ml_grid_sum_by_mpi(a->grid, true);
    double by_mpi = time_sums(a, s, s->calls);
    ml_grid_sum_by_mpi(a->grid, false);
    bench_add(&s->by_mpi, by_mpi);
    bench_add(&s->gain, by_mpi / own);
}

static void measure(allreduce *a)
{
    for (int64_t i = 0; i < a->count; i++) {
        double once = time_sums(a, &a->sizes[i], 2);
        a->sizes[i].calls = once > 0.0 ? (int64_t)(seconds_a_size / once) : 1;
        a->sizes[i].calls = ml_max(1, ml_min(CALLS_MOST, a->sizes[i].calls));
        ml_grid_broadcast(a->grid, ML_GROUP_WORLD, 0, &a->sizes[i].calls,
                          (int64_t)sizeof a->sizes[i].calls);
    }
    double start = ml_seconds();
    for (int64_t round = 0; bench_goes_on(a->grid, round, ROUNDS_LEAST, start, seconds_wanted);
         round++)
        for (int64_t i = 0; i < a->count; i++) measure_round(a, &a->sizes[i]);
}

/* ---- report -------------------------------------------------------------------------------- */

/* α and β of the formula. */
typedef struct line {
    double latency, bandwidth, share; /* share: 2·(p − 1)/p */
} line;

static line fit(const allreduce *a)
{
    const size_result *largest = &a->sizes[0];
    for (int64_t i = 1; i < a->count; i++)
        if (a->sizes[i].measured > largest->measured) largest = &a->sizes[i];
    double p = (double)ml_grid_size(a->grid), latency = bench_median(&a->sizes[0].seconds),
           moved = 2.0 * (p - 1.0) / p;
    double rest = bench_median(&largest->seconds) - latency;
    return (line){latency, rest > 0.0 ? moved * (double)largest->measured / rest : 0.0, moved};
}

static double formula(const line *l, int64_t bytes)
{
    return l->latency + (l->bandwidth > 0.0 ? l->share * (double)bytes / l->bandwidth : 0.0);
}

/* A size beyond the largest that is measured is so many times that one. */
static double beyond(const size_result *s, const bench_times *times)
{
    return bench_median(times) * (s->measured > 0 ? (double)s->bytes / (double)s->measured : 1.0);
}
static double seconds_of(const size_result *s) { return beyond(s, &s->seconds); }

static double least(const bench_times *times) { return 1.0 / bench_rates(times, 1.0).most; }

static json_t *describe(const allreduce *a, const allreduce_options *o, const line *l)
{
    json_t *sizes = json_array(), *gradients = json_object();
    for (int64_t i = 0; i < a->count; i++) {
        const size_result *s = &a->sizes[i];
        double seconds = seconds_of(s);
        json_t *entry =
            json_pack("{s:I, s:f, s:f, s:f, s:b}", "bytes", (json_int_t)s->bytes, "seconds",
                      seconds, "formula_seconds", formula(l, s->bytes), "bus_bytes_per_s",
                      seconds > 0.0 ? l->share * (double)s->bytes / seconds : 0.0, "extrapolated",
                      (int)(s->measured < s->bytes));
        if (is_shared(a)) {
            json_object_set_new(entry, "mpi_seconds", json_real(beyond(s, &s->by_mpi)));
            json_object_set_new(entry, "least_seconds", json_real(least(&s->seconds)));
            json_object_set_new(entry, "mpi_least_seconds", json_real(least(&s->by_mpi)));
            json_object_set_new(entry, "mpi_ratio", json_real(bench_median(&s->gain)));
        }
        if (*s->name)
            json_object_set_new(gradients, s->name, entry);
        else
            json_array_append_new(sizes, entry);
    }
    return json_pack("{s:s, s:s, s:i, s:i, s:I, s:f, s:f, s:o, s:o}", "sums",
                     is_shared(a) ? "shared" : "mpi", "model",
                     o->base    ? o->base
                     : o->model ? o->model
                                : "gpt2-small",
                     "ranks", ml_grid_size(a->grid), "nodes", ml_grid_nodes(a->grid), "rank",
                     (json_int_t)o->rank, "latency_s", l->latency, "bus_bandwidth_bytes_per_s",
                     l->bandwidth, "gradients", gradients, "sizes", sizes);
}

static void print_table(const allreduce *a, const allreduce_options *o, const line *l)
{
    printf("sums over %d ranks on %d node%s%s: latency %.1f us, bandwidth %.2f GB/s a rank; t(n) = "
           "latency + %.2f n / bandwidth\n",
           ml_grid_size(a->grid), ml_grid_nodes(a->grid), ml_grid_nodes(a->grid) > 1 ? "s" : "",
           is_shared(a) ? ", in memory that they share" : ", by MPI", 1e6 * l->latency,
           1e-9 * l->bandwidth, l->share);
    for (int64_t i = 0; i < a->count; i++) {
        const size_result *s = &a->sizes[i];
        char name[64] = "", beside[64] = "";
        if (is_shared(a))
            snprintf(beside, sizeof beside, "  MPI %12.2f us, x %.2f", 1e6 * beyond(s, &s->by_mpi),
                     bench_median(&s->gain));
        if (*s->name)
            snprintf(name, sizeof name, "  gradients of %s%s", s->name,
                     s->measured < s->bytes ? ", from the largest" : "");
        printf("  %12" PRId64 " bytes  %12.2f us  (formula %12.2f us)  %7.2f GB/s%s%s\n", s->bytes,
               1e6 * seconds_of(s), 1e6 * formula(l, s->bytes),
               seconds_of(s) > 0.0 ? 1e-9 * l->share * (double)s->bytes / seconds_of(s) : 0.0,
               beside, name);
    }
    printf("lora: r = %" PRId64 "; both of %s\n", o->rank,
           o->base    ? o->base
           : o->model ? o->model
                      : "gpt2-small");
}

/* ---- command line -------------------------------------------------------------------------- */

static const option options[] = {
    {"--base", OPTION_TEXT, offsetof(allreduce_options, base), "BASE.h5",
     "the base; without it and --model GPT-2 of 124 M with random weights", NULL},
    {"--model", OPTION_TEXT, offsetof(allreduce_options, model), "MODEL.yaml",
     "a model description in place of a base, with random weights", NULL},
    {"--targets", OPTION_TEXT, offsetof(allreduce_options, targets_text), "LIST",
     "what LoRA adapts", "q,v"},
    {"--rank", OPTION_INT, offsetof(allreduce_options, rank), "R", "of LoRA", "8"},
    {"--largest", OPTION_INT, offsetof(allreduce_options, largest), "BYTES", "the largest sum",
     "1073741824"},
    {"--json", OPTION_FLAG, offsetof(allreduce_options, json), NULL,
     "one JSON object on standard output", NULL},
    {NULL, OPTION_FLAG, 0, NULL, NULL, NULL}};

static ml_status read_options(int argc, char **argv, allreduce_options *o)
{
    ml_status st = ML_OK;
    ML_TRY(options_read(argc, argv, options, o, 0, 0, NULL, usage));
    const bench_size sizes[] = {
        {"--rank", o->rank, 1 << 16}, {"--largest", o->largest, (int64_t)1 << 40}, {NULL, 0, 0}};
    ML_TRY(bench_check_sizes(sizes));
    if (o->largest < 4) {
        st = ml_fail(ML_USAGE, "--largest: %" PRId64 " bytes are less than one number of 4",
                     o->largest);
        goto done;
    }
    ML_TRY(bench_read_targets(o->targets_text, &o->targets));
    ML_TRY(bench_read_model(o->base, o->model, &o->spec));
done:
    return st;
}

static ml_status run(int argc, char **argv)
{
    ml_status st = ML_OK;
    allreduce *a = NULL;
    allreduce_options o = {0};
    ML_TRY(read_options(argc, argv, &o));
    ML_NEW(a, 1, ML_MEM_OTHER, "results");
    ML_TRY(ml_grid_create(&a->grid, 1));
    ML_TRY(ml_grid_agree(a->grid, list_sizes(a, &o)));
    measure(a);
    const line l = fit(a);
    if (o.json)
        bench_print_json(describe(a, &o, &l));
    else if (bench_speaks())
        print_table(a, &o, &l);
    if (ml_grid_size(a->grid) == 1) ml_warn("one rank sums nothing: start it under mpirun or srun");
done:
    if (a) {
        ml_grid_destroy(a->grid);
        ml_memory_free(a->buffer);
    }
    ml_memory_free(a);
    return st;
}

const ml_command bench_allreduce = {
    .name = "allreduce",
    .summary =
        "sums over all ranks: latency, bandwidth, the gradients of LoRA and of full fine-tuning",
    .usage = usage,
    .about = "Sums over all ranks, at the sizes of LoRA's and of full fine-tuning's gradients and "
             "from 4 bytes up.",
    .options = options,
    .run = run,
    .parallel = true,
};
