/* DoRA: magnitudes beside LoRA's factors.
 *
 *   forward   z = x·Wᵀ + s·H·Bᵀ (LoRA's, saved),  y = g∘z,  g_i = m_i/n_i,  n_i = ‖W_i + s·(B·A)_i‖
 *   backward  dm_i += Σ_t dy_ti·z_ti/n_i,  dz = g∘dy; n counts as a constant
 *
 * g stays the same from one update to the next. In a row-parallel layer z is this rank's part of a
 * sum, and so is dm; with leaves both are whole on every rank, and n² is a sum of leaves, whose
 * order no number of ranks changes. */
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
        ML_TRY(ml_parameters_add(p, name, pair->global_out, 1, true, shard,
                                 p->items[pair->parameter_b].kind, &pair->parameter_m));
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

static bool is_partial(const lora_group *group) { return group->layer->kind == ML_LINEAR_ROW; }

/* Rows of the adapted projections, those of row-parallel layers apart, their shares, and the
 * largest work space. */
static void count(const ml_peft *peft, dora *d, int64_t *work)
{
    d->rows = d->partial = *work = 0;
    d->shares = 1;
    for (int64_t g = 0; g < peft->ngroups; g++) {
        const lora_group *group = &peft->groups[g];
        int64_t columns = columns_of(group);
        if (!lora_is_here(peft, group)) continue;
        d->rows += columns;
        if (is_partial(group)) d->partial += columns;
        d->shares = (int)ml_max(d->shares, group->layer->leaves);
        *work = ml_max(*work, group->rank * (group->layer->out + group->rank));
    }
}

/* Places in `square` and `norm`. */
static int64_t squares_of(const dora *d) { return d->rows + (d->shares - 1) * d->partial; }

void dora_bytes(const ml_peft *peft, int64_t bytes[ML_MEM_CATEGORIES])
{
    dora d;
    int64_t work;
    count(peft, &d, &work);
    bytes[ML_MEM_WORKSPACE] +=
        2 * squares_of(&d) * (int64_t)sizeof(double) + (2 * d.rows + work) * (int64_t)sizeof(float);
}

ml_status dora_bind(ml_peft *peft)
{
    ml_status st = ML_OK;
    dora *d = peft->own;
    int64_t work, row, column = 0; /* the next of a row-, of a column-parallel layer */
    count(peft, d, &work);
    row = d->rows - d->partial;
    for (int64_t g = 0; g < peft->ngroups; g++) {
        lora_group *group = &peft->groups[g];
        int64_t *at = is_partial(group) ? &row : &column;
        for (int i = 0; i < group->npairs; i++) {
            lora_pair *pair = &group->pair[i];
            pair->first_row = *at;
            if (lora_is_here(peft, group)) *at += pair->count;
            pair->m = peft_value(peft, pair->parameter_m);
            pair->dm = peft_gradient(peft, pair->parameter_m);
        }
    }
    ML_NEW(d->square, squares_of(d), ML_MEM_WORKSPACE, "DoRA's norms");
    ML_NEW(d->norm, squares_of(d), ML_MEM_WORKSPACE, "DoRA's norms");
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

/* Some columns of a layer's weight, and from which place on its rows' sums over them stand. */
typedef struct share {
    const lora_group *group;
    ml_rows columns;
    int64_t at; /* behind the rows' own places */
} share;

static bool sums_leaves(const lora_group *group)
{
    return is_partial(group) && group->layer->leaves > 0;
}

static double row_square(const share *s, int64_t row)
{
    enum { PIECE = 512 };
    float part[PIECE];
    double sum = 0.0;
    for (int64_t at = 0; at < s->columns.count; at += PIECE) {
        int64_t n = ml_min(PIECE, s->columns.count - at);
        ml_linear_row(s->group->layer, row, s->columns.first + at, n, part);
        for (int64_t j = 0; j < n; j++) sum += (double)part[j] * (double)part[j];
    }
    return sum;
}

static void measure(const dora *d, const share *s, const lora_pair *pair)
{
    double *square = d->square + pair->first_row + s->at;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < pair->count; i++) square[i] = row_square(s, pair->start + i);
}

/* A share's part of n² for the rows of one pair: `product` W·Aᵀ, turned, [rank, out]; `inner`
 * A·Aᵀ. */
static void add_up(const dora *d, const share *of, const lora_pair *pair, const float *product,
                   const float *inner)
{
    int64_t r = pair->rank, out = of->group->layer->out, first = pair->first_row + of->at;
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
        d->norm[first + i] = d->square[first + i] + s * (2.0 * cross + s * own);
    }
}

