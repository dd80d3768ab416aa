/* grid: the process grid pp × dp × cp × tp and its named collectives: the only MPI outside
 * analyze/.
 *
 * World rank = ((stage·dp + dp_rank)·cp + cp_rank)·tp + tp_rank: tp fastest, so a tensor-parallel
 * group sits inside a node, then cp, whose ranks share out the tokens of each sequence and pass
 * each other keys and values in every layer; stages of a pipeline slowest, since they exchange
 * least. Ranks that hold the same shard of the weights are replicas of each other, dp · cp of them;
 * only dp of them have sequences of their own.
 * The library never calls MPI elsewhere: a parallel routine is its local function plus one named
 * collective of this header.
 *
 * MPI's own errors are fatal (MPI_ERRORS_ARE_FATAL): collectives return void. Counts are int64_t
 * and are cut into pieces that fit MPI's int.
 */
#ifndef MPILORA_GRID_H
#define MPILORA_GRID_H

#include "mpilora/base.h"
#include "mpilora/exact.h"
#include "mpilora/version.h"

ML_BEGIN_DECLS

typedef struct ml_grid ml_grid;

/* What the launcher that started this process (mpirun, mpiexec, srun, flux) left in its
 * environment. Read anew by each call; the texts are static. Local; needs no MPI. */
typedef struct ml_launch {
    const char *variable; /* that says so; NULL: no launcher is known of */
    const char *advice;   /* what to do where MPI does not see these ranks */
    int ranks;            /* started together with this one and by the same launcher; 1: it alone */
    bool speaks;          /* the one of them that tells what all of them have to say */
} ml_launch;

/* What the launcher left in the environment, read anew by each call; needs no MPI.
 * Shapes: none.
 * Ownership: the texts are static.
 * Local.
 * Errors: none. */
ml_launch ml_grid_launch(void);

/* What a thread calls, every quarter of a second, where the launcher is killed while this process
 * is in ml_grid_start, in which it would wait without an end: to end it, since the library never
 * does. NULL, as it is at first: nobody looks. Call it before ml_grid_start.
 * Shapes: none.
 * Ownership: none.
 * Local.
 * Errors: none. */
void ml_grid_on_launcher_lost(void (*lost)(void));

/* Starts MPI where it is not started yet (a single process without a launcher is a world of one).
 * Idempotent.
 * Shapes: none.
 * Ownership: none.
 * Collective over the world.
 * Errors: ML_USAGE where a launcher started several ranks that MPI does not join; ML_INTERNAL
 * where MPI does not start. */
ml_status ml_grid_start(int *argc, char ***argv) ML_NODISCARD;

/* What has to be the same on every rank before they communicate; the whole is explained in
 * src/grid/inputs.c. `name` and `advice` are what the message calls it and what it tells to do.
 * Alone nothing happens.
 * Shapes: none.
 * Ownership: all borrowed.
 * Collective over the world.
 * Errors: ML_USAGE on every rank, naming the lowest-numbered rank that has something other than
 * rank 0, the hosts of both and what both have. */
ml_status ml_grid_agree_on(const char *name, const char *value, const char *advice) ML_NODISCARD;

/* The same of a file's contents, by their hash: "the base", where it is here.
 * Shapes: none.
 * Ownership: all borrowed.
 * Collective over the world.
 * Errors: ML_USAGE as ml_grid_agree_on. */
ml_status ml_grid_agree_on_file(const char *kind, const char *path, const char *hash) ML_NODISCARD;

/* The same of a command line: what is named begins with the first word that differs.
 * Shapes: words[count].
 * Ownership: all borrowed.
 * Collective over the world.
 * Errors: ML_USAGE as ml_grid_agree_on. */
ml_status ml_grid_agree_on_words(int count, char *const *words) ML_NODISCARD;

/* What a text is: its name in messages, the bytes that it has at most, and the status where it
 * cannot be read or is larger. */
