/* DoRA: magnitudes beside LoRA's factors.
 *
 *   forward   z = x·Wᵀ + s·H·Bᵀ (LoRA's, saved),  y = g∘z,  g_i = m_i/n_i,  n_i = ‖W_i + s·(B·A)_i‖
 *   backward  dm_i += Σ_t dy_ti·z_ti/n_i,  dz = g∘dy; n counts as a constant
 *
 * g stays the same from one update to the next. In a row-parallel layer z is this rank's part of a
 * sum, and so is dm. */
#include <math.h>

#include "peft/peft_private.h"

enum { BLOCK = 64 };

/* ---- description --------------------------------------------------------------------------- */

static int64_t columns_of(const lora_group *group)
{
    int64_t n = 0;
    for (int i = 0; i < group->npairs; i++) n += group->pair[i].count;
    return n;
}

static const float *scale_backward(void *self, const ml_pass *pass, const float *dy);

ml_status dora_add(ml_peft *peft, lora_group *group)
{
    ml_status st = ML_OK;
    ml_parameters *p = peft->parameters;
    char name[96];
    group->dora = peft->own;
    for (int i = 0; i < group->npairs; i++) {
        lora_pair *pair = &group->pair[i];
        ml_shard shard = p->items[pair->parameter_b].shard;
        snprintf(name, sizeof name, "%s.lora_magnitude", pair->module);
        ML_TRY(ml_parameters_add(p, name, pair->global_out, 1, true, shard, ML_GRADIENT_PARTIAL,
                                 &pair->parameter_m));
        if (peft->options.lora_plus > 0.0)
            p->items[pair->parameter_m].lr_factor =
                peft->options.lora_plus; /* with B, as PEFT has it */
    }
    ml_linear_hook *hook = &group->layer->hook;
    hook->scale_backward = scale_backward;
    hook->scaled_per_token = group->scaled = columns_of(group);
    hook->saved_per_token += hook->scaled_per_token;
    hook->scratch_per_token += group->layer->out;
done:
    return st;
}

/* Rows of the adapted projections, those of row-parallel layers apart, and the largest work
 * space. */
static void count(const ml_peft *peft, int64_t *rows, int64_t *partial, int64_t *work)
{
    *rows = *partial = *work = 0;
    for (int64_t g = 0; g < peft->ngroups; g++) {
        const lora_group *group = &peft->groups[g];
        int64_t columns = columns_of(group);
        if (!lora_is_here(peft, group)) continue;
        *rows += columns;
        if (group->layer->kind == ML_LINEAR_ROW) *partial += columns;
        *work = ml_max(*work, group->rank * (group->layer->out + group->rank));
    }
}

void dora_bytes(const ml_peft *peft, int64_t bytes[ML_MEM_CATEGORIES])
{
    int64_t rows, partial, work;
    count(peft, &rows, &partial, &work);
    bytes[ML_MEM_WORKSPACE] +=
        rows * (int64_t)(2 * sizeof(double) + 2 * sizeof(float)) + work * (int64_t)sizeof(float);
}

ml_status dora_bind(ml_peft *peft)
{
    ml_status st = ML_OK;
    dora *d = peft->own;
    int64_t work, row = 0, column; /* the next of a row-, of a column-parallel layer */
    count(peft, &d->rows, &d->partial, &work);
    column = d->partial;
    for (int64_t g = 0; g < peft->ngroups; g++) {
        lora_group *group = &peft->groups[g];
        int64_t *at = group->layer->kind == ML_LINEAR_ROW ? &row : &column;
        for (int i = 0; i < group->npairs; i++) {
            lora_pair *pair = &group->pair[i];
            pair->first_row = *at;
            if (lora_is_here(peft, group)) *at += pair->count;
            pair->m = peft_value(peft, pair->parameter_m);
            pair->dm = peft_gradient(peft, pair->parameter_m);
        }
    }
    ML_NEW(d->square, d->rows, ML_MEM_WORKSPACE, "DoRA's norms");
    ML_NEW(d->norm, d->rows, ML_MEM_WORKSPACE, "DoRA's norms");
    ML_NEW(d->gain, d->rows, ML_MEM_WORKSPACE, "DoRA's norms");
    ML_NEW(d->inverse, d->rows, ML_MEM_WORKSPACE, "DoRA's norms");
    ML_NEW(d->work, work, ML_MEM_WORKSPACE, "DoRA's norms");
done:
    return st;
}

void dora_destroy(dora *d)
{
    ml_memory_free(d->square);
    ml_memory_free(d->norm);
    ml_memory_free(d->gain);
    ml_memory_free(d->inverse);
    ml_memory_free(d->work);
}

/* ---- norms --------------------------------------------------------------------------------- */

static double row_square(const ml_linear *layer, int64_t row)
{
    enum { PIECE = 512 };
    float part[PIECE];
    double sum = 0.0;
    for (int64_t at = 0; at < layer->in; at += PIECE) {
        int64_t n = ml_min(PIECE, layer->in - at);
        ml_linear_row(layer, row, at, n, part);
        for (int64_t j = 0; j < n; j++) sum += (double)part[j] * (double)part[j];
    }
    return sum;
}

static void measure(const dora *d, const lora_group *group, const lora_pair *pair)
{
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < pair->count; i++)
        d->square[pair->first_row + i] = row_square(group->layer, pair->start + i);
}

/* This rank's part of n² for the rows of one pair: `product` W·Aᵀ, turned, [rank, out]; `inner`
 * A·Aᵀ. */
