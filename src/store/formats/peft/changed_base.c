/* PiSSA and OLoRA: PEFT takes the factors that it begins with out of the base, W ← W − s·B0·A0, and
 * does so again when it loads the directory, which holds only A and B. B0·A0 follows from W alone:
 *
 *   PiSSA (Meng et al. 2024, arXiv:2404.02948)   s·B0·A0 = U_r·S_r·V_rᵀ of W's singular values
 *   OLoRA (Büyükakyüz 2024, arXiv:2406.01775)    B0·A0 = Q_r·R_r of W = Q·R
 *
 * so that on W itself the adapter is s·B·A − s·B0·A0 = s·[B, −B0]·[A; A0], as our own PiSSA writes
 * it (peft/lora_pissa.c). Where W is bf16, PEFT rounds what is left to bf16, too; here it is not.
 */
#include "store/formats/peft/changed_base.h"

#include <inttypes.h>
#include <math.h>

#include "mpilora/kernels.h"

/* The whole W of a module, rows of a fused one as its parts have them. */
static ml_status read_weight(ml_base *base, const ml_family_tensor *row, int64_t layer, float *w)
{
    ml_status st = ML_OK;
    const ml_model_spec *spec = ml_base_spec(base);
    const ml_shard whole = {.dim = ML_SHARD_WHOLE};
    bool is_fused = row->present == ML_PRESENT_FUSED;
    char name[96];
    for (const ml_family_tensor *part = ml_family_target(spec->family->tensors); part;
         part = ml_family_target(part + 1)) {
        bool wanted =
            is_fused ? part != row && ml_family_fused(spec->family, part) == row : part == row;
        int64_t in, out;
        if (!wanted) continue;
        ml_module_shape(spec, part, &in, &out);
        snprintf(name, sizeof name, "layers.%" PRId64 ".%s.weight", layer, part->module);
        ML_TRY(ml_base_read(base, name, &whole, ML_FP32, w));
        w += in * out;
    }
done:
    return st;
}

static ml_status begin_pissa(const ml_adapter_pair *p, const float *w, float *a, float *b)
{
    ml_status st = ML_OK;
    float *sigma = NULL;
    int64_t r = p->rank;
    ML_NEW(sigma, r, ML_MEM_OTHER, "singular values");
    ML_TRY(ml_svd_leading(p->out, p->in, w, r, false, b, sigma, a));
    for (int64_t k = 0; k < r; k++) {
        float root = sqrtf(sigma[k] / p->scale);
        for (int64_t j = 0; j < p->in; j++) a[k * p->in + j] *= root;
        for (int64_t i = 0; i < p->out; i++) b[i * r + k] *= root;
    }
done:
    ml_memory_free(sigma);
    return st;
}

/* Q_r spans W's first r columns, R_r = Q_rᵀ·W: Gram-Schmidt, each column twice. Signs of columns
 * do not matter to the product. */
static ml_status begin_olora(const ml_adapter_pair *p, const float *w, float *a, float *b)
{
    ml_status st = ML_OK;
    int64_t r = p->rank, in = p->in, out = p->out;
    double *q = NULL; /* [r, out] */
    ML_NEW(q, r * out, ML_MEM_OTHER, "a basis");
    for (int64_t k = 0; k < r; k++) {
        double *column = q + k * out, norm = 0.0;
        for (int64_t i = 0; i < out; i++) column[i] = (double)w[i * in + k];
        for (int64_t pass = 0; pass < 2; pass++)
            for (int64_t l = 0; l < k; l++) {
                double along = 0.0;
                for (int64_t i = 0; i < out; i++) along += q[l * out + i] * column[i];
                for (int64_t i = 0; i < out; i++) column[i] -= along * q[l * out + i];
            }
        for (int64_t i = 0; i < out; i++) norm += column[i] * column[i];
        for (int64_t i = 0; i < out && norm > 0.0; i++) column[i] /= sqrt(norm);
        for (int64_t i = 0; i < out; i++) b[i * r + k] = (float)column[i];
    }
    for (int64_t k = 0; k < r; k++)
        for (int64_t j = 0; j < in; j++) {
            double sum = 0.0;
            for (int64_t i = 0; i < out; i++) sum += q[k * out + i] * (double)w[i * in + j];
            a[k * in + j] = (float)sum;
        }
done:
    ml_memory_free(q);
    return st;
}

ml_status ml_peft_add_start(ml_adapter_pair *p, ml_peft_start start, bool rslora,
                            const ml_family_tensor *row, int64_t layer, ml_base *base)
{
    ml_status st = ML_OK;
    int64_t r = p->rank, in = p->in, out = p->out;
    float *w = NULL, *a = NULL, *b = NULL, *b0 = NULL;
    if (r > ml_min(in, out) || !(p->scale > 0.0F))
        return ml_fail(ML_INPUT,
                       "%s: init_lora_weights: rank %" PRId64 " of a matrix of %" PRId64
                       " × %" PRId64 " and alpha %g: no such beginning",
                       p->module, r, out, in, p->alpha);
    ML_NEW(w, out * in, ML_MEM_OTHER, "a matrix to be decomposed");
    ML_NEW(a, 2 * r * in, ML_MEM_OTHER, "an adapter");
    ML_NEW(b, 2 * r * out, ML_MEM_OTHER, "an adapter");
    ML_NEW(b0, r * out, ML_MEM_OTHER, "an adapter");
    ML_TRY(read_weight(base, row, layer, w));
    ML_TRY(start == ML_PEFT_START_PISSA ? begin_pissa(p, w, a + r * in, b0)
                                        : begin_olora(p, w, a + r * in, b0));
    memcpy(a, p->a, (size_t)(r * in) * sizeof *a);
    for (int64_t i = 0; i < out; i++)
        for (int64_t k = 0; k < r; k++) {
            b[2 * r * i + k] = p->b[r * i + k];
            b[2 * r * i + r + k] = -b0[r * i + k];
        }
    ml_memory_free(p->a);
    ml_memory_free(p->b);
    p->a = a;
    p->b = b;
    a = b = NULL;
    p->rank = 2 * r;
    p->alpha *= rslora ? sqrt(2.0) : 2.0; /* the scale stays */
done:
    ml_memory_free(w);
    ml_memory_free(a);
    ml_memory_free(b);
    ml_memory_free(b0);
    return st;
}