typedef struct ml_text_kind {
    const char *name;
    int64_t limit;
    ml_status unreadable;
} ml_text_kind;

/* Appends the contents of a file to `out`: world rank 0 reads it, once, and every rank gets its
 * bytes. `path` and `kind` are the same on every rank. Before ml_grid_start this process reads.
 * Shapes: bytes, at most kind->limit.
 * Ownership: `out` is the caller's.
 * Collective over the world.
 * Errors: kind->unreadable on every rank with rank 0's reason; ML_RESOURCE. */
ml_status ml_grid_read_text(const char *path, const ml_text_kind *kind, ml_text *out) ML_NODISCARD;

/* Every rank gets the text that world rank 0 has, in the place of its own. Before ml_grid_start it
 * is this process's.
 * Shapes: bytes.
 * Ownership: `text` is the caller's.
 * Collective over the world.
 * Errors: ML_RESOURCE. */
ml_status ml_grid_share_text(ml_text *text) ML_NODISCARD;

/* MPI_Finalize where ml_grid_start started MPI.
 * Shapes: none.
 * Ownership: none.
 * Collective over the world.
 * Errors: none. */
void ml_grid_stop(void);

/* Finds the MPI that runs: version and file. MPI need not be started.
 * Shapes: none.
 * Ownership: `out` is the caller's.
 * Local.
 * Errors: none. */
void ml_grid_library(ml_library *out);

/* Ends every rank at once with the exit code `code`; does not return where MPI runs.
 * Shapes: none.
 * Ownership: none.
 * Local.
 * Errors: none. */
void ml_grid_abort(int code);

/* This rank's number in the world, 0 before ml_grid_start, and how many there are, 1 before it.
 * Shapes: none.
 * Ownership: none.
 * Local.
 * Errors: none. */
int ml_grid_world_rank(void);
int ml_grid_world_size(void);

/* How the ranks are divided. */
typedef struct ml_grid_shape {
    int tp, cp, pp; /* ranks of a tensor-parallel group, and of those that share out a sequence;
                       stages */
} ml_grid_shape;

/* The grid of all ranks in this shape, or of tp alone: dp = size / (tp·cp·pp).
 * Shapes: none.
 * Ownership: *out is the caller's, who ends it with ml_grid_destroy.
 * Collective over the world.
 * Errors: ML_USAGE where tp, tp·cp, or tp·cp·pp does not divide the number of ranks, with what
 * would, or where MPILORA_SUMS is unknown; ML_RESOURCE. */
ml_status ml_grid_create(ml_grid **out, int tp) ML_NODISCARD;
ml_status ml_grid_create_shape(ml_grid **out, ml_grid_shape shape) ML_NODISCARD;

/* Whether so many ranks can be divided so.
 * Shapes: none.
 * Ownership: none.
 * Local.
 * Errors: ML_USAGE as ml_grid_create_shape. */
ml_status ml_grid_check_shape(int ranks, ml_grid_shape shape) ML_NODISCARD;

enum { ML_GRID_DIVISORS = 256 };
/* Lists for such texts every number that divides so many ranks, as "1, 2 or 4".
 * Shapes: none.
 * Ownership: the result is `out`.
 * Local.
 * Errors: none. */
const char *ml_grid_list_divisors(int ranks, char out[ML_GRID_DIVISORS]);

/* Ends a grid; NULL is fine.
 * Shapes: none.
 * Ownership: takes `grid`.
 * Collective over the world.
 * Errors: none. */
void ml_grid_destroy(ml_grid *grid);

/* This rank's number and the number of ranks, in the world, in its tp group, among those that share
 * out its sequences, among the dp groups of these, among the dp · cp replicas of its shard of the
 * weights (number dp_rank·cp + cp_rank), and among the stages; distinct shared-memory nodes of the
 * world, and the most ranks on any of them.
 * Shapes: none.
 * Ownership: borrows `grid`.
 * Local.
 * Errors: none. */
