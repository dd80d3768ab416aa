/* The movements of data of segment.h. */
#include "grid/segment.h"

_Static_assert(sizeof(segment_flags) == SEGMENT_LINE,
               "a rank's flags share no line with another's");
_Static_assert(SEGMENT_GROUPS *SEGMENT_LINE + (int)sizeof(segment_process) <= SEGMENT_FLAGS,
               "the flags of all groups find room");

enum {
    LINE_FLOATS = SEGMENT_LINE / 4,
    HALF_FLOATS = SEGMENT_HALF / 4,
    WHOLE_MOST = 1024, /* floats of a vector that each rank adds up by itself: one wait, not two */
    BLOCK_FLOATS = 2048, /* that stay in the nearest cache while all ranks' parts are added */
    TREE_LEVELS = 10     /* of SEGMENT_RANKS_MOST ranks */
};

_Static_assert(1 << TREE_LEVELS == SEGMENT_RANKS_MOST, "the largest tree finds room");
_Static_assert((int)WHOLE_MOST <= (int)BLOCK_FLOATS, "a small vector is one block of a tree");

/* A sum, or half of one, under way. */
typedef struct passage {
    segment *segment;
    segment_group *group;
    int number; /* of the group */
    float *x;
    int64_t n;
    int64_t piece, pieces; /* floats of a rank's part in one piece; pieces */
    uint32_t first;        /* of the group's pieces */
    bool adds, gathers;
    bool tree;  /* of additions; else the ranks' addends one after the other */
    bool reads; /* the others' vectors, where they lie; the halves are room for pieces of these */
    bool maps;  /* them, where they can be */
    struct {
        bool looked;
        const float *at;            /* NULL: its pieces are read */
    } vector[SEGMENT_READERS_MOST]; /* of each member's */
} passage;

static char *block_of(const segment *s, int rank)
{
    return s->memory + (int64_t)rank * SEGMENT_BLOCK;
}

static segment_flags *flags_of(const segment *s, int rank, int group)
{
    return (segment_flags *)(void *)block_of(s, rank) + group;
}

static segment_flags *member_flags(const passage *p, int member)
{
    return flags_of(p->segment, p->group->member[member], p->number);
}

void segment_reset(segment *s, ml_group group)
{
    segment_flags *own = flags_of(s, s->rank, (int)group);
    for (int half = 0; half < 2; half++)
        if (s->reader[half].group == &s->group[group]) s->reader[half].group = NULL;
    s->group[group].turn = 0;
    atomic_store(&own->written, 0);
    atomic_store(&own->added, 0);
    atomic_store(&own->left, 0);
}

/* ---- halves -------------------------------------------------------------------------------- */

static int half_of(const passage *p, int64_t piece) { return (int)((p->first + piece) & 1); }

/* Where a rank put what it wrote for `part`, or, of its own part, the result; or where it is read
 * to. */
static float *place_of(const passage *p, int64_t piece, int writer, int part)
{
    if (p->reads) {
        int size = p->group->size, room = (writer + size - p->group->rank) % size - 1;
        return (float *)(void *)(block_of(p->segment, p->segment->rank) + SEGMENT_FLAGS) +
               room * p->piece;
    }
    char *half = block_of(p->segment, p->group->member[writer]) + SEGMENT_FLAGS +
                 (int64_t)half_of(p, piece) * SEGMENT_HALF;
    return (float *)(void *)half + part * p->piece;
}

/* A part's floats in a piece: where they lie in x, and how many. */
static float *floats_of(const passage *p, int64_t piece, int part, int64_t *count)
{
    int64_t members = p->group->size, all = ml_part_count(p->n, members, part);
    *count = ml_max(0, ml_min(p->piece, all - piece * p->piece));
    return p->x + ml_part_start(p->n, members, part) + piece * p->piece;
}

