/* Sums through shared memory, by threads that stand for ranks (so that ThreadSanitizer sees them
 * all): bits, order of addition, groups in turn, ranks that come late, flags that wrap around. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "grid/segment.h"

enum { RANKS_MOST = 4, FLOATS = SEGMENT_LONG + SEGMENT_HALF / 4 + 7 };

/* Around every border: of small vectors, of a line, of a piece of 2, 3 and 4 ranks. */
static const int64_t sizes[] = {1,
                                2,
                                3,
                                17,
                                1023,
                                1024,
                                1025,
                                4099,
                                8192,
                                16384,
                                16385,
                                32767,
                                32768,
                                32769,
                                65537,
                                SEGMENT_LONG - 1,
                                SEGMENT_LONG,
                                FLOATS};
enum { SIZES = sizeof sizes / sizeof *sizes };

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define THREADS_ARE_WATCHED
#endif
#endif

#if defined(THREADS_ARE_WATCHED)
/* In the place of segment_map.c: through a mapping, as through the kernel's copies, ThreadSanitizer
 * does not see whose memory is read. Threads have all vectors at the same addresses, so it sees
 * every access of a long sum, in the order that the flags make. */
void segment_tell_block(segment_flags *own, const float *x, int64_t n)
{
    own->block = (uintptr_t)x;
    own->bytes = n * (int64_t)sizeof *x;
}

const float *segment_map(segment *s, int rank, const segment_flags *flags)
{
    (void)s;
    (void)rank;
    return flags->bytes > 0 ? (const float *)flags->block : NULL;
}

void segment_unmap_all(segment *s) { (void)s; }
#endif

typedef struct team {
    int ranks, rounds;
    uint32_t start; /* of all flags */
    bool reads, maps;
    char *memory;
} team;

typedef struct thread {
    const team *team;
    int rank, faults, calls;
    segment segment;
    float *x, *expected;
    int all[RANKS_MOST], pair[2], stride[2];
} thread;

/* The ranks' addends differ by up to 2^20, so that another order of addition is seen. */
static float addend(int rank, int64_t i, int round)
{
    uint32_t bits = (uint32_t)i * 2654435761U + (uint32_t)rank * 40503U + (uint32_t)round * 97U;
    bits ^= bits >> 15;
    return ((float)(bits % 20011U) - 10005.0F) * (float)(1U << (bits / 65536U % 21U));
}

static bool stay_awake(void *self)
{
    thread *t = self;
    t->calls++;
    return t->team->rounds > 1;
}

static void join(thread *t, ml_group group, const int *member, int size, int rank)
{
    segment_flags *own =
        (segment_flags *)(void *)(t->team->memory + (int64_t)t->rank * SEGMENT_BLOCK) + group;
    t->segment.group[group] = (segment_group){member, size, rank, 0};
    segment_reset(&t->segment, group);
    t->segment.group[group].turn = t->team->start;
    atomic_store(&own->written, t->team->start);
    atomic_store(&own->added, t->team->start);
    atomic_store(&own->left, t->team->start);
}

static void join_all(thread *t)
{
    const team *team = t->team;
    t->segment = (segment){
        .memory = team->memory, .rank = t->rank, .looks = 50, .idle = stay_awake, .self = t};
    segment_offer(&t->segment);
    t->segment.reads = team->reads;
    for (int i = 0; i < team->ranks; i++) t->all[i] = i;
    join(t, ML_GROUP_WORLD, t->all, team->ranks, t->rank);
    if (team->ranks != 4) return;
    for (int i = 0; i < 2; i++) {
        t->pair[i] = t->rank / 2 * 2 + i;
        t->stride[i] = t->rank % 2 + 2 * i;
    }
    join(t, ML_GROUP_TP, t->pair, 2, t->rank % 2);
    join(t, ML_GROUP_DP, t->stride, 2, t->rank / 2);
}

static void fill(thread *t, const segment_group *g, int64_t n, int round)
{
    for (int64_t i = 0; i < n; i++) {
        t->x[i] = addend(t->rank, i, round);
        t->expected[i] = addend(g->member[0], i, round);
        for (int m = 1; m < g->size; m++) t->expected[i] += addend(g->member[m], i, round);
    }
}

static void compare(thread *t, int64_t first, int64_t count)
{
    if (memcmp(t->x + first, t->expected + first, (size_t)count * sizeof *t->x) != 0) t->faults++;
}

/* Neighbours first, ((0 + 1) + (2 + 3)) or ((0 + 1) + 2). */
static void fill_tree(thread *t, const segment_group *g, int64_t n, int round)
{
    fill(t, g, n, round);
    for (int64_t i = 0; i < n && g->size > 2; i++) {
        float left = addend(g->member[0], i, round) + addend(g->member[1], i, round),
              right = addend(g->member[2], i, round);
        if (g->size == 4) right += addend(g->member[3], i, round);
        t->expected[i] = left + right;
    }
}

/* Every size in a different group, in all four ways. */
static void play(thread *t, ml_group group, int64_t n, int round)
{
    const segment_group *g = &t->segment.group[group];
    int64_t first = ml_part_start(n, g->size, g->rank), count = ml_part_count(n, g->size, g->rank);
    fill(t, g, n, round);
    segment_sum(&t->segment, group, t->x, n);
    compare(t, 0, n);
    fill_tree(t, g, n, round);
    segment_sum_tree(&t->segment, group, t->x, n);
    compare(t, 0, n);
    fill(t, g, n, round + 1);
    segment_reduce_scatter(&t->segment, group, t->x, n);
    compare(t, first, count);
    for (int64_t i = 0; i < n; i++)
        if (i < first || i >= first + count) t->x[i] = -1.0F;
    segment_allgather(&t->segment, group, t->x, n);
    compare(t, 0, n);
}

