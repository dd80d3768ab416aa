/* Open addressing over entries that stand in the order in which they came, so that sums over a
 * table never depend on the hash. */
#include "score/ngrams.h"

void ngram_table_destroy(ngram_table *table)
{
    ml_memory_free(table->entry);
    ml_memory_free(table->slot);
    *table = (ngram_table){0};
}

void ngram_table_clear(ngram_table *table)
{
    if (table->count) memset(table->slot, 0, (size_t)table->slot_count * sizeof *table->slot);
    table->count = 0;
}

ngram ngram_of(const int32_t *token, int n)
{
    ngram key;
    for (int i = 0; i < NGRAM_MOST; i++) key.token[i] = i < n ? token[i] : -1;
    return key;
}

/* The slot that has the key, or the free one where it would stand; *slot: entry number + 1, 0
 * where free. */
static int32_t *find_slot(const ngram_table *table, const ngram *key)
{
    uint64_t h = 0, mask = (uint64_t)table->slot_count - 1;
    for (int i = 0; i < NGRAM_MOST; i++)
        h = (h ^ (uint32_t)key->token[i]) * 0x9e3779b97f4a7c15u, h ^= h >> 32;
    for (uint64_t at = h & mask;; at = (at + 1) & mask) {
        int32_t *slot = &table->slot[at];
        if (*slot == 0 || !memcmp(&table->entry[*slot - 1].key, key, sizeof *key)) return slot;
    }
}

ngram_entry *ngram_find(const ngram_table *table, const ngram *key)
{
    if (table->count == 0) return NULL;
    int32_t slot = *find_slot(table, key);
    return slot ? &table->entry[slot - 1] : NULL;
}

static ml_status grow(ngram_table *table)
{
    ml_status st = ML_OK;
    int64_t capacity = ml_max(256, table->capacity * 2);
    if (capacity > INT32_MAX)
        return ml_fail(ML_INPUT, "more than %d different n-grams", INT32_MAX / 2);
    if (table->entry) {
        ngram_entry *grown = ml_memory_resize(table->entry, capacity, sizeof *grown, "n-grams");
        if (!grown) return ML_RESOURCE;
        table->entry = grown;
    } else {
        ML_NEW(table->entry, capacity, ML_MEM_OTHER, "n-grams");
    }
    table->capacity = capacity;
    ml_memory_free(table->slot);
    table->slot = NULL;
    table->slot_count = 2 * capacity;
    ML_NEW(table->slot, table->slot_count, ML_MEM_OTHER, "n-grams");
    for (int64_t i = 0; i < table->count; i++)
        *find_slot(table, &table->entry[i].key) = (int32_t)(i + 1);
done:
    return st;
}

ml_status ngram_entry_of(ngram_table *table, const ngram *key, ngram_entry **out)
{
    ml_status st = ML_OK;
    if (table->count == table->capacity) ML_TRY(grow(table));
    int32_t *slot = find_slot(table, key);
    if (*slot == 0) {
        table->entry[table->count++] = (ngram_entry){.key = *key, .stamp = -1};
        *slot = (int32_t)table->count;
    }
    *out = &table->entry[*slot - 1];
done:
    return st;
}

ml_status ngram_count(ngram_table *table, const corpus *c, int64_t text, int n)
{
    ml_status st = ML_OK;
    for (int64_t at = c->text[text]; at + n <= c->text[text + 1]; at++) {
        ngram_entry *entry;
        ngram key = ngram_of(c->token + at, n);
        ML_TRY(ngram_entry_of(table, &key, &entry));
        entry->count++;
    }
done:
    return st;
}

ml_status ngram_most(ngram_table *table, const corpus *c, int64_t first, int64_t end, int n)
{
    ml_status st = ML_OK;
    ngram_table_clear(table);
    for (int64_t text = first; text < end; text++)
        for (int64_t at = c->text[text]; at + n <= c->text[text + 1]; at++) {
            ngram_entry *entry;
            ngram key = ngram_of(c->token + at, n);
            ML_TRY(ngram_entry_of(table, &key, &entry));
            if (entry->stamp != text) entry->count = 0;
            entry->stamp = text;
            entry->most = ml_max(entry->most, ++entry->count);
        }
done:
    return st;
}
