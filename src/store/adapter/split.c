/* The way back from an adapter of a fused projection to the pairs of its parts (q, k and v; gate
 * and up) that it was made of. */
#include <inttypes.h>
#include <math.h>

#include "mpilora/config.h"
#include "mpilora/family.h"
#include "store/adapter/adapter.h"

/* The parts of a fused projection, in their order, and which of them a run adapts. */
typedef struct parts {
    int count, all; /* wanted, there are */
    const ml_family_tensor *row[ML_LINEAR_PARTS];
    bool wanted[ML_LINEAR_PARTS];
} parts;

static parts parts_of(const ml_family *family, const ml_family_tensor *fused, unsigned targets)
{
    parts p = {0};
    for (const ml_family_tensor *row = ml_family_target(family->tensors); row;
         row = ml_family_target(row + 1)) {
        if (row == fused || ml_family_fused(family, row) != fused || p.all == ML_LINEAR_PARTS)
            continue;
        p.wanted[p.all] = (targets & ml_target_find(row->target)) != 0;
        p.count += p.wanted[p.all];
        p.row[p.all++] = row;
    }
    return p;
}

static bool is_zero(const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (x[i] != 0.0F) return false;
    return true;
}

/* Whether B has values only in the blocks (rows of the i-th wanted part, columns i·r … i·r + r −
 * 1).
 */
static bool is_block_diagonal(const ml_adapter_pair *fused, const ml_model_spec *spec,
                              const parts *p)
{
    int64_t rank = fused->rank / p->count;
    for (int64_t i = 0, block = 0; i < p->all; i++) {
        int64_t first = p->wanted[i] ? block * rank : 0, after = p->wanted[i] ? first + rank : 0,
                from = ml_module_first_row(spec, p->row[i]), in, rows;
        ml_module_shape(spec, p->row[i], &in, &rows);
        for (int64_t row = from; row < from + rows; row++) {
            const float *b = fused->b + row * fused->rank;
            if (!is_zero(b, first) || !is_zero(b + after, fused->rank - after)) return false;
        }
        block += p->wanted[i];
    }
    return true;
}

static ml_status check_split(const ml_adapter_pair *pair, const ml_model_spec *spec,
                             const char *word, const parts *p)
{
    if (pair->m)
        return ml_fail(ML_USAGE,
                       "%s: DoRA's magnitudes belong to the fused projection and are not split; "
                       "give method.targets %s",
                       pair->module, word);
    if (pair->rank % p->count == 0 && is_block_diagonal(pair, spec, p)) return ML_OK;
    return ml_fail(ML_USAGE,
                   "%s: this adapter of the fused projection (rank %" PRId64
                   ") is not one of %d parts side by side, so it cannot be cut into the targets "
                   "asked for; use targets: [%s]",
                   pair->module, pair->rank, p->count, word);
}

/* The `block`-th of the wanted parts. */
static ml_status split_part(const ml_adapter_pair *fused, const ml_model_spec *spec, bool rslora,
                            const parts *p, const ml_family_tensor *row, int block, int64_t layer,
                            ml_adapter *out, int64_t *capacity)
{
    ml_status st = ML_OK;
    int64_t in, width, first = ml_module_first_row(spec, row), rank = fused->rank / p->count;
    float factor = rslora ? (float)(1.0 / sqrt((double)p->count)) : 1.0F; /* α/√R back to α/√r */
    char module[64];
    ml_adapter_pair *pair;
    ml_module_shape(spec, row, &in, &width);
    snprintf(module, sizeof module, "layers.%" PRId64 ".%s", layer, row->module);
    ML_TRY(ml_adapter_add(out, capacity, module, rank, in, width, &pair));
    pair->alpha = rslora ? fused->alpha : fused->alpha / p->count;
    pair->scale = ml_adapter_scale(pair->alpha, rank, rslora);
    memcpy(pair->a, fused->a + block * rank * in, (size_t)(rank * in) * sizeof *pair->a);
    for (int64_t i = 0; i < width; i++)
        for (int64_t j = 0; j < rank; j++)
            pair->b[i * rank + j] = factor * fused->b[(first + i) * fused->rank + block * rank + j];
done:
    return st;
}

/* The parts that a pair has to be cut into; none where it stays what it is. */
static parts wanted_parts(const ml_adapter_pair *pair, const ml_model_spec *spec, unsigned targets,
                          const ml_family_tensor **fused, int64_t *layer)
{
    *fused = ml_module_parse(spec, pair->module, layer);
    bool stays = !*fused || (*fused)->present != ML_PRESENT_FUSED ||
                 (targets & ((unsigned)ML_TARGET_ALL | ml_target_find((*fused)->target)));
    return stays ? (parts){0} : parts_of(spec->family, *fused, targets);
}

static ml_status split_pair(ml_adapter_pair *pair, const ml_model_spec *spec, bool rslora,
                            unsigned targets, ml_adapter *out, int64_t *capacity)
{
    ml_status st = ML_OK;
    int64_t layer;
    int block = 0;
    const ml_family_tensor *fused;
    const parts p = wanted_parts(pair, spec, targets, &fused, &layer);
    if (p.count == 0) { /* it changes hands */
        ml_adapter_pair *copy;
        ML_TRY(ml_adapter_add(out, capacity, pair->module, 0, 0, 0, &copy));
        ml_memory_free(copy->a);
        ml_memory_free(copy->b);
        *copy = *pair;
        pair->a = pair->b = pair->m = NULL;
        return ML_OK;
    }
    for (int i = 0; i < p.all; i++)
        if (p.wanted[i])
            ML_TRY(split_part(pair, spec, rslora, &p, p.row[i], block++, layer, out, capacity));
done:
    return st;
}

/* Before any pair changes hands: an adapter that cannot be cut stays whole. */
static ml_status check_all(const ml_adapter *adapter, const ml_model_spec *spec, unsigned targets,
                           bool *cuts)
{
    *cuts = false;
    for (int64_t i = 0; i < adapter->count; i++) {
        int64_t layer;
        const ml_family_tensor *fused;
        const parts p = wanted_parts(&adapter->pairs[i], spec, targets, &fused, &layer);
        if (p.count == 0) continue;
        *cuts = true;
        ml_status st = check_split(&adapter->pairs[i], spec, fused->target, &p);
        if (st != ML_OK) return st;
    }
    return ML_OK;
}

ml_status ml_adapter_split_fused(ml_adapter *adapter, const ml_model_spec *spec, unsigned targets)
{
    ml_status st = ML_OK;
    int64_t capacity = 0;
    bool cuts;
    ml_adapter out = *adapter;
    st = check_all(adapter, spec, targets, &cuts);
    if (st != ML_OK || !cuts) return st;
    out.pairs = NULL;
    out.count = 0;
    for (int64_t i = 0; i < adapter->count; i++)
        ML_TRY(split_pair(&adapter->pairs[i], spec, adapter->rslora, targets, &out, &capacity));
    ML_TRY(ml_adapter_check(&out, spec));
    ml_adapter old = *adapter;
    *adapter = out;
    out = old;
done:
    ml_adapter_destroy(&out);
    return st;
}
