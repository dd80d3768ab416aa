/* A training run of mpilora under SimGrid's SMPI: a thousand ranks in one process, on a described
 * cluster. Everything above the kernels is the program's own code, of the same objects that the
 * program is linked from: the run, its steps, sessions, models, methods, the pipeline, the
 * gradients' sums, checkpoints; and src/grid, compiled against SMPI's mpi.h.
 *
 * What is replaced, each in a file of its own:
 *   kernels.c    a kernel computes nothing, and takes the time that the machine's file says
 *   clock.c      ml_seconds tells the simulation's time
 *   messages.c   the MPI library's sums and large messages, on memory that all ranks have once
 *   memory.c     large memory is reserved and never touched; weights are not read, factors not
 * drawn main.c       `mpilora train` without its options
 *
 * So a rank needs some MB, whatever its shard of the model would. Threads do not exist: a rank's
 * kernels take their time on its cores divided by how many these are. */
#ifndef MPILORA_TESTS_SIMULATE_H
#define MPILORA_TESTS_SIMULATE_H

#include "mpilora/plan.h"

/* ---- clock.c ------------------------------------------------------------------------------- */

/* This rank computes for so many seconds. They pass before its next call of MPI, all at once. */
void clock_spend(double seconds);
void clock_pass(void);

/* ---- kernels.c ----------------------------------------------------------------------------- */

/* The machine whose rates kernels have; borrowed until the end. */
void kernels_use(const ml_machine *machine, double cores, double ranks_on_node);
/* So many floats are copied. */
void kernels_move(double floats);

/* ---- memory.c ------------------------------------------------------------------------------ */

/* From this many bytes on a message's contents are of no importance, as are those of a copy. */
enum { LARGE_BYTES = 64 << 10 };
void memory_start(void);
/* Whether so many bytes lie in memory that is reserved alone. */
bool memory_is_empty(const void *at, int64_t bytes);

/* ---- messages.c ---------------------------------------------------------------------------- */

/* The memory that large messages lie in, and where the ranks are. Collective over the world. */
void messages_start(void);
int messages_ranks_on_node(void);

/* What this rank sent so far: of large sums, between stages, and point to point for checkpoints; to
 * ranks of its node, and to others. Bytes. */
typedef enum message_kind { MESSAGE_SUM, MESSAGE_PIPE, MESSAGE_GATHER, MESSAGE_KINDS } message_kind;
enum { MESSAGE_INSIDE, MESSAGE_BETWEEN, MESSAGE_WAYS };
typedef struct messages_sent {
    int64_t bytes[MESSAGE_KINDS][MESSAGE_WAYS];
} messages_sent;
messages_sent messages_count(void);

#endif
