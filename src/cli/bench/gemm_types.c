/* mpilora bench gemm --dtype A,B,…: the same product with weights of several types in turn. What a
 * format of blocks costs is a few parts in a hundred, less than a machine drifts within a minute,
 * so only ratios of one turn count. */
#include <inttypes.h>
#include <math.h>

#include "cli/bench/gemm.h"

enum { TURNS = 15, DIRECTIONS = 2 };

/* One of the types. */
typedef struct side {
    ml_dtype dtype;
    ml_weight w;
    ml_kernels_options options;
    ml_kernels *kernels;
    bench_times rate[DIRECTIONS], ratio[DIRECTIONS]; /* GF/s, and to those of the first type */
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
        bench_add(&s->rate[0], rate.forward.median);
        bench_add(&s->rate[1], rate.backward.median);
    }
    for (int64_t i = 0; i < count; i++)
        for (int d = 0; d < DIRECTIONS; d++)
            bench_add(&sides[i].ratio[d],
                      sides[i].rate[d].values[turn] / sides[0].rate[d].values[turn]);
done:
    return st;
}

static json_t *side_object(const side *s)
{
    static const char *const names[DIRECTIONS] = {"forward", "backward"};
    json_t *object =
        json_pack("{s:s, s:s}", "dtype", ml_dtype_name(s->dtype), "path", s->kernels->backend);
    for (int d = 0; d < DIRECTIONS; d++) {
        const ml_kernels_spread ratio = bench_rates(&s->ratio[d], 1);
        const struct {
            const char *name;
            double value;
        } figures[] = {{"gflops", bench_median(&s->rate[d])},
                       {"ratio", bench_median(&s->ratio[d])},
                       {"ratio_min", 1 / ratio.most},
                       {"ratio_max", 1 / ratio.least}};
        for (int i = 0; i < 4; i++) {
            char key[32];
            snprintf(key, sizeof key, "%s_%s", names[d], figures[i].name);
            json_object_set_new(object, key, json_real(figures[i].value));
        }
    }
    return object;
}

static void print_side(const json_t *x)
{
    const char *path = json_string_value(json_object_get(x, "path"));
    printf("  %-8s %-12s", json_string_value(json_object_get(x, "dtype")), path);
#define FIGURE(name) json_real_value(json_object_get(x, name))
    printf("  %7.1f  %5.3f (%5.3f to %5.3f)", FIGURE("forward_gflops"), FIGURE("forward_ratio"),
           FIGURE("forward_ratio_min"), FIGURE("forward_ratio_max"));
    printf("  %7.1f  %5.3f (%5.3f to %5.3f)\n", FIGURE("backward_gflops"), FIGURE("backward_ratio"),
           FIGURE("backward_ratio_min"), FIGURE("backward_ratio_max"));
#undef FIGURE
}

static void report(const gemm_options *o, const side *sides, int64_t count)
{
    json_t *list = json_array(), *x;
    size_t i;
    for (int64_t n = 0; n < count; n++) json_array_append_new(list, side_object(&sides[n]));
    if (!o->json && bench_speaks()) {
        printf("%" PRId64 " tokens × W[%" PRId64 ", %" PRId64
               "], %s; medians of %d turns, ratios to "
               "the first type within a turn (least to most)\n",
               o->tokens, o->rows, o->cols, sides[0].kernels->vector_path, TURNS);
        printf("  %-8s %-12s  %-32s  %s\n", "dtype", "path", "forward GF/s", "backward GF/s");
        json_array_foreach(list, i, x) print_side(x);
    }
    json_t *facts = json_pack("{s:I, s:I, s:I, s:s, s:o}", "tokens", (json_int_t)o->tokens, "rows",
                              (json_int_t)o->rows, "cols", (json_int_t)o->cols, "vector_path",
                              sides[0].kernels->vector_path, "dtypes", list);
    if (o->json)
        bench_print_json(facts);
    else
        json_decref(facts);
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
    report(o, sides, o->ndtypes);
done:
    for (int64_t i = 0; sides && i < o->ndtypes; i++) ml_kernels_destroy(sides[i].kernels);
    ml_memory_free(sides);
    return st;
}