/* Until the halves that are going to be written are read by nobody. */
static void wait_for_readers(const passage *p)
{
    const segment *s = p->segment;
    for (int64_t piece = 0; piece < (p->reads ? 2 : ml_min(2, p->pieces)); piece++) {
        const segment_group *group = s->reader[half_of(p, piece)].group;
        uint32_t left = s->reader[half_of(p, piece)].left;
        for (int i = 0; group && i < group->size; i++) {
            segment_flags *flags = flags_of(s, group->member[i], (int)(group - s->group));
            if (i != group->rank) segment_wait(s, flags, &flags->left, left);
        }
    }
}

static void leave(const passage *p)
{
    segment *s = p->segment;
    segment_flags *own = member_flags(p, p->group->rank);
    for (int64_t piece = ml_max(0, p->pieces - 2); piece < p->pieces; piece++) {
        s->reader[half_of(p, piece)].group = p->reads ? NULL : p->group;
        s->reader[half_of(p, piece)].left = p->first + (uint32_t)piece + 1;
    }
    p->group->turn = p->first + (uint32_t)p->pieces;
    /* A flag that another kind of sum did not need stays within reach of those that do. */
    atomic_store_explicit(&own->written, p->group->turn, memory_order_relaxed);
    atomic_store_explicit(&own->added, p->group->turn, memory_order_relaxed);
    segment_tell(own, &own->left, p->group->turn);
}

/* The others in turn, beginning with the next one, so that not all read the same memory at once. */
static int other(const passage *p, int i) { return (p->group->rank + i) % p->group->size; }

static void wait_for_written(const passage *p, int64_t piece)
{
    for (int i = 1; i < p->group->size; i++) {
        segment_flags *flags = member_flags(p, other(p, i));
        segment_wait(p->segment, flags, &flags->written, p->first + (uint32_t)piece + 1);
    }
}

static void wait_for_added(const passage *p, int member, int64_t piece)
{
    segment_flags *flags = member_flags(p, member);
    segment_wait(p->segment, flags, &flags->added, p->first + (uint32_t)piece + 1);
}

/* ---- the three movements ------------------------------------------------------------------- */

static void copy(float *to, const float *from, int64_t count)
{
    memcpy(to, from, (size_t)count * sizeof *to);
}

/* Another rank's vector at this rank's addresses, where it can be; the rank has told of it. */
static const float *mapped(passage *p, int member)
{
    if (p->maps && !p->vector[member].looked) {
        p->vector[member].looked = true;
        p->vector[member].at =
            segment_map(p->segment, p->group->member[member], member_flags(p, member));
    }
    return p->vector[member].at;
}

/* A piece of another rank's vector, to where it is added, or to its place in x. */
static void read_piece(const passage *p, int64_t piece, int member, int part, float *to)
{
    int64_t count;
    const float *own = floats_of(p, piece, part, &count);
    uintptr_t vector = atomic_load_explicit(&member_flags(p, member)->vector, memory_order_relaxed);
    segment_read(p->segment, p->group->member[member],
                 vector + (uintptr_t)(own - p->x) * sizeof *own, to, count * (int64_t)sizeof *own);
}

/* The half was used two pieces ago: what was written for others they have added, and who adds
 * nothing has copied it. */
static void write_piece(const passage *p, int64_t piece)
{
    segment_flags *own = member_flags(p, p->group->rank);
    int64_t count;
    for (int i = 1; piece >= 2 && i < p->group->size; i++) {
        segment_flags *flags = member_flags(p, other(p, i));
        segment_wait(p->segment, flags, p->adds ? &flags->added : &flags->left,
                     p->first + (uint32_t)piece - 1);
    }
    for (int i = p->adds; i < (p->adds ? p->group->size : 1); i++) {
        const float *from = floats_of(p, piece, other(p, i), &count);
        copy(place_of(p, piece, p->group->rank, other(p, i)), from, count);
    }
    segment_tell(own, p->adds ? &own->written : &own->added, p->first + (uint32_t)piece + 1);
}

static void add(int64_t count, const float *a, const float *b, float *sum)
{
#pragma omp simd
    for (int64_t i = 0; i < count; i++) sum[i] = a[i] + b[i];
}