static void *run(void *argument)
{
    thread *t = argument;
    static const ml_group groups[] = {ML_GROUP_WORLD, ML_GROUP_TP, ML_GROUP_DP};
    int kinds = t->team->ranks == 4 ? 3 : 1;
    for (int round = 0; round < t->team->rounds; round++)
        for (int i = 0; i < SIZES; i++) {
            const struct timespec late = {.tv_nsec = 3 * 1000 * 1000};
            if (i == round % SIZES && t->rank == round % t->team->ranks) nanosleep(&late, NULL);
            play(t, groups[(i + round) % kinds], sizes[(i * 7 + round) % SIZES], round + i);
        }
    return NULL;
}

/* Half of the ranks' vectors where others can map them: each is added as it can be. */
static float *vector_of(const team *team, int rank)
{
    bool shareable = team->maps && rank % 2 == 0;
    ml_memory_share(shareable);
    float *x = ml_memory_alloc_shareable(FLOATS, sizeof *x, ML_MEM_OTHER, "a vector");
    ml_shareable block;
    assert_non_null(x);
    assert_int_equal(ml_memory_find_shareable(x, &block), shareable);
    return x;
}

static void check_mappings(segment *s, bool some)
{
    bool found = false;
    for (int i = 0; i < SEGMENT_MAPPINGS; i++) found = found || s->mapping[i].start;
#if defined(THREADS_ARE_WATCHED)
    some = false;
#endif
    assert_int_equal(found, some);
    segment_unmap_all(s);
}

static void check_team(int ranks, uint32_t start, int rounds, bool reads, bool maps)
{
    team team = {ranks, rounds, start, reads, maps, NULL};
    int calls = 0;
    thread *threads = calloc((size_t)ranks, sizeof *threads);
    pthread_t id[RANKS_MOST];
    team.memory = aligned_alloc(SEGMENT_FLAGS, (size_t)ranks * SEGMENT_BLOCK);
    assert_non_null(threads);
    assert_non_null(team.memory);
    memset(team.memory, 0xff, (size_t)ranks * SEGMENT_BLOCK);
    for (int i = 0; i < ranks; i++) {
        thread *t = &threads[i];
        t->team = &team;
        t->rank = i;
        t->x = vector_of(&team, i);
        t->expected = calloc(FLOATS, sizeof *t->x);
        assert_non_null(t->expected);
        memset(team.memory + (size_t)i * SEGMENT_BLOCK, 0, SEGMENT_FLAGS);
        join_all(t);
    }
    assert_true(segment_can_read(&threads[0].segment, ranks));
    for (int i = 0; i < ranks; i++)
        assert_int_equal(pthread_create(&id[i], NULL, run, &threads[i]), 0);
    for (int i = 0; i < ranks; i++) {
        assert_int_equal(pthread_join(id[i], NULL), 0);
        if (threads[i].faults > 0)
            fail_msg("rank %d of %d: %d vectors are wrong", i, ranks, threads[i].faults);
        calls += threads[i].calls;
        check_mappings(&threads[i].segment, maps && (i > 0 || ranks > 2));
        ml_memory_free(threads[i].x);
        free(threads[i].expected);
    }
    assert_true(calls > 0); /* a rank that waits for a late one looks after MPI */
    free(team.memory);
    free(threads);
}

static void sums_are_those_in_the_order_of_ranks(void **state)
{
    (void)state;
    for (int ranks = 2; ranks <= RANKS_MOST; ranks++) check_team(ranks, 0, 12, false, false);
}

static void long_vectors_are_read_where_they_lie(void **state)
{
    (void)state;
    for (int ranks = 2; ranks <= RANKS_MOST; ranks++) check_team(ranks, 0, 12, true, false);
}

static void long_vectors_are_mapped_where_they_can_be(void **state)
{
    (void)state;
    for (int ranks = 2; ranks <= RANKS_MOST; ranks++) check_team(ranks, 0, 12, true, true);
}

/* Another process in its place, or none. */
static void a_wrong_process_is_not_read(void **state)
{
    (void)state;
    segment s = {.memory = aligned_alloc(SEGMENT_FLAGS, SEGMENT_BLOCK)};
    assert_non_null(s.memory);
    segment_offer(&s);
    assert_true(segment_can_read(&s, 1));
    s.proof++;
    assert_false(segment_can_read(&s, 1));
    memset(s.memory, 0xff, SEGMENT_BLOCK);
    assert_false(segment_can_read(&s, 1));
    free(s.memory);
}

static void flags_wrap_around(void **state)
{
    (void)state;
    check_team(2, UINT32_MAX - 5, 2, false, false);
    check_team(4, UINT32_MAX - 40, 2, true, true);
}

/* Where `idle` says that a message is on its way nobody sleeps. */
static void nobody_sleeps_over_messages(void **state)
{
    (void)state;
    check_team(3, 0, 1, false, false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_are_those_in_the_order_of_ranks),
        cmocka_unit_test(long_vectors_are_read_where_they_lie),
        cmocka_unit_test(long_vectors_are_mapped_where_they_can_be),
        cmocka_unit_test(a_wrong_process_is_not_read),
        cmocka_unit_test(flags_wrap_around),
        cmocka_unit_test(nobody_sleeps_over_messages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
