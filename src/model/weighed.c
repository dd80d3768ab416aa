/* The head of objectives whose gradient depends on log p of all targets: these are found first,
 * then they are weighed, then the gradient is made.
 *
 * The gradient of what the head takes of a row is linear in the weights of the row's targets. Where
 * these are one and the same token it is their weight times the gradient with weight one, and that
 * one is made right behind the row's log p, from the logits that are there: nothing is computed
 * twice. Two kinds of rows are not so: those that predict several tokens, where the sequences of a
 * prefix tree part, of which there are fewer than sequences; and all, where the head itself trains.
 */
#include <math.h>

#include "model/model_private.h"

/* log p of C rows' targets from their logits, which one rank each has. */
static void subtract_whole(const ml_model *m, const ml_targets *targets, int64_t C, float *log_p)
{
    const activations *a = &m->act;
    reduce_sum(m, log_p + targets->start[0], targets->start[C] - targets->start[0]);
    for (int64_t c = 0; c < C; c++) {
        double whole = log((double)a->row_sums[c]) + (double)a->row_max[c];
        for (int64_t i = targets->start[c]; i < targets->start[c + 1]; i++)
            log_p[i] = (float)((double)log_p[i] - whole);
    }
}

/* What this rank adds to log p of each target of C rows: its logit where it is among this rank's
 * columns, and on the first rank less the logarithm of the row's sum. With leaves all of it, on
 * every rank: the logits are whole before anything else is added. */
static void chunk_log_probs(const ml_model *m, const ml_targets *targets, int64_t C, float *log_p)
{
    const activations *a = &m->act;
    const ml_kernels *k = m->kernels;
    int64_t V = m->vocab_count;
    bool leaves = m->leaves > 0, first = m->vocab_first == 0 && !leaves;
    k->xent_max(C, V, a->logits, V, a->row_max);
    reduce_max(m, a->row_max, C);
    sum_exponentials(m, targets, C, a->logits, a->row_max, a->row_sums);
    for (int64_t c = 0; c < C; c++) {
        double whole = log((double)a->row_sums[c]) + (double)a->row_max[c];
        for (int64_t i = targets->start[c]; i < targets->start[c + 1]; i++) {
            int64_t v = targets->token[i] - targets->first;
            double own = v >= 0 && v < V ? (double)a->logits[c * V + v] : 0.0;
            log_p[i] = (float)(own - (first ? whole : 0.0));
        }
    }
    if (leaves) subtract_whole(m, targets, C, log_p);
}

/* Whether anything behind the last layer does. */
static bool head_trains(const ml_model *m)
{
    return ml_linear_trains(&m->head) || ml_linear_trains(&m->project_out) ||
           norm_trains(&m->final_norm) || norm_trains(&m->transform_norm) ||
           m->transform.weight_gradient || m->transform.bias_gradient;
}

/* Whether a row has targets of several tokens, each of them with a weight of its own. */
static bool parts(const ml_targets *targets, int64_t row)
{
    int64_t first = targets->start[row];
    for (int64_t i = first + 1; i < targets->start[row + 1]; i++)
        if (targets->token[i] != targets->token[first]) return true;
    return false;
}

static int64_t count_parting(const ml_batch *batch)
{
    int64_t count = 0;
    for (int64_t r = 0; r < batch->rows; r++) count += parts(&batch->targets, r);
    return count;
}

/* The next row that parts from `row` on; the caller knows that there is one. */
static int64_t next_parting(const ml_batch *batch, int64_t row)
{
    while (!parts(&batch->targets, row)) row++;
    return row;
}

/* ---- rows with the gradient of weight one ---------------------------------------------------- */

/* Copies of rows that part, among `count` from `first` on, behind the batch's rows; how many there
 * are so far. */
static int64_t keep_parting(ml_model *m, const ml_batch *batch, int64_t first, int64_t count,
                            int64_t kept)
{
    int64_t d = m->spec.width;
    float *x = m->act.x;
    for (int64_t r = first; r < first + count; r++)
        if (parts(&batch->targets, r))
            memcpy(x + (batch->rows + kept++) * d, x + r * d, (size_t)d * sizeof *x);
    return kept;
}

/* log p of all targets, and in each row of x its gradient with weight one. */
static void ones_backward(ml_model *m, const ml_batch *batch, float *log_p)
{
    activations *a = &m->act;
    int64_t kept = 0;
    for (chunk c = {.rows = batch->rows, .predicted = true}; next_head_chunk(m, &c);) {
        int64_t first = c.first, C = c.count;
        ml_targets targets = targets_from(m, batch, first);
        const ml_pass pass = chunk_logits(m, batch, first, C, true);
        chunk_log_probs(m, &targets, C, log_p);
        kept = keep_parting(m, batch, first, C, kept);
        targets.weight = NULL;
        pass_enter(m, PASS_BACKWARD);
        chunk_backward(m, &pass, &targets, a->x + first * m->spec.width, 1.0, 0.0);
        pass_enter(m, PASS_FORWARD);
    }
}

