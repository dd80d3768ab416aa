/* Layers that every rank has whole and in fp32, and the one that stands before a head:
 *
 *   z = norm(activation(W n + b))
 *
 * BERT's kin and DeBERTa have it before the head for masked tokens, ModernBERT before all heads.
 * What it takes, n, has the model's width; z has the embedding's. */
#include "model/model_private.h"

void whole_forward(const ml_model *m, const whole_linear *w, int64_t C, int64_t in, int64_t out,
                   const float *x, float *y)
{
    const ml_kernels *k = m->kernels;
    k->gemm(k, false, true, C, out, in, 1.0F, x, in, w->weight, in, 0.0F, y, out);
    if (w->bias) k->add_bias(C, out, w->bias, y, out);
}

void whole_backward(const ml_model *m, const whole_linear *w, int64_t C, int64_t in, int64_t out,
                    const float *x, const float *dy, float *dx)
{
    const ml_kernels *k = m->kernels;
    if (w->weight_gradient)
        k->gemm(k, true, false, out, in, C, 1.0F, dy, out, x, in, 1.0F, w->weight_gradient, in);
    if (w->bias_gradient) k->sum_rows(C, out, dy, out, w->bias_gradient);
    k->gemm(k, false, false, C, in, out, 1.0F, dy, out, w->weight, in, 0.0F, dx, in);
}

const float *transform_forward(const ml_model *m, int64_t C)
{
    const activations *a = &m->act;
    const ml_kernels *k = m->kernels;
    const ml_norm *norm = &m->transform_norm;
    int64_t e = ml_model_embed_width(&m->spec);
    if (!a->transformed) return a->n;
    whole_forward(m, &m->transform, C, m->spec.width, e, a->n, a->raw);
    k->activation_forward(m->spec.transform_activation, C, e, a->raw, e, a->activated, e);
    k->layernorm_forward(C, e, a->activated, norm->weight, norm->bias, (float)m->spec.norm_eps,
                         a->transformed, a->transform_mean, a->transform_rstd);
    return a->transformed;
}

/* a->transformed, which the head has read, takes the gradient between the steps. */
void transform_backward(const ml_model *m, int64_t C)
{
    const activations *a = &m->act;
    const ml_kernels *k = m->kernels;
    const ml_norm *norm = &m->transform_norm;
    int64_t e = ml_model_embed_width(&m->spec);
    if (!a->transformed) return;
    float *d = a->transformed;
    k->layernorm_backward(C, e, a->activated, norm->weight, a->transform_mean, a->transform_rstd,
                          a->y, d, false, norm->weight_gradient, norm->bias_gradient);
    k->activation_backward(m->spec.transform_activation, C, e, a->raw, e, d, e, d, e);
    whole_backward(m, &m->transform, C, m->spec.width, e, a->n, d, a->y);
}
