/* Between the pairs of a run and an adapter as files hold it: global factors in, global factors
 * out. */
#include <inttypes.h>
#include <math.h>

#include "peft/peft_private.h"

static const ml_adapter_pair *find_pair(const ml_adapter *adapter, const char *module)
{
    for (int64_t i = 0; i < adapter->count; i++)
        if (!strcmp(adapter->pairs[i].module, module)) return &adapter->pairs[i];
    return NULL;
}

static ml_status check_pair(const lora_pair *want, const ml_adapter_pair *found, bool dora)
{
    if (!found)
        return ml_fail(ML_USAGE,
                       "method.init: the adapter has no pair for %s, which method.targets names; "
                       "give the adapter's own targets",
                       want->module);
    if (found->rank != want->rank)
        return ml_fail(ML_USAGE,
                       "method.init: rank of %s is %" PRId64 " in the adapter, %" PRId64
                       " in the configuration",
                       want->module, found->rank, want->rank);
    if (fabs(found->alpha - want->alpha) > 1e-9 * fabs(want->alpha))
        return ml_fail(ML_USAGE,
                       "method.init: alpha of %s is %g in the adapter, %g in the configuration",
                       want->module, found->alpha, want->alpha);
    if (fabsf(found->scale - want->scale) > 1e-5F * fabsf(want->scale))
        return ml_fail(ML_USAGE,
                       "method.init: scaling of %s makes a scale of %g in the adapter, %g in the "
                       "configuration (standard: alpha/rank; "
                       "rslora: alpha/√rank)",
                       want->module, (double)found->scale, (double)want->scale);
    if (dora != (found->m != NULL))
        return ml_fail(ML_USAGE,
                       "method.init: %s has %s magnitudes in the adapter, method.dora is %s in the "
                       "configuration",
                       want->module, found->m ? "DoRA's" : "no", dora ? "true" : "false");
    return ML_OK;
}

ml_status lora_check(const ml_peft *peft, const ml_adapter *adapter)
{
    int64_t used = 0;
    for (int64_t g = 0; g < peft->ngroups; g++) {
        for (int i = 0; i < peft->groups[g].npairs; i++) {
            const lora_pair *pair = &peft->groups[g].pair[i];
            ml_status st = check_pair(pair, find_pair(adapter, pair->module), peft->own != NULL);
            if (st != ML_OK) return st;
            used++;
        }
    }
    for (int64_t i = 0; used != adapter->count && i < adapter->count; i++) {
        bool known = false;
        for (int64_t g = 0; g < peft->ngroups; g++)
            for (int j = 0; j < peft->groups[g].npairs; j++)
                known = known || !strcmp(peft->groups[g].pair[j].module, adapter->pairs[i].module);
        if (!known)
            return ml_fail(ML_USAGE,
                           "method.init: the adapter also adapts %s, which method.targets does not "
                           "name; give the adapter's own targets",
                           adapter->pairs[i].module);
    }
    return ML_OK;
}

void lora_load(ml_peft *peft, const ml_adapter *adapter)
{
    const ml_parameters *p = peft->parameters;
    for (int64_t g = 0; g < peft->ngroups; g++) {
        for (int i = 0; i < peft->groups[g].npairs; i++) {
            const lora_pair *pair = &peft->groups[g].pair[i];
            const ml_adapter_pair *from = find_pair(adapter, pair->module);
            const ml_parameter *a = &p->items[pair->parameter_a], *b = &p->items[pair->parameter_b];
            ml_shard_take(&a->shard, a->rows, a->cols, from->a, pair->a);
            ml_shard_take(&b->shard, b->rows, b->cols, from->b, pair->b);
            if (pair->m) {
                const ml_parameter *m = &p->items[pair->parameter_m];
                ml_shard_take(&m->shard, m->rows, 1, from->m, pair->m);
            }
        }
    }
}

/* Room for the whole adapter and one more tensor, on world rank 0. */
static ml_status make_room(const ml_peft *peft, ml_adapter *out, float **part)
{
    ml_status st = ML_OK;
    const ml_parameters *p = peft->parameters;
    int64_t most = 0;
    for (int64_t g = 0; g < peft->ngroups; g++) out->count += peft->groups[g].npairs;
    ML_NEW(out->pairs, out->count, ML_MEM_OTHER, "an adapter");
    ml_adapter_pair *to = out->pairs;
    for (int64_t g = 0; g < peft->ngroups; g++) {
        for (int i = 0; i < peft->groups[g].npairs; i++, to++) {
            const lora_pair *pair = &peft->groups[g].pair[i];
            const ml_parameter *a = &p->items[pair->parameter_a], *b = &p->items[pair->parameter_b];
            *to = (ml_adapter_pair){.rank = pair->rank,
                                    .in = a->cols,
                                    .out = b->rows,
                                    .alpha = pair->alpha,
                                    .scale = pair->scale};
            memcpy(to->module, pair->module, sizeof to->module);
            ML_NEW(to->a, a->rows * a->cols, ML_MEM_OTHER, "an adapter");
            ML_NEW(to->b, b->rows * b->cols, ML_MEM_OTHER, "an adapter");
            if (pair->m) ML_NEW(to->m, b->rows, ML_MEM_OTHER, "an adapter");
            most = ml_max(most, ml_max(a->rows * a->cols, b->rows * b->cols));
        }
    }
    ML_NEW(*part, most, ML_MEM_COMMUNICATION, "a gathered tensor");
done:
    return st;
}

ml_status lora_collect(const ml_peft *peft, const ml_grid *grid, ml_adapter *out)
{
    const ml_parameters *p = peft->parameters;
    float *part = NULL;
    out->rslora = peft->options.scaling == ML_SCALING_RSLORA;
    out->dropout = peft->options.dropout;
    bool writer = ml_grid_rank(grid) == 0;
    ml_status st = ml_grid_agree(grid, writer ? make_room(peft, out, &part) : ML_OK);
    if (st == ML_OK) {
        int64_t n = 0;
        for (int64_t g = 0; g < peft->ngroups; g++) {
            for (int i = 0; i < peft->groups[g].npairs; i++, n++) {
                const lora_pair *pair = &peft->groups[g].pair[i];
                ml_parameters_gather(p, grid, pair->parameter_a, p->value,
                                     writer ? out->pairs[n].a : NULL, part);
                ml_parameters_gather(p, grid, pair->parameter_b, p->value,
                                     writer ? out->pairs[n].b : NULL, part);
                if (pair->m)
                    ml_parameters_gather(p, grid, pair->parameter_m, p->value,
                                         writer ? out->pairs[n].m : NULL, part);
            }
        }
    }
    if (st == ML_OK && peft->initial) st = pissa_collect(peft, grid, out, part);
    ml_memory_free(part);
    return st;
}