static void weigh_rows(const ml_model *m, const ml_batch *batch)
{
    const ml_targets *targets = &batch->targets;
    int64_t d = m->spec.width;
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < batch->rows; r++) {
        int64_t count = targets->start[r + 1] - targets->start[r];
        float weight = ml_target_weights(targets, r) / (float)ml_max(count, 1),
              *x = m->act.x + r * d;
        for (int64_t j = 0; j < d; j++) x[j] *= weight;
    }
}

/* The gradients of C rows that part, kept from `first` on among those; their places begin at `row`.
 * Returns where the search for the next ones goes on. */
static int64_t parting_chunk(ml_model *m, const ml_batch *batch, int64_t first, int64_t C,
                             int64_t row)
{
    activations *a = &m->act;
    const ml_kernels *k = m->kernels;
    int64_t V = m->vocab_count, d = m->spec.width, r = row;
    float *x = a->x + (batch->rows + first) * d, *sum = a->row_sums;
    const ml_pass pass = chunk_logits(m, batch, batch->rows + first, C, true);
    k->xent_max(C, V, a->logits, V, a->row_max);
    reduce_max(m, a->row_max, C);
    for (int64_t c = 0; c < C; c++, r++) {
        const ml_targets targets = targets_from(m, batch, r = next_parting(batch, r));
        if (m->leaves > 0) {
            float own[2];
            sum_exponentials(m, &targets, 1, a->logits + c * V, a->row_max + c, own);
            sum[c] = own[0];
        } else
            k->xent_sum(1, V, a->logits + c * V, V, a->row_max + c, &targets, sum + c, sum + C + c);
    }
    if (m->leaves == 0) reduce_sum(m, sum, C);
    r = row;
    for (int64_t c = 0; c < C; c++, r++) {
        const ml_targets targets = targets_from(m, batch, r = next_parting(batch, r));
        k->xent_backward(1, V, a->logits + c * V, V, a->row_max + c, sum + c, &targets, 0.0F,
                         m->spec.vocab, 1.0F);
    }
    logits_backward(m, &pass, x);
    r = row;
    for (int64_t c = 0; c < C; c++, r++)
        memcpy(a->x + (r = next_parting(batch, r)) * d, x + c * d, (size_t)d * sizeof *x);
    return r;
}

static void parting_backward(ml_model *m, const ml_batch *batch, int64_t count)
{
    int64_t row = 0;
    for (int64_t first = 0; first < count; first += m->act.head_chunk)
        row = parting_chunk(m, batch, first, ml_min(m->act.head_chunk, count - first), row);
}

/* ---- all ways -------------------------------------------------------------------------------- */

static void log_probs(ml_model *m, const ml_batch *batch, float *log_p)
{
    int64_t R = batch->rows;
    for (int64_t first = 0; first < R; first += m->act.head_chunk) {
        int64_t C = ml_min(m->act.head_chunk, R - first);
        const ml_targets targets = targets_from(m, batch, first);
        chunk_logits(m, batch, first, C, false);
        chunk_log_probs(m, &targets, C, log_p);
    }
}

static void add_row_losses(const ml_batch *batch, const float *log_p)
{
    const int64_t *start = batch->targets.start;
    for (int64_t r = 0; batch->row_loss && r < batch->rows; r++) {
        batch->row_loss[r] = 0.0;
        for (int64_t i = start[r]; i < start[r + 1]; i++) batch->row_loss[r] -= (double)log_p[i];
    }
}

void head_weighed(ml_model *m, const ml_batch *batch, bool backward, float *log_p,
                  const ml_weighing *weighing)
{
    int64_t parting = count_parting(batch), targets = batch->targets.start[batch->rows];
    bool once = backward && !head_trains(m) && parting <= batch->tokens - batch->rows;
    if (once)
        ones_backward(m, batch, log_p);
    else
        log_probs(m, batch, log_p);
    if (m->leaves == 0) reduce_sum(m, log_p, targets);
    weighing->weigh(weighing->self, log_p);
    if (once) {
        add_row_losses(batch, log_p);
        pass_enter(m, PASS_BACKWARD);
        weigh_rows(m, batch);
        parting_backward(m, batch, parting);
    } else if (backward) {
        head_loss(m, batch, true, 1.0, 0.0);
    }
}
