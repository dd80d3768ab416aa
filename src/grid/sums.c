/* Where the sums of a grid go: which of its groups lie in a node whose ranks share a segment, and
 * what a rank does while it waits there. */
#include <stdlib.h>
#include <unistd.h>

#include "grid/share_private.h"

/* A rank with a core of its own looks for some 20 µs. */
enum { LOOKS = 64 };

/* ---- whether there is a segment ------------------------------------------------------------ */

static bool mpi_is_asked_for(void)
{
    const char *way = getenv("MPILORA_SUMS");
    return way && !strcmp(way, "mpi");
}

ml_status sums_check(void)
{
    const char *way = getenv("MPILORA_SUMS");
    if (!way || !*way || !strcmp(way, "auto") || mpi_is_asked_for()) return ML_OK;
    return ml_fail(ML_USAGE,
                   "the variable MPILORA_SUMS: '%s', expected auto (in memory that the ranks of a "
                   "node share, where they do) or mpi",
                   way);
}

int64_t ml_grid_sums_bytes(int ranks_on_node)
{
    bool shares = ranks_on_node > 1 && ranks_on_node <= SEGMENT_RANKS_MOST;
    return shares && !mpi_is_asked_for() ? SEGMENT_BLOCK : 0;
}

/* A rank reads its own part of each other's vector, and the others' parts of the sum. */
int64_t ml_grid_mapped_bytes(int ranks, int64_t floats)
{
    bool maps = ml_grid_sums_bytes(ranks) > 0 && ranks <= SEGMENT_READERS_MOST &&
                floats >= SEGMENT_LONG && floats <= SEGMENT_MAPPED;
    return maps ? 2 * (ranks - 1) * floats / ranks * (int64_t)sizeof(float) : 0;
}

/* ---- groups -------------------------------------------------------------------------------- */

/* The members' numbers on this node; all members find the same: each, or not all of them. */
static void find_members(ml_grid *grid, ml_group group, MPI_Group node)
{
    segment_group *g = &grid->segment.group[group];
    int size = grid->group_size[group],
        *member = grid->member + (int64_t)group * grid->segment_ranks;
    MPI_Group members;
    *g = (segment_group){.size = size, .rank = grid->group_rank[group]};
    if (size < 2 || size > grid->segment_ranks) return;
    MPI_Comm_group(grid->group[group], &members);
    for (int i = 0; i < size; i++) grid->start[i] = i;
    MPI_Group_translate_ranks(members, size, grid->start, node, member);
    MPI_Group_free(&members);
    for (int i = 0; i < size; i++)
        if (member[i] == MPI_UNDEFINED) return;
    g->member = member;
}

static void find_groups(ml_grid *grid, int first)
{
    MPI_Group node;
    MPI_Comm_group(grid->group[ML_GROUP_NODE], &node);
    for (int group = first; group < GROUPS; group++) {
        find_members(grid, (ml_group)group, node);
        segment_reset(&grid->segment, (ml_group)group);
    }
    MPI_Group_free(&node);
}

/* Splitting the communicators was after the last sum over the old groups of each of their ranks. */
void sums_renew_heads(ml_grid *grid)
{
    if (!grid->shared) return;
    find_groups(grid, ML_GROUP_HEAD);
    MPI_Barrier(grid->group[ML_GROUP_STAGE]);
}

/* ---- waiting ------------------------------------------------------------------------------- */

/* MPI moves on what was sent to a neighbour in the pipe, and hears of ranks that died, only while
 * it is called. Nobody sends to the node's communicator. */
static bool look_after_mpi(void *self)
{
    const ml_grid *grid = self;
    int found;
    MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, grid->group[ML_GROUP_NODE], &found, MPI_STATUS_IGNORE);
    return grid->sent[ML_TO_NEXT] == MPI_REQUEST_NULL &&
           grid->sent[ML_TO_PREVIOUS] == MPI_REQUEST_NULL;
}

static int find_looks(int ranks) { return ranks <= sysconf(_SC_NPROCESSORS_ONLN) ? LOOKS : 1; }

/* ---- start and end ------------------------------------------------------------------------- */

/* Of one rank. */
static ml_status prepare(ml_grid *grid)
{
    int64_t first = (int64_t)grid->segment.rank * SEGMENT_BLOCK;
    grid->member = ml_memory_alloc((int64_t)GROUPS * grid->segment_ranks, sizeof *grid->member,
                                   ML_MEM_COMMUNICATION, "the process grid");
    if (!grid->member) return ML_RESOURCE;
    return share_take_pages(grid->shared, first, first + SEGMENT_BLOCK);
}

static void give_up(ml_grid *grid)
{
    ml_shared_destroy(grid->shared);
    grid->shared = NULL;
}

void sums_start(ml_grid *grid)
{
    int ranks = grid->group_size[ML_GROUP_NODE];
    if (ml_grid_sums_bytes(ranks) == 0 ||
        share_block(&grid->shared, grid, ML_GROUP_NODE, (int64_t)ranks * SEGMENT_BLOCK) != ML_OK)
        return;
    grid->segment = (segment){.memory = ml_shared_data(grid->shared),
                              .rank = grid->group_rank[ML_GROUP_NODE],
                              .looks = find_looks(ranks),
                              .idle = look_after_mpi,
                              .self = grid};
    grid->segment_ranks = ranks;
    if (ml_grid_agree_in(grid, ML_GROUP_NODE, prepare(grid)) != ML_OK) {
        give_up(grid);
        return;
    }
    ml_memory_account(ML_MEM_COMMUNICATION, SEGMENT_BLOCK);
    ml_memory_share(true);
    find_groups(grid, 0);
    segment_offer(&grid->segment);
    MPI_Barrier(grid->group[ML_GROUP_NODE]);
    int reads = segment_can_read(&grid->segment, ranks);
    MPI_Allreduce(MPI_IN_PLACE, &reads, 1, MPI_INT, MPI_LAND, grid->group[ML_GROUP_NODE]);
    grid->segment.reads = reads != 0;
}

void sums_stop(ml_grid *grid)
{
    if (!grid->shared) return;
    ml_memory_account(ML_MEM_COMMUNICATION, -(int64_t)SEGMENT_BLOCK);
    ml_memory_share(false);
    segment_unmap_all(&grid->segment);
    give_up(grid);
}

segment *sums_segment(const ml_grid *grid, ml_group group)
{
    bool shares = grid->shared && !grid->by_mpi && grid->segment.group[group].member;
    return shares ? (segment *)(uintptr_t)&grid->segment : NULL;
}

bool ml_grid_shares_sums(const ml_grid *grid, ml_group group)
{
    return sums_segment(grid, group) != NULL;
}

void ml_grid_sum_by_mpi(ml_grid *grid, bool always) { grid->by_mpi = always; }
