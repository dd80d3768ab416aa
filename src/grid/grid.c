/* The process grid: tp fastest, then dp; one communicator a group. */
#include "grid/grid_private.h"

static bool started_here;

ml_status ml_grid_start(int *argc, char ***argv)
{
    int running = 0;
    MPI_Initialized(&running);
    if (running) return ML_OK;
    int provided;
    if (MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS) return ml_fail(ML_INTERNAL, "MPI does not start");
    started_here = true;
    return ML_OK;
}

void ml_grid_stop(void)
{
    if (started_here) MPI_Finalize();
    started_here = false;
}

static bool mpi_runs(void)
{
    int started = 0, ended = 0;
    MPI_Initialized(&started);
    MPI_Finalized(&ended);
    return started && !ended;
}

void ml_grid_abort(int code)
{
    if (mpi_runs()) MPI_Abort(MPI_COMM_WORLD, code);
}

int ml_grid_world_rank(void)
{
    int rank = 0;
    if (mpi_runs()) MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    return rank;
}

int ml_grid_world_size(void)
{
    int size = 1;
    if (mpi_runs()) MPI_Comm_size(MPI_COMM_WORLD, &size);
    return size;
}

static void count_nodes(ml_grid *grid)
{
    MPI_Comm node;
    MPI_Comm_split_type(grid->world, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node);
    int first, size;
    MPI_Comm_rank(node, &first);
    MPI_Comm_size(node, &size);
    int leads = first == 0;
    MPI_Allreduce(&leads, &grid->nodes, 1, MPI_INT, MPI_SUM, grid->world);
    MPI_Allreduce(&size, &grid->ranks_on_node, 1, MPI_INT, MPI_MAX, grid->world);
    MPI_Comm_free(&node);
}

ml_status ml_grid_create(ml_grid **out, int tp)
{
    ml_status st = ML_OK;
    ml_grid *grid = NULL;
    int size = ml_grid_world_size();
    if (tp < 1 || size % tp != 0)
        return ml_fail(ML_USAGE, "parallel.tp: %d does not divide the %d ranks of this job; start a multiple of %d ranks or change tp", tp,
                       size, tp);
    ML_NEW(grid, 1, ML_MEM_COMMUNICATION, "the process grid");
    MPI_Comm_dup(MPI_COMM_WORLD, &grid->world);
    MPI_Comm_rank(grid->world, &grid->rank);
    grid->size = size;
    grid->tp = tp;
    grid->dp = size / tp;
    grid->tp_rank = grid->rank % tp;
    grid->dp_rank = grid->rank / tp;
    MPI_Comm_split(grid->world, grid->dp_rank, grid->tp_rank, &grid->tp_group);
    MPI_Comm_split(grid->world, grid->tp_rank, grid->dp_rank, &grid->dp_group);
    count_nodes(grid);
    *out = grid;
done:
    return st;
}

void ml_grid_destroy(ml_grid *grid)
{
    if (!grid) return;
    MPI_Comm_free(&grid->tp_group);
    MPI_Comm_free(&grid->dp_group);
    MPI_Comm_free(&grid->world);
    ml_memory_free(grid);
}

int ml_grid_rank(const ml_grid *grid) { return grid->rank; }
int ml_grid_size(const ml_grid *grid) { return grid->size; }
int ml_grid_tp(const ml_grid *grid) { return grid->tp; }
int ml_grid_tp_rank(const ml_grid *grid) { return grid->tp_rank; }
int ml_grid_dp(const ml_grid *grid) { return grid->dp; }
int ml_grid_dp_rank(const ml_grid *grid) { return grid->dp_rank; }
int ml_grid_nodes(const ml_grid *grid) { return grid->nodes; }
int ml_grid_ranks_on_node(const ml_grid *grid) { return grid->ranks_on_node; }
int64_t ml_grid_summed_bytes(const ml_grid *grid, ml_group group) { return grid->summed[group]; }
double ml_grid_comm_seconds(const ml_grid *grid) { return grid->seconds; }
