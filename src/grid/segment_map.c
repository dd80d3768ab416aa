/* Another rank's block of vectors as this rank's own addresses: it is a memory file of that rank's,
 * mapped when a sum first meets it, through which nothing is copied by the kernel any more. */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "grid/segment.h"

void segment_tell_block(segment_flags *own, const float *x, int64_t n)
{
    ml_shareable block = {0};
    const char *end = (const char *)(x + n);
    bool whole =
        ml_memory_find_shareable(x, &block) && end <= (const char *)block.start + block.bytes;
    own->block = whole ? (uintptr_t)block.start : 0;
    own->bytes = block.bytes;
    own->fd = block.fd;
    own->serial = block.serial;
}

/* Of the rank itself the number is its own; the proof of segment_can_read says that the process is
 * the right one. */
static void *map_block(int64_t process, int fd, int64_t bytes)
{
    char path[64];
    struct stat about;
    snprintf(path, sizeof path, "/proc/%lld/fd/%d", (long long)process, fd);
    int file = open(path, O_RDWR | O_CLOEXEC);
    if (file < 0) return NULL;
    bool right = !fstat(file, &about) && about.st_size >= bytes;
    void *at = right ? mmap(NULL, (size_t)bytes, PROT_READ, MAP_SHARED, file, 0) : MAP_FAILED;
    close(file);
    return at == MAP_FAILED ? NULL : at;
}

static void forget(segment_mapping *m)
{
    if (m->start) munmap(m->start, (size_t)m->bytes);
    *m = (segment_mapping){0};
}

/* The oldest makes room. A block that could not be mapped is remembered, too. */
static const segment_mapping *find_mapping(segment *s, int rank, const segment_flags *flags)
{
    for (int i = 0; i < SEGMENT_MAPPINGS; i++)
        if (s->mapping[i].serial == flags->serial && s->mapping[i].rank == rank)
            return &s->mapping[i];
    segment_mapping *m = &s->mapping[s->oldest];
    s->oldest = (s->oldest + 1) % SEGMENT_MAPPINGS;
    forget(m);
    *m = (segment_mapping){rank, flags->serial, flags->bytes,
                           map_block(segment_process_of(s, rank)->id, flags->fd, flags->bytes)};
    return m;
}

const float *segment_map(segment *s, int rank, const segment_flags *flags)
{
    if (!flags->block) return NULL;
    const segment_mapping *m = find_mapping(s, rank, flags);
    uintptr_t vector = atomic_load_explicit(&flags->vector, memory_order_relaxed);
    return m->start ? (const float *)(const void *)((char *)m->start + (vector - flags->block))
                    : NULL;
}

void segment_unmap_all(segment *s)
{
    for (int i = 0; i < SEGMENT_MAPPINGS; i++) forget(&s->mapping[i]);
}
