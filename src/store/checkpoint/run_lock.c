/* The lock of a run's directory: taken, checked, given back. run_lock.h has the idea. */
#include "store/checkpoint/run_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

ml_lock_times ml_lock_clock = {.beat_s = 15.0, .stale_s = 60.0, .settle_s = 2.0};

/* Clocks of nodes may differ by less than this: a record that old is a dead one's without
 * waiting. */
static const double certainly_old_s = 600.0;

static ml_status in_use(const ml_run_directory *run, const ml_lock_owner *by)
{
    return ml_fail(ML_USAGE,
                   "%s: in use by another job: host %s, pid %ld, job %s; wait for its end or "
                   "choose another run.dir",
                   run->path, by->host, by->pid, by->job);
}

static void pause_for(double seconds)
{
    struct timespec time = {(time_t)seconds, (long)(1e9 * (seconds - (double)(time_t)seconds))};
    while (nanosleep(&time, &time) && errno == EINTR) {
    }
}

/* File systems that only one kernel can write to: there flock means what it says. */
static bool is_local(int fd)
{
    static const unsigned long local[] = {0xEF53 /* ext */,         0x58465342 /* XFS */,
                                          0x9123683E /* Btrfs */,   0x01021994 /* tmpfs */,
                                          0x794C7630 /* overlay */, 0x858458F6 /* ramfs */,
                                          0xF2F52010 /* F2FS */,    0x2FC12FC1 /* ZFS */};
    struct statfs about;
    if (fstatfs(fd, &about)) return false;
    for (size_t i = 0; i < sizeof local / sizeof *local; i++)
        if (((unsigned long)about.f_type & 0xFFFFFFFFUL) == local[i]) return true;
    return false;
}

static bool is_certainly_old(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && difftime(time(NULL), info.st_mtime) > certainly_old_s;
}

/* Nothing is known of the owner but his record: a new beat shows that he lives, none for stale_s
 * that he does not. */
static ml_status watch(const ml_run_directory *run, const char *path, const ml_lock_owner *by)
{
    ml_status st = ML_OK;
    ml_lock_owner now;
    bool named = true;
    double since = ml_seconds();
    if (is_certainly_old(path)) return ML_OK;
    ml_log(
        "%s: its lock names host %s, pid %ld, job %s, which may be alive: watched for up to %.0f s",
        run->path, by->host, by->pid, by->job, ml_lock_clock.stale_s);
    while (named && ml_seconds() - since < ml_lock_clock.stale_s) {
        pause_for(ml_lock_clock.beat_s / 10.0);
        ML_TRY(lock_read(path, &now, &named));
        if (named && (!lock_is_same(&now, by) || now.beat != by->beat)) return in_use(run, &now);
    }
done:
    return st;
}

/* ML_OK: nobody who lives holds it. *seen: when that was found. */
static ml_status find_free(const ml_run_directory *run, const char *path, const ml_lock_owner *me,
                           bool trusted, double *seen)
{
    ml_status st = ML_OK;
    ml_lock_owner by;
    bool named;
    ML_TRY(lock_read(path, &by, &named));
    if (named && !trusted) {
        lock_life life = lock_ask_kernel(&by, me);
        if (life == LOCK_ALIVE) return in_use(run, &by);
        if (life == LOCK_UNKNOWN) ML_TRY(watch(run, path, &by));
    }
    if (named)
        ml_log("%s: the lock of a run that is dead (host %s, pid %ld, job %s) is taken over",
               run->path, by.host, by.pid, by.job);
    *seen = ml_seconds();
done:
    return st;
}

/* Without a lock of the kernel's: whoever wrote last has it, once nobody writes any more who found
 * it free. */
static ml_status settle(const ml_run_directory *run, const char *path, const ml_lock_owner *me,
                        double seen)
{
    ml_status st = ML_OK;
    ml_lock_owner now;
    bool named;
    double took = ml_seconds() - seen;
    pause_for(ml_lock_clock.settle_s);
    ML_TRY(lock_read(path, &now, &named));
    if (!named || !lock_is_same(&now, me)) return in_use(run, &now);
    if (took > 0.5 * ml_lock_clock.settle_s)
        return ml_fail(ML_RESOURCE,
                       "%s: writing the lock took %.1f s: too long to be sure of it; start again",
                       path, took);
done:
    return st;
}

/* Who has just taken the lock may not have written his name yet. */
static ml_status find_holder(const char *path, ml_lock_owner *by)
{
    ml_status st = ML_OK;
    bool named = false;
    for (int i = 0; !named && i < 20; i++) {
        if (i > 0) pause_for(0.05);
        ML_TRY(lock_read(path, by, &named));
    }
done:
    return st;
}

static ml_status take(ml_run_directory *run, int fd, const char *path)
{
    ml_status st = ML_OK;
    ml_lock_owner me = lock_myself(), by;
    struct stat info;
    double seen = 0.0;
    if (fstat(fd, &info) || !S_ISREG(info.st_mode))
        return ml_fail(ML_RESOURCE, "%s: is not a regular file", path);
    int failed;
    do failed = flock(fd, LOCK_EX | LOCK_NB);
    while (failed && errno == EINTR);
    if (failed && errno == EWOULDBLOCK) {
        ML_TRY(find_holder(path, &by));
        return in_use(run, &by);
    }
    bool trusted = !failed && is_local(fd);
    ML_TRY(find_free(run, path, &me, trusted, &seen));
    ML_TRY(lock_write(fd, path, &me));
    if (!trusted) ML_TRY(settle(run, path, &me, seen));
    ML_TRY(lock_beat_start(&run->beat, fd, path, &me));
    run->lock = fd;
done:
    return st;
}

ml_status ml_lock_take(ml_run_directory *run)
{
    ml_status st = ML_OK;
    char path[ML_DURABLE_PATH];
    int fd;
    ML_TRY(ml_durable_path(path, "%s/lock", run->path));
    do fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0666);
    while (fd < 0 && errno == EINTR);
    if (fd < 0) return ml_fail(ML_RESOURCE, "%s: cannot be created: %s", path, strerror(errno));
    st = take(run, fd, path);
    if (st != ML_OK) (void)close(fd);
done:
    return st;
}

ml_status ml_lock_check(const ml_run_directory *run)
{
    ml_status st = ML_OK;
    char path[ML_DURABLE_PATH];
    ml_lock_owner now;
    bool mine = false;
    if (!run->beat) return ML_OK; /* world rank 0 holds it for all */
    ML_TRY(ml_durable_path(path, "%s/lock", run->path));
    for (int look = 0; look < 2 && !mine; look++) { /* one read may go wrong */
        ML_TRY(lock_read(path, &now, &mine));
        mine = mine && lock_is_same(&now, lock_beat_owner(run->beat));
    }
    if (!mine)
        return ml_fail(ML_USAGE,
                       "%s: its lock was taken by another job while this one stood still: host %s, "
                       "pid %ld, job %s; nothing more is saved here",
                       run->path, now.host, now.pid, now.job);
done:
    return st;
}

/* A lock that another job took over stays his. */
void ml_lock_release(ml_run_directory *run)
{
    if (run->lock < 0) return;
    int failed = 0;
    lock_beat_stop(run->beat);
    if (ml_lock_check(run) == ML_OK) {
        do failed = ftruncate(run->lock, 0);
        while (failed && errno == EINTR);
    }
    lock_beat_destroy(run->beat);
    run->beat = NULL;
    if (failed) ml_warn("%s/lock: cannot be emptied: %s", run->path, strerror(errno));
    (void)close(run->lock);
    run->lock = -1;
}
