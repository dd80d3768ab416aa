/* In place of singular_values.c in a build without ScaLAPACK: one line that says what is missing.
 */
#include "analyze/singular_values.h"

ml_status svd_check_build(void)
{
    return ml_fail(ML_USAGE, "this build of mpilora has no ScaLAPACK, which the singular values of "
                             "a whole weight need: install it for the MPI in use and build again "
                             "with -DMPILORA_SCALAPACK=ON");
}

ml_status ml_singular_values(double *sigma, const ml_svd_plan *plan, const ml_grid *grid,
                             ml_rows_reader read, void *context)
{
    (void)sigma;
    (void)plan;
    (void)grid;
    (void)read;
    (void)context;
    return svd_check_build();
}
