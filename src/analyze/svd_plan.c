/* How a matrix is spread over the ranks for its singular values, what that takes, and whether the
 * nodes have it. */
#include <inttypes.h>
#include <limits.h>

#include "analyze/node_memory.h"
#include "analyze/singular_values.h"

enum { BLOCK_MOST = 64, BLOCK_LEAST = 8 };

/* P × Q ≤ ranks, neither above `most`: as many ranks as possible, and of these grids the squarest,
 * with P ≤ Q. Grids more than four times as wide as high move so much more that they leave ranks
 * idle instead. `most` sees to it that every process has a part: pdgesvd is known to hang on
 * matrices smaller than its grid. */
static void choose_processes(int64_t ranks, int64_t most, int *rows, int *cols)
{
    *rows = *cols = 1;
    for (int64_t p = 1; p * p <= ranks && p <= most; p++) {
        int64_t q = ml_min(ml_min(ranks / p, most), 4 * p);
        if (q < p || p * q < (int64_t)*rows * *cols) continue;
        *rows = (int)p;
        *cols = (int)q;
    }
}

/* What the first process of a dimension holds of n: never less than any other. */
static int64_t local_most(int64_t n, int64_t block, int64_t processes)
{
    int64_t blocks = (n + block - 1) / block, own = (blocks + processes - 1) / processes;
    return ml_min(n, own * block);
}

void ml_svd_plan_make(ml_svd_plan *out, int64_t rows, int64_t cols, int ranks)
{
    int64_t least = ml_min(rows, cols), most = ml_max(rows, cols);
    *out = (ml_svd_plan){.rows = rows, .cols = cols};
    choose_processes(ranks, ml_max(1, least / BLOCK_LEAST), &out->process_rows, &out->process_cols);
    int64_t b = out->block =
        ml_min(BLOCK_MOST, ml_max(1, least / ml_max(out->process_rows, out->process_cols)));
    int64_t mp = local_most(cols, b, out->process_rows),
            nq = local_most(rows, b, out->process_cols);
    /* pdgesvd without vectors: 1 + 6·max(m, n) + max(pdgebrd's, dbdsqr's) */
    int64_t work = 1 + 6 * most + ml_max(b * (mp + nq + 1) + nq, 2 * least);
    out->matrix_bytes = mp * nq * (int64_t)sizeof(double);
    out->work_bytes = (work + least) * (int64_t)sizeof(double);
    out->read_bytes = b * cols * (int64_t)sizeof(float);
    out->bytes = out->matrix_bytes + out->work_bytes + out->read_bytes;
}

/* The 32-bit counts inside ScaLAPACK. */
static ml_status check_counts(const ml_svd_plan *p)
{
    if (p->matrix_bytes / (int64_t)sizeof(double) <= INT_MAX &&
        p->work_bytes / (int64_t)sizeof(double) <= INT_MAX && p->rows <= INT_MAX &&
        p->cols <= INT_MAX)
        return ML_OK;
    return ml_fail(ML_RESOURCE,
                   "singular values of %" PRId64 " × %" PRId64 ": a rank would hold %" PRId64
                   " numbers, ScaLAPACK counts to %d: start more ranks",
                   p->rows, p->cols, p->matrix_bytes / (int64_t)sizeof(double), INT_MAX);
}

ml_status ml_svd_check(const ml_svd_plan *p, const ml_grid *grid, int64_t memory)
{
    static const double mib = 1 << 20;
    ml_status st = check_counts(p);
    bool works = ml_grid_rank(grid) < p->process_rows * p->process_cols;
    int64_t need = works ? p->bytes : 0, has = memory > 0 ? memory : node_memory_available();
    ml_grid_sum_int64(grid, ML_GROUP_NODE, &need, 1);
    ml_log("singular values of %" PRId64 " × %" PRId64
           " by ScaLAPACK: %d × %d of %d ranks, blocks of %" PRId64
           "; a rank needs %.1f MiB (matrix %.1f, workspace %.1f, reading %.1f), this node %.1f of "
           "%.1f MiB",
           p->rows, p->cols, p->process_rows, p->process_cols, ml_grid_size(grid), p->block,
           (double)p->bytes / mib, (double)p->matrix_bytes / mib, (double)p->work_bytes / mib,
           (double)p->read_bytes / mib, (double)need / mib, (double)has / mib);
    if (st == ML_OK && need > has)
        st = ml_fail(ML_RESOURCE,
                     "singular values of %" PRId64 " × %" PRId64
                     ": the ranks of a node need %.1f MiB (%.1f MiB each), the node has %.1f MiB: "
                     "use more nodes",
                     p->rows, p->cols, (double)need / mib, (double)p->bytes / mib,
                     (double)has / mib);
    return ml_grid_agree(grid, st);
}
