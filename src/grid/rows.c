/* Rows that are shared out over a group: of keys and values each rank gets all, and of their
 * gradients the sums of its own. In step k a rank sends to the k-th behind it and receives from the
 * k-th before it, so that every pair of ranks exchanges once and no rank has two partners. Runs of
 * rows go as they lie, without a copy to make them one. */
#include "grid/grid_private.h"

enum { TAG_ROWS = 10 };

static int64_t count_rows(const ml_row_runs *runs)
{
    int64_t rows = 0;
    for (int i = 0; i < runs->count; i++) rows += runs->rows[i];
    return rows;
}

/* The type of a rank's rows in the matrix. */
static MPI_Datatype type_of(const ml_row_runs *runs, MPI_Datatype row)
{
    MPI_Datatype type;
    MPI_Type_indexed(runs->count, runs->rows, runs->first, row, &type);
    MPI_Type_commit(&type);
    return type;
}

MPI_Datatype grid_row_type(int64_t width)
{
    MPI_Datatype row;
    MPI_Type_contiguous((int)width, MPI_FLOAT, &row);
    MPI_Type_commit(&row);
    return row;
}

/* Rows `sent` of x to the k-th rank behind; what the k-th before sends as `count` of `type`. */
static void exchange(const ml_grid *grid, ml_group group, int k, const float *x,
                     const ml_row_runs *sent, MPI_Datatype row, float *into, int count,
                     MPI_Datatype type)
{
    int size = grid->group_size[group], mine = grid->group_rank[group];
    MPI_Datatype own = type_of(sent, row);
    MPI_Sendrecv(x, 1, own, (mine + k) % size, TAG_ROWS, into, count, type,
                 (mine + size - k) % size, TAG_ROWS, grid->group[group], MPI_STATUS_IGNORE);
    MPI_Type_free(&own);
}

static void count_sent(const ml_grid *grid, const ml_row_runs *sent, int64_t width)
{
    ((ml_grid *)(uintptr_t)grid)->row_bytes += count_rows(sent) * width * (int64_t)sizeof(float);
}

void ml_grid_gather_rows(const ml_grid *grid, ml_group group, const ml_row_runs *of, int64_t width,
                         float *x)
{
    int size = grid->group_size[group], mine = grid->group_rank[group];
    if (size == 1) return;
    double since = grid_enter(grid);
    MPI_Datatype row = grid_row_type(width);
    for (int k = 1; k < size; k++) {
        MPI_Datatype theirs = type_of(&of[(mine + size - k) % size], row);
        exchange(grid, group, k, x, &of[mine], row, x, 1, theirs);
        count_sent(grid, &of[mine], width);
        MPI_Type_free(&theirs);
    }
    MPI_Type_free(&row);
    grid_leave(grid, since);
}

/* Onto the rows of x what came, run by run. */
static void add_runs(const ml_row_runs *runs, int64_t width, const float *came, float *x)
{
    for (int i = 0; i < runs->count; i++) {
        float *to = x + runs->first[i] * width;
        int64_t n = runs->rows[i] * width;
        for (int64_t j = 0; j < n; j++) to[j] += came[j];
        came += n;
    }
}

void ml_grid_scatter_row_sums(const ml_grid *grid, ml_group group, const ml_row_runs *of,
                              int64_t width, float *x, float *room)
{
    int size = grid->group_size[group], mine = grid->group_rank[group];
    if (size == 1) return;
    double since = grid_enter(grid);
    MPI_Datatype row = grid_row_type(width);
    for (int k = 1; k < size; k++) {
        const ml_row_runs *theirs = &of[(mine + k) % size];
        exchange(grid, group, k, x, theirs, row, room, (int)count_rows(&of[mine]), row);
        count_sent(grid, theirs, width);
        add_runs(&of[mine], width, room, x);
    }
    MPI_Type_free(&row);
    grid_leave(grid, since);
}

int64_t ml_grid_row_bytes(const ml_grid *grid) { return grid->row_bytes; }
