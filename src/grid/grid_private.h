/* What the files of grid/ share. */
#ifndef MPILORA_GRID_GRID_PRIVATE_H
#define MPILORA_GRID_GRID_PRIVATE_H

#include <mpi.h>
#include <pthread.h>
#include <stdatomic.h>

#include "grid/segment.h"

enum { GROUPS = SEGMENT_GROUPS };

struct ml_grid {
    MPI_Comm group[GROUPS]; /* by ml_group, and so are the next two; MPI_COMM_NULL: not made */
    int group_size[GROUPS], group_rank[GROUPS];
    int rank, size, tp, tp_rank, cp, cp_rank, dp, dp_rank, pp, stage, nodes, ranks_on_node;
    int copies;                  /* that the groups of heads were made for; 0: they were not */
    int *count, *start;          /* [size] each: parts of an array, while a collective runs */
    double seconds;              /* inside collectives */
    _Atomic double inside_since; /* when this rank began to exchange something; 0: it does not */
    struct patience *patience;   /* NULL: it waits for as long as it takes */
    int64_t summed[GROUPS];      /* bytes passed to sums and maxima of a group */
    MPI_Request sent[2];         /* by ml_direction: what a neighbour may not have taken yet */
    int64_t piped;               /* bytes sent to neighbours */
    int64_t row_bytes;           /* sent in rows.c */
    MPI_Request *told; /* [pp, pp − 1] of the last stage: what others may not have taken yet */
    ml_shared *shared; /* where sums go on this node; NULL: through MPI */
    segment segment;   /* in it */
    int segment_ranks; /* of this node */
    int *member;       /* [GROUPS][segment_ranks]: segment.h's */
    bool by_mpi;       /* all sums, whatever there is */
};

/* launcher.c: that MPI sees the ranks that were started. ML_USAGE. Local, after MPI_Init. */
ml_status grid_check_launch(void) ML_NODISCARD;

/* collective.c: this rank is about to exchange something with others, and has: since then. */
double grid_enter(const ml_grid *grid);
void grid_leave(const ml_grid *grid, double since);

/* rows.c: a row of so many floats, so that MPI's counts, of 31 bits, are of rows. The caller frees
 * it. */
MPI_Datatype grid_row_type(int64_t width);

/* looker.c: a thread that calls look(context) every quarter of a second until it is stopped, with
 * all signals blocked. Local. */
typedef struct looker {
    void (*look)(const void *context);
    const void *context; /* borrowed */
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t stopped;
    bool stop;
} looker;
bool looker_start(looker *l, void (*look)(const void *context), const void *context);
void looker_stop(looker *l); /* one that was started; `look` does not run any more then */

/* launcher_watch.c: between the two, a launcher that is gone is told as ml_grid_on_launcher_lost
 * says. Local, around MPI_Init. */
void launcher_watch_start(void);
void launcher_watch_stop(void);

/* patience.c: the thread that ml_grid_limit_waits has started. */
void patience_stop(ml_grid *grid);

/* sums.c: whether MPILORA_SUMS is a word that it knows. ML_USAGE. Local. */
ml_status sums_check(void) ML_NODISCARD;
/* share.c: the same of MPILORA_SHARED_MEMORY. */
ml_status share_check(void) ML_NODISCARD;
/* The segment of this rank's node, where one can be made; nothing is said where none can.
 * Collective over the node. */
void sums_start(ml_grid *grid);
/* The groups of heads were made anew. Collective over the stage. */
void sums_renew_heads(ml_grid *grid);
void sums_stop(ml_grid *grid);
/* The segment, where sums over the group go through it; else NULL. */
segment *sums_segment(const ml_grid *grid, ml_group group);

/* agree.c: the communicator that ml_grid_settle uses. Collective over the world. */
void settling_start(void);
void settling_stop(void);

#endif
