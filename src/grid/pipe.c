/* Messages between neighbouring stages. What is sent waits for nobody: the sender goes on, and
 * looks only before its next message in the same direction whether the last one was taken, so that
 * one buffer in each direction is enough. The order in which the stages of a pipe send and receive,
 * and why they never wait for each other in a circle, is session/pipeline_order.c's. */
#include "grid/grid_private.h"

enum { TAG_NEXT = 8, TAG_PREVIOUS = 9 };

static int tag_of(ml_direction direction)
{
    return direction == ML_TO_NEXT ? TAG_NEXT : TAG_PREVIOUS;
}

void ml_grid_pipe_wait(const ml_grid *grid, ml_direction direction)
{
    ml_grid *own = (ml_grid *)(uintptr_t)grid;
    if (own->sent[direction] == MPI_REQUEST_NULL) return;
    double since = ml_seconds();
    MPI_Wait(&own->sent[direction], MPI_STATUS_IGNORE);
    grid_add_seconds(grid, since);
}

void ml_grid_pipe_send(const ml_grid *grid, ml_direction direction, const float *x, int64_t n)
{
    ml_grid *own = (ml_grid *)(uintptr_t)grid;
    int to = grid->stage + (direction == ML_TO_NEXT ? 1 : -1);
    ml_grid_pipe_wait(grid, direction);
    double since = ml_seconds();
    MPI_Isend(x, (int)n, MPI_FLOAT, to, tag_of(direction), grid->group[ML_GROUP_PIPE],
              &own->sent[direction]);
    own->piped += n * (int64_t)sizeof *x;
    grid_add_seconds(grid, since);
}

int64_t ml_grid_pipe_receive(const ml_grid *grid, ml_direction direction, float *x, int64_t most)
{
    MPI_Status status;
    int count = 0, from = grid->stage + (direction == ML_TO_NEXT ? -1 : 1);
    double since = ml_seconds();
    MPI_Recv(x, (int)most, MPI_FLOAT, from, tag_of(direction), grid->group[ML_GROUP_PIPE], &status);
    MPI_Get_count(&status, MPI_FLOAT, &count);
    grid_add_seconds(grid, since);
    return count;
}

int64_t ml_grid_piped_bytes(const ml_grid *grid) { return grid->piped; }