int ml_grid_rank(const ml_grid *grid);
int ml_grid_size(const ml_grid *grid);
int ml_grid_tp(const ml_grid *grid);
int ml_grid_tp_rank(const ml_grid *grid);
int ml_grid_cp(const ml_grid *grid);
int ml_grid_cp_rank(const ml_grid *grid);
int ml_grid_dp(const ml_grid *grid);
int ml_grid_dp_rank(const ml_grid *grid);
int ml_grid_replicas(const ml_grid *grid);
int ml_grid_replica(const ml_grid *grid);
int ml_grid_pp(const ml_grid *grid);
int ml_grid_stage(const ml_grid *grid);
int ml_grid_nodes(const ml_grid *grid);
int ml_grid_ranks_on_node(const ml_grid *grid);

/* In the place of a stage's number: every stage holds it. */
enum { ML_STAGE_EVERY = -1 };

/* The world rank that stands at a place of the grid.
 * Shapes: none.
 * Ownership: borrows `grid`.
 * Local.
 * Errors: none. */
int ml_grid_rank_at(const ml_grid *grid, int stage, int replica, int tp_rank);

/* STAGE: the world's ranks that hold this rank's layers; TP, DP, CP and BATCH lie in it. DP: the
 * replicas of this rank's shard, dp · cp of them, in their order. CP: those of them that share out
 * the same sequences; BATCH: the ranks of the stage that work on these, tp · cp of them. PIPE: one
 * rank of each stage, with the same tp rank and replica, in their order; ENDS: the first and the
 * last of them, elsewhere this rank alone. NODE: the world's ranks on this rank's node. REPLICA:
 * those of them that hold the same shard of the weights (the same stage and tp rank). HEAD: the
 * stage's ranks that hold the same key/value head, which `copies` neighbours of a tp group do;
 * HEAD_TP: those neighbours. This rank alone, until ml_grid_group_heads makes them. */
typedef enum ml_group {
    ML_GROUP_WORLD,
    ML_GROUP_TP,
    ML_GROUP_DP,
    ML_GROUP_CP,
    ML_GROUP_BATCH,
    ML_GROUP_STAGE,
    ML_GROUP_PIPE,
    ML_GROUP_ENDS,
    ML_GROUP_NODE,
    ML_GROUP_REPLICA,
    ML_GROUP_HEAD,
    ML_GROUP_HEAD_TP
} ml_group;

/* Makes the groups HEAD and HEAD_TP, unless they are there for as many copies.
 * Shapes: `copies` divides tp.
 * Ownership: borrows `grid`.
 * Collective over the stage.
 * Errors: MPI's are fatal. */
void ml_grid_group_heads(const ml_grid *grid, int copies);

/* From here on this rank ends its process, with one line and ML_RESOURCE as the exit code, when it
 * has waited for others in one exchange for longer than `seconds`: their node is gone, or the way
 * to it. Of the ranks of a node the first speaks; the launcher then ends the others, who follow by
 * themselves where it cannot.
 * Shapes: seconds > 0.
 * Ownership: borrows `grid`, which ends it with itself.
 * Local.
 * Errors: ML_RESOURCE. */
ml_status ml_grid_limit_waits(ml_grid *grid, double seconds) ML_NODISCARD;

/* How many ranks this rank's group has, and this rank's number in it, from 0.
 * Shapes: none.
 * Ownership: borrows `grid`.
 * Local.
 * Errors: none. */
int ml_grid_group_size(const ml_grid *grid, ml_group group);
int ml_grid_group_rank(const ml_grid *grid, ml_group group);

/* Makes local statuses one. Between two collectives: what was done locally since the last one may
 * have failed, and every rank comes here. A failure that is agreed on may be recovered from, by
 * all.
 * ml_grid_agree: over the world.
 * Shapes: none.
 * Ownership: borrows `grid`.
 * Collective over the group.
 * Errors: each rank of the group gets ML_OK where none failed, else the status and the error text
 * of its lowest-numbered rank that failed, which names that rank and its host where others did not
 * fail. */
