/* fortran: the routines of the BLAS, LAPACK, ScaLAPACK and the BLACS that analyze/ calls, as their
 * Fortran and C interfaces have them. Private to analyze/.
 *
 * Fortran's integers are 32 bits here; characters are followed by their lengths at the end of the
 * list, as gfortran passes them.
 */
#ifndef MPILORA_ANALYZE_FORTRAN_H
#define MPILORA_ANALYZE_FORTRAN_H

#include <mpi.h>
#include <stddef.h>

/* BLAS */
void dgemm_(const char *transa, const char *transb, const int *m, const int *n, const int *k,
            const double *alpha, const double *a, const int *lda, const double *b, const int *ldb,
            const double *beta, double *c, const int *ldc, size_t transa_length,
            size_t transb_length);
double ddot_(const int *n, const double *x, const int *step_x, const double *y, const int *step_y);

/* LAPACK */
void dgeqrf_(const int *m, const int *n, double *a, const int *lda, double *tau, double *work,
             const int *lwork, int *info);
void dorgqr_(const int *m, const int *n, const int *k, double *a, const int *lda, const double *tau,
             double *work, const int *lwork, int *info);
void dgesvd_(const char *jobu, const char *jobvt, const int *m, const int *n, double *a,
             const int *lda, double *s, double *u, const int *ldu, double *vt, const int *ldvt,
             double *work, const int *lwork, int *info, size_t jobu_length, size_t jobvt_length);

/* ScaLAPACK */
int numroc_(const int *n, const int *block, const int *process, const int *first,
            const int *processes);
void descinit_(int *descriptor, const int *m, const int *n, const int *mb, const int *nb,
               const int *first_row, const int *first_col, const int *context, const int *leading,
               int *info);
void pdgesvd_(const char *jobu, const char *jobvt, const int *m, const int *n, double *a,
              const int *ia, const int *ja, const int *desca, double *s, double *u, const int *iu,
              const int *ju, const int *descu, double *vt, const int *ivt, const int *jvt,
              const int *descvt, double *work, const int *lwork, int *info, size_t jobu_length,
              size_t jobvt_length);

/* BLACS */
int Csys2blacs_handle(MPI_Comm communicator);
void Cfree_blacs_system_handle(int handle);
void Cblacs_gridinit(int *context, const char *order, int rows, int cols);
void Cblacs_gridinfo(int context, int *rows, int *cols, int *row, int *col);
void Cblacs_gridexit(int context);

#endif
