/* The order of the sequences. A sequence stands alone or in the group of its prompt; a shuffled
 * epoch is a Fisher–Yates permutation of the groups drawn from the counter-based generator with
 * the epoch as its stream; the one epoch in use is kept, any other is made again when it is asked
 * for. */
#include <stdlib.h>

#include "data/mixture.h"
#include "mpilora/data.h"

/* ---- groups -------------------------------------------------------------------------------- */

/* Prompts are compared by their SHA-256: two sorts, one that brings equal ones together, one that
 * puts the groups in file order. */
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
        const int64_t length = ml_dataset_length(data, member[i], max_len);
        ML_TRY(ml_dataset_read(data, member[i], max_len, tokens, mask));
        while (prompt < length && !mask[prompt]) prompt++; /* labelled ones are all prompt */
        ml_sha256_of(tokens, (size_t)prompt * sizeof *tokens, entries[i].hash);
        entries[i].sequence = entries[i].leader = member[i];
    }
done:
    ml_memory_free(tokens);
    ml_memory_free(mask);
    return st;
}

/* member[n] in file order → group by group: sequences with the same prompt, the tokens before the
 * first target, stay in file order, groups in the order of their first members; start[groups + 1]
 * (room for n + 1). ML_INPUT on a read error. */
static ml_status group_by_prompt(const ml_dataset *data, int64_t max_len, int64_t n,
                                 int64_t *member, int64_t *start, int64_t *groups)
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

/* ---- the sampler --------------------------------------------------------------------------- */

struct ml_sampler {
    const ml_dataset *data; /* borrowed */
    int64_t max_len, usable, skipped, cut, longest;
    bool shuffle, whole;
    bool alternates; /* a pair's answers, which follow each other */
    ml_random_key key;
    int64_t unit;         /* sequences that stay together: of a pair, or a row of several texts */
    int64_t epoch;        /* whose order is kept; −1: none yet */
    int64_t *member;      /* [usable] the usable sequences, group by group */
    int64_t *group_start; /* [groups + 1] into member */
    int64_t groups;
    int64_t *group_order; /* [groups] of the epoch */
    int64_t *order;       /* [usable] of the epoch */
    int64_t *of_length;   /* [longest + 1] how many usable sequences have this cut length */
    int64_t parts;        /* of a joined data set, whose sampler has these and sums alone; else 0 */
    ml_sampler **part;    /* [parts] */
    ml_mixture *mixture;
};

static bool is_cut(const ml_sampler *s, int64_t sequence)
{
    return ml_dataset_length(s->data, sequence, s->max_len) <
           ml_dataset_length(s->data, sequence, 0);
}

/* A pair, or a row, is usable where all of its sequences are. */
static bool is_usable(const ml_sampler *s, int64_t sequence)
{
    int64_t first = sequence - sequence % s->unit;
    for (int64_t i = first; i < first + s->unit; i++)
        if (ml_dataset_targets(s->data, i, s->max_len) == 0 || (s->whole && is_cut(s, i)))
            return false;
    return true;
}

static void count_sequences(ml_sampler *s)
{
    for (int64_t i = 0; i < ml_dataset_sequences(s->data); i++) {
        int64_t length = ml_dataset_length(s->data, i, s->max_len);
        s->cut += is_cut(s, i);
        if (!is_usable(s, i)) {
            s->skipped++;
            continue;
        }
        s->usable++;
        s->longest = ml_max(s->longest, length);
    }
}

/* The usable sequences in file order, each a group of its own, or each pair or row. */
static void list_usable(ml_sampler *s)
{
    int64_t n = 0;
    for (int64_t i = 0; i < ml_dataset_sequences(s->data); i++)
        if (is_usable(s, i)) {
            if (n % s->unit == 0) s->group_start[s->groups++] = n;
            s->member[n++] = i;
        }
    s->group_start[s->groups] = s->usable;
}

/* Usable answers of pairs from `from` on that are among the first or among the second of theirs. */
static int64_t list_side(ml_sampler *s, int64_t from, int64_t side, int64_t n)
{
    int64_t end = ml_min(from + 2 * ML_PAIR_BLOCK, ml_dataset_sequences(s->data));
    for (int64_t i = from + side; i < end; i += 2)
        if (is_usable(s, i)) s->member[n++] = i;
    return n;
}

