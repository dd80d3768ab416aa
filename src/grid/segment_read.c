/* Another rank's memory, read through the kernel (process_vm_readv), which allows it between
 * processes of one user unless a security module or a container says otherwise. */
#include <sched.h>
#include <sys/uio.h>
#include <unistd.h>

#include "grid/segment.h"

segment_process *segment_process_of(const segment *s, int rank)
{
    char *flags = s->memory + (int64_t)rank * SEGMENT_BLOCK;
    return (segment_process *)(void *)(flags + SEGMENT_FLAGS - sizeof(segment_process));
}

static int64_t read_some(int64_t process, uintptr_t from, void *to, int64_t bytes)
{
    const struct iovec here = {to, (size_t)bytes}, there = {(void *)from, (size_t)bytes};
    return (int64_t)process_vm_readv((pid_t)process, &here, 1, &there, 1, 0);
}

void segment_offer(segment *s)
{
    s->proof = (uint64_t)(ml_seconds() * 1e9) << 16 ^ (uint64_t)getpid();
    *segment_process_of(s, s->rank) = (segment_process){getpid(), s->proof, (uintptr_t)&s->proof};
}

bool segment_can_read(const segment *s, int ranks)
{
    for (int rank = 0; rank < ranks; rank++) {
        const segment_process *process = segment_process_of(s, rank);
        uint64_t found = 0;
        if (read_some(process->id, process->where, &found, sizeof found) != (int64_t)sizeof found ||
            found != process->proof)
            return false;
    }
    return true;
}

/* What could be read at the start can be until a rank has died: MPI, which `idle` calls, then ends
 * the job. */
void segment_read(const segment *s, int rank, uintptr_t from, void *to, int64_t bytes)
{
    int64_t process = segment_process_of(s, rank)->id;
    for (int64_t at = 0; at < bytes;) {
        int64_t got = read_some(process, from + (uintptr_t)at, (char *)to + at, bytes - at);
        if (got > 0) {
            at += got;
            continue;
        }
        (void)s->idle(s->self);
        (void)sched_yield();
    }
}
