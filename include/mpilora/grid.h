/* grid: the process grid dp × tp (pp later) and its named collectives: the only MPI outside
 * analyze/.
 *
 * World rank = (dp_rank)·tp + tp_rank: tp fastest, so a tensor-parallel group sits inside a node.
 * The library never calls MPI elsewhere: a parallel routine is its local function plus one named
 * collective of this header.
 *
 * MPI's own errors are fatal (MPI_ERRORS_ARE_FATAL): collectives return void. Counts are int64_t
 * and are cut into pieces that fit MPI's int.
 */
#ifndef MPILORA_GRID_H
#define MPILORA_GRID_H

#include "mpilora/base.h"

typedef struct ml_grid ml_grid;

/* What the launcher that started this process (mpirun, mpiexec, srun, flux) left in its
 * environment. Read anew by each call; the texts are static. Local; needs no MPI. */
typedef struct ml_launch {
    const char *variable; /* that says so; NULL: no launcher is known of */
    const char *advice;   /* what to do where MPI does not see these ranks */
    int ranks;            /* started together with this one and by the same launcher; 1: it alone */
    bool speaks;          /* the one of them that tells what all of them have to say */
} ml_launch;
ml_launch ml_grid_launch(void);

/* Starts MPI where it is not started yet (a single process without a launcher is a world of one).
 * Idempotent. ML_USAGE where a launcher started several ranks that MPI does not join; ML_INTERNAL
 * where MPI does not start. Collective over the world. */
ml_status ml_grid_start(int *argc, char ***argv) ML_NODISCARD;

/* What has to be the same on every rank before they communicate; the whole is explained in
 * src/grid/inputs.c. ML_USAGE on every rank, naming the lowest-numbered rank that has something
 * other than rank 0, the hosts of both and what both have; `name` and `advice` are what the message
 * calls it and what it tells to do. Collective over the world; alone nothing happens. */
ml_status ml_grid_agree_on(const char *name, const char *value, const char *advice) ML_NODISCARD;
/* The same of a file's contents, by their hash: "the base", where it is here. */
ml_status ml_grid_agree_on_file(const char *kind, const char *path, const char *hash) ML_NODISCARD;
/* The same of a command line: what is named begins with the first word that differs. */
ml_status ml_grid_agree_on_words(int count, char *const *words) ML_NODISCARD;

/* What a text is: its name in messages, the bytes that it has at most, and the status where it
 * cannot be read or is larger. */
typedef struct ml_text_kind {
    const char *name;
    int64_t limit;
    ml_status unreadable;
} ml_text_kind;

/* Appends the contents of a file to `out`: world rank 0 reads it, once, and every rank gets its
 * bytes. `path` and `kind` are the same on every rank. kind->unreadable on every rank with rank 0's
 * reason, ML_RESOURCE. Collective over the world; before ml_grid_start this process reads. */
ml_status ml_grid_read_text(const char *path, const ml_text_kind *kind, ml_text *out) ML_NODISCARD;

void ml_grid_stop(void); /* MPI_Finalize where ml_grid_start started it */
void ml_grid_abort(
    int code); /* ends every rank at once with `code`; does not return where MPI runs */
int ml_grid_world_rank(void); /* 0 before ml_grid_start */
int ml_grid_world_size(void);

/* Collective over the world. dp = size / tp. ML_USAGE where tp does not divide the number of ranks
 * (both named). */
ml_status ml_grid_create(ml_grid **out, int tp) ML_NODISCARD;
void ml_grid_destroy(ml_grid *grid); /* collective */

int ml_grid_rank(const ml_grid *grid);
int ml_grid_size(const ml_grid *grid);
int ml_grid_tp(const ml_grid *grid);
int ml_grid_tp_rank(const ml_grid *grid);
int ml_grid_dp(const ml_grid *grid);
int ml_grid_dp_rank(const ml_grid *grid);
int ml_grid_nodes(const ml_grid *grid);         /* distinct shared-memory nodes of the world */
int ml_grid_ranks_on_node(const ml_grid *grid); /* the most on any node */

/* NODE: the world's ranks on this rank's node. REPLICA: those of them that hold the same shard of
 * the weights (the same tp rank). */
typedef enum ml_group {
    ML_GROUP_WORLD,
    ML_GROUP_TP,
    ML_GROUP_DP,
    ML_GROUP_NODE,
    ML_GROUP_REPLICA
} ml_group;

int ml_grid_group_size(const ml_grid *grid,
                       ml_group group); /* how many ranks this rank's group has */
