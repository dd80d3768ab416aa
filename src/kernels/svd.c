/* The leading part of a singular value decomposition, by LAPACK, in double precision. */
#include <inttypes.h>
#include <limits.h>
#include <omp.h>

#include "mpilora/kernels.h"

/* LAPACK's, as gfortran passes it: the character's length stands at the end. */
void dgesdd_(const char *job, const int *m, const int *n, double *a, const int *lda, double *s,
             double *u, const int *ldu, double *vt, const int *ldvt, double *work, const int *lwork,
             int *iwork, int *info, size_t job_length);

/* OpenBLAS's own; another BLAS does not have them. */
extern void openblas_set_num_threads(int threads) __attribute__((weak));
extern int openblas_get_num_threads(void) __attribute__((weak));

/* Column-major, W[rows, cols] is its own transposed: cols × rows. */
typedef struct workspace {
    double *a, *sigma, *u, *vt, *work;
    int *index;
} workspace;

static double wanted_work(int64_t rows, int64_t cols)
{
    double wanted = 0.0, none = 0.0;
    int m = (int)cols, n = (int)rows, k = (int)ml_min(rows, cols), ask = -1, info, index;
    dgesdd_("S", &m, &n, &none, &m, &none, &none, &m, &none, &k, &wanted, &ask, &index, &info, 1);
    return wanted;
}

int64_t ml_svd_bytes(int64_t rows, int64_t cols)
{
    int64_t k = ml_min(rows, cols);
    return (rows * cols + k * (rows + cols + 1) + (int64_t)wanted_work(rows, cols)) *
               (int64_t)sizeof(double) +
           8 * k * (int64_t)sizeof(int);
}

static void free_workspace(workspace *w)
{
    ml_memory_free(w->a);
    ml_memory_free(w->sigma);
    ml_memory_free(w->u);
    ml_memory_free(w->vt);
    ml_memory_free(w->work);
    ml_memory_free(w->index);
}

typedef struct threads {
    int openmp, openblas; /* 0: it is another BLAS */
} threads;

static threads threads_now(void)
{
    return (threads){omp_get_max_threads(),
                     openblas_get_num_threads ? openblas_get_num_threads() : 0};
}

static void use(threads t)
{
    omp_set_num_threads(t.openmp);
    if (t.openblas > 0 && openblas_set_num_threads) openblas_set_num_threads(t.openblas);
}

/* LAPACK's sums have another order with another number of threads: `alone` takes one. */
static int decompose(int64_t rows, int64_t cols, const workspace *s, int room, bool alone)
{
    int m = (int)cols, n = (int)rows, side = (int)ml_min(rows, cols), info;
    const threads before = threads_now();
    if (alone) use((threads){1, 1});
    dgesdd_("S", &m, &n, s->a, &m, s->sigma, s->u, &m, s->vt, &side, s->work, &room, s->index,
            &info, 1);
    if (alone) use(before);
    return info;
}

ml_status ml_svd_leading(int64_t rows, int64_t cols, const float *w, int64_t rank, bool alone,
                         float *left, float *sigma, float *right)
{
    ml_status st = ML_OK;
    workspace s = {0};
    int64_t k = ml_min(rows, cols);
    double count = rows <= INT_MAX && cols <= INT_MAX ? wanted_work(rows, cols) : 0.0;
    if (count <= 0.0 || count > INT_MAX || (double)rows * (double)cols > INT_MAX)
        return ml_fail(ML_USAGE,
                       "a matrix of %" PRId64 " × %" PRId64 " is beyond LAPACK's 32-bit counts",
                       rows, cols);
    int info;
    ML_NEW(s.a, rows * cols, ML_MEM_OTHER, "a matrix to be decomposed");
    ML_NEW(s.sigma, k, ML_MEM_OTHER, "singular values");
    ML_NEW(s.u, cols * k, ML_MEM_OTHER, "singular vectors");
    ML_NEW(s.vt, k * rows, ML_MEM_OTHER, "singular vectors");
    ML_NEW(s.work, (int64_t)count, ML_MEM_OTHER, "LAPACK's workspace");
    ML_NEW(s.index, 8 * k, ML_MEM_OTHER, "LAPACK's workspace");
    for (int64_t i = 0; i < rows * cols; i++) s.a[i] = (double)w[i];
    info = decompose(rows, cols, &s, (int)count, alone);
    if (info != 0) {
        st = ml_fail(ML_NUMERIC,
                     "the singular values of a matrix of %" PRId64 " × %" PRId64
                     " do not converge (dgesdd: %d)",
                     rows, cols, info);
        goto done;
    }
    for (int64_t j = 0; j < rank; j++) sigma[j] = (float)s.sigma[j];
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < rank; j++) left[i * rank + j] = (float)s.vt[i * k + j];
    for (int64_t i = 0; i < rank * cols; i++) right[i] = (float)s.u[i];
done:
    free_workspace(&s);
    return st;
}
