/* A block as a memory file (memfd). It has no name in any file system, so it ends with its last
 * process however that ends, and the room of /dev/shm is no limit. The group's first rank makes
 * it; the others reach it as /proc/PID/fd/N of that rank, and know it by device and inode: in a
 * process name space of its own a rank would find somebody else there. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "grid/share_private.h"

typedef struct offer {
    int64_t process, fd;
    uint64_t device, inode;
} offer;

static ml_status make_file(int64_t bytes, offer *out)
{
    struct rlimit limit;
    struct stat about;
    if (!getrlimit(RLIMIT_FSIZE, &limit) &&
        limit.rlim_cur < (rlim_t)bytes) /* growing beyond it is a signal */
        return ml_fail(ML_RESOURCE,
                       "a memory file of %" PRId64
                       " bytes is beyond the limit of file sizes (ulimit -f)",
                       bytes);
    int fd = memfd_create("mpilora-shared", MFD_CLOEXEC);
    if (fd < 0) return ml_fail(ML_RESOURCE, "a memory file cannot be made: %s", strerror(errno));
    if (ftruncate(fd, bytes) || fstat(fd, &about)) {
        ml_status st = ml_fail(ML_RESOURCE, "a memory file of %" PRId64 " bytes cannot be made: %s",
                               bytes, strerror(errno));
        close(fd);
        return st;
    }
    *out = (offer){getpid(), fd, (uint64_t)about.st_dev, (uint64_t)about.st_ino};
    return ML_OK;
}

static ml_status open_file(const offer *from, int *fd)
{
    char path[64];
    struct stat about;
    snprintf(path, sizeof path, "/proc/%" PRId64 "/fd/%" PRId64, from->process, from->fd);
    bool found = !stat(path, &about);
    if (found && ((uint64_t)about.st_dev != from->device || (uint64_t)about.st_ino != from->inode))
        return ml_fail(
            ML_RESOURCE,
            "%s: is another process's: these ranks have process name spaces of their own", path);
    *fd = found ? open(path, O_RDWR | O_CLOEXEC) : -1;
    return *fd < 0 ? ml_fail(ML_RESOURCE, "%s: another rank's memory file cannot be opened: %s",
                             path, strerror(errno))
                   : ML_OK;
}

/* At an address that is a multiple of a huge page: a larger range is reserved, and given back
 * around the block. */
static ml_status map_file(ml_shared *shared, int fd)
{
    size_t bytes = (size_t)shared->mapped, whole = bytes + SHARE_UNIT;
    char *range = mmap(NULL, whole, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (range == MAP_FAILED)
        return ml_fail(ML_RESOURCE, "%zu bytes of address space: %s", whole, strerror(errno));
    size_t before = (SHARE_UNIT - (size_t)((uintptr_t)range % SHARE_UNIT)) % SHARE_UNIT;
    char *block =
        mmap(range + before, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
    if (block == MAP_FAILED) {
        ml_status st = ml_fail(ML_RESOURCE, "a memory file of %zu bytes cannot be mapped: %s",
                               bytes, strerror(errno));
        munmap(range, whole);
        return st;
    }
    if (before) munmap(range, before);
    munmap(block + bytes, SHARE_UNIT - before);
    (void)madvise(block, bytes, MADV_HUGEPAGE);
    shared->data = block;
    return ML_OK;
}

ml_status share_memory_file(ml_shared *shared, const ml_grid *grid)
{
    ml_status st = ML_OK;
    offer o = {0};
    int fd = -1;
    bool first = shared->group_rank == 0;
    shared->mapped = ml_round_up(shared->bytes, SHARE_UNIT);
    if (first) st = make_file(shared->mapped, &o);
    if (first && st == ML_OK) fd = (int)o.fd;
    ML_TRY(ml_grid_agree_in(grid, shared->of, st));
    ml_grid_broadcast(grid, shared->of, 0, &o, (int64_t)sizeof o);
    if (!first) st = open_file(&o, &fd);
    if (st == ML_OK) st = map_file(shared, fd);
    ML_TRY(ml_grid_agree_in(grid, shared->of, st));
done:
    if (fd >= 0) close(fd);
    if (st != ML_OK && shared->data) munmap(shared->data, (size_t)shared->mapped);
    if (st != ML_OK) shared->data = NULL;
    return st;
}
