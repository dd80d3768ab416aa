/* What the subjects of `mpilora bench` share. */
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

double bench_median(const bench_times *t)
{
    bench_times sorted = *t;
    qsort(sorted.values, (size_t)t->count, sizeof *sorted.values, compare_doubles);
    return t->count ? sorted.values[t->count / 2] : NAN;
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

static json_t *rate_objects(double peak, const bench_rate *rates, int64_t count)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < count; i++)
        json_array_append_new(
            list, json_pack("{s:s, s:f, s:f, s:f, s:f}", "path", rates[i].path, "forward_gflops",
                            rates[i].forward, "backward_gflops", rates[i].backward, "forward_share",
                            rates[i].forward / peak, "backward_share", rates[i].backward / peak));
    return list;
}

static void print_rates(const char *title, double peak, const ml_kernels *k,
                        const bench_rate *rates, int64_t count)
{
    printf("%s, %d threads, %s; fp32 multiply-add peak %.1f GF/s\n", title, omp_get_max_threads(),
           k->vector_path, peak);
    printf("  %-16s %22s %22s\n", "path", "forward GF/s (of peak)", "backward GF/s (of peak)");
    for (int64_t i = 0; i < count; i++)
        printf("  %-16s %13.1f  (%4.0f %%) %13.1f  (%4.0f %%)\n", rates[i].path, rates[i].forward,
               100 * rates[i].forward / peak, rates[i].backward, 100 * rates[i].backward / peak);
}

void bench_report_rates(bool json, json_t *facts, const char *title, double peak,
                        const ml_kernels *k, const bench_rate *rates, int64_t count)
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