ml_status ml_grid_agree_in(const ml_grid *grid, ml_group group, ml_status local) ML_NODISCARD;
ml_status ml_grid_agree(const ml_grid *grid, ml_status local) ML_NODISCARD;

/* The same at the end of a phase that has collectives of its own: a rank that failed in the middle
 * of it (an allocation) may have left partners in a sum that waits for it. Where not all ranks
 * come here within 2 s, a rank that failed prints its error text with its number and host and ends
 * the job with its status as the exit code, so this does not return then. A failure that was
 * settled is the end of a command: it is not recovered from, and to settle it again is to return
 * it at once. Before ml_grid_start `local` is returned.
 * Shapes: none.
 * Ownership: none.
 * Collective over the world.
 * Errors: as ml_grid_agree_in. */
ml_status ml_grid_settle(ml_status local) ML_NODISCARD;

/* Sums and maxima over the group's ranks, in place; all of them get the result.
 * Shapes: x[n].
 * Ownership: borrows `grid`; x is the caller's.
 * Collective over the group.
 * Errors: MPI's are fatal. */
void ml_grid_sum_float(const ml_grid *grid, ml_group group, float *x, int64_t n);
void ml_grid_max_float(const ml_grid *grid, ml_group group, float *x, int64_t n);
void ml_grid_sum_double(const ml_grid *grid, ml_group group, double *x, int64_t n);
void ml_grid_max_double(const ml_grid *grid, ml_group group, double *x, int64_t n);
void ml_grid_max_int64(const ml_grid *grid, ml_group group, int64_t *x, int64_t n);
void ml_grid_sum_int64(const ml_grid *grid, ml_group group, int64_t *x, int64_t n);

/* Exact sums (exact.h) over the group's ranks, in place: the same bits whatever the ranks' order
 * and number.
 * Shapes: x[n], or one.
 * Ownership: borrows `grid`; x is the caller's.
 * Collective over the group.
 * Errors: MPI's are fatal. */
void ml_grid_sum_fixed(const ml_grid *grid, ml_group group, ml_fixed *x, int64_t n);
void ml_grid_sum_exact(const ml_grid *grid, ml_group group, ml_exact *x);

/* The same sum of floats with a fixed order of additions, wherever the ranks are: those of a group
 * of 2^k ranks or three are added as a tree, of two neighbouring ranks first, then of these sums
 * ((0 + 1) + (2 + 3)), so that a rank with the sum of some neighbours stands for them.
 * Shapes: x[n].
 * Ownership: borrows `grid`; x is the caller's.
 * Collective over the group.
 * Errors: MPI's are fatal. */
void ml_grid_sum_ordered(const ml_grid *grid, ml_group group, float *x, int64_t n);

/* Whether sums of floats over this group (the two halves of a sum, too) go through memory that its
 * ranks share, as they do where these lie on one node and can see each other's: in the order of the
 * ranks, the same bits on all of them. Else MPI sums, as it does everything else.
 * MPILORA_SUMS=mpi in the environment lets MPI do it all.
 * Shapes: none.
 * Ownership: borrows `grid`.
 * Local.
 * Errors: none. */
bool ml_grid_shares_sums(const ml_grid *grid, ml_group group);

/* From here on (or, false, no longer) MPI sums all vectors, to be compared with.
 * Shapes: none.
 * Ownership: borrows `grid`.
 * Collective over the world.
 * Errors: none. */
void ml_grid_sum_by_mpi(ml_grid *grid, bool always);

/* What a rank accounts for (category communication) so that sums go through shared memory, where
 * there are so many ranks on its node.
 * Shapes: bytes.
 * Ownership: none.
 * Local.
 * Errors: none. */
int64_t ml_grid_sums_bytes(int ranks_on_node);

/* What a process then has resident of other ranks' memory after sums of a vector of so many floats
 * over so many ranks of a node, where it is mapped to be read; nobody accounts for it.
 * Shapes: bytes.
 * Ownership: none.
 * Local.
 * Errors: none. */
