/* Pairs to modules: where q, k and v stand in one module of Hugging Face's model (GPT-2's c_attn),
 * their adapters become one of the sum of their ranks. */
#include "store/formats/peft/fuse.h"

#include <inttypes.h>
#include <math.h>

const char *ml_peft_module_name(const ml_family_tensor *row)
{
    return *row->peft == '@' ? row->peft + strlen("@.") : row->peft;
}

/* What B is multiplied with so that the module's scale makes the pair's own. Exactly 1 for a pair
 * alone. */
static float b_factor(const ml_adapter *adapter, const ml_adapter_pair *pair,
                      const ml_peft_module *m)
{
    double module = adapter->rslora ? m->alpha / sqrt((double)m->rank) : m->alpha / (double)m->rank;
    double own =
        adapter->rslora ? pair->alpha / sqrt((double)pair->rank) : pair->alpha / (double)pair->rank;
    return own == module || module == 0.0 ? 1.0F : (float)(own / module);
}

static ml_status place(const ml_adapter *adapter, const ml_model_spec *spec,
                       const ml_adapter_pair *pair, int64_t first_rank, ml_peft_module *m)
{
    ml_status st = ML_OK;
    float factor = b_factor(adapter, pair, m);
    int64_t layer, *rows = NULL;
    ML_NEW(rows, pair->out, ML_MEM_OTHER, "the rows of an exported adapter");
    const ml_family_tensor *row = ml_module_parse(spec, pair->module, &layer);
    for (int64_t i = 0; i < pair->out; i++) rows[i] = i;
    if (layer >= 0) ml_peft_rows(spec, row, rows);
    memcpy(m->a + first_rank * m->in, pair->a, (size_t)(pair->rank * m->in) * sizeof *m->a);
    for (int64_t i = 0; i < pair->out; i++) {
        if (pair->m) m->m[rows[i]] = pair->m[i];
        for (int64_t j = 0; j < pair->rank; j++)
            m->b[rows[i] * m->rank + first_rank + j] = factor * pair->b[i * pair->rank + j];
    }
done:
    ml_memory_free(rows);
    return st;
}

/* How many of the pairs from `pair` on stand in the same module, and the sum of their ranks. */
static int64_t same_module(const ml_adapter *adapter, const ml_model_spec *spec, int64_t first,
                           int64_t *rank)
{
    int64_t layer, other, n = 0;
    const ml_family_tensor *row = ml_module_parse(spec, adapter->pairs[first].module, &layer);
    *rank = 0;
    for (int64_t i = first; i < adapter->count; i++, n++) {
        const ml_family_tensor *next = ml_module_parse(spec, adapter->pairs[i].module, &other);
        if (other != layer || strcmp(next->peft, row->peft) != 0) break;
        *rank += adapter->pairs[i].rank;
    }
    return n;
}

static ml_status fuse(const ml_adapter *adapter, const ml_model_spec *spec, int64_t first,
                      int64_t n, ml_peft_module *m)
{
    ml_status st = ML_OK;
    const ml_adapter_pair *lead = &adapter->pairs[first];
    int64_t rows = 0;
    m->row = ml_module_parse(spec, lead->module, &m->layer);
    m->module = ml_peft_module_name(m->row);
    const ml_family_tensor *fused = ml_family_fused(spec->family, m->row);
    ml_module_shape(spec, fused ? fused : m->row, &m->in, &m->out);
    m->alpha = adapter->rslora ? lead->alpha : lead->alpha / (double)lead->rank * (double)m->rank;
    ML_NEW(m->a, m->rank * m->in, ML_MEM_OTHER, "an exported adapter");
    ML_NEW(m->b, m->out * m->rank, ML_MEM_OTHER, "an exported adapter");
    if (lead->m) {
        for (int64_t i = 0; i < n; i++) rows += lead[i].out;
        if (rows != m->out)
            return ml_fail(ML_USAGE,
                           "%s: PEFT's DoRA scales all rows of %s, this adapter has some of them "
                           "alone; train it with method.targets %s to export it, or merge it",
                           lead->module, m->module, fused ? fused->target : "all");
        ML_NEW(m->m, m->out, ML_MEM_OTHER, "an exported adapter");
    }
    for (int64_t i = 0, at = 0; i < n; at += lead[i].rank, i++)
        ML_TRY(place(adapter, spec, &lead[i], at, m));
done:
    return st;
}

/* By name the parts of a fused module (attn.k, attn.o, attn.q, attn.qkv, attn.v) are not
 * neighbours: order by the family's table. */
static void sort_by_module(ml_adapter *adapter, const ml_model_spec *spec)
{
    for (int64_t i = 1; i < adapter->count; i++) {
        for (int64_t j = i; j > 0; j--) {
            int64_t la, lb;
            const ml_family_tensor *a = ml_module_parse(spec, adapter->pairs[j - 1].module, &la);
            const ml_family_tensor *b = ml_module_parse(spec, adapter->pairs[j].module, &lb);
            if (la < lb || (la == lb && a <= b)) break;
            ml_adapter_pair swap = adapter->pairs[j];
            adapter->pairs[j] = adapter->pairs[j - 1];
            adapter->pairs[j - 1] = swap;
        }
    }
}

ml_status ml_peft_fuse(const ml_adapter *adapter, const ml_model_spec *spec, ml_peft_module **out,
                       int64_t *count)
{
    ml_status st = ML_OK;
    ml_peft_module *modules = NULL;
    ml_adapter sorted = *adapter; /* borrows the factors */
    int64_t n = 0;
    sorted.pairs = NULL;
    ML_NEW(sorted.pairs, adapter->count, ML_MEM_OTHER, "an exported adapter");
    memcpy(sorted.pairs, adapter->pairs, (size_t)adapter->count * sizeof *sorted.pairs);
    sort_by_module(&sorted, spec);
    ML_NEW(modules, adapter->count, ML_MEM_OTHER, "an exported adapter");
    for (int64_t first = 0, pairs; first < adapter->count; first += pairs, n++) {
        pairs = same_module(&sorted, spec, first, &modules[n].rank);
        ML_TRY(fuse(&sorted, spec, first, pairs, &modules[n]));
    }
    *out = modules;
    *count = n;
    modules = NULL;
done:
    ml_memory_free(sorted.pairs);
    if (modules) ml_peft_modules_destroy(modules, n + 1);
    return st;
}

void ml_peft_modules_destroy(ml_peft_module *modules, int64_t count)
{
    for (int64_t i = 0; modules && i < count; i++) {
        ml_memory_free(modules[i].a);
        ml_memory_free(modules[i].b);
        ml_memory_free(modules[i].m);
    }
    ml_memory_free(modules);
}