static void add_up(const dora *d, const lora_group *group, const lora_pair *pair,
                   const float *product, const float *inner)
{
    int64_t r = pair->rank, out = group->layer->out;
    double s = (double)pair->scale;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < pair->count; i++) {
        const float *b = pair->b + i * r;
        double cross = 0.0, own = 0.0;
        for (int64_t k = 0; k < r; k++) {
            double sum = 0.0;
            for (int64_t l = 0; l < r; l++) sum += (double)inner[k * r + l] * (double)b[l];
            own += (double)b[k] * sum;
            cross += (double)b[k] * (double)product[k * out + pair->start + i];
        }
        d->norm[pair->first_row + i] = d->square[pair->first_row + i] + s * (2.0 * cross + s * own);
    }
}

static void renew_group(const dora *d, const ml_kernels *k, const lora_group *group)
{
    int64_t in = group->layer->in, out = group->layer->out, at = 0;
    float *product = d->work, *inner = d->work + group->rank * out;
    ml_linear_product(group->layer, k, group->rank, group->pair[0].a, product);
    for (int i = 0; i < group->npairs; i++) {
        const lora_pair *pair = &group->pair[i];
        int64_t r = pair->rank;
        k->gemm(k, false, true, r, r, in, 1.0F, pair->a, in, pair->a, in, 0.0F, inner, r);
        add_up(d, group, pair, product + at * out, inner);
        at += r;
    }
}

static void renew_gains(const dora *d, const lora_pair *pair)
{
    for (int64_t i = 0; i < pair->count; i++) {
        int64_t row = pair->first_row + i;
        d->norm[row] = sqrt(fmax(0.0, d->norm[row]));
        d->inverse[row] = d->norm[row] > 0.0 ? (float)(1.0 / d->norm[row]) : 0.0F;
        d->gain[row] = pair->m[i] * d->inverse[row];
    }
}

void dora_renew(ml_peft *peft)
{
    dora *d = peft->own;
    const ml_kernels *k = ml_model_kernels(peft->model);
    const ml_grid *grid = ml_model_grid(peft->model);
    for (int64_t g = 0; g < peft->ngroups; g++) {
        const lora_group *group = &peft->groups[g];
        if (!lora_is_here(peft, group)) continue;
        for (int i = 0; i < group->npairs && !d->measured; i++) measure(d, group, &group->pair[i]);
        renew_group(d, k, group);
    }
    d->measured = true;
    if (grid && d->partial > 0) ml_grid_sum_double(grid, ML_GROUP_TP, d->norm, d->partial);
    for (int64_t g = 0; g < peft->ngroups; g++) {
        const lora_group *group = &peft->groups[g];
        for (int i = 0; i < group->npairs && lora_is_here(peft, group); i++)
            renew_gains(d, &group->pair[i]);
    }
}

void dora_initialise(ml_peft *peft)
{
    const dora *d = peft->own;
    dora_renew(peft);
    for (int64_t g = 0; g < peft->ngroups; g++) {
        const lora_group *group = &peft->groups[g];
        for (int i = 0; i < group->npairs && lora_is_here(peft, group); i++) {
            const lora_pair *pair = &group->pair[i];
            for (int64_t j = 0; j < pair->count; j++)
                pair->m[j] = (float)d->norm[pair->first_row + j];
        }
    }
}

/* ---- the hook ------------------------------------------------------------------------------ */

void dora_scale(const lora_group *group, const ml_pass *pass, float *y)
{
    int64_t T = pass->tokens, out = group->layer->out, columns = group->scaled, at = 0;
    float *saved = pass->saved ? pass->saved + T * group->rank : NULL;
    for (int i = 0; i < group->npairs; i++) {
        const lora_pair *pair = &group->pair[i];
        const float *gain = group->dora->gain + pair->first_row;
#pragma omp parallel for schedule(static)
        for (int64_t t = 0; t < T; t++) {
            float *row = y + t * out + pair->start;
            if (saved) memcpy(saved + t * columns + at, row, (size_t)pair->count * sizeof *row);
            for (int64_t j = 0; j < pair->count; j++) row[j] *= gain[j];
        }
        at += pair->count;
    }
}

/* dm of a pair's columns [first, last), from z. */
static void magnitude_gradient(const lora_group *group, const lora_pair *pair, int64_t T,
                               const float *z, const float *dy, int64_t first, int64_t last)
{
    double sum[BLOCK] = {0.0};
    int64_t out = group->layer->out, columns = group->scaled;
    for (int64_t t = 0; t < T; t++)
        for (int64_t j = first; j < last; j++)
            sum[j - first] += (double)dy[t * out + pair->start + j] * (double)z[t * columns + j];
    for (int64_t j = first; j < last; j++)
        pair->dm[j] += (float)(sum[j - first] * (double)group->dora->inverse[pair->first_row + j]);
}

static const float *scale_backward(void *self, const ml_pass *pass, const float *dy)
{
    const lora_group *group = self;
    int64_t T = pass->tokens, out = group->layer->out, at = 0;
    const float *saved = pass->saved + T * group->rank;
    float *dz = pass->scratch + T * group->rank; /* behind dH */
    memcpy(dz, dy, (size_t)(T * out) * sizeof *dz);
    for (int i = 0; i < group->npairs; i++) {
        const lora_pair *pair = &group->pair[i];
        const float *gain = group->dora->gain + pair->first_row;
#pragma omp parallel for schedule(static)
        for (int64_t first = 0; first < pair->count; first += BLOCK)
            magnitude_gradient(group, pair, T, saved + at, dy, first,
                               ml_min(first + BLOCK, pair->count));
#pragma omp parallel for schedule(static)
        for (int64_t t = 0; t < T; t++)
            for (int64_t j = 0; j < pair->count; j++) dz[t * out + pair->start + j] *= gain[j];
        at += pair->count;
    }
    return dz;
}
