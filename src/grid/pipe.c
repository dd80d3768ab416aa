/* Messages between neighbouring stages. What is sent waits for nobody: the sender goes on, and
 * looks only before its next message in the same direction whether the last one was taken, so that
 * one buffer in each direction is enough. The order in which the stages of a pipe send and receive,
 * and why they never wait for each other in a circle, is session/pipeline_order.c's. */
#include "grid/grid_private.h"

enum { TAG_NEXT = 8, TAG_PREVIOUS = 9, TAG_TOLD = 10 };

static int tag_of(ml_direction direction)
{
    return direction == ML_TO_NEXT ? TAG_NEXT : TAG_PREVIOUS;
}

void ml_grid_pipe_wait(const ml_grid *grid, ml_direction direction)
{
    ml_grid *own = (ml_grid *)(uintptr_t)grid;
    if (own->sent[direction] == MPI_REQUEST_NULL) return;
    double since = grid_enter(grid);
    MPI_Wait(&own->sent[direction], MPI_STATUS_IGNORE);
    grid_leave(grid, since);
}

void ml_grid_pipe_send(const ml_grid *grid, ml_direction direction, const float *x, int64_t n)
{
    ml_grid *own = (ml_grid *)(uintptr_t)grid;
    int to = grid->stage + (direction == ML_TO_NEXT ? 1 : -1);
    ml_grid_pipe_wait(grid, direction);
    double since = grid_enter(grid);
    MPI_Isend(x, (int)n, MPI_FLOAT, to, tag_of(direction), grid->group[ML_GROUP_PIPE],
              &own->sent[direction]);
    own->piped += n * (int64_t)sizeof *x;
    grid_leave(grid, since);
}

int64_t ml_grid_pipe_receive(const ml_grid *grid, ml_direction direction, float *x, int64_t most)
{
    MPI_Status status;
    int count = 0, from = grid->stage + (direction == ML_TO_NEXT ? -1 : 1);
    double since = grid_enter(grid);
    MPI_Recv(x, (int)most, MPI_FLOAT, from, tag_of(direction), grid->group[ML_GROUP_PIPE], &status);
    MPI_Get_count(&status, MPI_FLOAT, &count);
    grid_leave(grid, since);
    return count;
}

void ml_grid_pipe_tell(const ml_grid *grid, int place, const float *x, int64_t rows, int64_t width)
{
    double since = grid_enter(grid);
    MPI_Datatype row = grid_row_type(width);
    for (int to = 0; to < grid->pp - 1; to++)
        MPI_Isend(x, (int)rows, row, to, TAG_TOLD, grid->group[ML_GROUP_PIPE],
                  &grid->told[place * (grid->pp - 1) + to]);
    MPI_Type_free(&row);
    grid_leave(grid, since);
}

void ml_grid_pipe_told(const ml_grid *grid, int place)
{
    double since = grid_enter(grid);
    for (int to = 0; to < grid->pp - 1; to++)
        MPI_Wait(&grid->told[place * (grid->pp - 1) + to], MPI_STATUS_IGNORE);
    grid_leave(grid, since);
}

void ml_grid_pipe_hear(const ml_grid *grid, float *x, int64_t rows, int64_t width)
{
    double since = grid_enter(grid);
    MPI_Datatype row = grid_row_type(width);
    MPI_Recv(x, (int)rows, row, grid->pp - 1, TAG_TOLD, grid->group[ML_GROUP_PIPE],
             MPI_STATUS_IGNORE);
    MPI_Type_free(&row);
    grid_leave(grid, since);
}

int64_t ml_grid_piped_bytes(const ml_grid *grid) { return grid->piped; }
