/* What stands between src/grid and SMPI: MPI's profiling interface. Before every call of MPI the
 * rank's computing passes. Large messages lie in one block that SMPI folds into a page: neither
 * they nor what is summed of them is there. SMPI's own sums would hold copies and add them up, so
 * large ones are done here, by the messages that Open MPI's algorithms send (Thakur, Rabenseifner
 * and Gropp 2005): halving and doubling where the ranks are a power of two, else a ring, which the
 * halves of a sum always are. Small ones are SMPI's, with their values. */
#include <mpi.h>
#include <smpi/smpi.h>
#include <stdlib.h>

#include "simulate.h"

static char *folded; /* one for all ranks */
static const size_t folded_bytes = (size_t)1 << 29;
static int *node_of; /* [ranks of the world] */
static messages_sent sent;

/* ---- start --------------------------------------------------------------------------------- */

void messages_start(void)
{
    int rank, size, node = 0;
    MPI_Comm here;
    PMPI_Comm_rank(MPI_COMM_WORLD, &rank);
    PMPI_Comm_size(MPI_COMM_WORLD, &size);
    if (rank == 0) folded = SMPI_SHARED_MALLOC(folded_bytes);
    PMPI_Bcast(&folded, (int)sizeof folded, MPI_BYTE, 0, MPI_COMM_WORLD);
    node_of = calloc((size_t)size, sizeof *node_of);
    if (!node_of) abort();
    PMPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &here);
    node = rank; /* a node is called by its first rank */
    PMPI_Bcast(&node, 1, MPI_INT, 0, here);
    PMPI_Allgather(&node, 1, MPI_INT, node_of, 1, MPI_INT, MPI_COMM_WORLD);
    PMPI_Comm_free(&here);
}

int messages_ranks_on_node(void)
{
    int size, most = 0;
    PMPI_Comm_size(MPI_COMM_WORLD, &size);
    for (int i = 0, first = 0; i < size; i++) {
        if (node_of[i] != node_of[first]) first = i;
        most = most > i - first + 1 ? most : i - first + 1;
    }
    return most;
}

messages_sent messages_count(void) { return sent; }

/* ---- large messages ------------------------------------------------------------------------ */

static int64_t bytes_of(int64_t count, MPI_Datatype type)
{
    int size;
    PMPI_Type_size(type, &size);
    return count * size;
}

/* `own`, or the folded block in its place. */
static void *contents(const void *own, int64_t bytes)
{
    if (bytes < LARGE_BYTES) return (void *)(uintptr_t)own;
    if ((size_t)bytes <= folded_bytes) return folded;
    fprintf(stderr, "simulate: a message of %lld bytes is more than the %zu of messages.c\n",
            (long long)bytes, folded_bytes);
    PMPI_Abort(MPI_COMM_WORLD, ML_USAGE);
    return NULL;
}

/* Which ranks of a communicator are on this rank's node; kept, since all messages ask. */
enum { COMMUNICATORS_MOST = 32 };
static struct {
    MPI_Comm comm;
    bool *inside;
} known[COMMUNICATORS_MOST];
static int known_count;

static bool *find_inside(MPI_Comm comm)
{
    MPI_Group members, world;
    int size, own;
    PMPI_Comm_rank(MPI_COMM_WORLD, &own);
    PMPI_Comm_size(comm, &size);
    PMPI_Comm_group(comm, &members);
    PMPI_Comm_group(MPI_COMM_WORLD, &world);
    bool *inside = calloc((size_t)size, sizeof *inside);
    if (!inside) abort();
    for (int i = 0, rank; i < size; i++) {
        PMPI_Group_translate_ranks(members, 1, &i, world, &rank);
        inside[i] = node_of[rank] == node_of[own];
    }
    PMPI_Group_free(&members);
    PMPI_Group_free(&world);
    return inside;
}

static const bool *inside_of(MPI_Comm comm)
{
    int i = 0;
    while (i < known_count && known[i].comm != comm) i++;
    if (i < known_count) return known[i].inside;
    if (i == COMMUNICATORS_MOST) abort();
    known[i].comm = comm;
    known[i].inside = find_inside(comm);
    known_count++;
    return known[i].inside;
}

static void count(message_kind kind, MPI_Comm comm, int to, int64_t bytes)
{
    sent.bytes[kind][inside_of(comm)[to] ? MESSAGE_INSIDE : MESSAGE_BETWEEN] += bytes;
}

/* What was known of it is not so of another that may get its place. */
int MPI_Comm_free(MPI_Comm *comm)
{
    int i = 0;
    while (i < known_count && known[i].comm != *comm) i++;
    if (i < known_count) {
        free(known[i].inside);
        known[i] = known[--known_count];
    }
    return PMPI_Comm_free(comm);
}

int MPI_Send(const void *x, int n, MPI_Datatype type, int to, int tag, MPI_Comm comm)
{
    clock_pass();
    int64_t bytes = bytes_of(n, type);
    count(MESSAGE_GATHER, comm, to, bytes);
    return PMPI_Send(contents(x, bytes), n, type, to, tag, comm);
}

int MPI_Isend(const void *x, int n, MPI_Datatype type, int to, int tag, MPI_Comm comm,
              MPI_Request *request)
{
    clock_pass();
    int64_t bytes = bytes_of(n, type);
    count(MESSAGE_PIPE, comm, to, bytes);
    return PMPI_Isend(contents(x, bytes), n, type, to, tag, comm, request);
}

