/* What the kernels take from libraries that are not built here: a plain sgemm, and no memory of
 * earlier starts. */
#include "kernels/kernels_private.h"

void sgemm_(const char *ta, const char *tb, const int *m, const int *n, const int *k,
            const float *alpha, const float *a, const int *lda, const float *b, const int *ldb,
            const float *beta, float *c, const int *ldc, size_t ta_length, size_t tb_length);

/* C[m, n] by columns, as Fortran has it. */
void sgemm_(const char *ta, const char *tb, const int *m, const int *n, const int *k,
            const float *alpha, const float *a, const int *lda, const float *b, const int *ldb,
            const float *beta, float *c, const int *ldc, size_t ta_length, size_t tb_length)
{
    (void)ta_length;
    (void)tb_length;
    for (int64_t j = 0; j < *n; j++)
        for (int64_t i = 0; i < *m; i++) {
            double sum = 0;
            for (int64_t l = 0; l < *k; l++)
                sum += (double)a[*ta == 'T' ? i * *lda + l : l * *lda + i] *
                       (double)b[*tb == 'T' ? l * *ldb + j : j * *ldb + l];
            float *to = &c[j * *ldc + i];
            *to = (float)((double)*alpha * sum + (*beta != 0 ? (double)(*beta * *to) : 0));
        }
}

bool ml_rates_recall(ml_kernels_owner *owner, const ml_kernels_options *options)
{
    (void)owner;
    (void)options;
    return false;
}

void ml_rates_keep(const ml_kernels_owner *owner, const ml_kernels_options *options)
{
    (void)owner;
    (void)options;
}