/* The sum of some vectors: that of the first 2^k of them, of the largest k that leaves others, and
 * that of the others, added. It is one of the vectors, or lies in rooms[0]. */
static const float *add_tree(int64_t count, int vectors, const float *const *vector,
                             float (*rooms)[BLOCK_FLOATS])
{
    int first = 1;
    if (vectors == 1) return vector[0];
    while (2 * first < vectors) first *= 2;
    const float *left = add_tree(count, first, vector, rooms),
                *right = add_tree(count, vectors - first, vector + first, rooms + 1);
    add(count, left, right, rooms[0]);
    return rooms[0];
}

/* A member's addends for this rank's part. */
static const float *addends_of(const passage *p, int64_t piece, int member)
{
    int64_t count;
    const float *own = floats_of(p, piece, p->group->rank, &count),
                *at = p->reads ? p->vector[member].at : NULL;
    if (member == p->group->rank) return own;
    return at ? at + (own - p->x) : place_of(p, piece, member, p->group->rank);
}

static void add_block_as_tree(const passage *p, int64_t piece, float *x, int64_t at, int64_t count)
{
    const float *part[SEGMENT_RANKS_MOST];
    float rooms[TREE_LEVELS][BLOCK_FLOATS];
    int members = p->group->size;
    for (int i = 0; i < members; i++) part[i] = addends_of(p, piece, i) + at;
    copy(x + at, add_tree(count, members, part, rooms), count);
}

/* This rank's part, from floats `at` on. */
static void add_block(const passage *p, int64_t piece, float *x, int64_t at, int64_t count)
{
    int members = p->group->size;
    float sums[BLOCK_FLOATS];
    if (p->tree) {
        add_block_as_tree(p, piece, x, at, count);
        return;
    }
    const float *sum = NULL;
    for (int i = 0; i < members; i++) {
        const float *part = addends_of(p, piece, i) + at;
        float *to = i == members - 1 ? x + at : sums;
        if (sum) add(count, sum, part, to);
        sum = sum ? to : part;
    }
}

/* The results of the half's last use are copied: whoever wrote this piece had copied them before.
 * They go there at one go: storing to lines that are in another core's cache, a few at a time and
 * between other work, takes longer. */
static void add_piece(passage *p, int64_t piece)
{
    int rank = p->group->rank;
    segment_flags *own = member_flags(p, rank);
    int64_t count;
    float *x = floats_of(p, piece, rank, &count);
    wait_for_written(p, piece);
    for (int i = 1; p->reads && i < p->group->size; i++)
        if (!mapped(p, other(p, i)))
            read_piece(p, piece, other(p, i), rank, place_of(p, piece, other(p, i), rank));
    for (int64_t at = 0; at < count; at += BLOCK_FLOATS)
        add_block(p, piece, x, at, ml_min(BLOCK_FLOATS, count - at));
    if (p->gathers && !p->reads) copy(place_of(p, piece, rank, rank), x, count);
    segment_tell(own, &own->added, p->first + (uint32_t)piece + 1);
}

static void copy_results(passage *p, int64_t piece)
{
    segment_flags *own = member_flags(p, p->group->rank);
    int64_t count;
    for (int i = 1; i < p->group->size; i++) {
        int member = other(p, i);
        float *to = floats_of(p, piece, member, &count);
        wait_for_added(p, member, piece);
        const float *from = p->reads ? mapped(p, member) : NULL;
        if (from)
            copy(to, from + (to - p->x), count);
        else if (p->reads)
            read_piece(p, piece, member, member, to);
        else
            copy(to, place_of(p, piece, member, member), count);
    }
    if (!p->adds) segment_tell(own, &own->left, p->first + (uint32_t)piece + 1);
}

/* All of x is there to be read. */
static void offer_vector(const passage *p)
{
    segment_flags *own = member_flags(p, p->group->rank);
    atomic_store_explicit(&own->vector, (uintptr_t)p->x, memory_order_relaxed);
    segment_tell_block(own, p->x, p->n);
    segment_tell(own, p->adds ? &own->written : &own->added, p->first + (uint32_t)p->pieces);
}

