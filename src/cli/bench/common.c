/* The subjects of `mpilora bench` share this: times of rounds with their median and spread, when
 * to stop measuring, and checks of sizes, types and targets. */
#include <inttypes.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>

#include "cli/bench/bench.h"

/* ---- measurements -------------------------------------------------------------------------- */

void bench_add(bench_times *t, double value)
{
    if (t->count < BENCH_ROUNDS_MOST) t->values[t->count++] = value;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static bench_times sort_times(const bench_times *t)
{
    bench_times sorted = *t;
    qsort(sorted.values, (size_t)t->count, sizeof *sorted.values, compare_doubles);
    return sorted;
}

double bench_median(const bench_times *t)
{
    return t->count ? sort_times(t).values[t->count / 2] : NAN;
}

ml_kernels_spread bench_rates(const bench_times *t, double work)
{
    const bench_times sorted = sort_times(t);
    if (t->count == 0) return (ml_kernels_spread){NAN, NAN, NAN};
    return (ml_kernels_spread){work / sorted.values[t->count / 2],
                               work / sorted.values[t->count - 1], work / sorted.values[0]};
}

double bench_largest(const bench_times *t)
{
    double most = 0;
    for (int64_t i = 0; i < t->count; i++) most = fmax(most, t->values[i]);
    return most;
}

bool bench_goes_on(const ml_grid *grid, int64_t round, int64_t least, double start, double seconds)
{
    bool on = round < least || (round < BENCH_ROUNDS_MOST && ml_seconds() - start < seconds);
    if (grid) ml_grid_broadcast(grid, ML_GROUP_WORLD, 0, &on, (int64_t)sizeof on);
    return on;
}

/* ---- input --------------------------------------------------------------------------------- */

ml_status bench_check_sizes(const bench_size *sizes)
{
    for (; sizes->name; sizes++)
        if (sizes->value < 1 || sizes->value > sizes->most)
            return ml_fail(ML_USAGE,
                           "%s: %" PRId64 " is out of range; 1 to %" PRId64 " is possible",
                           sizes->name, sizes->value, sizes->most);
    return ML_OK;
}

ml_status bench_check_dtype(const char *name, const char *text, ml_dtype *out)
{
    if (strcmp(text, "bf16") && strcmp(text, "fp32"))
        return ml_fail(ML_USAGE, "%s: \"%s\" is not known; bf16 or fp32", name, text);
    *out = strcmp(text, "fp32") ? ML_BF16 : ML_FP32;
    return ML_OK;
}

ml_status bench_new_floats(float **out, int64_t n, const char *name)
{
    float *x = ml_memory_alloc(n, sizeof *x, ML_MEM_OTHER, name);
    if (!x) return ML_RESOURCE;
    for (int64_t i = 0; i < n; i++) x[i] = (float)((i * 7919) % 1000 - 500) / 1000;
    *out = x;
    return ML_OK;
}

/* ---- output -------------------------------------------------------------------------------- */

bool bench_speaks(void) { return ml_grid_world_rank() == 0; }

void bench_print_json(json_t *facts)
{
    if (bench_speaks()) {
        json_dumpf(facts, stdout, JSON_REAL_PRECISION(6));
        putchar('\n');
    }
    json_decref(facts);
}

void bench_put_spread(json_t *object, const char *direction, const char *figure,
                      const ml_kernels_spread *spread)
{
    const struct {
        const char *ending;
        double value;
    } values[] = {{"", spread->median}, {"_min", spread->least}, {"_max", spread->most}};
    for (int i = 0; i < 3; i++) {
        char key[32];
        snprintf(key, sizeof key, "%s_%s%s", direction, figure, values[i].ending);
        json_object_set_new(object, key, json_real(values[i].value));
    }
}

/* A direction's median, its spread, and what the median is of the peak. */
static void put_rate(json_t *object, const char *direction, const ml_kernels_spread *rate,
                     double peak)
{
    char share[32];
    bench_put_spread(object, direction, "gflops", rate);
    snprintf(share, sizeof share, "%s_share", direction);
    json_object_set_new(object, share, json_real(rate->median / peak));
}

static json_t *rate_objects(double peak, const ml_kernels_rate *rates, int64_t count)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < count; i++) {
        json_t *object = json_pack("{s:s}", "path", rates[i].path);
        put_rate(object, "forward", &rates[i].forward, peak);
        put_rate(object, "backward", &rates[i].backward, peak);
        json_array_append_new(list, object);
    }
    return list;
}

static void print_rate(const ml_kernels_spread *rate, double peak)
{
    char spread[48];
    snprintf(spread, sizeof spread, "%.1f (%.1f to %.1f)", rate->median, rate->least, rate->most);
    printf("  %26s %4.0f %%", spread, 100 * rate->median / peak);
}

static void print_rates(const char *title, double peak, const ml_kernels *k,
                        const ml_kernels_rate *rates, int64_t count)
{
    printf("%s, %d threads, %s; fp32 multiply-add peak %.1f GF/s\n", title, omp_get_max_threads(),
           k->vector_path, peak);
    printf("medians of alternating rounds (least to most), and of the peak\n");
    printf("  %-16s  %33s  %33s\n", "path", "forward GF/s", "backward GF/s");
    for (int64_t i = 0; i < count; i++) {
        printf("  %-16s", rates[i].path);
        print_rate(&rates[i].forward, peak);
        print_rate(&rates[i].backward, peak);
        printf("\n");
    }
}

void bench_report_rates(bool json, json_t *facts, const char *title, double peak,
                        const ml_kernels *k, const ml_kernels_rate *rates, int64_t count)
{
    json_object_set_new(facts, "threads", json_integer(omp_get_max_threads()));
    json_object_set_new(facts, "vector_path", json_string(k->vector_path));
    json_object_set_new(facts, "fma_peak_gflops", json_real(peak));
    json_object_set_new(facts, "paths", rate_objects(peak, rates, count));
    if (!json && bench_speaks()) print_rates(title, peak, k, rates, count);
    if (json)
        bench_print_json(facts);
    else
        json_decref(facts);
}
