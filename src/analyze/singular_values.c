/* Singular values of one large matrix by all ranks: pdgesvd on a block-cyclic grid.
 *
 * The ranks 0 … P·Q − 1 form the grid in row order; W's transpose is what ScaLAPACK sees,
 * column-major, so a row of W is a contiguous column of it. Each rank reads the blocks of rows
 * that it has a part of and keeps its columns; nothing is sent before ScaLAPACK starts.
 */
#include "analyze/singular_values.h"

#include <inttypes.h>

#include "analyze/fortran.h"

/* This rank's part. */
typedef struct part {
    int handle, context;
    int rows, cols;       /* P × Q as the BLACS have them */
    int row, col;         /* this rank's place; −1: not in the grid */
    int local_m, local_n; /* of the transpose: columns and rows of W */
    double *a;            /* [local_m, local_n] column-major */
} part;

static int at_least_one(int n) { return n > 1 ? n : 1; }

static void join_grid(part *t, const ml_svd_plan *p)
{
    const int m = (int)p->cols, n = (int)p->rows, block = (int)p->block, zero = 0;
    t->handle = Csys2blacs_handle(MPI_COMM_WORLD);
    t->context = t->handle;
    Cblacs_gridinit(&t->context, "Row", p->process_rows, p->process_cols);
    t->row = t->col = -1;
    if (t->context >= 0) Cblacs_gridinfo(t->context, &t->rows, &t->cols, &t->row, &t->col);
    if (t->row < 0) return;
    t->local_m = numroc_(&m, &block, &t->row, &zero, &p->process_rows);
    t->local_n = numroc_(&n, &block, &t->col, &zero, &p->process_cols);
}

static void leave_grid(part *t)
{
    if (t->row >= 0) Cblacs_gridexit(t->context);
    Cfree_blacs_system_handle(t->handle);
}

/* One row of W → this rank's blocks of its columns, one after the other. */
static void keep_columns(const part *t, const ml_svd_plan *p, const float *row, double *out)
{
    for (int64_t first = t->row * p->block; first < p->cols; first += p->process_rows * p->block)
        for (int64_t j = first; j < ml_min(first + p->block, p->cols); j++) *out++ = row[j];
}

static ml_status read_part(const part *t, const ml_svd_plan *p, ml_rows_reader read, void *context)
{
    ml_status st = ML_OK;
    float *rows = NULL;
    double *out = t->a;
    ML_NEW(rows, p->block * p->cols, ML_MEM_OTHER, "rows of a matrix");
    for (int64_t first = t->col * p->block; first < p->rows; first += p->process_cols * p->block) {
        int64_t n = ml_min(p->block, p->rows - first);
        ML_TRY(read(context, first, n, rows));
        for (int64_t i = 0; i < n; i++, out += t->local_m)
            keep_columns(t, p, rows + i * p->cols, out);
    }
done:
    ml_memory_free(rows);
    return st;
}

static ml_status load(part *t, const ml_svd_plan *p, ml_rows_reader read, void *context)
{
    ml_status st = ML_OK;
    if (t->row < 0) return ML_OK;
    ML_NEW(t->a, (int64_t)t->local_m * t->local_n, ML_MEM_OTHER, "a matrix spread over the ranks");
    st = read_part(t, p, read, context);
done:
    return st;
}

ml_status svd_check_build(void) { return ML_OK; }

ml_status svd_info_status(int info, int64_t count)
{
    if (info == 0) return ML_OK;
    if (info < 0) return ml_fail(ML_INTERNAL, "pdgesvd: argument %d is not accepted", -info);
    if (info == count + 1)
        return ml_fail(ML_INTERNAL, "pdgesvd: the ranks found different singular values, as on "
                                    "processors that round differently: run on nodes of one kind");
    return ml_fail(ML_NUMERIC, "pdgesvd: %d of %" PRId64 " singular values did not converge", info,
                   count);
}

/* Collective over the grid's ranks, all of which have room for the workspace when the second call
 * is made. */
static ml_status call_pdgesvd(const part *t, const ml_svd_plan *p, double *sigma, double *work,
                              int count)
{
    const int m = (int)p->cols, n = (int)p->rows, block = (int)p->block, zero = 0, one = 1,
              leading = at_least_one(t->local_m);
    int descriptor[9], info;
    double none = 0.0;
    descinit_(descriptor, &m, &n, &block, &block, &zero, &zero, &t->context, &leading, &info);
    if (info != 0) return ml_fail(ML_INTERNAL, "descinit: argument %d is not accepted", -info);
    pdgesvd_("N", "N", &m, &n, t->a, &one, &one, descriptor, sigma, &none, &one, &one, descriptor,
             &none, &one, &one, descriptor, work, &count, &info, 1, 1);
    return svd_info_status(info, ml_min(p->rows, p->cols));
}

static ml_status make_work(const part *t, const ml_svd_plan *p, double *sigma, double **work,
                           int *count)
{
    double wanted = 0.0;
    if (t->row < 0) return ML_OK;
    ml_status st = call_pdgesvd(t, p, sigma, &wanted, -1);
    if (st != ML_OK) return st;
    *count = (int)wanted;
    *work = ml_memory_alloc(*count, sizeof **work, ML_MEM_WORKSPACE, "ScaLAPACK's workspace");
    return *work ? ML_OK : ML_RESOURCE;
}

ml_status ml_singular_values(double *sigma, const ml_svd_plan *p, const ml_grid *grid,
                             ml_rows_reader read, void *context)
{
    ml_status st = ML_OK;
    part t = {0};
    double *work = NULL;
    int count = 0;
    join_grid(&t, p);
    ML_TRY(ml_grid_agree(grid, load(&t, p, read, context)));
    ML_TRY(ml_grid_agree(grid, make_work(&t, p, sigma, &work, &count)));
    ML_TRY(ml_grid_agree(grid, t.row < 0 ? ML_OK : call_pdgesvd(&t, p, sigma, work, count)));
    ml_grid_broadcast(grid, ML_GROUP_WORLD, 0, sigma,
                      ml_min(p->rows, p->cols) * (int64_t)sizeof *sigma);
done:
    ml_memory_free(work);
    ml_memory_free(t.a);
    leave_grid(&t);
    return st;
}
