/* PiSSA: A and B start as the leading singular vectors of W, and W as what they leave.
 *
 *   W = U·S·Vᵀ,  B0 = U_r·√(S_r/s),  A0 = √(S_r/s)·V_rᵀ,  W ← W − s·B0·A0
 *
 * LoftQ (Li et al. 2023, arXiv:2310.08659; one step, as PEFT's replace_lora_weights_loftq): the
 * same of what rounding to blocks has lost, E = W_original − W; W stays as it is, and the run
 * begins nearer to the original.
 *
 * PiSSA on a base in blocks, which cannot change: every layer takes s·B0·A0 off what it makes
 * (lora_hook.c), which is the same W − s·B0·A0, without a rounding.
 *
 * PiSSA: for the base as it was, the same adapter has twice the rank: s·B·A − s·B0·A0 = s·[B,
 * −B0]·[A; A0]. That is what is written. The decompositions are divided among all ranks, a whole
 * matrix each. */
#include <inttypes.h>
#include <math.h>

#include "peft/peft_private.h"

bool ml_peft_changes_weights(const ml_peft *peft)
{
    return peft->options.pissa && !ml_model_get_spec(peft->model)->formats;
}

void pissa_bytes(const ml_peft *peft, int64_t bytes[ML_MEM_CATEGORIES])
{
    if (peft->options.pissa)
        bytes[ML_MEM_FROZEN] += peft->parameters->local * (int64_t)sizeof(float);
}

int64_t ml_peft_written_times(const ml_peft *peft) { return peft && peft->options.pissa ? 2 : 1; }

/* Factors of a rank's own matrix, and of another's. */
static int64_t most_floats(const ml_peft *peft)
{
    int64_t most = 0;
    for (int64_t g = 0; g < peft->ngroups; g++)
        for (int i = 0; i < peft->groups[g].npairs; i++) {
            const lora_pair *pair = &peft->groups[g].pair[i];
            most = ml_max(most, pair->rank * (pair->global_out + peft->groups[g].layer->global_in));
        }
    return most;
}

/* The largest decomposition and, beside it, a matrix, factors and singular values. */
int64_t ml_peft_start_bytes(const ml_peft *peft)
{
    int64_t most = 0, size = (int64_t)sizeof(float);
    if (!peft || !(peft->options.pissa || peft->options.loftq)) return 0;
    int64_t matrices = peft->options.loftq ? 2 : 1;
    for (int64_t g = 0; g < peft->ngroups; g++)
        for (int i = 0; i < peft->groups[g].npairs; i++) {
            const lora_pair *pair = &peft->groups[g].pair[i];
            int64_t rows = pair->global_out, cols = peft->groups[g].layer->global_in;
            most = ml_max(most,
                          ml_svd_bytes(rows, cols) + (matrices * rows * cols + pair->rank) * size);
        }
    return most + 2 * most_floats(peft) * size;
}

/* ---- one matrix ---------------------------------------------------------------------------- */

static bool is_fused(const lora_pair *pair) { return !strcmp(strrchr(pair->module, '.'), ".qkv"); }

/* The whole W of a pair, from the base itself. */
static ml_status read_weight(ml_base *base, const ml_linear *layer, const lora_pair *pair, float *w)
{
    ml_status st = ML_OK;
    const ml_shard whole = {.dim = ML_SHARD_WHOLE};
    char name[96];
    for (int i = 0; i < layer->nparts; i++) {
        const ml_linear_part *part = &layer->part[i];
        if (!is_fused(pair) && strcmp(part->module, pair->module) != 0) continue;
        snprintf(name, sizeof name, "%s.weight", part->module);
        ML_TRY(ml_base_read(base, name, &whole, ML_FP32, w));
        w += part->out * layer->global_in;
    }
done:
    return st;
}

