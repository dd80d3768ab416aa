/* Compacter (Mahabadi et al. 2021, arXiv:2106.04647): an adapter's D[r, d] and U[d, r] are made of
 * factors,
 *
 *   D = Σ_i A_i ⊗ (s_i·t_iᵀ),  A_i[n, n] shared by all of them, s_i[r/n] and t_i[d/n] its own,  i =
 *     1 … n
 *
 * and U likewise. D and U are made anew after each update; their gradients are gathered over the
 * micro-batches and go on to the factors before the ranks' sum, or, where sums are exact, after
 * each micro-batch; what the rules get from each module is then a sum's own part. */
#include <inttypes.h>
#include <math.h>

#include "peft/bottleneck.h"

/* W[n·p, n·q] and its factors; gradients NULL where nothing trains. */
typedef struct product {
    int64_t n, p, q;
    float *rule, *left, *right, *d_rule, *d_left, *d_right;
    float *made, *d_made;
} product;

static int64_t factors(const ml_peft *peft) { return peft->chosen.sizes.factors; }

/* D of a module, or U. */
static product product_of(const bottleneck *s, bool up)
{
    const ml_peft *peft = s->peft;
    const bottlenecks *all = peft->own;
    int64_t n = factors(peft), rows = up ? s->width : s->rank, cols = up ? s->rank : s->width;
    int64_t left = s->parameter[up ? UP_LEFT : DOWN_LEFT],
            right = s->parameter[up ? UP_RIGHT : DOWN_RIGHT];
    return (product){.n = n,
                     .p = rows / n,
                     .q = cols / n,
                     .rule = peft_value(peft, all->rule),
                     .left = peft_value(peft, left),
                     .right = peft_value(peft, right),
                     .d_rule = peft_gradient(peft, all->rule),
                     .d_left = peft_gradient(peft, left),
                     .d_right = peft_gradient(peft, right),
                     .made = up ? s->up : s->down,
                     .d_made = up ? s->d_up : s->d_down};
}

/* W[a·p + x, b·q + y] = Σ_i A_i[a, b]·s_i[x]·t_i[y] */
static void make(const product *w)
{
    int64_t n = w->n, cols = n * w->q;
    for (int64_t row = 0; row < n * w->p; row++)
        for (int64_t b = 0; b < n; b++) {
            float *to = w->made + row * cols + b * w->q;
            memset(to, 0, (size_t)w->q * sizeof *to);
            for (int64_t i = 0; i < n; i++) {
                float factor =
                    w->rule[(i * n + row / w->p) * n + b] * w->left[i * w->p + row % w->p];
                for (int64_t y = 0; y < w->q; y++) to[y] += factor * w->right[i * w->q + y];
            }
        }
}

/* dW → dA, ds, dt; dW is zero afterwards. */
static void contract(const product *w)
{
    int64_t n = w->n, cols = n * w->q;
    for (int64_t row = 0; row < n * w->p; row++)
        for (int64_t b = 0; b < n; b++) {
            const float *from = w->d_made + row * cols + b * w->q;
            for (int64_t i = 0; i < n; i++) {
                int64_t rule = (i * n + row / w->p) * n + b, left = i * w->p + row % w->p;
                const float *right = w->right + i * w->q;
                float *d_right = w->d_right + i * w->q, along = 0.0F,
                      factor = w->rule[rule] * w->left[left];
                for (int64_t y = 0; y < w->q; y++) along += from[y] * right[y];
                for (int64_t y = 0; y < w->q; y++) d_right[y] += factor * from[y];
                w->d_rule[rule] += w->left[left] * along;
                w->d_left[left] += w->rule[rule] * along;
            }
        }
    memset(w->d_made, 0, (size_t)(n * w->p * cols) * sizeof *w->d_made);
}

/* ---- description --------------------------------------------------------------------------- */

ml_status compacter_check(const ml_peft *peft)
{
    int64_t n = factors(peft), r = peft->chosen.sizes.bottleneck,
            d = ml_model_get_spec(peft->model)->width;
    if (r % n == 0 && d % n == 0) return ML_OK;
    return ml_fail(ML_USAGE,
                   "method.factors: %" PRId64 " must divide method.bottleneck, %" PRId64
                   ", and the model's width, %" PRId64,
                   n, r, d);
}

