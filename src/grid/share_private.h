/* The two ways to a block that several ranks of a node hold together. */
#ifndef MPILORA_GRID_SHARE_PRIVATE_H
#define MPILORA_GRID_SHARE_PRIVATE_H

#include "grid/grid_private.h"

enum { SHARE_UNIT = 2 << 20 }; /* a huge page */

struct ml_shared {
    char *data;
    int64_t bytes;
    int64_t mapped;             /* of a memory file: whole huge pages; 0 for a window */
    MPI_Win window;             /* MPI_WIN_NULL for a memory file */
    ml_group of;                /* who hold it: a group that lies in a node */
    MPI_Comm group;             /* borrowed from the grid */
    int64_t counted;            /* bytes that this rank accounts for */
    int group_size, group_rank; /* of the group and in it */
    ml_category category;
};

/* share.c: a block that a group which lies in a node holds together; nobody accounts for it.
 * ML_RESOURCE with the reason, on every rank of the group. Collective over the group. */
ml_status share_block(ml_shared **out, const ml_grid *grid, ml_group group,
                      int64_t bytes) ML_NODISCARD;

/* The pages of bytes [first, end), in the domain of the calling thread; small ones. ML_RESOURCE.
 * Local. */
ml_status share_take_pages(const ml_shared *shared, int64_t first, int64_t end) ML_NODISCARD;

/* share_file.c, share_window.c: data, mapped and window of a block whose other members are set.
 * ML_RESOURCE with the reason, on every rank of the group; then nothing is left. Collective over
 * the group. */
ml_status share_memory_file(ml_shared *shared, const ml_grid *grid) ML_NODISCARD;
ml_status share_window(ml_shared *shared, const ml_grid *grid) ML_NODISCARD;

#endif
