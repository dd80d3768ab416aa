/* Sums of float vectors through memory that the ranks of a node share; no MPI in here.
 *
 * Each rank has a block of the segment: its flags, and two halves that hold a piece of its vector
 * each. The elements of a vector are divided into as many parts as a group has ranks, and each part
 * into pieces. Of the k-th piece a rank (1) writes the other ranks' parts into its half k mod 2,
 * (2) adds its own part up from where the others wrote it, in the order of their ranks, and leaves
 * the result there, and (3) copies the others' results. One rank adds an element, so all ranks have
 * the same bits, and the order of addition does not depend on who came first. While a rank adds a
 * piece, the next one is in the other half already: nobody waits for a rank that is a piece behind.
 *
 * Of a long vector the copies into halves would take most of the time. Where the kernel lets ranks
 * read each other's memory, they say where their vectors lie, and (2) and (3) read from there; who
 * is done waits until the others are, since they read what is the caller's. A vector in memory that
 * others can map (ml_memory_alloc_shareable) is added straight from there; else the kernel copies
 * it, piece by piece. Each rank decides that for itself.
 *
 * A flag counts pieces, is written by its owner alone, and is released after what it speaks of;
 * whoever reads the memory has acquired the flag before. Flags count for each group by itself;
 * halves are the same for all groups, so what a rank wrote is overwritten only when the group that
 * it was for has left it. */
#ifndef MPILORA_GRID_SEGMENT_H
#define MPILORA_GRID_SEGMENT_H

#include <stdatomic.h>

#include "mpilora/grid.h"

enum {
    SEGMENT_GROUPS = ML_GROUP_HEAD_TP + 1,
    SEGMENT_LINE = 64,         /* bytes of a line of the caches */
    SEGMENT_FLAGS = 4096,      /* bytes that a rank's flags lie in: a page */
    SEGMENT_HALF = 128 << 10,  /* bytes */
    SEGMENT_RANKS_MOST = 1024, /* so that a rank's part of a half is a line and more */
    SEGMENT_BLOCK = SEGMENT_FLAGS + 2 * SEGMENT_HALF, /* bytes of a rank */
    SEGMENT_LONG = 1 << 17,    /* floats from which on a vector is read where it lies */
    SEGMENT_READERS_MOST = 32, /* ranks that do so: each needs room for a page of every other's */
    /* Floats up to which a vector is mapped: its pages then count as both ranks'. */
    SEGMENT_MAPPED = 1 << 24,
    SEGMENT_MAPPINGS = 64 /* blocks of other ranks that stay mapped */
};

/* Of one rank in one group. Pieces so far that it has (1) written, (2) added up, (3) left for good;
 * how many ranks sleep until one of these changes; where its vector lies, if they read that, and
 * the block around it that they can map: of so many bytes, 0: there is none. */
typedef struct segment_flags {
    _Alignas(SEGMENT_LINE) _Atomic uint32_t written;
    _Atomic uint32_t added, left, sleepers;
    _Atomic uintptr_t vector;
    uintptr_t block;
    int64_t bytes;
    int fd;
    uint32_t serial;
} segment_flags;

/* A block of another rank's, at this rank's address; NULL: it cannot be mapped. */
typedef struct segment_mapping {
    int rank;
    uint32_t serial; /* 0: of nobody */
    int64_t bytes;
    void *start;
} segment_mapping;

/* The end of a rank's flags: its process, and a number that lies in its memory, by which the others
 * know that they read the right one. */
typedef struct segment_process {
    _Alignas(SEGMENT_LINE) int64_t id;
    uint64_t proof;
    uintptr_t where;
} segment_process;

/* The ranks of a group by their numbers in the segment. */
typedef struct segment_group {
    const int *member; /* [size], borrowed; NULL: not all of them are in this segment */
    int size, rank;
    uint32_t turn; /* pieces so far */
} segment_group;

/* What one rank knows of the segment. */
typedef struct segment {
    char *memory;
    int rank;   /* the number of its block */
    int looks;  /* at a flag, before it lets others have the core */
    bool reads; /* the ranks can read each other's memory */
    uint64_t proof;
    segment_group group[SEGMENT_GROUPS];
    struct {
        const segment_group *group; /* NULL: nobody */
        uint32_t left;              /* what its members' flags say when they need it no more */
    } reader[2];                    /* of what was last written into each half */
    segment_mapping mapping[SEGMENT_MAPPINGS];
    int oldest;
    /* Called again and again while a rank waits for long: whether it may sleep for a while. */
    bool (*idle)(void *self);
    void *self;
} segment;

/* Clears this rank's flags of a group, all of whose ranks are between two sums; they go on when
 * each has done so.
 * Local. */
void segment_reset(segment *s, ml_group group);

/* In place, over a group whose members are all in the segment: the sum on every rank, and the same
 * with its additions as a tree (ml_grid_sum_ordered); the two halves of it, as
 * ml_grid_reduce_scatter_float and ml_grid_allgather_float. Shapes: x[n]. Collective over the
 * group. */
void segment_sum(segment *s, ml_group group, float *x, int64_t n);
void segment_sum_tree(segment *s, ml_group group, float *x, int64_t n);
void segment_reduce_scatter(segment *s, ml_group group, float *x, int64_t n);
void segment_allgather(segment *s, ml_group group, float *x, int64_t n);

/* segment_read.c: says where this rank's memory is, in a segment that stays where it is; and, when
 * all have done so, whether this rank can read that of each of so many; and `bytes` of a rank's
 * memory. Local. */
void segment_offer(segment *s);
bool segment_can_read(const segment *s, int ranks);
void segment_read(const segment *s, int rank, uintptr_t from, void *to, int64_t bytes);

/* That rank's, where it has offered its memory. */
segment_process *segment_process_of(const segment *s, int rank);

/* segment_map.c: beside this rank's vector the block that it lies in, before the flag tells of it;
 * a vector of another rank that has told so, or NULL: it is to be read. And gives all of them back.
 * Local. */
void segment_tell_block(segment_flags *own, const float *x, int64_t n);
const float *segment_map(segment *s, int rank, const segment_flags *flags);
void segment_unmap_all(segment *s);

/* segment_wait.c: until another rank's flag says so many pieces; and to say so of one's own. */
void segment_wait(const segment *s, segment_flags *of, _Atomic uint32_t *flag, uint32_t pieces);
void segment_tell(segment_flags *own, _Atomic uint32_t *flag, uint32_t pieces);

#endif
