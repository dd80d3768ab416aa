/* The model's norm: LayerNorm or RMSNorm, or nothing where it has none in a place. */
#include "model/model_private.h"

const float *norm_forward(const ml_model *m, const ml_norm *norm, int64_t T, const float *x,
                          float *y, float *mean, float *rstd)
{
    const ml_kernels *k = m->kernels;
    float eps = (float)m->spec.norm_eps;
    if (!norm->weight) return x;
    if (m->spec.norm == ML_NORM_LAYER)
        k->layernorm_forward(T, m->spec.width, x, norm->weight, norm->bias, eps, y, mean, rstd);
    else
        k->rmsnorm_forward(T, m->spec.width, x, norm->weight, m->spec.norm_plus_one, eps, y, rstd);
    return y;
}

void norm_backward(const ml_model *m, const ml_norm *norm, int64_t T, const float *x,
                   const float *mean, const float *rstd, const float *dy, float *dx, bool add)
{
    const ml_kernels *k = m->kernels;
    if (!norm->weight)
        k->add(T * m->spec.width, dy, dx); /* only ever added */
    else if (m->spec.norm == ML_NORM_LAYER)
        k->layernorm_backward(T, m->spec.width, x, norm->weight, mean, rstd, dy, dx, add,
                              norm->weight_gradient, norm->bias_gradient);
    else
        k->rmsnorm_backward(T, m->spec.width, x, norm->weight, m->spec.norm_plus_one, rstd, dy, dx,
                            add, norm->weight_gradient);
}