/* Then x is the caller's again. */
static void wait_for_all(const passage *p)
{
    for (int i = 1; i < p->group->size; i++) {
        segment_flags *flags = member_flags(p, other(p, i));
        segment_wait(p->segment, flags, &flags->left, p->group->turn);
    }
}

static void pass(passage *p)
{
    int others = p->group->size - 1;
    p->reads = p->segment->reads && p->n >= SEGMENT_LONG && others < SEGMENT_READERS_MOST;
    p->maps = p->reads && p->n <= SEGMENT_MAPPED;
    p->piece =
        p->reads ? ml_min(HALF_FLOATS, 2 * HALF_FLOATS / others) : HALF_FLOATS / (others + 1);
    p->piece = p->piece / LINE_FLOATS * LINE_FLOATS;
    p->pieces = (ml_part_count(p->n, p->group->size, 0) + p->piece - 1) / p->piece;
    wait_for_readers(p);
    if (p->reads) offer_vector(p);
    for (int64_t piece = 0; piece < p->pieces + 2; piece++) {
        if (p->gathers && piece >= 2) copy_results(p, piece - 2);
        if (!p->reads && piece < p->pieces) write_piece(p, piece);
        if (p->adds && piece >= 1 && piece <= p->pieces) add_piece(p, piece - 1);
    }
    leave(p);
    if (p->reads) wait_for_all(p);
}

/* ---- small vectors ------------------------------------------------------------------------- */

static void add_whole_in_order(const passage *p, float *result)
{
    const float *sum = place_of(p, 0, 0, 0);
    for (int i = 1; i < p->group->size; i++) {
        add(p->n, sum, place_of(p, 0, i, 0), result);
        sum = result;
    }
    copy(p->x, sum, p->n);
}

static void add_whole_as_tree(const passage *p)
{
    const float *part[SEGMENT_RANKS_MOST];
    float rooms[TREE_LEVELS][BLOCK_FLOATS];
    for (int i = 0; i < p->group->size; i++) part[i] = place_of(p, 0, i, 0);
    copy(p->x, add_tree(p->n, p->group->size, part, rooms), p->n);
}

/* Everybody writes all of it, and adds all of it from where the ranks, itself too, wrote it, into
 * its own half behind that: the same instructions on operands that lie alike, so the same bits,
 * whatever they are (of two NaN the order of operands would tell which one is left). */
static void sum_whole(passage *p)
{
    int rank = p->group->rank;
    segment_flags *own = member_flags(p, rank);
    p->pieces = 1;
    wait_for_readers(p);
    copy(place_of(p, 0, rank, 0), p->x, p->n);
    segment_tell(own, &own->written, p->first + 1);
    wait_for_written(p, 0);
    if (p->tree)
        add_whole_as_tree(p);
    else
        add_whole_in_order(p, place_of(p, 0, rank, 0) + WHOLE_MOST);
    leave(p);
}

/* ---- the collectives ----------------------------------------------------------------------- */

static passage begin(segment *s, ml_group group, float *x, int64_t n)
{
    segment_group *g = &s->group[group];
    return (passage){
        .segment = s, .group = g, .number = (int)group, .x = x, .n = n, .first = g->turn};
}

static void sum_all(passage *p)
{
    p->adds = p->gathers = true;
    if (p->n <= WHOLE_MOST)
        sum_whole(p);
    else
        pass(p);
}

void segment_sum(segment *s, ml_group group, float *x, int64_t n)
{
    passage p = begin(s, group, x, n);
    sum_all(&p);
}

void segment_sum_tree(segment *s, ml_group group, float *x, int64_t n)
{
    passage p = begin(s, group, x, n);
    p.tree = true;
    sum_all(&p);
}

void segment_reduce_scatter(segment *s, ml_group group, float *x, int64_t n)
{
    passage p = begin(s, group, x, n);
    p.adds = true;
    pass(&p);
}

void segment_allgather(segment *s, ml_group group, float *x, int64_t n)
{
    passage p = begin(s, group, x, n);
    p.gathers = true;
    pass(&p);
}
