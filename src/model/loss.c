/* The loss, at the end of the model: final norm, vocabulary-parallel head and cross-entropy in
 * chunks of tokens, with the gradient of the head's input in the same pass: nobody ever holds T × V
 * logits. (Megatron-LM's loss, arXiv:1909.08053 section 3; Wijmans et al. 2024, arXiv:2411.09009,
 * whose filter of the gradient is there too, where it is asked for.)
 */
#include <math.h>

#include "model/model_private.h"

void reduce_max(const ml_model *m, float *x, int64_t n)
{
    if (m->grid) ml_grid_max_float(m->grid, ML_GROUP_TP, x, n);
}

void reduce_sum(const ml_model *m, float *x, int64_t n)
{
    if (m->grid) ml_grid_sum_float(m->grid, ML_GROUP_TP, x, n);
}

ml_targets targets_from(const ml_model *m, const ml_batch *batch, int64_t first)
{
    return (ml_targets){batch->targets.start + first, batch->targets.token, m->vocab_first,
                        batch->targets.weight};
}

void head_input(const ml_model *m, int64_t C, const float *x)
{
    const activations *a = &m->act;
    const float *n =
        norm_forward(m, &m->final_norm, C, x, a->projected ? a->projected : a->n, a->mean, a->rstd);
    if (a->projected)
        ml_linear_product(&m->project_out, m->kernels, C, n, a->n);
    else if (n == x)
        memcpy(a->n, x, (size_t)(C * m->spec.width) * sizeof *x);
}

void head_multiply(const ml_model *m, int64_t C)
{
    float factor = (float)m->spec.logit_multiplier;
    if (factor > 0.0F) m->kernels->scale(C * m->head.in, factor, m->act.n, m->act.n);
}

void head_states(const ml_model *m, int64_t rows, const float *x, float *out)
{
    const activations *a = &m->act;
    int64_t wide = ml_model_hidden_width(&m->spec);
    for (int64_t first = 0; first < rows; first += a->head_chunk) {
        int64_t C = ml_min(a->head_chunk, rows - first);
        head_input(m, C, x + first * m->spec.width);
        memcpy(out + first * wide, a->n, (size_t)(C * wide) * sizeof *out);
    }
}

typedef struct exponentials {
    const ml_model *model;
    const ml_targets *targets;
    int64_t rows;
    const float *z, *row_max;
} exponentials;

static void sum_of_leaf(const void *self, int leaf, float *sum)
{
    const exponentials *e = self;
    const ml_kernels *k = e->model->kernels;
    int64_t C = e->rows, V = e->model->vocab_count;
    const ml_rows words = ml_linear_leaf(&e->model->head, 0, leaf);
    ml_targets own = *e->targets;
    own.first += words.first;
    k->xent_sum(C, words.count, e->z + words.first, V, e->row_max, &own, sum, sum + C);
}

void sum_exponentials(const ml_model *m, const ml_targets *targets, int64_t C, const float *z,
                      const float *row_max, float *sum)
{
    int64_t V = m->vocab_count;
    const exponentials e = {m, targets, C, z, row_max};
    const ml_pass pass = {
        .kernels = m->kernels, .grid = m->grid, .tokens = C, .partial = m->act.partial};
    if (m->leaves > 0) {
        ml_linear_sum_leaves(&m->head, &pass, sum_of_leaf, &e, 2, sum);
        return;
    }
    m->kernels->xent_sum(C, V, z, V, row_max, targets, sum, sum + C);
    reduce_sum(m, sum, 2 * C);
}

/* Σ −log p(target) of C rows from the `first` on, whose logits lie in a->logits, and where the
 * batch wants them those of each row; leaves row maxima and sums for the gradient. */
static double chunk_loss(const ml_model *m, const ml_batch *batch, int64_t first, int64_t C,
                         const ml_targets *targets)
{
    const activations *a = &m->act;
    const ml_kernels *k = m->kernels;
    int64_t V = m->vocab_count;
    float *sum = a->row_sums, *picked = sum + C;
    k->xent_max(C, V, a->logits, V, a->row_max);
    reduce_max(m, a->row_max, C);
    sum_exponentials(m, targets, C, a->logits, a->row_max, sum);
    double loss = 0.0;
    for (int64_t c = 0; c < C; c++) {
        double count = (double)(targets->start[c + 1] - targets->start[c]);
        double own = count * (log((double)sum[c]) + (double)a->row_max[c]) - (double)picked[c];
        if (batch->row_loss) batch->row_loss[first + c] = own;
        if (batch->losses) ml_exact_add(batch->losses, own);
        loss += own;
    }
    return loss;
}

