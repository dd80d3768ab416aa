/* The named collectives: each is one call of MPI on the communicator of a group, cut into pieces
 * that MPI's int counts can say, timed, and with its bytes counted; vectors of floats are summed in
 * memory that the ranks share where they do (segment.h). A group of one rank costs nothing. */
#include "grid/grid_private.h"

enum { TAG = 7 };

/* MPI counts are int: larger ones go in pieces. */
static const int64_t piece = (int64_t)1 << 30;

/* The grid is const to callers; clock and counters are all that a collective changes. */
static ml_grid *counters(const ml_grid *grid) { return (ml_grid *)(uintptr_t)grid; }

double grid_enter(const ml_grid *grid)
{
    double now = ml_seconds();
    atomic_store_explicit(&counters(grid)->inside_since, now, memory_order_relaxed);
    return now;
}

void grid_leave(const ml_grid *grid, double since)
{
    atomic_store_explicit(&counters(grid)->inside_since, 0.0, memory_order_relaxed);
    counters(grid)->seconds += ml_seconds() - since;
}

static void reduce(const ml_grid *grid, ml_group group, void *x, int64_t n, size_t size,
                   MPI_Datatype type, MPI_Op operation)
{
    if (grid->group_size[group] == 1) return;
    double since = grid_enter(grid);
    for (int64_t at = 0; at < n; at += piece)
        MPI_Allreduce(MPI_IN_PLACE, (char *)x + (size_t)at * size, (int)ml_min(piece, n - at), type,
                      operation, grid->group[group]);
    grid_leave(grid, since);
    counters(grid)->summed[group] += n * (int64_t)size;
}

void ml_grid_sum_float(const ml_grid *grid, ml_group group, float *x, int64_t n)
{
    segment *shared = sums_segment(grid, group);
    if (!shared) {
        reduce(grid, group, x, n, sizeof *x, MPI_FLOAT, MPI_SUM);
        return;
    }
    if (n == 0) return;
    double since = grid_enter(grid);
    segment_sum(shared, group, x, n);
    grid_leave(grid, since);
    counters(grid)->summed[group] += n * (int64_t)sizeof *x;
}

/* Without shared memory: each rank adds what its neighbours at a growing distance have. */
static void exchange_tree(const ml_grid *grid, ml_group group, float *x, int64_t n)
{
    enum { PIECE = 1 << 14 };
    float other[PIECE];
    int size = grid->group_size[group], rank = grid->group_rank[group];
    for (int distance = 1; distance < size; distance *= 2)
        for (int64_t at = 0; at < n; at += PIECE) {
            int count = (int)ml_min(PIECE, n - at);
            MPI_Sendrecv(x + at, count, MPI_FLOAT, rank ^ distance, TAG, other, count, MPI_FLOAT,
                         rank ^ distance, TAG, grid->group[group], MPI_STATUS_IGNORE);
            for (int i = 0; i < count; i++) x[at + i] += other[i];
        }
}

/* Three ranks: the first one adds. */
static void exchange_chain(const ml_grid *grid, ml_group group, float *x, int64_t n)
{
    enum { PIECE = 1 << 14 };
    float other[PIECE];
    int size = grid->group_size[group], rank = grid->group_rank[group];
    for (int64_t at = 0; at < n; at += PIECE) {
        int count = (int)ml_min(PIECE, n - at);
        if (rank > 0) MPI_Send(x + at, count, MPI_FLOAT, 0, TAG, grid->group[group]);
        for (int from = 1; rank == 0 && from < size; from++) {
            MPI_Recv(other, count, MPI_FLOAT, from, TAG, grid->group[group], MPI_STATUS_IGNORE);
            for (int i = 0; i < count; i++) x[at + i] += other[i];
        }
        MPI_Bcast(x + at, count, MPI_FLOAT, 0, grid->group[group]);
    }
}

void ml_grid_sum_ordered(const ml_grid *grid, ml_group group, float *x, int64_t n)
{
    segment *shared = sums_segment(grid, group);
    int size = grid->group_size[group];
    if (size == 1 || n == 0) return;
    double since = grid_enter(grid);
    if (shared)
        segment_sum_tree(shared, group, x, n);
    else
        (size & (size - 1) ? exchange_chain : exchange_tree)(grid, group, x, n);
    grid_leave(grid, since);
    counters(grid)->summed[group] += n * (int64_t)sizeof *x;
}

void ml_grid_max_float(const ml_grid *grid, ml_group group, float *x, int64_t n)
{
    reduce(grid, group, x, n, sizeof *x, MPI_FLOAT, MPI_MAX);
}
void ml_grid_sum_double(const ml_grid *grid, ml_group group, double *x, int64_t n)
{
    reduce(grid, group, x, n, sizeof *x, MPI_DOUBLE, MPI_SUM);
}
void ml_grid_max_double(const ml_grid *grid, ml_group group, double *x, int64_t n)
{
    reduce(grid, group, x, n, sizeof *x, MPI_DOUBLE, MPI_MAX);
}
void ml_grid_max_int64(const ml_grid *grid, ml_group group, int64_t *x, int64_t n)
{
    reduce(grid, group, x, n, sizeof *x, MPI_INT64_T, MPI_MAX);
}
void ml_grid_sum_int64(const ml_grid *grid, ml_group group, int64_t *x, int64_t n)
{
    reduce(grid, group, x, n, sizeof *x, MPI_INT64_T, MPI_SUM);
}