/* What `base` has lost of the weight w, in its place. */
static ml_status take_off(ml_base *base, const ml_linear *layer, const lora_pair *pair, float *w)
{
    ml_status st = ML_OK;
    float *kept = NULL;
    int64_t count = pair->global_out * layer->global_in;
    ML_NEW(kept, count, ML_MEM_OTHER, "a matrix in blocks, decoded");
    ML_TRY(read_weight(base, layer, pair, kept));
    for (int64_t i = 0; i < count; i++) w[i] -= kept[i];
done:
    ml_memory_free(kept);
    return st;
}

/* A0[r, in], then B0[out, r], into `factors`; of W, or of what `base` has lost of `original`.
 * `exact`: the same bits by any number of threads. */
static ml_status decompose(ml_base *base, ml_base *original, const ml_linear *layer,
                           const lora_pair *pair, bool exact, float *factors)
{
    ml_status st = ML_OK;
    float *w = NULL, *sigma = NULL;
    int64_t out = pair->global_out, in = layer->global_in, r = pair->rank;
    float *a = factors, *b = factors + r * in;
    ML_NEW(w, out * in, ML_MEM_OTHER, "a matrix to be decomposed");
    ML_NEW(sigma, r, ML_MEM_OTHER, "singular values");
    ML_TRY(read_weight(original ? original : base, layer, pair, w));
    if (original) ML_TRY(take_off(base, layer, pair, w));
    ML_TRY(ml_svd_leading(out, in, w, r, exact, b, sigma, a));
    for (int64_t k = 0; k < r; k++) {
        float root = sqrtf(sigma[k] / pair->scale);
        for (int64_t j = 0; j < in; j++) a[k * in + j] *= root;
        for (int64_t i = 0; i < out; i++) b[i * r + k] *= root;
    }
done:
    ml_memory_free(w);
    ml_memory_free(sigma);
    return st;
}

/* ---- all of them --------------------------------------------------------------------------- */

/* The n-th pair and its layer; NULL beyond the last. */
static const lora_pair *pair_at(const ml_peft *peft, int64_t n, const ml_linear **layer)
{
    for (int64_t g = 0; g < peft->ngroups; g++) {
        *layer = peft->groups[g].layer;
        if (n < peft->groups[g].npairs) return &peft->groups[g].pair[n];
        n -= peft->groups[g].npairs;
    }
    return NULL;
}

/* Factors of nothing would never learn: those that are there stay. */
static bool is_zero(const float *factors, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        if (factors[i] != 0) return false;
    return true;
}

static void take(const ml_peft *peft, const lora_pair *pair, const float *factors)
{
    const ml_parameter *a = &peft->parameters->items[pair->parameter_a],
                       *b = &peft->parameters->items[pair->parameter_b];
    if (is_zero(factors, a->rows * a->cols)) return;
    ml_shard_take(&a->shard, a->rows, a->cols, factors, pair->a);
    ml_shard_take(&b->shard, b->rows, b->cols, factors + a->rows * a->cols, pair->b);
}

/* The pairs from `first` on, one a rank; then each rank's goes to all. */
static ml_status one_round(ml_peft *peft, ml_base *base, ml_base *original, const ml_grid *grid,
                           int64_t first, float *mine, float *any)
{
    const ml_linear *layer;
    const lora_pair *own = pair_at(peft, first + ml_grid_rank(grid), &layer);
    bool exact = peft->parameters->exact;
    ml_status st =
        ml_grid_agree(grid, own ? decompose(base, original, layer, own, exact, mine) : ML_OK);
    for (int root = 0; st == ML_OK && root < ml_grid_size(grid); root++) {
        const lora_pair *pair = pair_at(peft, first + root, &layer);
        if (!pair) break;
        float *factors = root == ml_grid_rank(grid) ? mine : any;
        ml_grid_broadcast(grid, ML_GROUP_WORLD, root, factors,
                          pair->rank * (pair->global_out + layer->global_in) *
                              (int64_t)sizeof *factors);
        take(peft, pair, factors);
    }
    return st;
}

