/* A block as an MPI-3 shared window. Open MPI keeps it as a file in /dev/shm that it removes as
 * soon as the group has opened it. */
#include <errno.h>
#include <inttypes.h>
#include <sys/statvfs.h>

#include "grid/share_private.h"

static const char group_rank[] = "/dev/shm";
enum {
    PAGE = 4096
}; /* every rank finds the window at the same place in a page, on which the block is then rounded up
    */

/* Before anything is made: a page that finds no room later is a signal, not an error. */
static ml_status check_room(int64_t bytes)
{
    struct statvfs about;
    if (statvfs(group_rank, &about))
        return ml_fail(ML_RESOURCE, "%s: %s", group_rank, strerror(errno));
    int64_t room = (int64_t)about.f_bavail * (int64_t)about.f_frsize;
    if (room >= bytes) return ML_OK;
    return ml_fail(ML_RESOURCE, "%s has room for %" PRId64 " bytes, a shared window needs %" PRId64,
                   group_rank, room, bytes);
}

ml_status share_window(ml_shared *shared, const ml_grid *grid)
{
    bool first = shared->group_rank == 0;
    ml_status st =
        ml_grid_agree_in(grid, shared->of, first ? check_room(shared->bytes + PAGE) : ML_OK);
    if (st != ML_OK) return st;
    MPI_Aint bytes = first ? (MPI_Aint)shared->bytes + PAGE : 0;
    int unit;
    char *own;
    MPI_Comm_set_errhandler(shared->group, MPI_ERRORS_RETURN);
    int failed =
        MPI_Win_allocate_shared(bytes, 1, MPI_INFO_NULL, shared->group, &own, &shared->window);
    MPI_Comm_set_errhandler(shared->group, MPI_ERRORS_ARE_FATAL);
    if (failed) shared->window = MPI_WIN_NULL;
    st = failed ? ml_fail(ML_RESOURCE, "MPI makes no shared window of %" PRId64 " bytes",
                          shared->bytes)
                : ML_OK;
    st = ml_grid_agree_in(grid, shared->of, st);
    if (st != ML_OK) return st;
    char *window;
    if (MPI_Win_shared_query(shared->window, 0, &bytes, &unit, &window))
        return ml_fail(ML_INTERNAL, "a shared window without memory");
    shared->data = window + (PAGE - (uintptr_t)window % PAGE) % PAGE;
    return ML_OK;
}