static void list_blocks(ml_sampler *s)
{
    int64_t n = 0;
    for (int64_t from = 0; from < ml_dataset_sequences(s->data); from += 2 * ML_PAIR_BLOCK)
        for (int64_t side = 0; side < 2; side++) n = list_side(s, from, side, n);
}

static void order_members(ml_sampler *s)
{
    int64_t n = 0;
    for (int64_t g = 0; g < s->groups; g++)
        for (int64_t i = s->group_start[s->group_order[g]];
             i < s->group_start[s->group_order[g] + 1]; i++)
            s->order[n++] = s->member[i];
}

static ml_status list_groups(ml_sampler *s, const ml_sampler_order *order)
{
    bool blocks = order->blocks && order->apart && ml_dataset_has_pairs(s->data);
    list_usable(s);
    if (blocks) list_blocks(s);
    if (order->group_prompts && !blocks && s->unit == 1) {
        ml_status st =
            group_by_prompt(s->data, s->max_len, s->usable, s->member, s->group_start, &s->groups);
        if (st != ML_OK) return st;
    }
    for (int64_t g = 0; g < s->groups; g++) s->group_order[g] = g;
    order_members(s);
    return ML_OK;
}

static ml_status create_mixed(ml_sampler *s, const ml_sampler_order *order)
{
    ml_status st = ML_OK;
    int64_t first, parts = ml_dataset_parts(s->data);
    double *weight = NULL;
    ML_NEW(s->part, parts, ML_MEM_OTHER, "the samplers of a mixture");
    ML_NEW(weight, parts, ML_MEM_OTHER, "the weights of a mixture");
    for (s->parts = 0; s->parts < parts; s->parts++) {
        const ml_dataset *data = ml_dataset_part(s->data, s->parts, &first);
        ml_sampler_order own = *order;
        own.seed += (uint64_t)s->parts; /* files of one length are not shuffled alike */
        st = ml_sampler_create(&s->part[s->parts], data, s->max_len, &own);
        if (st == ML_USAGE) st = ml_fail_within(st, "%s", ml_dataset_path(data));
        if (st != ML_OK) goto done;
        const ml_sampler *p = s->part[s->parts];
        weight[s->parts] = ml_dataset_weight(s->data, s->parts);
        s->usable += p->usable;
        s->skipped += p->skipped;
        s->cut += p->cut;
        s->longest = ml_max(s->longest, p->longest);
    }
    ML_TRY(ml_mixture_create(&s->mixture, parts, weight, order->shuffle,
                             ml_random_key_make(order->seed, "mixture")));
done:
    ml_memory_free(weight);
    return st;
}

ml_status ml_sampler_create(ml_sampler **out, const ml_dataset *data, int64_t max_len,
                            const ml_sampler_order *order)
{
    ml_status st = ML_OK;
    ml_sampler *s = NULL;
    ML_NEW(s, 1, ML_MEM_OTHER, "a sampler");
    *s = (ml_sampler){.data = data,
                      .max_len = max_len,
                      .shuffle = order->shuffle,
                      .whole = order->whole,
                      .alternates = ml_dataset_has_pairs(data) && order->apart && !order->blocks,
                      .unit = ml_dataset_has_pairs(data) && !order->apart
                                  ? 2
                                  : ml_max(1, ml_dataset_related(data)),
                      .key = ml_random_key_make(order->seed, "shuffle"),
                      .epoch = -1};
    if (ml_dataset_parts(data) > 0) {
        ML_TRY(create_mixed(s, order));
        *out = s;
        s = NULL;
        goto done;
    }
    count_sequences(s);
    if (!s->usable) {
        st = ml_fail(ML_USAGE, "no sequence has a target within its first %lld tokens",
                     (long long)max_len);
        goto done;
    }
    ML_NEW(s->member, s->usable, ML_MEM_OTHER, "the sequences");
    ML_NEW(s->group_start, s->usable + 1, ML_MEM_OTHER, "the groups of the sequences");
    ML_NEW(s->group_order, s->usable, ML_MEM_OTHER, "the order of the groups");
    ML_NEW(s->order, s->usable, ML_MEM_OTHER, "the order of the sequences");
    ML_NEW(s->of_length, s->longest + 1, ML_MEM_OTHER, "the lengths of the sequences");
    ML_TRY(list_groups(s, order));
    for (int64_t i = 0; i < s->usable; i++)
        s->of_length[ml_dataset_length(data, s->member[i], max_len)]++;
    *out = s;
    s = NULL;
done:
    ml_sampler_destroy(s);
    return st;
}

