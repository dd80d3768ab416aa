/* The lock of a run's directory: the heartbeat that keeps its record, and how it is taken, checked
 * and given back. run_lock.h has the idea. */
#include "store/checkpoint/run_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "base/thread.h"

ml_lock_times ml_lock_clock = {.heartbeat_s = 15.0, .stale_s = 60.0, .wait_s = 2.0};

/* Clocks of nodes may differ by less than this: a record that old is a dead one's without
 * waiting. */
static const double certainly_old_s = 600.0;

/* ---- the heartbeat: a thread that writes the record again and again ------------------------ */

enum { STACK = 512 << 10 };

struct ml_lock_heartbeat {
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    bool stop;
    int fd; /* borrowed */
    char path[ML_DURABLE_PATH];
    ml_lock_owner me;
};

/* False when it is time to stop. */
static bool rest(ml_lock_heartbeat *b)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += (time_t)ml_lock_clock.heartbeat_s;
    until.tv_nsec +=
        (long)(1e9 * (ml_lock_clock.heartbeat_s - (double)(time_t)ml_lock_clock.heartbeat_s));
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    pthread_mutex_lock(&b->mutex);
    while (!b->stop && pthread_cond_timedwait(&b->wake, &b->mutex, &until) != ETIMEDOUT) {
    }
    bool on = !b->stop;
    pthread_mutex_unlock(&b->mutex);
    return on;
}

/* A beat that cannot be written is left out: the next save finds what is wrong with the disk, or
 * who took the lock. */
static void *beat(void *argument)
{
    ml_lock_heartbeat *b = argument;
    while (rest(b)) {
        ml_lock_owner found;
        bool named;
        if (ml_lock_read(b->path, &found, &named) == ML_OK &&
            (!named || !ml_lock_is_same(&found, &b->me)))
            break;
        b->me.beat++;
        (void)!ml_lock_write(b->fd, b->path, &b->me);
    }
    return NULL;
}

static int start_thread(ml_lock_heartbeat *b)
{
    pthread_condattr_t clock;
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&b->wake, &clock);
    pthread_condattr_destroy(&clock);
    pthread_mutex_init(&b->mutex, NULL);
    return thread_start(&b->thread, STACK, beat, b);
}

int64_t ml_lock_heartbeat_bytes(void) { return (int64_t)sizeof(ml_lock_heartbeat); }

ml_status ml_lock_heartbeat_start(ml_lock_heartbeat **out, int fd, const char *path,
                                  const ml_lock_owner *me)
{
    ml_status st = ML_OK;
    ml_lock_heartbeat *b = NULL;
    ML_NEW(b, 1, ML_MEM_OTHER, "a lock's beat");
    b->fd = fd;
    b->me = *me;
    snprintf(b->path, sizeof b->path, "%s", path);
    int code = start_thread(b);
    if (code) {
        st = ml_fail(ML_RESOURCE, "%s: no thread can be started to keep the lock: %s", path,
                     strerror(code));
        goto done;
    }
    *out = b;
    b = NULL;
done:
    ml_memory_free(b);
    return st;
}

const ml_lock_owner *ml_lock_heartbeat_owner(const ml_lock_heartbeat *b) { return &b->me; }

void ml_lock_heartbeat_stop(ml_lock_heartbeat *b)
{
    pthread_mutex_lock(&b->mutex);
    b->stop = true;
    pthread_cond_signal(&b->wake);
    pthread_mutex_unlock(&b->mutex);
    pthread_join(b->thread, NULL);
}

void ml_lock_heartbeat_destroy(ml_lock_heartbeat *b)
{
    pthread_cond_destroy(&b->wake);
    pthread_mutex_destroy(&b->mutex);
    ml_memory_free(b);
}

/* ---- taking it ----------------------------------------------------------------------------- */

static ml_status in_use(const ml_run_directory *run, const ml_lock_owner *by)
{
    const ml_lock_owner me = ml_lock_myself();
    if (ml_lock_is_same(by, &me))
        return ml_fail(ML_USAGE,
                       "%s: is run.dir of another run of this job, too; each run needs one of its "
                       "own",
                       run->path);
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
        pause_for(ml_lock_clock.heartbeat_s / 10.0);
        ML_TRY(ml_lock_read(path, &now, &named));
        if (named && (!ml_lock_is_same(&now, by) || now.beat != by->beat)) return in_use(run, &now);
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
    ML_TRY(ml_lock_read(path, &by, &named));
    if (named && !trusted) {
        ml_lock_life life = ml_lock_ask_kernel(&by, me);
        if (life == ML_LOCK_ALIVE) return in_use(run, &by);
        if (life == ML_LOCK_UNKNOWN) ML_TRY(watch(run, path, &by));
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
static ml_status wait_for_others(const ml_run_directory *run, const char *path,
                                 const ml_lock_owner *me, double seen)
{
    ml_status st = ML_OK;
    ml_lock_owner now;
    bool named;
    double took = ml_seconds() - seen;
    pause_for(ml_lock_clock.wait_s);
    ML_TRY(ml_lock_read(path, &now, &named));
    if (!named || !ml_lock_is_same(&now, me)) return in_use(run, &now);
    if (took > 0.5 * ml_lock_clock.wait_s)
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
        ML_TRY(ml_lock_read(path, by, &named));
    }
done:
    return st;
}

static ml_status take(ml_run_directory *run, int fd, const char *path)
{
    ml_status st = ML_OK;
    ml_lock_owner me = ml_lock_myself(), by;
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
    ML_TRY(ml_lock_write(fd, path, &me));
    if (!trusted) ML_TRY(wait_for_others(run, path, &me, seen));
    ML_TRY(ml_lock_heartbeat_start(&run->heartbeat, fd, path, &me));
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
    ML_TRY(ml_durable_check_own(path, false));
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
    if (!run->heartbeat) return ML_OK; /* world rank 0 holds it for all */
    ML_TRY(ml_durable_path(path, "%s/lock", run->path));
    for (int look = 0; look < 2 && !mine; look++) { /* one read may go wrong */
        ML_TRY(ml_lock_read(path, &now, &mine));
        mine = mine && ml_lock_is_same(&now, ml_lock_heartbeat_owner(run->heartbeat));
    }
    if (!mine && !ml_durable_exists(path))
        return ml_fail(ML_USAGE,
                       "%s: is not there: it was removed, or its directory was, while the run went "
                       "on; nothing more is saved",
                       path);
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
    ml_lock_heartbeat_stop(run->heartbeat);
    if (ml_lock_check(run) == ML_OK) {
        do failed = ftruncate(run->lock, 0);
        while (failed && errno == EINTR);
    }
    ml_lock_heartbeat_destroy(run->heartbeat);
    run->heartbeat = NULL;
    if (failed) ml_warn("%s/lock: cannot be emptied: %s", run->path, strerror(errno));
    (void)close(run->lock);
    run->lock = -1;
}
