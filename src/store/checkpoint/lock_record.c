/* The record of a run's lock: who holds it, as the file says, and whether that process lives, as
 * far as this kernel knows it. run_lock.h has the idea. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "store/checkpoint/run_lock.h"

enum { RECORD = 640 }; /* always of this length, so that a new one covers an old one in one write */
static const char format[] = "host %s pid %ld job %s boot %s processes %s start %lld beat %lld";

/* A word of a small file of the kernel; "unknown" where there is none. */
static void read_word(const char *path, char *out, int size)
{
    FILE *file = fopen(path, "r");
    if (!file || !fgets(out, size, file)) snprintf(out, (size_t)size, "unknown");
    if (file) fclose(file);
    out[strcspn(out, " \n")] = '\0';
}

/* Field 22 of /proc/PID/stat; −1 where there is no such process. The name before it, in brackets,
 * may contain anything. */
static long long start_of(long pid)
{
    char path[64], text[1024] = "";
    long long start = -1;
    snprintf(path, sizeof path, "/proc/%ld/stat", pid);
    FILE *file = fopen(path, "r");
    if (!file) return -1;
    size_t n = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    const char *at = n > 0 ? strrchr(text, ')') : NULL;
    for (int field = 2; at && field < 22; field++) at = strchr(at + 1, ' ');
    return at && sscanf(at, "%lld", &start) == 1 ? start : -1;
}

ml_lock_owner ml_lock_myself(void)
{
    ml_lock_owner me = {.pid = (long)getpid()};
    if (gethostname(me.host, sizeof me.host - 1) || !me.host[0])
        snprintf(me.host, sizeof me.host, "unknown");
    const char *job = getenv("SLURM_JOB_ID");
    snprintf(me.job, sizeof me.job, "%s", job && *job ? job : "none");
    me.job[strcspn(me.job, " \t\n")] = '\0';
    read_word("/proc/sys/kernel/random/boot_id", me.boot, sizeof me.boot);
    ssize_t n = readlink("/proc/self/ns/pid", me.space, sizeof me.space - 1);
    if (n <= 0) snprintf(me.space, sizeof me.space, "unknown");
    me.start = start_of(me.pid);
    return me;
}

static int read_record(const char *path, char line[RECORD])
{
    ssize_t n;
    int fd;
    do
        fd = open(path, O_RDONLY | O_NOFOLLOW |
                            O_CLOEXEC); /* opened anew each time: so NFS asks its server */
    while (fd < 0 && errno == EINTR);
    if (fd < 0) return errno == ENOENT ? 0 : -1;
    do n = pread(fd, line, RECORD - 1, 0);
    while (n < 0 && errno == EINTR);
    int number = errno;
    (void)close(fd);
    errno = number;
    return (int)n;
}

ml_status ml_lock_read(const char *path, ml_lock_owner *found, bool *named)
{
    char line[RECORD] = "";
    *found = (ml_lock_owner){.host = "unknown", .job = "unknown"};
    if (read_record(path, line) < 0)
        return ml_fail(ML_INPUT, "%s: cannot be read: %s", path, strerror(errno));
    *named =
        sscanf(line, "host %127s pid %ld job %63s boot %39s processes %39s start %lld beat %lld",
               found->host, &found->pid, found->job, found->boot, found->space, &found->start,
               &found->beat) >= 1;
    return ML_OK;
}

ml_status ml_lock_write(int fd, const char *path, const ml_lock_owner *owner)
{
    char line[RECORD];
    int used = snprintf(line, sizeof line, format, owner->host, owner->pid, owner->job, owner->boot,
                        owner->space, owner->start, owner->beat);
    memset(line + used, ' ', (size_t)(RECORD - used));
    line[RECORD - 1] = '\n';
    for (int at = 0; at < RECORD;) {
        ssize_t n = pwrite(fd, line + at, (size_t)(RECORD - at), at);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0)
            return ml_fail(ML_RESOURCE, "%s: cannot be written: %s", path,
                           strerror(n < 0 ? errno : ENOSPC));
        at += (int)n;
    }
    return ML_OK;
}

bool ml_lock_is_same(const ml_lock_owner *a, const ml_lock_owner *b)
{
    return a->pid == b->pid && a->start == b->start && !strcmp(a->host, b->host) &&
           !strcmp(a->boot, b->boot) && !strcmp(a->space, b->space);
}

ml_lock_life ml_lock_ask_kernel(const ml_lock_owner *by, const ml_lock_owner *me)
{
    if (!by->boot[0] || strcmp(by->boot, me->boot) != 0 || strcmp(by->space, me->space) != 0)
        return ML_LOCK_UNKNOWN;
    return by->start >= 0 && start_of(by->pid) == by->start ? ML_LOCK_ALIVE : ML_LOCK_DEAD;
}