ml_status ml_peft_decompose(ml_peft *peft, ml_base *base, ml_base *original, const ml_grid *grid)
{
    ml_status st = ML_OK;
    float *mine = NULL, *any = NULL;
    const ml_linear *layer;
    int64_t most = most_floats(peft);
    ML_NEW(mine, most, ML_MEM_OTHER, "singular vectors");
    ML_NEW(any, most, ML_MEM_OTHER, "singular vectors");
done:
    st = ml_grid_agree(grid, st);
    for (int64_t first = 0; st == ML_OK && pair_at(peft, first, &layer);
         first += ml_grid_size(grid))
        st = one_round(peft, base, original, grid, first, mine, any);
    ml_memory_free(mine);
    ml_memory_free(any);
    return st;
}

ml_status ml_peft_take_out(ml_peft *peft)
{
    ml_status st = ML_OK;
    ML_NEW(peft->initial, peft->parameters->local, ML_MEM_FROZEN, "PiSSA's initial factors");
    memcpy(peft->initial, peft->parameters->value,
           (size_t)peft->parameters->local * sizeof *peft->initial);
    for (int64_t g = 0; g < peft->ngroups; g++) {
        lora_group *group = &peft->groups[g];
        if (group->takes) group->taken = peft->initial;
        for (int i = 0; i < group->npairs && !group->takes; i++) {
            lora_pair taken = group->pair[i];
            if (!ml_parameters_hold(peft->parameters, taken.parameter_a)) continue;
            taken.scale = -taken.scale;
            lora_merge_pair(group, &taken);
        }
    }
done:
    return st;
}

/* ---- what is written ----------------------------------------------------------------------- */

/* Room for twice the rank, A and B at its beginning; and for B0. */
static ml_status double_rank(ml_adapter_pair *p, bool rslora, float **b0)
{
    ml_status st = ML_OK;
    float *a = NULL, *b = NULL;
    int64_t r = p->rank;
    ML_NEW(*b0, p->out * r, ML_MEM_OTHER, "an adapter");
    ML_NEW(b, 2 * p->out * r, ML_MEM_OTHER, "an adapter");
    ML_NEW(a, 2 * r * p->in, ML_MEM_OTHER, "an adapter");
    memcpy(a, p->a, (size_t)(r * p->in) * sizeof *a);
    for (int64_t i = 0; i < p->out; i++) memcpy(b + 2 * r * i, p->b + r * i, (size_t)r * sizeof *b);
    ml_memory_free(p->a);
    ml_memory_free(p->b);
    p->a = a;
    p->b = b;
    p->rank = 2 * r;
    p->alpha *= rslora ? sqrt(2.0) : 2.0; /* the scale stays */
    return ML_OK;
done:
    ml_memory_free(b);
    return st;
}

ml_status pissa_collect(const ml_peft *peft, const ml_grid *grid, ml_adapter *out, float *part)
{
    ml_status st = ML_OK;
    const ml_parameters *p = peft->parameters;
    const ml_linear *layer;
    const lora_pair *pair;
    bool writer = ml_grid_rank(grid) == 0;
    for (int64_t n = 0; st == ML_OK && (pair = pair_at(peft, n, &layer)); n++) {
        float *b0 = NULL;
        ml_adapter_pair *to = writer ? &out->pairs[n] : NULL;
        int64_t r = pair->rank;
        st = ml_grid_agree(grid, writer ? double_rank(to, out->rslora, &b0) : ML_OK);
        if (st == ML_OK) {
            ml_parameters_gather(p, grid, pair->parameter_a, peft->initial,
                                 writer ? to->a + r * to->in : NULL, part);
            ml_parameters_gather(p, grid, pair->parameter_b, peft->initial, b0, part);
        }
        for (int64_t i = 0; st == ML_OK && writer && i < to->out; i++)
            for (int64_t k = 0; k < r; k++) to->b[2 * r * i + r + k] = -b0[r * i + k];
        ml_memory_free(b0);
    }
    return st;
}
