/* The way back from an adapter of a fused projection to the pairs of q, k and v that it was made
 * of. */
#include <inttypes.h>
#include <math.h>

#include "mpilora/config.h"
#include "store/adapter/adapter.h"

enum { PARTS = 3 };

/* The parts of the fused projection that a run adapts, in their order. */
typedef struct parts {
    int count;
    const char *name[PARTS]; /* "attn.q" */
    bool wanted[PARTS];      /* of q, k, v */
} parts;

static parts parts_of(unsigned targets)
{
    static const struct {
        unsigned bit;
        const char *name;
    } all[PARTS] = {{ML_TARGET_Q, "attn.q"}, {ML_TARGET_K, "attn.k"}, {ML_TARGET_V, "attn.v"}};
    parts p = {0};
    for (int i = 0; i < PARTS; i++) {
        p.wanted[i] = (targets & all[i].bit) != 0;
        if (p.wanted[i]) p.name[p.count++] = all[i].name;
    }
    return p;
}

static bool is_zero(const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (x[i] != 0.0F) return false;
    return true;
}

/* Whether B[3d, R] has values only in the blocks (part i's rows, columns i·r … i·r + r − 1). */
static bool is_block_diagonal(const ml_adapter_pair *fused, const parts *p)
{
    int64_t rows = fused->out / PARTS, rank = fused->rank / p->count;
    for (int64_t i = 0, block = 0; i < PARTS; i++) {
        int64_t first = p->wanted[i] ? block * rank : 0, after = p->wanted[i] ? first + rank : 0;
        for (int64_t row = i * rows; row < (i + 1) * rows; row++) {
            const float *b = fused->b + row * fused->rank;
            if (!is_zero(b, first) || !is_zero(b + after, fused->rank - after)) return false;
        }
        block += p->wanted[i];
    }
    return true;
}

static ml_status split_pair(const ml_adapter_pair *fused, const ml_model_spec *spec, bool rslora,
                            const parts *p, ml_adapter *out, int64_t *capacity)
{
    ml_status st = ML_OK;
    int64_t layer, rank = fused->rank / p->count;
    float factor = rslora ? (float)(1.0 / sqrt((double)p->count)) : 1.0F; /* α/√R back to α/√r */
    (void)ml_module_parse(spec, fused->module, &layer);
    for (int i = 0; i < p->count; i++) {
        char module[64];
        const ml_family_tensor *row = ml_family_find_target(spec->family, p->name[i]);
        int64_t in, width, first = ml_module_first_row(spec, row);
        ml_adapter_pair *pair;
        ml_module_shape(spec, row, &in, &width);
        snprintf(module, sizeof module, "layers.%" PRId64 ".%s", layer, p->name[i]);
        ML_TRY(ml_adapter_add(out, capacity, module, rank, in, width, &pair));
        pair->alpha = rslora ? fused->alpha : fused->alpha / p->count;
        pair->scale = ml_adapter_scale(pair->alpha, rank, rslora);
        memcpy(pair->a, fused->a + i * rank * in, (size_t)(rank * in) * sizeof *pair->a);
        for (int64_t row = 0; row < width; row++)
            for (int64_t j = 0; j < rank; j++)
                pair->b[row * rank + j] =
                    factor * fused->b[(first + row) * fused->rank + i * rank + j];
    }
done:
    return st;
}

static bool is_fused(const ml_adapter_pair *pair)
{
    size_t n = strlen(pair->module);
    return n > 4 && !strcmp(pair->module + n - 4, ".qkv");
}

static ml_status split_all(ml_adapter *adapter, const ml_model_spec *spec, const parts *p,
                           ml_adapter *out, int64_t *capacity)
{
    ml_status st = ML_OK;
    for (int64_t i = 0; i < adapter->count; i++) {
        const ml_adapter_pair *pair = &adapter->pairs[i];
        if (!is_fused(pair)) continue;
        if (pair->m)
            return ml_fail(ML_USAGE,
                           "%s: DoRA's magnitudes belong to the fused projection and are not "
                           "split; give method.targets qkv",
                           pair->module);
        if (pair->rank % p->count != 0 || !is_block_diagonal(pair, p))
            return ml_fail(ML_USAGE,
                           "%s: this adapter of the fused projection (rank %" PRId64
                           ") is not one of %d parts side by side, so it cannot be cut "
                           "into the targets asked for; use targets: [qkv]",
                           pair->module, pair->rank, p->count);
        ML_TRY(split_pair(pair, spec, adapter->rslora, p, out, capacity));
    }
done:
    return st;
}

/* The other pairs change hands as they are. */
static ml_status take_over(ml_adapter *adapter, ml_adapter *out, int64_t *capacity)
{
    ml_status st = ML_OK;
    for (int64_t i = 0; i < adapter->count; i++) {
        ml_adapter_pair *pair = &adapter->pairs[i], *copy;
        if (is_fused(pair)) continue;
        ML_TRY(ml_adapter_add(out, capacity, pair->module, 0, 0, 0, &copy));
        ml_memory_free(copy->a);
        ml_memory_free(copy->b);
        *copy = *pair;
        pair->a = pair->b = NULL;
    }
done:
    return st;
}

ml_status ml_adapter_split_qkv(ml_adapter *adapter, const ml_model_spec *spec, unsigned targets)
{
    ml_status st = ML_OK;
    parts p = parts_of(targets);
    int64_t capacity = 0, fused = 0;
    ml_adapter out = *adapter;
    for (int64_t i = 0; i < adapter->count; i++) fused += is_fused(&adapter->pairs[i]);
    if (fused == 0 || p.count == 0 || targets & (ML_TARGET_QKV | ML_TARGET_ALL)) return ML_OK;
    out.pairs = NULL;
    out.count = 0;
    ML_TRY(split_all(adapter, spec, &p, &out, &capacity));
    ML_TRY(take_over(adapter, &out, &capacity));
    ML_TRY(ml_adapter_check(&out, spec));
    ml_adapter old = *adapter;
    *adapter = out;
    out = old;
done:
    ml_adapter_destroy(&out);
    return st;
}