/* From the gradient of the normed states, dn, to that of x, in place. */
static void head_norm_backward(const ml_model *m, int64_t C, const float *dn, float *x)
{
    const activations *a = &m->act;
    int64_t d = m->spec.width;
    if (m->final_norm.weight)
        norm_backward(m, &m->final_norm, C, x, a->mean, a->rstd, dn, a->n, false);
    memcpy(x, m->final_norm.weight ? a->n : dn, (size_t)(C * d) * sizeof *x);
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

void head_input_backward(const ml_model *m, const ml_pass *pass, float *x)
{
    head_norm_backward(m, pass->tokens, project_backward(m, pass, x), x);
}

void logits_backward(const ml_model *m, const ml_pass *pass, float *x)
{
    const activations *a = &m->act;
    const ml_kernels *k = m->kernels;
    int64_t C = pass->tokens;
    if (a->slope) k->multiply(C * m->vocab_count, a->slope, a->logits);
    ml_linear_backward(&m->head, pass, a->transformed ? a->transformed : a->n, a->logits, a->y);
    if (m->spec.logit_multiplier > 0.0)
        k->scale(C * m->head.in, (float)m->spec.logit_multiplier, a->y, a->y);
    transform_backward(m, C);
    head_input_backward(m, pass, x);
}

void chunk_backward(const ml_model *m, const ml_pass *pass, const ml_targets *targets, float *x,
                    double scale, double smoothing)
{
    const activations *a = &m->act;
    int64_t V = m->vocab_count;
    m->kernels->xent_backward(pass->tokens, V, a->logits, V, a->row_max, a->row_sums, targets,
                              (float)smoothing, m->spec.vocab, (float)scale);
    logits_backward(m, pass, x);
}

/* chunk_backward with small probabilities left out; the sums of targets' logits, which are not
 * needed any more, give their place to what each row loses. */
static void filtered_backward(ml_model *m, const ml_pass *pass, const ml_targets *targets, float *x,
                              double scale)
{
    const activations *a = &m->act;
    ml_filtered *f = &m->filtered;
    ml_pass sparse = *pass;
    int64_t C = pass->tokens, V = m->vocab_count;
    float *lost = a->row_sums + C;
    f->zeros += m->kernels->xent_filter(C, V, a->logits, V, a->row_max, a->row_sums, targets,
                                        (float)scale, m->filter, lost);
    f->blocks += (C + ML_FILTER_ROWS - 1) / ML_FILTER_ROWS *
                 ((V + ML_FILTER_COLUMNS - 1) / ML_FILTER_COLUMNS);
    reduce_sum(m, lost, C);
    for (int64_t c = 0; c < C; c++) f->lost = fmax(f->lost, (double)lost[c]);
    sparse.sparse = true;
    logits_backward(m, &sparse, x);
}

void ml_model_set_filter(ml_model *m, double least) { m->filter = (float)least; }

ml_filtered ml_model_take_filtered(ml_model *m)
{
    const ml_filtered taken = m->filtered;
    m->filtered = (ml_filtered){0};
    return taken;
}

ml_pass chunk_logits(ml_model *m, const ml_batch *batch, int64_t first, int64_t C, bool backward)
{
    activations *a = &m->act;
    const chunk rows = {.rows = batch->rows, .first = first, .count = C, .predicted = true};
    ml_pass pass = pass_over(m, batch, &rows);
    pass.saved = backward ? a->hook_head : NULL;
    if (a->head_starts) pass.starts = a->head_starts + first;
    head_input(m, C, a->x + first * m->spec.width);
    head_multiply(m, C);
    ml_linear_forward(&m->head, &pass, transform_forward(m, C), a->logits);
    if (m->spec.logit_cap > 0.0)
        m->kernels->soft_cap(C * m->vocab_count, (float)m->spec.logit_cap, a->logits,
                             backward ? a->slope : NULL);
    return pass;
}

double head_loss(ml_model *m, const ml_batch *batch, bool backward, double scale, double smoothing)
{
    activations *a = &m->act;
    int64_t d = m->spec.width;
    double loss = 0.0;
    for (chunk c = {.rows = batch->rows, .predicted = true}; next_head_chunk(m, &c);) {
        int64_t first = c.first, C = c.count;
        const ml_targets targets = targets_from(m, batch, first);
        const ml_pass pass = chunk_logits(m, batch, first, C, backward);
        loss += chunk_loss(m, batch, first, C, &targets);
        if (!backward) continue;
        pass_enter(m, PASS_BACKWARD);
        if (m->filter > 0.0F)
            filtered_backward(m, &pass, &targets, a->x + first * d, scale);
        else
            chunk_backward(m, &pass, &targets, a->x + first * d, scale, smoothing);
        pass_enter(m, PASS_FORWARD);
    }
    return loss;
}

void head_logits(ml_model *m, const ml_batch *batch, const ml_logits_reader *reader)
{
    const activations *a = &m->act;
    int64_t R = batch->rows, V = m->spec.vocab, own = m->vocab_count;
    for (int64_t first = 0; first < R; first += a->head_chunk) {
        int64_t C = ml_min(a->head_chunk, R - first);
        chunk_logits(m, batch, first, C, false);
        if (m->grid) memset(reader->room, 0, (size_t)(C * V) * sizeof *reader->room);
        for (int64_t c = 0; c < C; c++)
            memcpy(reader->room + c * V + m->vocab_first, a->logits + c * own,
                   (size_t)own * sizeof *reader->room);
        reduce_sum(m, reader->room, m->grid ? C * V : 0);
        reader->take(reader->self, first, C, reader->room);
    }
}

int64_t ml_model_logits_rows(const ml_model *m) { return m->act.head_chunk; }
