/* Between a method's parameters and an adapter as files hold it: whole tensors, by their names. */
#include <inttypes.h>

#include "peft/peft_private.h"

ml_status tensors_check(const ml_peft *peft, const ml_adapter *adapter, ml_status bad,
                        const char *who)
{
    for (int64_t i = peft->first_parameter; i < peft->end_parameter; i++) {
        const ml_parameter *item = &peft->parameters->items[i];
        const ml_adapter_tensor *from = ml_adapter_find(adapter, item->name);
        if (!from)
            return ml_fail(bad, "%s: the adapter has no tensor %s, which method %s trains", who,
                           item->name, ml_method_name(peft->chosen.method));
        if (from->rows != item->rows || from->cols != item->cols)
            return ml_fail(bad,
                           "%s: %s is %" PRId64 " × %" PRId64 " in the adapter, %" PRId64
                           " × %" PRId64 " here; give the method the adapter's own sizes",
                           who, item->name, from->rows, from->cols, item->rows, item->cols);
    }
    return ML_OK;
}

ml_status tensors_check_count(const ml_peft *peft, const ml_adapter *adapter, ml_status bad,
                              const char *who)
{
    int64_t own = 0;
    for (const ml_peft *p = peft; p; p = p->next)
        own += (p->end_parameter - p->first_parameter) *
               (p->operations->load ? p->operations->tensors_each : 1);
    if (adapter->ntensors != own)
        return ml_fail(bad,
                       "%s: the adapter has %" PRId64 " tensors, method %s trains %" PRId64 " here",
                       who, adapter->ntensors, ml_method_name(peft->chosen.method), own);
    return ML_OK;
}

void tensors_load(ml_peft *peft, const ml_adapter *adapter)
{
    for (int64_t i = peft->first_parameter; i < peft->end_parameter; i++) {
        const ml_parameter *item = &peft->parameters->items[i];
        ml_shard_take(&item->shard, item->rows, item->cols,
                      ml_adapter_find(adapter, item->name)->value, peft_value(peft, i));
    }
}

ml_status tensors_append(ml_adapter *out, const char *name, int64_t rows, int64_t cols,
                         float **value)
{
    ml_status st = ML_OK;
    ml_adapter_tensor *all;
    ML_NEW(all, out->ntensors + 1, ML_MEM_OTHER, "an adapter");
    if (out->ntensors > 0) memcpy(all, out->tensors, (size_t)out->ntensors * sizeof *all);
    ml_memory_free(out->tensors);
    out->tensors = all;
    ml_adapter_tensor *to = &all[out->ntensors++];
    *to = (ml_adapter_tensor){.rows = rows, .cols = cols};
    snprintf(to->name, sizeof to->name, "%s", name);
    ML_NEW(to->value, rows * cols, ML_MEM_OTHER, "an adapter");
    *value = to->value;
done:
    return st;
}

/* On world rank 0: room for all of them, and for one more tensor. */
static ml_status make_room(const ml_peft *peft, ml_adapter *out, float **part)
{
    ml_status st = ML_OK;
    int64_t most = 1;
    ml_adapter_tensor *all;
    ML_NEW(all, out->ntensors + peft->end_parameter - peft->first_parameter, ML_MEM_OTHER,
           "an adapter");
    if (out->ntensors > 0) memcpy(all, out->tensors, (size_t)out->ntensors * sizeof *all);
    ml_memory_free(out->tensors);
    out->tensors = all;
    for (int64_t i = peft->first_parameter; i < peft->end_parameter; i++) {
        const ml_parameter *item = &peft->parameters->items[i];
        ml_adapter_tensor *to = &out->tensors[out->ntensors++];
        *to = (ml_adapter_tensor){.rows = item->rows, .cols = item->cols};
        memcpy(to->name, item->name, sizeof to->name);
        ML_NEW(to->value, item->rows * item->cols, ML_MEM_OTHER, "an adapter");
        most = ml_max(most, item->rows * item->cols);
    }
    ML_NEW(*part, most, ML_MEM_COMMUNICATION, "a gathered tensor");
done:
    return st;
}

ml_status tensors_collect(const ml_peft *peft, const ml_grid *grid, ml_adapter *out)
{
    const ml_parameters *p = peft->parameters;
    float *part = NULL;
    bool writer = ml_grid_rank(grid) == 0;
    int64_t before = out->ntensors;
    ml_status st = ml_grid_agree(grid, writer ? make_room(peft, out, &part) : ML_OK);
    for (int64_t i = peft->first_parameter; st == ML_OK && i < peft->end_parameter; i++)
        ml_parameters_gather(p, grid, i, p->value,
                             writer ? out->tensors[before + i - peft->first_parameter].value : NULL,
                             part);
    ml_memory_free(part);
    return st;
}
