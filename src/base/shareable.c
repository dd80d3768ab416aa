#include "base/shareable.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE /* newer than some C libraries; an older kernel answers EINVAL */
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

enum { BLOCKS_MOST = 16 };

static ml_shareable blocks[BLOCKS_MOST]; /* start NULL: free */

static ml_shareable *find_free(void)
{
    for (int i = 0; i < BLOCKS_MOST; i++)
        if (!blocks[i].start) return &blocks[i];
    return NULL;
}

/* The file's pages, and before them one of its own, within a larger range that is given back. */
static char *map_file(int64_t bytes, int fd)
{
    size_t size = (size_t)bytes, whole = size + SHAREABLE_UNIT;
    char *range = mmap(NULL, whole, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (range == MAP_FAILED) return NULL;
    size_t before = SHAREABLE_UNIT - (size_t)((uintptr_t)range % SHAREABLE_UNIT);
    char *block = range + before, *page = block - SHAREABLE_PAGE;
    bool mapped =
        mmap(block, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == (void *)block &&
        !mprotect(page, SHAREABLE_PAGE, PROT_READ | PROT_WRITE);
    if (!mapped) {
        munmap(range, whole);
        return NULL;
    }
    if (page > range) munmap(range, (size_t)(page - range));
    if (whole > before + size) munmap(block + size, whole - before - size);
    (void)madvise(block, size, MADV_HUGEPAGE);
    return block;
}

/* Growing a file beyond the limit of file sizes (ulimit -f) is a signal. */
static bool may_grow_to(int64_t bytes)
{
    struct rlimit limit;
    return getrlimit(RLIMIT_FSIZE, &limit) || limit.rlim_cur >= (rlim_t)bytes;
}

char *shareable_map(int64_t bytes, int *fd)
{
    static uint32_t serial;
    ml_shareable *entry = find_free();
    int64_t whole = ml_round_up(bytes, SHAREABLE_UNIT);
    int file = entry && may_grow_to(whole) ? memfd_create("mpilora-vectors", MFD_CLOEXEC) : -1;
    if (file < 0) return NULL;
    char *block = ftruncate(file, whole) ? NULL : map_file(whole, file);
    if (!block) {
        close(file);
        return NULL;
    }
    *entry = (ml_shareable){block, whole, file, ++serial};
    *fd = file;
    return block;
}

/* Others may have it mapped for a long time yet: without its pages, which nobody reads any more. */
void shareable_unmap(char *block, int64_t bytes, int fd)
{
    for (int i = 0; i < BLOCKS_MOST; i++)
        if (blocks[i].start == block) blocks[i] = (ml_shareable){0};
    munmap(block - SHAREABLE_PAGE, (size_t)(ml_round_up(bytes, SHAREABLE_UNIT) + SHAREABLE_PAGE));
    bool gone = !ftruncate(fd, 0);
    (void)gone; /* else they go with the last mapping */
    close(fd);
}

/* The kernel wants one page of each to be there. */
void shareable_take_pages(char *block, int64_t bytes)
{
    int64_t end = bytes / SHAREABLE_UNIT * SHAREABLE_UNIT;
    for (int64_t unit = 0; unit < end; unit += SHAREABLE_UNIT)
        if (madvise(block + unit, SHAREABLE_PAGE, MADV_POPULATE_WRITE)) return;
    if (end > 0) (void)madvise(block, (size_t)end, MADV_COLLAPSE);
}

bool ml_memory_find_shareable(const void *pointer, ml_shareable *out)
{
    for (int i = 0; i < BLOCKS_MOST; i++) {
        uintptr_t start = (uintptr_t)blocks[i].start, at = (uintptr_t)pointer;
        if (!start || at < start || at >= start + (uintptr_t)blocks[i].bytes) continue;
        *out = blocks[i];
        return true;
    }
    return false;
}
