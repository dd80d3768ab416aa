/* The list of trainable tensors and their four buffers. */
#include "mpilora/optim.h"

static ml_status grow(ml_parameters *p)
{
    ml_status st = ML_OK;
    if (p->count < p->capacity) return ML_OK;
    int64_t capacity = ml_max(64, 2 * p->capacity);
    if (!p->items) {
        ML_NEW(p->items, capacity, ML_MEM_OTHER, "the list of trainable tensors");
    } else {
        ml_parameter *items =
            ml_memory_resize(p->items, capacity, sizeof *items, "the list of trainable tensors");
        if (!items) return ML_RESOURCE;
        p->items = items;
    }
    p->capacity = capacity;
done:
    return st;
}

ml_status ml_parameters_add(ml_parameters *p, const char *name, int64_t rows, int64_t cols,
                            bool vector, ml_shard shard, ml_gradient_kind kind, int64_t *index)
{
    ml_status st = grow(p);
    if (st != ML_OK) return st;
    if (index) *index = p->count;
    ml_parameter *item = &p->items[p->count++];
    *item = (ml_parameter){.rows = rows,
                           .cols = cols,
                           .vector = vector,
                           .shard = shard,
                           .kind = kind,
                           .lr_factor = 1.0};
    snprintf(item->name, sizeof item->name, "%s", name);
    item->count = ml_shard_rows(&shard, rows) * ml_shard_cols(&shard, cols);
    return ML_OK;
}

static bool is_replicated(const ml_parameter *item) { return item->shard.dim == ML_SHARD_WHOLE; }

void ml_parameters_lay_out(ml_parameters *p)
{
    p->local = p->global = p->replicated = 0;
    for (int sharded = 0; sharded < 2; sharded++) {
        for (int64_t i = 0; i < p->count; i++) {
            ml_parameter *item = &p->items[i];
            if (is_replicated(item) == (bool)sharded) continue;
            item->offset = p->local;
            p->local += item->count;
            p->global += item->rows * item->cols;
        }
        if (!sharded) p->replicated = p->local;
    }
    ml_parameters_divide_moments(p, 1, 0, 0);
}

void ml_parameters_bytes(const ml_parameters *p, bool training, int64_t bytes[ML_MEM_CATEGORIES])
{
    int64_t one = p->local * (int64_t)sizeof(float);
    bytes[ML_MEM_TRAINABLE] += one;
    if (!training) return;
    bytes[ML_MEM_GRADIENT] += one;
    bytes[ML_MEM_OPTIMIZER] += 2 * p->held * (int64_t)sizeof(float);
}

ml_status ml_parameters_allocate(ml_parameters *p, bool training)
{
    ml_status st = ML_OK;
    ML_NEW(p->value, p->local, ML_MEM_TRAINABLE, "trainable parameters");
    if (!training) return ML_OK;
    ML_NEW(p->gradient, p->local, ML_MEM_GRADIENT, "gradients");
    ML_NEW(p->moment1, p->held, ML_MEM_OPTIMIZER, "AdamW's first moments");
    ML_NEW(p->moment2, p->held, ML_MEM_OPTIMIZER, "AdamW's second moments");
done:
    return st;
}

void ml_parameters_destroy(ml_parameters *p)
{
    ml_memory_free(p->items);
    ml_memory_free(p->value);
    ml_memory_free(p->gradient);
    ml_memory_free(p->moment1);
    ml_memory_free(p->moment2);
    *p = (ml_parameters){0};
}
