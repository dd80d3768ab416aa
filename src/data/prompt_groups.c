/* Prompts are compared by their SHA-256: two sorts, one that brings equal ones together, one that
 * puts the groups in file order. */
#include "data/prompt_groups.h"

#include <stdlib.h>

typedef struct entry {
    char hash[ML_SHA256_HEX];
    int64_t sequence, leader; /* leader: the first sequence of the group */
} entry;

static int compare(int64_t a, int64_t b) { return (a > b) - (a < b); }

static int by_prompt(const void *left, const void *right)
{
    const entry *a = left, *b = right;
    int order = memcmp(a->hash, b->hash, sizeof a->hash);
    return order ? order : compare(a->sequence, b->sequence);
}

static int by_leader(const void *left, const void *right)
{
    const entry *a = left, *b = right;
    int order = compare(a->leader, b->leader);
    return order ? order : compare(a->sequence, b->sequence);
}

static ml_status hash_prompts(const ml_dataset *data, int64_t max_len, int64_t n,
                              const int64_t *member, entry *entries)
{
    ml_status st = ML_OK;
    int32_t *tokens = NULL;
    uint8_t *mask = NULL;
    int64_t longest = 0;
    for (int64_t i = 0; i < n; i++)
        longest = ml_max(longest, ml_dataset_length(data, member[i], max_len));
    ML_NEW(tokens, longest, ML_MEM_OTHER, "a sequence");
    ML_NEW(mask, longest, ML_MEM_OTHER, "a sequence");
    for (int64_t i = 0; i < n; i++) {
        int64_t prompt = 1; /* the first token is never a target */
        ML_TRY(ml_dataset_read(data, member[i], max_len, tokens, mask));
        while (!mask[prompt]) prompt++; /* usable sequences have one */
        ml_sha256_of(tokens, (size_t)prompt * sizeof *tokens, entries[i].hash);
        entries[i].sequence = entries[i].leader = member[i];
    }
done:
    ml_memory_free(tokens);
    ml_memory_free(mask);
    return st;
}

ml_status group_by_prompt(const ml_dataset *data, int64_t max_len, int64_t n, int64_t *member,
                          int64_t *start, int64_t *groups)
{
    ml_status st = ML_OK;
    entry *entries = NULL;
    ML_NEW(entries, n, ML_MEM_OTHER, "the prompts of the sequences");
    ML_TRY(hash_prompts(data, max_len, n, member, entries));
    qsort(entries, (size_t)n, sizeof *entries, by_prompt);
    for (int64_t i = 1; i < n; i++)
        if (!memcmp(entries[i].hash, entries[i - 1].hash, sizeof entries[i].hash))
            entries[i].leader = entries[i - 1].leader;
    qsort(entries, (size_t)n, sizeof *entries, by_leader);
    *groups = 0;
    for (int64_t i = 0; i < n; i++) {
        if (i == 0 || entries[i].leader != entries[i - 1].leader) start[(*groups)++] = i;
        member[i] = entries[i].sequence;
    }
    start[*groups] = n;
done:
    ml_memory_free(entries);
    return st;
}