void ml_sampler_destroy(ml_sampler *sampler)
{
    if (!sampler) return;
    for (int64_t k = 0; k < sampler->parts; k++) ml_sampler_destroy(sampler->part[k]);
    ml_memory_free(sampler->part);
    ml_mixture_destroy(sampler->mixture);
    ml_memory_free(sampler->member);
    ml_memory_free(sampler->group_start);
    ml_memory_free(sampler->group_order);
    ml_memory_free(sampler->order);
    ml_memory_free(sampler->of_length);
    ml_memory_free(sampler);
}

int64_t ml_sampler_usable(const ml_sampler *sampler) { return sampler->usable; }
int64_t ml_sampler_skipped(const ml_sampler *sampler) { return sampler->skipped; }
int64_t ml_sampler_cut(const ml_sampler *sampler) { return sampler->cut; }
bool ml_sampler_alternates(const ml_sampler *sampler) { return sampler->alternates; }

static void shuffle_epoch(ml_sampler *s, int64_t epoch)
{
    for (int64_t g = 0; g < s->groups; g++) s->group_order[g] = g;
    for (int64_t i = s->groups - 1; i > 0; i--) {
        double u = ml_random_uniform(s->key, (uint64_t)epoch, (uint64_t)i);
        int64_t j =
            ml_min((int64_t)(u * (double)(i + 1)), i); /* the product may round up to i + 1 */
        int64_t moved = s->group_order[i];
        s->group_order[i] = s->group_order[j];
        s->group_order[j] = moved;
    }
    order_members(s);
    s->epoch = epoch;
}

int64_t ml_sampler_member(const ml_sampler *s, int64_t i)
{
    int64_t k = 0, first;
    if (s->parts == 0) return s->member[i];
    for (; i >= s->part[k]->usable; k++) i -= s->part[k]->usable;
    (void)ml_dataset_part(s->data, k, &first);
    return first + s->part[k]->member[i];
}

/* Rows are mixed as a whole. */
static int64_t mixed_at(ml_sampler *s, int64_t position)
{
    int64_t part, place, first, row = position / s->unit, within = position % s->unit;
    ml_mixture_at(s->mixture, row, &part, &place);
    (void)ml_dataset_part(s->data, part, &first);
    return first + ml_sampler_at(s->part[part], place * s->unit + within);
}

int64_t ml_sampler_at(ml_sampler *sampler, int64_t position)
{
    if (sampler->parts > 0) return mixed_at(sampler, position);
    int64_t epoch = position / sampler->usable;
    if (sampler->shuffle && epoch != sampler->epoch) shuffle_epoch(sampler, epoch);
    return sampler->order[position % sampler->usable];
}

/* How often one sequence can stand among `n` consecutive positions: a shuffled order may end one
 * epoch with the sequence that begins the next. */
static int64_t most_repeats(const ml_sampler *s, int64_t n)
{
    if (n < 2) return n;
    return s->shuffle ? (n - 2) / s->usable + 2 : (n - 1) / s->usable + 1;
}

/* How many of `n` consecutive positions can have sequences of this length; all of them may be of
 * one part. */
static int64_t most_of_length(const ml_sampler *s, int64_t length, int64_t n)
{
    int64_t sum = 0;
    if (s->parts == 0) return length > s->longest ? 0 : s->of_length[length] * most_repeats(s, n);
    for (int64_t k = 0; k < s->parts; k++) sum += most_of_length(s->part[k], length, n);
    return sum;
}

int64_t ml_sampler_most_tokens(const ml_sampler *sampler, int64_t micro)
{
    int64_t n = micro, tokens = 0;
    for (int64_t length = sampler->longest; length > 0 && micro > 0; length--) {
        int64_t take = ml_min(micro, most_of_length(sampler, length, n));
        tokens += take * length;
        micro -= take;
    }
    return tokens;
}