ml_status compacter_add_rule(ml_peft *peft)
{
    bottlenecks *all = peft->own;
    ml_status st = ml_parameters_add(
        peft->parameters, "compacter.rule", factors(peft) * factors(peft), factors(peft), false,
        (ml_shard){.dim = ML_SHARD_WHOLE}, ML_GRADIENT_IDENTICAL, &all->rule);
    if (st == ML_OK) peft->parameters->items[all->rule].also = ML_STAGE_EVERY;
    return st;
}

ml_status compacter_add(bottleneck *s, const char *place)
{
    ml_status st = ML_OK;
    int64_t n = factors(s->peft);
    ML_TRY(bottleneck_add(s, DOWN_LEFT, place, n, s->rank / n));
    ML_TRY(bottleneck_add(s, DOWN_RIGHT, place, n, s->width / n));
    ML_TRY(bottleneck_add(s, UP_LEFT, place, n, s->width / n));
    ML_TRY(bottleneck_add(s, UP_RIGHT, place, n, s->rank / n));
done:
    return st;
}

/* ---- operations ---------------------------------------------------------------------------- */

/* Whether this rank's stage has the layer of a module. */
static bool is_here(const bottleneck *s)
{
    return ml_parameters_hold(s->peft->parameters, s->parameter[DOWN_LEFT]);
}

/* D or U of one module, and those of all that are here. */
static int64_t one_floats(const ml_peft *peft)
{
    return peft->chosen.sizes.bottleneck * ml_model_get_spec(peft->model)->width;
}

static int64_t made_floats(const ml_peft *peft)
{
    const bottlenecks *all = peft->own;
    int64_t count = 0;
    for (int64_t i = 0; i < all->count; i++) count += is_here(&all->module[i]) ? 1 : 0;
    return 2 * count * one_floats(peft);
}

void compacter_bytes(const ml_peft *peft, bool training, int64_t bytes[ML_MEM_CATEGORIES])
{
    bytes[ML_MEM_TRAINABLE] += (training ? 2 : 1) * made_floats(peft) * (int64_t)sizeof(float);
}

ml_status compacter_bind(ml_peft *peft)
{
    ml_status st = ML_OK;
    bottlenecks *all = peft->own;
    int64_t all_floats = made_floats(peft), one = one_floats(peft), used = 0;
    bool training = peft->parameters->gradient != NULL;
    ML_NEW(all->made, (training ? 2 : 1) * all_floats, ML_MEM_TRAINABLE,
           "matrices made of factors");
    for (int64_t i = 0; i < all->count; i++) {
        bottleneck *s = &all->module[i];
        if (!is_here(s)) continue;
        s->down = all->made + used;
        s->up = s->down + one;
        used += 2 * one;
        s->d_down = training ? s->down + all_floats : NULL;
        s->d_up = training ? s->up + all_floats : NULL;
    }
done:
    return st;
}

/* U's left factors stay zero, so that the run starts as the base. */
void compacter_initialise(ml_peft *peft)
{
    const bottlenecks *all = peft->own;
    static const bottleneck_tensor drawn[] = {DOWN_LEFT, DOWN_RIGHT, UP_RIGHT};
    peft_draw_uniform(&peft->parameters->items[all->rule], peft->chosen.lora.seed,
                      peft_value(peft, all->rule));
    for (int64_t i = 0; i < all->count; i++)
        for (int j = 0; j < 3; j++) {
            int64_t parameter = all->module[i].parameter[drawn[j]];
            peft_draw_uniform(&peft->parameters->items[parameter], peft->chosen.lora.seed,
                              peft_value(peft, parameter));
        }
}

void compacter_before_sum(ml_peft *peft)
{
    const bottlenecks *all = peft->own;
    int64_t rules = peft->parameters->items[all->rule].count;
    for (int64_t i = 0; i < all->count; i++) {
        const product down = product_of(&all->module[i], false),
                      up = product_of(&all->module[i], true);
        if (!is_here(&all->module[i])) continue;
        contract(&down);
        contract(&up);
        ml_parameters_take(peft->parameters, down.d_rule, rules);
    }
}

void compacter_after_update(ml_peft *peft)
{
    const bottlenecks *all = peft->own;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < all->count; i++) {
        const product down = product_of(&all->module[i], false),
                      up = product_of(&all->module[i], true);
        if (!is_here(&all->module[i])) continue;
        make(&down);
        make(&up);
    }
}