int64_t ml_grid_mapped_bytes(int ranks, int64_t floats);

/* The root's bytes on every rank of the group.
 * Shapes: bytes[n].
 * Ownership: borrows `grid`; the bytes are the caller's.
 * Collective over the group.
 * Errors: MPI's are fatal. */
void ml_grid_broadcast(const ml_grid *grid, ml_group group, int root, void *bytes, int64_t n);

/* Every rank of the world has come here when it returns.
 * Shapes: none.
 * Ownership: borrows `grid`.
 * Collective over the world.
 * Errors: MPI's are fatal. */
void ml_grid_barrier(const ml_grid *grid);

/* The two halves of a sum, over the group's parts of x: its i-th rank has the ml_part_count numbers
 * from ml_part_start. reduce_scatter leaves with each rank the sum of its own part (the rest of x
 * is undefined then); allgather gives every part to all.
 * Shapes: x[n], n < 2³¹.
 * Ownership: borrows `grid`; x is the caller's.
 * Collective over the group.
 * Errors: MPI's are fatal. */
void ml_grid_reduce_scatter_float(const ml_grid *grid, ml_group group, float *x, int64_t n);
void ml_grid_allgather_float(const ml_grid *grid, ml_group group, float *x, int64_t n);

/* Rows of a matrix that a rank has, in runs of neighbours: run i is rows first[i] … first[i] +
 * rows[i] − 1. Borrowed. */
typedef struct ml_row_runs {
    int count;
    const int *first, *rows;
} ml_row_runs;

/* A matrix whose rows are shared out over the group, of[r] being those of its rank r. gather: each
 * rank has its own rows and gets the others'. scatter_sums: each rank has all rows, and its own
 * ones become the sum over the ranks; `room` is for as many rows as it has itself.
 * Shapes: x[rows, width], of[group size], room[own rows, width].
 * Ownership: all borrowed.
 * Collective over the group.
 * Errors: MPI's are fatal. */
void ml_grid_gather_rows(const ml_grid *grid, ml_group group, const ml_row_runs *of, int64_t width,
                         float *x);
void ml_grid_scatter_row_sums(const ml_grid *grid, ml_group group, const ml_row_runs *of,
                              int64_t width, float *x, float *room);

/* What this rank sent in these two so far.
 * Shapes: bytes.
 * Ownership: borrows `grid`.
 * Local.
 * Errors: none. */
int64_t ml_grid_row_bytes(const ml_grid *grid);

/* Point to point inside the world, for what a checkpoint gathers.
 * Shapes: bytes[n], any n.
 * Ownership: borrows `grid`; the bytes are the caller's.
 * Collective over the two ranks.
 * Errors: MPI's are fatal. */
void ml_grid_send(const ml_grid *grid, int to, const void *bytes, int64_t n);
void ml_grid_receive(const ml_grid *grid, int from, void *bytes, int64_t n);

typedef enum ml_direction { ML_TO_NEXT, ML_TO_PREVIOUS } ml_direction;

/* Between neighbouring stages of a pipe. Sending returns at once: x must stay as it is until the
 * next send in this direction, or ml_grid_pipe_wait, which both return only when the neighbour has
 * taken what was sent before. Receiving returns how many numbers the neighbour sent, at most
 * `most`; it may send none.
 * Shapes: x[n], n < 2³¹; counts of floats.
 * Ownership: borrows `grid`; x is the caller's.
 * Collective over the two ranks.
 * Errors: MPI's are fatal, a message of more than `most` among them. */
void ml_grid_pipe_send(const ml_grid *grid, ml_direction direction, const float *x, int64_t n);
int64_t ml_grid_pipe_receive(const ml_grid *grid, ml_direction direction, float *x, int64_t most);
void ml_grid_pipe_wait(const ml_grid *grid, ml_direction direction);