int ml_grid_group_rank(const ml_grid *grid, ml_group group); /* this rank's number in it, from 0 */

/* Local statuses made one: each rank of the group gets ML_OK where none failed, else the status and
 * the error text of its lowest-numbered rank that failed, which names that rank and its host where
 * others did not fail. Between two collectives: what was done locally since the last one may have
 * failed, and every rank comes here. A failure that is agreed on may be recovered from, by all.
 * Collective over the group; ml_grid_agree over the world. */
ml_status ml_grid_agree_in(const ml_grid *grid, ml_group group, ml_status local) ML_NODISCARD;
ml_status ml_grid_agree(const ml_grid *grid, ml_status local) ML_NODISCARD;

/* The same at the end of a phase that has collectives of its own: a rank that failed in the middle
 * of it (an allocation) may have left partners in a sum that waits for it. Where not all ranks come
 * here within 2 s, a rank that failed prints its error text with its number and host and ends the
 * job with its status as the exit code, so this does not return then. A failure that was settled is
 * the end of a command: it is not recovered from, and to settle it again is to return it at once.
 * Collective over the world; before ml_grid_start `local` is returned. */
ml_status ml_grid_settle(ml_status local) ML_NODISCARD;

void ml_grid_sum_float(const ml_grid *grid, ml_group group, float *x,
                       int64_t n); /* in place, all ranks of the group get it */
void ml_grid_max_float(const ml_grid *grid, ml_group group, float *x, int64_t n);
void ml_grid_sum_double(const ml_grid *grid, ml_group group, double *x, int64_t n);
void ml_grid_max_double(const ml_grid *grid, ml_group group, double *x, int64_t n);
void ml_grid_max_int64(const ml_grid *grid, ml_group group, int64_t *x, int64_t n);
void ml_grid_sum_int64(const ml_grid *grid, ml_group group, int64_t *x, int64_t n);
void ml_grid_broadcast(const ml_grid *grid, ml_group group, int root, void *bytes, int64_t n);
void ml_grid_barrier(const ml_grid *grid);
/* The two halves of a sum, over the group's parts of x: of its members, the place-th has the
 * ml_part_count numbers from ml_part_start. Scatter_sum leaves the sum of its own part with each
 * (the rest of x is undefined then); gather_parts gives every part to all. n < 2³¹. */
void ml_grid_reduce_scatter_float(const ml_grid *grid, ml_group group, float *x, int64_t n);
void ml_grid_allgather_float(const ml_grid *grid, ml_group group, float *x, int64_t n);
/* Point to point inside the world (checkpoints): bytes of any count. */
void ml_grid_send(const ml_grid *grid, int to, const void *bytes, int64_t n);
void ml_grid_receive(const ml_grid *grid, int from, void *bytes, int64_t n);

/* Bytes that this rank passed to sums and maxima over a group so far; nothing is passed in a group
 * of one. */
int64_t ml_grid_summed_bytes(const ml_grid *grid, ml_group group);
/* Time that this rank spent inside this header's collectives so far: moving data, and waiting for
 * ranks that came later. */
double ml_grid_comm_seconds(const ml_grid *grid);

/* ---- memory that the replicas of a node hold together -------------------------------------- */

/* One block, the same physical memory in every rank of the group REPLICA. */
typedef struct ml_shared ml_shared;

/* Not initialised; aligned to a page. The block is a memory file without a name, which ranks that
 * cannot open each other's (user name spaces of their own) replace by an MPI-3 shared window;
 * either way nothing is left behind however a rank ends. MPILORA_SHARED_MEMORY=file or =window in
 * the environment takes one way alone. The group's first rank accounts for all bytes, the others
 * for none, so that a node's sum counts them once. ML_RESOURCE on every rank of the group where
 * neither way is open, with the bytes and the reason. Collective over REPLICA; owned by the
 * caller. */
ml_status ml_grid_share(ml_shared **out, const ml_grid *grid, int64_t bytes, ml_category category,
                        const char *what) ML_NODISCARD;
void *ml_shared_data(const ml_shared *shared);
/* Takes the pages of this rank's part of the block, the place-th of as many equal ones as the
 * group has ranks: in the domain of this rank's threads, as huge pages where possible, and so that
 * memory that runs out is an error here and no signal later. ML_RESOURCE. Local. */
ml_status ml_shared_take_pages(ml_shared *shared) ML_NODISCARD;
/* All parts are written: from here on the block can only be read. Collective over REPLICA. */
void ml_shared_seal(ml_shared *shared);
void ml_shared_destroy(ml_shared *shared); /* collective over REPLICA; NULL is fine */

#endif
