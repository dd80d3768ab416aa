/* Which libraries the products run with. Each BLAS tells its version by a function of its own. */
#include <omp.h>

#include "kernels/kernels_private.h"

#ifdef MPILORA_HAS_ONEDNN
#include "kernels/onednn/api.h"
#endif

extern char *openblas_get_config(void) __attribute__((weak));
extern const char *bli_info_get_version_str(void) __attribute__((weak));
extern void mkl_get_version_string(char *text, int length) __attribute__((weak));

static void find_blas(ml_library *out)
{
    ml_library_find(out, "BLAS", "sgemm_");
    if (openblas_get_config)
        snprintf(out->version, sizeof out->version, "%s", openblas_get_config());
    else if (bli_info_get_version_str)
        snprintf(out->version, sizeof out->version, "BLIS %s", bli_info_get_version_str());
    else if (mkl_get_version_string)
        mkl_get_version_string(out->version, (int)sizeof out->version);
}

int ml_kernels_libraries(ml_library out[ML_KERNELS_LIBRARIES])
{
    int count = 0;
    find_blas(&out[count++]);
    ml_library_find(&out[count], "OpenMP", "omp_get_max_threads");
    snprintf(out[count].version, sizeof out[count].version, "%d", _OPENMP);
    count++;
#ifdef MPILORA_HAS_ONEDNN
    const dnnl_version_t *version = dnnl_version();
    ml_library_find(&out[count], "oneDNN", "dnnl_version");
    snprintf(out[count].version, sizeof out[count].version, "%d.%d.%d", version->major,
             version->minor, version->patch);
    count++;
#endif
    return count;
}
