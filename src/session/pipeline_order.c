/* The order in which the stages of a pipeline do their operations (1F1B: Narayanan et al. 2019,
 * arXiv:1806.03377, with a flush a step), and how long it takes where each has a length of its own.
 *
 * With P stages and n micro-batches, stage s runs F0 … F(P−s−1), then a backward and a forward in
 * turn, B0, F(P−s), B1, …, and at the end the backwards that are left. So at most P − s micro-
 * batches are between their forward and their backward, and activations are kept for no more.
 *
 * Nobody waits in a circle. Give every operation a slot of one clock, of the whole pipe:
 *
 *     Fk of stage s   s + k where k < P − s, else s + 2k
 *     Bk of stage s   2P − 1 − s + 2k
 *
 * Each stage goes through its own operations in the order of their slots. There are two waits, and
 * each is for something of an earlier slot, or of the beginning of the same one:
 *
 *   - at its beginning an operation receives, Fk of stage s what Fk of stage s − 1 sends at its
 *     end, which has a smaller slot; Bk what Bk of stage s + 1 sends at its end, one slot before;
 *   - at its end it sends, once the neighbour has taken the last message in that direction: Fk
 *     waits for stage s + 1 to begin F(k−1), Bk for stage s − 1 to begin B(k−1); their slots are
 *     not behind that of the one that waits.
 *
 * So the operation that is first among those that have not ended, by (slot, beginning before end),
 * can always go on, whatever MPI buffers. What only some stages do, evaluations that go forward
 * alone, is the same clock without Bk. A tp group, and a cp group,
 * does the same operations in the same order.
 *
 * Where all operations take one slot, the last one, B(n−1) of stage 0, ends with slot
 * 2(n + P − 1), of which each stage works in 2n: the bubble is (P − 1) of n + P − 1 parts. */
#include "session/pipeline_order.h"

#include <math.h>

pipeline_order ml_pipeline_order(int pp, int stage, int64_t count, bool backward)
{
    return (pipeline_order){
        .count = count, .backward = backward, .ahead = ml_max(1, ml_min(pp - stage, count))};
}

bool ml_pipeline_next(pipeline_order *o, pipeline_operation *next)
{
    bool left = o->backward && o->backwards < o->count;
    if (o->forwards == o->count && !left) return false;
    next->backward = left && (o->forwards == o->count || o->forwards - o->backwards == o->ahead);
    next->micro = next->backward ? o->backwards++ : o->forwards++;
    return true;
}

int64_t ml_pipeline_slot(int pp, int stage, const pipeline_operation *o)
{
    if (o->backward) return 2 * pp - 1 - stage + 2 * o->micro;
    return stage + o->micro + (o->micro < pp - stage ? 0 : o->micro);
}

/* ---- its length ---------------------------------------------------------------------------- */

/* What is known of a stage while all are played, slot by slot. */
typedef struct player {
    pipeline_order order;
    pipeline_operation next;
    bool more;
    double free;                 /* its last operation has ended */
    double *began[2], *ended[2]; /* [count], of forwards and of backwards; borrowed */
} player;

/* Whether a message goes from one stage to the other. */
static bool is_sent(const pipeline_lengths *l, int from, int to, bool backward)
{
    if (from < 0 || to < 0 || from == l->pp || to == l->pp) return false;
    return !backward || l->backward[to] > 0.0;
}

/* Its next operation, all of earlier slots being known. */
static void play(player *all, const pipeline_lengths *l, int stage)
{
    player *own = &all[stage];
    const pipeline_operation o = own->next;
    int from = stage + (o.backward ? 1 : -1), to = stage + (o.backward ? -1 : 1);
    double length = (o.backward ? l->backward : l->forward)[stage], begin = own->free;
    if (o.micro == l->count - 1) length *= l->last;
    if (is_sent(l, from, stage, o.backward))
        begin = fmax(begin, all[from].ended[o.backward][o.micro]);
    own->free = begin + length;
    if (is_sent(l, stage, to, o.backward) && o.micro > 0)
        own->free = fmax(own->free, all[to].began[o.backward][o.micro - 1]);
    own->began[o.backward][o.micro] = begin;
    own->ended[o.backward][o.micro] = own->free;
    own->more = ml_pipeline_next(&own->order, &own->next);
}

/* Stages from the last one on: where two have the same slot, one waits at its end for the next
 * stage's beginning. */
static double play_all(player *all, const pipeline_lengths *l)
{
    int64_t slots = 2 * (l->count + l->pp - 1);
    double end = 0.0;
    for (int64_t slot = 0; slot < slots; slot++)
        for (int stage = l->pp - 1; stage >= 0; stage--)
            if (all[stage].more && ml_pipeline_slot(l->pp, stage, &all[stage].next) == slot)
                play(all, l, stage);
    for (int stage = 0; stage < l->pp; stage++) end = fmax(end, all[stage].free);
    return end;
}

ml_status ml_pipeline_seconds(const pipeline_lengths *lengths, double *seconds)
{
    enum { KNOWN = 8, TABLES = 4 }; /* micro-batches a stage; of what a player has */
    ml_status st = ML_OK;
    pipeline_lengths l = *lengths;
    player *all = NULL;
    double *times = NULL, slowest = 0.0;
    l.count = ml_min(l.count, (int64_t)KNOWN * l.pp);
    ML_NEW(all, l.pp, ML_MEM_OTHER, "the stages of a pipeline");
    ML_NEW(times, TABLES * l.pp * l.count, ML_MEM_OTHER, "the operations of a pipeline");
    for (int stage = 0; stage < l.pp; stage++) {
        player *p = &all[stage];
        p->order = ml_pipeline_order(l.pp, stage, l.count, true);
        p->more = ml_pipeline_next(&p->order, &p->next);
        for (int back = 0; back < 2; back++) {
            p->began[back] = times + (TABLES * stage + 2 * back) * l.count;
            p->ended[back] = p->began[back] + l.count;
        }
        slowest = fmax(slowest, l.forward[stage] + l.backward[stage]);
    }
    *seconds = play_all(all, &l) + (double)(lengths->count - l.count) * slowest;
done:
    ml_memory_free(times);
    ml_memory_free(all);
    return st;
}