/* MPI's operation on ml_fixed: 128-bit integers, whose sum depends on no order. */
static void add_fixed(void *in, void *inout, int *n, MPI_Datatype *type)
{
    const ml_fixed *x = in;
    ml_fixed *sum = inout;
    (void)type;
    for (int i = 0; i < *n; i++) sum[i] = ml_fixed_add(sum[i], x[i]);
}

void ml_grid_sum_fixed(const ml_grid *grid, ml_group group, ml_fixed *x, int64_t n)
{
    MPI_Datatype type;
    MPI_Op sum;
    if (grid->group_size[group] == 1 || n == 0) return;
    MPI_Type_contiguous(2, MPI_INT64_T, &type);
    MPI_Type_commit(&type);
    MPI_Op_create(add_fixed, 1, &sum);
    reduce(grid, group, x, n, sizeof *x, type, sum);
    MPI_Op_free(&sum);
    MPI_Type_free(&type);
}

void ml_grid_sum_exact(const ml_grid *grid, ml_group group, ml_exact *x)
{
    ml_exact_settle(x);
    ml_grid_sum_int64(grid, group, x->digit, ML_EXACT_DIGITS);
}

void ml_grid_broadcast(const ml_grid *grid, ml_group group, int root, void *bytes, int64_t n)
{
    if (grid->group_size[group] == 1) return;
    double since = grid_enter(grid);
    for (int64_t at = 0; at < n; at += piece)
        MPI_Bcast((char *)bytes + at, (int)ml_min(piece, n - at), MPI_BYTE, root,
                  grid->group[group]);
    grid_leave(grid, since);
}

static void find_parts(const ml_grid *grid, ml_group group, int64_t n)
{
    int64_t group_size = grid->group_size[group];
    for (int64_t i = 0; i < group_size; i++) {
        grid->count[i] = (int)ml_part_count(n, group_size, i);
        grid->start[i] = (int)ml_part_start(n, group_size, i);
    }
}

/* MPI leaves the sum where x begins. */
static void reduce_scatter(const ml_grid *grid, ml_group group, float *x, int64_t n)
{
    int mine = grid->group_rank[group];
    find_parts(grid, group, n);
    MPI_Reduce_scatter(MPI_IN_PLACE, x, grid->count, MPI_FLOAT, MPI_SUM, grid->group[group]);
    memmove(x + grid->start[mine], x, (size_t)grid->count[mine] * sizeof *x);
}

void ml_grid_reduce_scatter_float(const ml_grid *grid, ml_group group, float *x, int64_t n)
{
    segment *shared = sums_segment(grid, group);
    if (grid->group_size[group] == 1 || n == 0) return;
    double since = grid_enter(grid);
    if (shared)
        segment_reduce_scatter(shared, group, x, n);
    else
        reduce_scatter(grid, group, x, n);
    grid_leave(grid, since);
    counters(grid)->summed[group] += n * (int64_t)sizeof *x;
}

static void allgather(const ml_grid *grid, ml_group group, float *x, int64_t n)
{
    find_parts(grid, group, n);
    MPI_Allgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, x, grid->count, grid->start, MPI_FLOAT,
                   grid->group[group]);
}

void ml_grid_allgather_float(const ml_grid *grid, ml_group group, float *x, int64_t n)
{
    segment *shared = sums_segment(grid, group);
    if (grid->group_size[group] == 1 || n == 0) return;
    double since = grid_enter(grid);
    if (shared)
        segment_allgather(shared, group, x, n);
    else
        allgather(grid, group, x, n);
    grid_leave(grid, since);
}

void ml_grid_barrier(const ml_grid *grid)
{
    double since = grid_enter(grid);
    MPI_Barrier(grid->group[ML_GROUP_WORLD]);
    grid_leave(grid, since);
}

void ml_grid_send(const ml_grid *grid, int to, const void *bytes, int64_t n)
{
    for (int64_t at = 0; at < n; at += piece)
        MPI_Send((const char *)bytes + at, (int)ml_min(piece, n - at), MPI_BYTE, to, TAG,
                 grid->group[ML_GROUP_WORLD]);
}

void ml_grid_receive(const ml_grid *grid, int from, void *bytes, int64_t n)
{
    for (int64_t at = 0; at < n; at += piece)
        MPI_Recv((char *)bytes + at, (int)ml_min(piece, n - at), MPI_BYTE, from, TAG,
                 grid->group[ML_GROUP_WORLD], MPI_STATUS_IGNORE);
}
