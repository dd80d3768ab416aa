/* What the files of grid/ share. */
#ifndef MPILORA_GRID_PRIVATE_H
#define MPILORA_GRID_PRIVATE_H

#include <mpi.h>

#include "mpilora/grid.h"

struct ml_grid {
    MPI_Comm world, tp_group, dp_group;
    int rank, size, tp, tp_rank, dp, dp_rank, nodes, ranks_on_node;
    double seconds;                  /* inside collectives */
    int64_t summed[ML_GROUP_DP + 1]; /* bytes passed to sums and maxima of a group */
};

#endif
