/* The order of the sequences. A shuffled epoch is a Fisher–Yates permutation drawn from the counter-based generator with the epoch
 * as its stream; the one epoch in use is kept, any other is made again when it is asked for. */
#include "mpilora/data.h"

struct ml_sampler {
    const ml_dataset *data; /* borrowed */
    int64_t max_len, usable, skipped, cut, longest;
    bool shuffle;
    ml_random_key key;
    int64_t epoch;      /* whose order is kept; −1: none yet */
    int64_t *order;     /* [usable] */
    int64_t *of_length; /* [longest + 1] how many usable sequences have this cut length */
};

static void count_sequences(ml_sampler *s)
{
    for (int64_t i = 0; i < ml_dataset_sequences(s->data); i++) {
        int64_t length = ml_dataset_length(s->data, i, s->max_len);
        s->cut += length < ml_dataset_length(s->data, i, 0);
        if (ml_dataset_targets(s->data, i, s->max_len) == 0) {
            s->skipped++;
            continue;
        }
        s->usable++;
        s->longest = ml_max(s->longest, length);
    }
}

/* The usable sequences in file order. */
static void list_usable(ml_sampler *s)
{
    int64_t n = 0;
    for (int64_t i = 0; i < ml_dataset_sequences(s->data); i++)
        if (ml_dataset_targets(s->data, i, s->max_len) > 0) s->order[n++] = i;
}

ml_status ml_sampler_create(ml_sampler **out, const ml_dataset *data, int64_t max_len, bool shuffle, uint64_t seed)
{
    ml_status st = ML_OK;
    ml_sampler *s = NULL;
    ML_NEW(s, 1, ML_MEM_OTHER, "a sampler");
    *s = (ml_sampler){.data = data, .max_len = max_len, .shuffle = shuffle, .key = ml_random_key_make(seed, "shuffle"), .epoch = -1};
    count_sequences(s);
    if (!s->usable) {
        st = ml_fail(ML_INPUT, "no sequence of the data set has a target within its first %lld tokens; raise data.max_len",
                     (long long)max_len);
        goto done;
    }
    ML_NEW(s->order, s->usable, ML_MEM_OTHER, "the order of the sequences");
    ML_NEW(s->of_length, s->longest + 1, ML_MEM_OTHER, "the lengths of the sequences");
    list_usable(s);
    for (int64_t i = 0; i < s->usable; i++) s->of_length[ml_dataset_length(data, s->order[i], max_len)]++;
    *out = s;
    s = NULL;
done:
    ml_sampler_destroy(s);
    return st;
}

void ml_sampler_destroy(ml_sampler *sampler)
{
    if (!sampler) return;
    ml_memory_free(sampler->order);
    ml_memory_free(sampler->of_length);
    ml_memory_free(sampler);
}

int64_t ml_sampler_usable(const ml_sampler *sampler) { return sampler->usable; }
int64_t ml_sampler_skipped(const ml_sampler *sampler) { return sampler->skipped; }
int64_t ml_sampler_cut(const ml_sampler *sampler) { return sampler->cut; }

static void shuffle_epoch(ml_sampler *s, int64_t epoch)
{
    list_usable(s);
    for (int64_t i = s->usable - 1; i > 0; i--) {
        double u = ml_random_uniform(s->key, (uint64_t)epoch, (uint64_t)i);
        int64_t j = ml_min((int64_t)(u * (double)(i + 1)), i); /* the product may round up to i + 1 */
        int64_t moved = s->order[i];
        s->order[i] = s->order[j];
        s->order[j] = moved;
    }
    s->epoch = epoch;
}

int64_t ml_sampler_at(ml_sampler *sampler, int64_t position)
{
    int64_t epoch = position / sampler->usable;
    if (sampler->shuffle && epoch != sampler->epoch) shuffle_epoch(sampler, epoch);
    return sampler->order[position % sampler->usable];
}

/* How often one sequence can stand among `n` consecutive positions: a shuffled order may end one epoch with the sequence that begins
 * the next. */
static int64_t most_repeats(const ml_sampler *s, int64_t n)
{
    if (n < 2) return n;
    return s->shuffle ? (n - 2) / s->usable + 2 : (n - 1) / s->usable + 1;
}

int64_t ml_sampler_most_tokens(const ml_sampler *sampler, int64_t micro)
{
    int64_t repeats = most_repeats(sampler, micro), tokens = 0;
    for (int64_t length = sampler->longest; length > 0 && micro > 0; length--) {
        int64_t take = ml_min(micro, sampler->of_length[length] * repeats);
        tokens += take * length;
        micro -= take;
    }
    return tokens;
}