/* W·Aᵀ of the share's columns, turned. */
static void multiply(const share *s, const ml_kernels *k, float *product)
{
    const ml_linear *layer = s->group->layer;
    const float *a = s->group->pair[0].a;
    if (!sums_leaves(s->group))
        ml_linear_product(layer, k, s->group->rank, a, product);
    else
        k->columns_forward(k, s->group->rank, a + s->columns.first, layer->in, &layer->weight[0],
                           s->columns.first, s->columns.count, 0.0F, product, layer->out);
}

static void renew_share(const dora *d, const ml_kernels *k, const share *s)
{
    const lora_group *group = s->group;
    int64_t in = group->layer->in, out = group->layer->out, at = 0;
    float *product = d->work, *inner = d->work + group->rank * out;
    for (int i = 0; i < group->npairs && !d->measured; i++) measure(d, s, &group->pair[i]);
    multiply(s, k, product);
    for (int i = 0; i < group->npairs; i++) {
        const lora_pair *pair = &group->pair[i];
        const float *a = pair->a + s->columns.first;
        int64_t r = pair->rank;
        k->gemm(k, false, true, r, r, s->columns.count, 1.0F, a, in, a, in, 0.0F, inner, r);
        add_up(d, s, pair, product + at * out, inner);
        at += r;
    }
}

static void renew_group(const dora *d, const ml_kernels *k, const lora_group *group)
{
    const ml_linear *layer = group->layer;
    if (!sums_leaves(group)) {
        renew_share(d, k, &(share){group, {0, layer->in}, 0});
        return;
    }
    for (int leaf = layer->leaf_first; leaf < layer->leaf_end; leaf++)
        renew_share(d, k, &(share){group, ml_linear_leaf(layer, 0, leaf), leaf * d->partial});
}

/* n² of row-parallel layers over all ranks. A leaf's is of one rank, to which the others add zero;
 * then the leaves one after the other. */
static void sum_shares(const dora *d, const ml_grid *grid)
{
    double *norm = d->norm + d->rows - d->partial;
    if (grid && d->partial > 0) ml_grid_sum_double(grid, ML_GROUP_TP, norm, d->shares * d->partial);
    for (int64_t i = d->partial; i < d->shares * d->partial; i++) norm[i % d->partial] += norm[i];
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
    memset(d->norm, 0, (size_t)squares_of(d) * sizeof *d->norm); /* leaves of other ranks */
    for (int64_t g = 0; g < peft->ngroups; g++)
        if (lora_is_here(peft, &peft->groups[g])) renew_group(d, k, &peft->groups[g]);
    d->measured = true;
    sum_shares(d, grid);
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

/* dm of a pair's columns [first, last), from z of tokens [at, end). */
static void magnitude_gradient(const lora_group *group, const lora_pair *pair, int64_t at,
                               int64_t end, const float *z, const float *dy, int64_t first,
                               int64_t last)
{
    double sum[BLOCK] = {0.0};
    int64_t out = group->layer->out, columns = group->scaled;
    for (int64_t t = at; t < end; t++)
        for (int64_t j = first; j < last; j++)
            sum[j - first] += (double)dy[t * out + pair->start + j] * (double)z[t * columns + j];
    for (int64_t j = first; j < last; j++)
        pair->dm[j] += (float)(sum[j - first] * (double)group->dora->inverse[pair->first_row + j]);
}

/* dm of a pair, piece by piece of the tokens where there are pieces. */
static void magnitude_gradients(const lora_group *group, const lora_pair *pair, const ml_pass *pass,
                                const float *z, const float *dy)
{
    for (int64_t at = 0, n; (n = ml_pass_piece(pass, at)) > 0; at += n) {
#pragma omp parallel for schedule(static)
        for (int64_t first = 0; first < pair->count; first += BLOCK)
            magnitude_gradient(group, pair, at, at + n, z, dy, first,
                               ml_min(first + BLOCK, pair->count));
        ml_parameters_take(group->parameters, pair->dm, pair->count);
    }
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
        magnitude_gradients(group, pair, pass, saved + at, dy);
#pragma omp parallel for schedule(static)
        for (int64_t t = 0; t < T; t++)
            for (int64_t j = 0; j < pair->count; j++) dz[t * out + pair->start + j] *= gain[j];
        at += pair->count;
    }
    return dz;
}
