/* mpilora bench gemm --dtype A,B,…: the same product with weights of several types in turn. What a
 * format of blocks costs is a few parts in a hundred, less than a machine drifts within a minute,
 * so only ratios of one turn count. */
#include <inttypes.h>

#include "cli/bench/gemm.h"

enum { TURNS = 15, DIRECTIONS = 2 };
static const char *const directions[DIRECTIONS] = {"forward", "backward"};

/* One of the types. */
typedef struct side {
    ml_dtype dtype;
    ml_weight w;
    ml_kernels_options options;
    ml_kernels *kernels;
    bench_times seconds[DIRECTIONS]; /* of a GFLOP */
    bench_times share[DIRECTIONS];   /* of them to those of the first type in the same turn */
} side;

static ml_status prepare(const gemm_options *o, side *s)
{
    s->w = (ml_weight){NULL, s->dtype, o->rows, o->cols};
    s->options = (ml_kernels_options){
        .weight_dtype = s->dtype, .tokens = o->tokens, .shapes = &s->w, .nshapes = 1};
    if (o->cols % ml_block_format_of(s->dtype)->weights != 0)
        return ml_fail(ML_USAGE, "--cols: %" PRId64 " is no multiple of %s's %" PRId64 " weights",
                       o->cols, ml_dtype_name(s->dtype), ml_block_format_of(s->dtype)->weights);
    return ml_kernels_create(&s->kernels, &s->options);
}

/* Every second turn in reverse order, so that none always runs behind the same other. */
static ml_status take_turn(side *sides, int64_t count, int turn)
{
    static const ml_kernels_effort once = {.rounds = 2};
    ml_kernels_rate rate = {.path = NULL};
    ml_status st = ML_OK;
    for (int64_t i = 0; i < count; i++) {
        side *s = &sides[turn % 2 ? count - 1 - i : i];
        const ml_kernels *table = s->kernels;
        ML_TRY(ml_kernels_measure(&s->options, &once, 1, &table, &rate));
        bench_add(&s->seconds[0], 1 / rate.forward.median);
        bench_add(&s->seconds[1], 1 / rate.backward.median);
    }
    for (int64_t i = 0; i < count; i++)
        for (int d = 0; d < DIRECTIONS; d++)
            bench_add(&sides[i].share[d],
                      sides[i].seconds[d].values[turn] / sides[0].seconds[d].values[turn]);
done:
    return st;
}

static json_t *side_object(const side *s)
{
    json_t *object =
        json_pack("{s:s, s:s}", "dtype", ml_dtype_name(s->dtype), "path", s->kernels->backend);
    for (int d = 0; d < DIRECTIONS; d++) {
        const ml_kernels_spread rate = bench_rates(&s->seconds[d], 1),
                                ratio = bench_rates(&s->share[d], 1);
        bench_put_spread(object, directions[d], "gflops", &rate);
        bench_put_spread(object, directions[d], "ratio", &ratio);
    }
    return object;
}

static void print_side(const side *s)
{
    printf("  %-8s %-12s", ml_dtype_name(s->dtype), s->kernels->backend);
    for (int d = 0; d < DIRECTIONS; d++) {
        const ml_kernels_spread ratio = bench_rates(&s->share[d], 1);
        printf("  %7.1f  %5.3f (%5.3f to %5.3f)", bench_rates(&s->seconds[d], 1).median,
               ratio.median, ratio.least, ratio.most);
    }
    printf("\n");
}

static void print_sides(const gemm_options *o, const side *sides, int64_t count)
{
    printf("%" PRId64 " tokens × W[%" PRId64 ", %" PRId64
           "], %s; medians of %d turns, ratios to the "
           "first type within a turn (least to most)\n",
           o->tokens, o->rows, o->cols, sides[0].kernels->vector_path, TURNS);
    printf("  %-8s %-12s  %-32s  %s\n", "dtype", "path", "forward GF/s", "backward GF/s");
    for (int64_t i = 0; i < count; i++) print_side(&sides[i]);
}

static void print_json(const gemm_options *o, const side *sides, int64_t count)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < count; i++) json_array_append_new(list, side_object(&sides[i]));
    bench_print_json(json_pack("{s:I, s:I, s:I, s:s, s:o}", "tokens", (json_int_t)o->tokens, "rows",
                               (json_int_t)o->rows, "cols", (json_int_t)o->cols, "vector_path",
                               sides[0].kernels->vector_path, "dtypes", list));
}

ml_status gemm_compare_types(const gemm_options *o)
{
    ml_status st = ML_OK;
    side *sides = NULL;
    ML_NEW(sides, o->ndtypes, ML_MEM_OTHER, "types to measure");
    for (int64_t i = 0; i < o->ndtypes; i++) {
        sides[i].dtype = o->dtypes[i];
        ML_TRY(prepare(o, &sides[i]));
    }
    for (int turn = 0; turn < TURNS; turn++) ML_TRY(take_turn(sides, o->ndtypes, turn));
    if (o->json)
        print_json(o, sides, o->ndtypes);
    else if (bench_speaks())
        print_sides(o, sides, o->ndtypes);
done:
    for (int64_t i = 0; sides && i < o->ndtypes; i++) ml_kernels_destroy(sides[i].kernels);
    ml_memory_free(sides);
    return st;
}
