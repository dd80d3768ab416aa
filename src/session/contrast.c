/* Objective contrastive: vectors of texts that belong together come close to each other and part
 * from those of all other texts of a step (InfoNCE, van den Oord et al. 2018, arXiv:1807.03748; the
 * negatives of the batch, Henderson et al. 2017, arXiv:1705.00652).
 *
 * With a_i the vector of anchor i of the step's B rows, c_j those of its B positives and then of
 * its negatives, sim the cosine (or the dot product) and τ objective.temperature, a row's loss is
 *
 *   l_i = −log( exp(sim(a_i, c_i)/τ) / Σ_j exp(sim(a_i, c_j)/τ) ),
 *
 * and a step's their mean. It needs the vectors of the whole step, whatever replica and micro-batch
 * they are of: a pass without gradients finds them, one sum over the replicas brings them together,
 * every rank finds the loss and its derivatives by each vector, and the step's own passes take
 * these (Gao et al. 2021, arXiv:2101.06983). Where each replica's share is one micro-batch, and the
 * model one stage, the vectors meet inside of that pass, and there is no other. Dropout is keyed by
 * place, so that both passes drop the same. */
#include <math.h>

#include "session/sentence_encoder.h"
#include "session/session.h"

int64_t ml_session_unit_of(const ml_run_config *config, const ml_dataset *data)
{
    int64_t related = data ? ml_dataset_related(data) : 0;
    return ml_run_config_contrasts(config) && related > 0 ? related : ml_run_config_unit(config);
}

int64_t ml_session_unit(const session *s)
{
    return ml_session_unit_of(s->config, s->train.dataset ? s->train.dataset : s->valid.dataset);
}

ml_status ml_session_choose_pooling(session *s)
{
    bool normalise;
    s->pooling = s->config->objective.pooling;
    if (!ml_run_config_contrasts(s->config) || s->pooling != ML_POOLING_GIVEN) return ML_OK;
    return sentence_encoder_pooling(s->base, &s->pooling, &normalise);
}

/* ---- room ---------------------------------------------------------------------------------- */

/* Floats for a step of so many rows: vectors, their slopes, similarities, lengths. */
static int64_t count_floats(int64_t rows, int64_t unit, int64_t width)
{
    return rows * unit * (2 * width + 1) + rows * rows * (unit - 1);
}

int64_t ml_contrast_bytes(int64_t rows, int64_t unit, int64_t width)
{
    return count_floats(rows, unit, width) * (int64_t)sizeof(float) +
           rows * (int64_t)(sizeof(double) + sizeof(uint8_t));
}

void ml_contrast_destroy(contrast *c)
{
    ml_memory_free(c->vector);
    ml_memory_free(c->slope);
    ml_memory_free(c->similarity);
    ml_memory_free(c->length);
    ml_memory_free(c->loss);
    ml_memory_free(c->right);
    *c = (contrast){0};
}

static ml_status make_room(contrast *c, int64_t rows, int64_t unit, int64_t width)
{
    ml_status st = ML_OK;
    ml_contrast_destroy(c);
    ML_NEW(c->vector, rows * unit * width, ML_MEM_COMMUNICATION, "the vectors of a step");
    ML_NEW(c->slope, rows * unit * width, ML_MEM_COMMUNICATION, "the vectors of a step");
    ML_NEW(c->length, rows * unit, ML_MEM_COMMUNICATION, "the vectors of a step");
    ML_NEW(c->similarity, rows * rows * (unit - 1), ML_MEM_COMMUNICATION,
           "the similarities of a step");
    ML_NEW(c->loss, rows, ML_MEM_COMMUNICATION, "the losses of a step");
    ML_NEW(c->right, rows, ML_MEM_COMMUNICATION, "the losses of a step");
    c->room = rows;
done:
    return st;
}

