/* mpilora analyze spectrum --plan: what the singular values of a model's weights need, before
 * there is a base or a cluster. */
#include <inttypes.h>
#include <limits.h>

#include "cli/analyze/analyze.h"
#include "cli/bench/bench.h"

static const double mib = 1 << 20;

static void print_table(const ml_svd_kind *kinds, int64_t count, int ranks)
{
    printf("singular values in double precision on %d ranks, one matrix at a time\n", ranks);
    printf("%-6s %15s %9s %6s %12s %12s %12s\n", "target", "out x in", "ranks", "block", "matrix",
           "workspace", "MiB a rank");
    for (int64_t i = 0; i < count; i++) {
        const ml_svd_plan *p = &kinds[i].plan;
        printf("%-6s %7" PRId64 " x %5" PRId64 " %5d x %d %6" PRId64 " %12.1f %12.1f %12.1f\n",
               kinds[i].target, p->rows, p->cols, p->process_rows, p->process_cols, p->block,
               (double)p->matrix_bytes / mib, (double)p->work_bytes / mib, (double)p->bytes / mib);
    }
}

static void print_json(const ml_svd_kind *kinds, int64_t count, int ranks)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < count; i++) {
        const ml_svd_plan *p = &kinds[i].plan;
        json_array_append_new(
            list,
            json_pack("{s:s, s:I, s:I, s:[i,i], s:I, s:I, s:I, s:I}", "target", kinds[i].target,
                      "out", (json_int_t)p->rows, "in", (json_int_t)p->cols, "process_grid",
                      p->process_rows, p->process_cols, "block", (json_int_t)p->block,
                      "matrix_bytes", (json_int_t)p->matrix_bytes, "work_bytes",
                      (json_int_t)p->work_bytes, "bytes_per_rank", (json_int_t)p->bytes));
    }
    analyze_print_json(
        json_pack("{s:s, s:i, s:o}", "kind", "plan", "ranks", ranks, "matrices", list));
}

/* Of the ranks that run, also whether their nodes have what the largest matrix needs. */
static ml_status check_largest(const ml_svd_kind *kinds, int64_t count, int64_t memory)
{
    ml_status st = ML_OK;
    ml_grid *grid = NULL;
    const ml_svd_plan *most = &kinds[0].plan;
    for (int64_t i = 1; i < count; i++)
        if (kinds[i].plan.bytes > most->bytes) most = &kinds[i].plan;
    ML_TRY(ml_grid_create(&grid, 1));
    st = ml_svd_check(most, grid, memory);
done:
    ml_grid_destroy(grid);
    return st;
}

ml_status analyze_plan(const analyze_options *o, int64_t ranks, const char *usage)
{
    ml_status st = ML_OK;
    ml_svd_kind kinds[ML_SVD_KINDS];
    ml_model_spec spec;
    unsigned targets = 0;
    int64_t count;
    if (!o->base) return ml_fail(ML_USAGE, "--base is missing; usage: %s", usage);
    if (ranks < 0 || ranks > INT_MAX)
        return ml_fail(ML_USAGE, "--ranks: %" PRId64 " is out of range", ranks);
    if (o->targets) ML_TRY(bench_read_targets(o->targets, &targets));
    if (targets & ML_TARGET_ALL) targets = 0;
    ML_TRY(ml_model_spec_is_description(o->base) ? bench_read_model(NULL, o->base, &spec)
                                                 : bench_read_model(o->base, NULL, &spec));
    int planned = ranks > 0 ? (int)ranks : ml_grid_world_size();
    ML_TRY(ml_svd_plan_model(kinds, &count, &spec, targets, planned));
    if (analyze_speaks()) (o->json ? print_json : print_table)(kinds, count, planned);
    if (ranks == 0) st = check_largest(kinds, count, analyze_memory(o));
done:
    return st;
}
