/* The loss, at the end of the model: final norm, vocabulary-parallel head and cross-entropy in
 * chunks of tokens, with the gradient of the head's input in the same pass: nobody ever holds T × V
 * logits. (Megatron-LM's loss, arXiv:1909.08053 section 3; Wijmans et al. 2024, arXiv:2411.09009.)
 */
#include <math.h>

#include "model/model_private.h"

static void reduce_max(const ml_model *m, float *x, int64_t n)
{
    if (m->grid) ml_grid_max_float(m->grid, ML_GROUP_TP, x, n);
}

static void reduce_sum(const ml_model *m, float *x, int64_t n)
{
    if (m->grid) ml_grid_sum_float(m->grid, ML_GROUP_TP, x, n);
}

/* The targets of the rows from `first` on, relative to this rank's part of the vocabulary. */
static ml_targets targets_from(const ml_model *m, const ml_batch *batch, int64_t first)
{
    return (ml_targets){batch->targets.start + first, batch->targets.token, m->vocab_first};
}

void head_input(const ml_model *m, int64_t C, const float *x)
{
    const activations *a = &m->act;
    float factor = (float)m->spec.logit_multiplier;
    const float *n =
        norm_forward(m, &m->final_norm, C, x, a->projected ? a->projected : a->n, a->mean, a->rstd);
    if (a->projected)
        ml_linear_product(&m->project_out, m->kernels, C, n, a->n);
    else if (n == x)
        memcpy(a->n, x, (size_t)(C * m->spec.width) * sizeof *x);
    if (factor > 0.0F) m->kernels->scale(C * m->head.in, factor, a->n, a->n);
}

/* Σ −log p(target) of C rows whose logits lie in a->logits; leaves row maxima and sums for the
 * gradient. */
static double chunk_loss(const ml_model *m, const ml_targets *targets, int64_t C)
{
    const activations *a = &m->act;
    const ml_kernels *k = m->kernels;
    int64_t V = m->vocab_count;
    float *sum = a->row_sums, *picked = sum + C;
    k->xent_max(C, V, a->logits, V, a->row_max);
    reduce_max(m, a->row_max, C);
    k->xent_sum(C, V, a->logits, V, a->row_max, targets, sum, picked);
    reduce_sum(m, sum, 2 * C);
    double loss = 0.0;
    for (int64_t c = 0; c < C; c++) {
        double count = (double)(targets->start[c + 1] - targets->start[c]);
        loss += count * (log((double)sum[c]) + (double)a->row_max[c]) - (double)picked[c];
    }
    return loss;
}

/* The gradient of the head's input (a->y) → of what was projected to it: a->y itself where nothing
 * was. */
static const float *project_backward(const ml_model *m, const ml_pass *pass, const float *x)
{
    const activations *a = &m->act;
    const ml_pass whole = whole_pass(pass);
    if (!a->projected) return a->y;
    const float *n = norm_forward(m, &m->final_norm, pass->tokens, x, a->n, a->mean, a->rstd);
    ml_linear_backward(&m->project_out, &whole, n, a->y, a->projected);
    return a->projected;
}

/* Logits → gradient of the chunk's rows x, in place; adds to the gradients of head and final norm
 * where these train. */
static void chunk_backward(const ml_model *m, const ml_pass *pass, const ml_targets *targets,
                           float *x, double scale, double smoothing)
{
    const activations *a = &m->act;
    const ml_kernels *k = m->kernels;
    int64_t C = pass->tokens, V = m->vocab_count, d = m->spec.width;
    k->xent_backward(C, V, a->logits, V, a->row_max, a->row_sums, targets, (float)smoothing,
                     m->spec.vocab, (float)scale);
    if (a->slope) k->multiply(C * V, a->slope, a->logits);
    ml_linear_backward(&m->head, pass, a->n, a->logits, a->y);
    if (m->spec.logit_multiplier > 0.0)
        k->scale(C * m->head.in, (float)m->spec.logit_multiplier, a->y, a->y);
    const float *dn = project_backward(m, pass, x);
    if (m->final_norm.weight)
        norm_backward(m, &m->final_norm, C, x, a->mean, a->rstd, dn, a->n, false);
    memcpy(x, m->final_norm.weight ? a->n : dn, (size_t)(C * d) * sizeof *x);
}

double head_loss(ml_model *m, const ml_batch *batch, bool backward, double scale, double smoothing)
{
    activations *a = &m->act;
    const ml_kernels *k = m->kernels;
    int64_t R = batch->rows, d = m->spec.width;
    double loss = 0.0;
    for (int64_t first = 0; first < R; first += a->head_chunk) {
        int64_t C = ml_min(a->head_chunk, R - first);
        const chunk rows = {.rows = R, .first = first, .count = C, .predicted = true};
        const ml_targets targets = targets_from(m, batch, first);
        ml_pass pass = pass_over(m, batch, &rows);
        pass.saved = backward ? a->hook_head : NULL;
        head_input(m, C, a->x + first * d);
        ml_linear_forward(&m->head, &pass, a->n, a->logits);
        if (m->spec.logit_cap > 0.0)
            k->soft_cap(C * m->vocab_count, (float)m->spec.logit_cap, a->logits,
                        backward ? a->slope : NULL);
        loss += chunk_loss(m, &targets, C);
        if (!backward) continue;
        pass_enter(m, PASS_BACKWARD);
        chunk_backward(m, &pass, &targets, a->x + first * d, scale, smoothing);
        pass_enter(m, PASS_FORWARD);
    }
    return loss;
}