ml_status ml_contrast_begin(session *s, int64_t first, int64_t count)
{
    contrast *c = &s->contrast;
    int64_t unit = ml_session_unit(s), width = ml_model_hidden_width(s->spec);
    ml_status st = count > c->room ? make_room(c, count, unit, width) : ML_OK;
    if (st != ML_OK) return st;
    c->first = first;
    c->count = count;
    c->unit = unit;
    c->width = width;
    c->gathered = false;
    memset(c->vector, 0, (size_t)(count * unit * width) * sizeof *c->vector);
    return ML_OK;
}

/* ---- the loss of a step --------------------------------------------------------------------- */

/* Each vector v ← v/|v|, as far as 1e-12 from zero; the lengths stay for the way back. */
static void normalise(const contrast *c)
{
    for (int64_t t = 0; t < c->count * c->unit; t++) {
        float *v = c->vector + t * c->width;
        double square = 0.0;
        for (int64_t i = 0; i < c->width; i++) square += (double)v[i] * (double)v[i];
        double length = fmax(sqrt(square), 1e-12);
        for (int64_t i = 0; i < c->width; i++) v[i] = (float)((double)v[i] / length);
        c->length[t] = (float)length;
    }
}

/* dv = (du − u (u·du))/|v| of u = v/|v|. */
static void normalise_backward(const contrast *c)
{
    for (int64_t t = 0; t < c->count * c->unit; t++) {
        const float *u = c->vector + t * c->width;
        float *du = c->slope + t * c->width;
        double along = 0.0;
        for (int64_t i = 0; i < c->width; i++) along += (double)u[i] * (double)du[i];
        for (int64_t i = 0; i < c->width; i++)
            du[i] = (float)(((double)du[i] - (double)u[i] * along) / (double)c->length[t]);
    }
}

/* Similarities over τ → the loss, whether the positive is the nearest, and the derivatives of the
 * mean loss by them, in place. */
static void judge_row(const contrast *c, int64_t row)
{
    int64_t n = c->count * (c->unit - 1), best = 0;
    float *x = c->similarity + row * n;
    double sum = 0.0;
    for (int64_t j = 1; j < n; j++)
        if (x[j] > x[best]) best = j;
    double most = (double)x[best], own = (double)x[row];
    for (int64_t j = 0; j < n; j++) sum += exp((double)x[j] - most);
    c->loss[row] = log(sum) + most - own;
    c->right[row] = best == row;
    for (int64_t j = 0; j < n; j++)
        x[j] =
            (float)((exp((double)x[j] - most) / sum - (j == row ? 1.0 : 0.0)) / (double)c->count);
}

/* Of the vectors of all rows, which lie row by row: an anchor, its positive, its negatives. */
static void judge(const session *s)
{
    const contrast *c = &s->contrast;
    const ml_kernels *k = s->kernels;
    int64_t B = c->count, d = c->width, row = c->unit * d, n = B * (c->unit - 1);
    const float factor = (float)(1.0 / s->config->objective.temperature);
    if (s->config->objective.normalise) normalise(c);
    for (int64_t p = 1; p < c->unit; p++)
        k->gemm(k, false, true, B, B, d, factor, c->vector, row, c->vector + p * d, row, 0.0F,
                c->similarity + (p - 1) * B, n);
    for (int64_t i = 0; i < B; i++) judge_row(c, i);
    for (int64_t p = 1; p < c->unit; p++) {
        const float *slope = c->similarity + (p - 1) * B;
        k->gemm(k, false, false, B, d, B, factor, slope, n, c->vector + p * d, row,
                p > 1 ? 1.0F : 0.0F, c->slope, row);
        k->gemm(k, true, false, B, d, B, factor, slope, n, c->vector, row, 0.0F, c->slope + p * d,
                row);
    }
    if (s->config->objective.normalise) normalise_backward(c);
}

/* Vectors come out of the last stage, and are wanted there alone. */
static bool has_vectors(const session *s)
{
    return ml_grid_stage(s->grid) == ml_grid_pp(s->grid) - 1;
}

void ml_contrast_end(session *s)
{
    contrast *c = &s->contrast;
    c->gathered = true;
    if (!has_vectors(s)) return;
    ml_grid_sum_float(s->grid, ML_GROUP_DP, c->vector, c->count * c->unit * c->width);
    judge(s);
}

