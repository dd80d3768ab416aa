/* Keys and values of tokens, and the sequences that are made of them.
 *
 * A token lies in one row of a pool; a sequence is the list of its tokens' rows. Sequences that
 * begin alike list the same rows: a beam that goes on in two ways costs a copy of the list, and
 * the prompt lies in memory once. A row is free again when no sequence lists it. */
#include "model/model_private.h"

void ml_cache_destroy(ml_cache *c)
{
    if (!c) return;
    void *const all[] = {c->length, c->path, c->uses, c->spare, c->data};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) ml_memory_free(all[i]);
    ml_memory_free(c);
}

ml_status ml_cache_create(ml_cache **out, const ml_model *m, int64_t slots, int64_t capacity,
                          int64_t rows)
{
    ml_status st = ML_OK;
    ml_cache *c = NULL;
    ML_NEW(c, 1, ML_MEM_OTHER, "a cache");
    *c = (ml_cache){.slots = slots,
                    .capacity = capacity,
                    .rows = rows,
                    .first_layer = m->first_layer,
                    .width = 2 * kv_width(m),
                    .spares = rows};
    ML_NEW(c->length, slots, ML_MEM_OTHER, "a cache");
    ML_NEW(c->path, slots * capacity, ML_MEM_OTHER, "a cache");
    ML_NEW(c->uses, rows, ML_MEM_OTHER, "a cache");
    ML_NEW(c->spare, rows, ML_MEM_OTHER, "a cache");
    ML_NEW(c->data, (m->end_layer - m->first_layer) * rows * c->width, ML_MEM_ACTIVATION,
           "keys and values of the sequences");
    for (int64_t i = 0; i < rows; i++) c->spare[i] = (int32_t)(rows - 1 - i);
    *out = c;
    c = NULL;
done:
    ml_cache_destroy(c);
    return st;
}

int64_t ml_cache_length(const ml_cache *c, int64_t slot) { return c->length[slot]; }
int64_t ml_cache_spare(const ml_cache *c) { return c->spares; }

void ml_cache_clear(ml_cache *c, int64_t slot)
{
    const int32_t *path = cache_path(c, slot);
    for (int64_t j = 0; j < c->length[slot]; j++)
        if (--c->uses[path[j]] == 0) c->spare[c->spares++] = path[j];
    c->length[slot] = 0;
}

void ml_cache_share(ml_cache *c, int64_t from, int64_t to, int64_t n)
{
    int32_t *source = cache_path(c, from), *path = cache_path(c, to);
    ml_cache_clear(c, to);
    for (int64_t j = 0; j < n; j++) c->uses[path[j] = source[j]]++;
    c->length[to] = n;
}

void cache_append(ml_cache *c, int64_t slot)
{
    int32_t row = c->spare[--c->spares];
    c->uses[row] = 1;
    cache_path(c, slot)[c->length[slot]++] = row;
}