int MPI_Recv(void *x, int n, MPI_Datatype type, int from, int tag, MPI_Comm comm,
             MPI_Status *status)
{
    clock_pass();
    return PMPI_Recv(contents(x, bytes_of(n, type)), n, type, from, tag, comm, status);
}

int MPI_Wait(MPI_Request *request, MPI_Status *status)
{
    clock_pass();
    return PMPI_Wait(request, status);
}

int MPI_Waitall(int n, MPI_Request *requests, MPI_Status *statuses)
{
    clock_pass();
    return PMPI_Waitall(n, requests, statuses);
}

/* ---- sums ---------------------------------------------------------------------------------- */

enum { TAG = 4711 };

/* Both ways at once. */
static void exchange(MPI_Comm comm, int to, int64_t gives, int from, int64_t takes)
{
    count(MESSAGE_SUM, comm, to, gives);
    PMPI_Sendrecv(contents(NULL, ml_max(gives, LARGE_BYTES)), (int)gives, MPI_BYTE, to, TAG,
                  contents(NULL, ml_max(takes, LARGE_BYTES)), (int)takes, MPI_BYTE, from, TAG, comm,
                  MPI_STATUS_IGNORE);
}

/* Half of what is left to a rank that stands twice as far away each time, then the same way back:
 * as Open MPI and MPICH do it, most goes between neighbours. */
static void halve_and_double(MPI_Comm comm, int rank, int size, int64_t bytes)
{
    for (int apart = 1; apart < size; apart *= 2) {
        bytes /= 2;
        exchange(comm, rank ^ apart, bytes, rank ^ apart, bytes);
    }
    for (int apart = size / 2; apart > 0; apart /= 2) {
        exchange(comm, rank ^ apart, bytes, rank ^ apart, bytes);
        bytes *= 2;
    }
}

/* One half of a sum: what every other rank has, or makes, goes by. */
static void go_round(MPI_Comm comm, int64_t bytes)
{
    int rank, size;
    PMPI_Comm_rank(comm, &rank);
    PMPI_Comm_size(comm, &size);
    for (int step = 0; step < size - 1; step++)
        exchange(comm, (rank + 1) % size, bytes / size, (rank + size - 1) % size, bytes / size);
}

static void sum_all(MPI_Comm comm, int64_t bytes)
{
    int rank, size;
    PMPI_Comm_rank(comm, &rank);
    PMPI_Comm_size(comm, &size);
    if ((size & (size - 1)) == 0) {
        halve_and_double(comm, rank, size, bytes);
        return;
    }
    go_round(comm, bytes);
    go_round(comm, bytes);
}

int MPI_Allreduce(const void *own, void *x, int n, MPI_Datatype type, MPI_Op operation,
                  MPI_Comm comm)
{
    clock_pass();
    int64_t bytes = bytes_of(n, type);
    if (bytes < LARGE_BYTES) return PMPI_Allreduce(own, x, n, type, operation, comm);
    sum_all(comm, bytes);
    return MPI_SUCCESS;
}

static int64_t total(MPI_Comm comm, const int *counts)
{
    int size;
    int64_t all = 0;
    PMPI_Comm_size(comm, &size);
    for (int i = 0; i < size; i++) all += counts[i];
    return all;
}

int MPI_Reduce_scatter(const void *own, void *x, const int *counts, MPI_Datatype type,
                       MPI_Op operation, MPI_Comm comm)
{
    clock_pass();
    int64_t bytes = bytes_of(total(comm, counts), type);
    if (bytes < LARGE_BYTES) return PMPI_Reduce_scatter(own, x, counts, type, operation, comm);
    go_round(comm, bytes);
    return MPI_SUCCESS;
}

int MPI_Allgatherv(const void *own, int n, MPI_Datatype own_type, void *x, const int *counts,
                   const int *starts, MPI_Datatype type, MPI_Comm comm)
{
    clock_pass();
    int64_t bytes = bytes_of(total(comm, counts), type);
    if (bytes < LARGE_BYTES)
        return PMPI_Allgatherv(own, n, own_type, x, counts, starts, type, comm);
    go_round(comm, bytes);
    return MPI_SUCCESS;
}

/* SMPI's own sends from every rank to every rank. This one waits for the others at once: a rank
 * that failed, which src/grid would not let wait, is found by SMPI. */
int MPI_Iallreduce(const void *own, void *x, int n, MPI_Datatype type, MPI_Op operation,
                   MPI_Comm comm, MPI_Request *request)
{
    clock_pass();
    *request = MPI_REQUEST_NULL;
    return PMPI_Allreduce(own, x, n, type, operation, comm);
}

/* Asked for nothing else. */
int MPI_Test(MPI_Request *request, int *done, MPI_Status *status)
{
    *done = *request == MPI_REQUEST_NULL;
    return *done ? MPI_SUCCESS : PMPI_Test(request, done, status);
}

/* ---- what keeps its contents --------------------------------------------------------------- */

int MPI_Bcast(void *x, int n, MPI_Datatype type, int root, MPI_Comm comm)
{
    clock_pass();
    return PMPI_Bcast(x, n, type, root, comm);
}

int MPI_Barrier(MPI_Comm comm)
{
    clock_pass();
    return PMPI_Barrier(comm);
}