/* ---- the passes ----------------------------------------------------------------------------- */

typedef struct part {
    session *s;
    const pair_batch *batch;
    bool gathers; /* this pass finds the vectors, and all of the step's */
    bool keeps;   /* it finds them, and asks for nothing */
} part;

/* The place of a text of this micro-batch among those of the step. */
static int64_t place_of(const session *s, int64_t text)
{
    return s->packer.read[text].position - s->contrast.first * s->contrast.unit;
}

static void take_vectors(const part *p, const float *vector)
{
    const contrast *c = &p->s->contrast;
    for (int64_t i = 0; i < p->batch->count * c->unit; i++)
        memcpy(c->vector + place_of(p->s, i) * c->width, vector + i * c->width,
               (size_t)c->width * sizeof *vector);
}

static void judge_vectors(void *self, const float *vector, float *slope)
{
    const part *p = self;
    const contrast *c = &p->s->contrast;
    if (p->gathers || p->keeps) take_vectors(p, vector);
    if (p->keeps) return;
    if (p->gathers) ml_contrast_end(p->s);
    for (int64_t i = 0; i < p->batch->count * c->unit; i++)
        memcpy(slope + i * c->width, c->slope + place_of(p->s, i) * c->width,
               (size_t)c->width * sizeof *slope);
}

/* The rows of a text are as many as its targets, of all ranks that share it out. Each of these has
 * its rows' part of the vector; the sum over the replicas adds these, too. */
static void count_shares(const session *s, int64_t texts)
{
    const packer *p = &s->packer;
    for (int64_t i = 0; i < texts; i++) p->share[i] = 0.0F;
    for (int64_t j = 0; j < p->hits; j++) p->share[p->target_text[j]] += 1.0F;
    ml_grid_sum_float(s->grid, ML_GROUP_CP, p->share, texts);
    for (int64_t i = 0; i < texts; i++) p->share[i] = 1.0F / p->share[i];
}

/* All replicas are in the pass where the vectors meet: one that could not pack would leave the
 * others waiting. */
static ml_status run(part *p, const data_source *source)
{
    session *s = p->s;
    const pair_batch *b = p->batch;
    int64_t unit = s->contrast.unit;
    const ml_judging judging = {judge_vectors, p};
    ml_status st =
        ml_grid_agree_in(s->grid, p->gathers ? ML_GROUP_WORLD : ML_GROUP_BATCH,
                         ml_session_pack(s, source, unit * b->first, unit * b->count, b->keyed));
    if (st != ML_OK) return st;
    count_shares(s, unit * b->count);
    const ml_text_vectors vectors = {unit * b->count, s->packer.target_text, s->packer.share,
                                     s->packer.vector, s->packer.vector_slope};
    ml_model_vectors(s->model, &s->packer.batch, b->backward, &vectors, &judging);
    return ML_OK;
}

ml_status ml_contrast_measure(session *s, const data_source *source, int64_t first, int64_t count,
                              bool keyed)
{
    const pair_batch batch = {.first = first, .count = count, .keyed = keyed};
    part p = {.s = s, .batch = &batch, .keeps = true};
    return run(&p, source);
}

void ml_contrast_add(const session *s, int64_t first, int64_t count, double sums[PAIR_SUMS])
{
    const contrast *c = &s->contrast;
    if (!has_vectors(s) || ml_grid_cp_rank(s->grid) > 0) return;
    for (int64_t i = first - c->first; i < first + count - c->first; i++) {
        ml_session_add_figure(s, sums, PAIR_LOSS, c->loss[i]);
        sums[PAIR_RIGHT] += c->right[i] ? 1.0 : 0.0;
        sums[PAIRS] += 1.0;
    }
}

ml_status ml_contrast_compare(session *s, const data_source *source, const pair_batch *batch,
                              double sums[PAIR_SUMS])
{
    part p = {.s = s, .batch = batch, .gathers = !s->contrast.gathered};
    ml_status st = run(&p, source);
    if (st == ML_OK) ml_contrast_add(s, batch->first, batch->count, sums);
    return st;
}
