/* A mixture of data sets. B_k(m), the positions of the first m cycles that belong to the parts up
 * to k, is their share rounded; part k has T_k(m) = B_k(m) − B_(k−1)(m) of them. A share of a
 * thousandth is four positions of a cycle, so T_k grows with m. The cycle in use is kept. */
#include "data/mixture.h"

#include <math.h>
#include <stdlib.h>

typedef struct slot {
    double when; /* where in the cycle, 0 to 1 */
    int32_t part;
} slot;

struct ml_mixture {
    int64_t parts;
    double *until; /* [parts + 1]: the share of the parts before each; the last is 1 */
    bool shuffle;
    ml_random_key key;
    int64_t cycle;  /* that is kept; −1: none yet */
    slot *order;    /* [ML_MIXTURE_CYCLE] */
    int64_t *place; /* [ML_MIXTURE_CYCLE] */
    int64_t *next;  /* [parts] while a cycle is made */
};

ml_status ml_mixture_create(ml_mixture **out, int64_t parts, const double *weight, bool shuffle,
                            ml_random_key key)
{
    ml_status st = ML_OK;
    ml_mixture *m = NULL;
    double sum = 0.0, before = 0.0;
    ML_NEW(m, 1, ML_MEM_OTHER, "a mixture");
    *m = (ml_mixture){.parts = parts, .shuffle = shuffle, .key = key, .cycle = -1};
    ML_NEW(m->until, parts + 1, ML_MEM_OTHER, "a mixture");
    ML_NEW(m->order, ML_MIXTURE_CYCLE, ML_MEM_OTHER, "a mixture");
    ML_NEW(m->place, ML_MIXTURE_CYCLE, ML_MEM_OTHER, "a mixture");
    ML_NEW(m->next, parts, ML_MEM_OTHER, "a mixture");
    for (int64_t k = 0; k < parts; k++) sum += weight[k];
    for (int64_t k = 0; k < parts; k++) {
        m->until[k] = before / sum;
        before += weight[k];
    }
    m->until[parts] = 1.0;
    *out = m;
    m = NULL;
done:
    ml_mixture_destroy(m);
    return st;
}

void ml_mixture_destroy(ml_mixture *m)
{
    if (!m) return;
    ml_memory_free(m->until);
    ml_memory_free(m->order);
    ml_memory_free(m->place);
    ml_memory_free(m->next);
    ml_memory_free(m);
}

/* B of the parts before k, after m cycles. */
static int64_t count_before(const ml_mixture *m, int64_t k, int64_t cycles)
{
    return (int64_t)floor(m->until[k] * (double)(cycles * ML_MIXTURE_CYCLE) + 0.5);
}

static int64_t count_of(const ml_mixture *m, int64_t k, int64_t cycles)
{
    return count_before(m, k + 1, cycles) - count_before(m, k, cycles);
}

static int by_time(const void *a, const void *b)
{
    const slot *x = a, *y = b;
    if (x->when != y->when) return x->when < y->when ? -1 : 1;
    return (x->part > y->part) - (x->part < y->part);
}

static void make_cycle(ml_mixture *m, int64_t cycle)
{
    int64_t n = 0;
    for (int64_t k = 0; k < m->parts; k++) {
        int64_t before = count_of(m, k, cycle), count = count_of(m, k, cycle + 1) - before;
        m->next[k] = before;
        for (int64_t i = 0; i < count; i++, n++) {
            double even = ((double)i + 0.5) / (double)count;
            m->order[n] =
                (slot){m->shuffle ? ml_random_uniform(m->key, (uint64_t)cycle, (uint64_t)n) : even,
                       (int32_t)k};
        }
    }
    qsort(m->order, ML_MIXTURE_CYCLE, sizeof *m->order, by_time);
    for (int64_t i = 0; i < ML_MIXTURE_CYCLE; i++) m->place[i] = m->next[m->order[i].part]++;
    m->cycle = cycle;
}

void ml_mixture_at(ml_mixture *m, int64_t position, int64_t *part, int64_t *place)
{
    int64_t cycle = position / ML_MIXTURE_CYCLE, at = position % ML_MIXTURE_CYCLE;
    if (cycle != m->cycle) make_cycle(m, cycle);
    *part = m->order[at].part;
    *place = m->place[at];
}