/* From the last stage of a pipe to all others. Telling returns at once: x must stay as it is until
 * ml_grid_pipe_told with the same `place`, which returns when all have taken it. What is told comes
 * in its order; hearing returns when x is there.
 * Shapes: x[rows, width], both < 2³¹; place: 0 … pp − 1.
 * Ownership: borrows `grid`; x is the caller's.
 * Collective over the pipe: for each call of the last stage one of every other.
 * Errors: MPI's are fatal. */
void ml_grid_pipe_tell(const ml_grid *grid, int place, const float *x, int64_t rows, int64_t width);
void ml_grid_pipe_told(const ml_grid *grid, int place);
void ml_grid_pipe_hear(const ml_grid *grid, float *x, int64_t rows, int64_t width);

/* What this rank sent to its neighbours in the pipe so far.
 * Shapes: bytes.
 * Ownership: borrows `grid`.
 * Local.
 * Errors: none. */
int64_t ml_grid_piped_bytes(const ml_grid *grid);

/* What this rank passed to sums and maxima over a group so far; nothing is passed in a group of
 * one.
 * Shapes: bytes.
 * Ownership: borrows `grid`.
 * Local.
 * Errors: none. */
int64_t ml_grid_summed_bytes(const ml_grid *grid, ml_group group);

/* Time that this rank spent inside this header's collectives so far: moving data, and waiting for
 * ranks that came later.
 * Shapes: seconds.
 * Ownership: borrows `grid`.
 * Local.
 * Errors: none. */
double ml_grid_comm_seconds(const ml_grid *grid);

/* ---- memory that the replicas of a node hold together -------------------------------------- */

/* One block, the same physical memory in every rank of the group REPLICA. */
typedef struct ml_shared ml_shared;

/* Not initialised memory that the ranks of REPLICA hold together. It is a memory file without a
 * name, which ranks that cannot open each other's (user name spaces of their own) replace by an
 * MPI-3 shared window; either way nothing is left behind however a rank ends.
 * MPILORA_SHARED_MEMORY=file or =window in the environment takes one way alone. The group's first
 * rank accounts for `counted` bytes, the others for none, so that a node's sum counts them once.
 * Shapes: bytes; aligned to a page.
 * Ownership: *out is the caller's, who ends it with ml_shared_destroy.
 * Collective over REPLICA.
 * Errors: ML_RESOURCE on every rank of the group where neither way is open, with the bytes and the
 * reason. */
ml_status ml_grid_share(ml_shared **out, const ml_grid *grid, int64_t bytes, int64_t counted,
                        ml_category category, const char *what) ML_NODISCARD;

/* Where the block begins in this rank.
 * Shapes: bytes as shared.
 * Ownership: borrowed from `shared`.
 * Local.
 * Errors: none. */
void *ml_shared_data(const ml_shared *shared);

/* Whether its pages are not MPI's, so that a file can be laid over them in this rank.
 * Shapes: none.
 * Ownership: borrows `shared`.
 * Local.
 * Errors: none. */
bool ml_shared_is_own(const ml_shared *shared);

/* Takes the pages of this rank's part of the block, the i-th of as many equal ones as the group
 * has ranks: in the domain of this rank's threads, as huge pages where possible, and so that
 * memory that runs out is an error here and no signal later.
 * Shapes: laid[count]: the pieces over which a file was laid, ascending; their pages are left out.
 * Ownership: borrows all.
 * Local.
 * Errors: ML_RESOURCE. */
ml_status ml_shared_take_pages(ml_shared *shared, const ml_memory_span *laid,
                               int64_t count) ML_NODISCARD;

/* All parts are written: from here on the block can only be read.
 * Shapes: none.
 * Ownership: borrows `shared`.
 * Collective over REPLICA.
 * Errors: none. */
void ml_shared_seal(ml_shared *shared);

/* Gives the block up; NULL is fine.
 * Shapes: none.
 * Ownership: takes `shared`.
 * Collective over REPLICA.
 * Errors: none. */
void ml_shared_destroy(ml_shared *shared);

ML_END_DECLS

#endif
