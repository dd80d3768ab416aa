/* The lock of a run's directory: flock, with the owner's name in the file. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/file.h>
#include <unistd.h>

#include "store/run_directory.h"

typedef struct owner {
    char host[128], job[64];
    long pid;
} owner;

static owner myself(void)
{
    owner me = {.pid = (long)getpid()};
    if (gethostname(me.host, sizeof me.host - 1)) snprintf(me.host, sizeof me.host, "unknown");
    const char *job = getenv("SLURM_JOB_ID");
    snprintf(me.job, sizeof me.job, "%s", job && *job ? job : "none");
    return me;
}

/* False where the file is empty: nobody holds the lock, or its owner gave it back. */
static bool read_owner(int fd, owner *found)
{
    char line[320] = "";
    *found = (owner){.host = "unknown", .job = "unknown"};
    ssize_t n = pread(fd, line, sizeof line - 1, 0);
    if (n <= 0) return false;
    return sscanf(line, "host %127s pid %ld job %63s", found->host, &found->pid, found->job) >= 1;
}

static ml_status in_use(const ml_run_directory *run, const owner *by)
{
    return ml_fail(ML_USAGE, "%s: in use by another job: host %s, pid %ld, job %s; wait for its end or choose another run.dir", run->path,
                   by->host, by->pid, by->job);
}

/* Some file systems have no locks: then the owner's name decides. Only on this host can be seen whether it lives. */
static bool owner_lives(const owner *by, const owner *me)
{
    if (strcmp(by->host, me->host) != 0) return true;
    return by->pid > 0 && (kill((pid_t)by->pid, 0) == 0 || errno == EPERM);
}

static ml_status write_owner(int fd, const char *path, const owner *me)
{
    char line[320];
    int n = snprintf(line, sizeof line, "host %s pid %ld job %s\n", me->host, me->pid, me->job);
    if (ftruncate(fd, 0) || pwrite(fd, line, (size_t)n, 0) != n)
        return ml_fail(ML_RESOURCE, "%s: cannot be written: %s", path, strerror(errno));
    return ML_OK;
}

ml_status ml_lock_take(ml_run_directory *run)
{
    ml_status st = ML_OK;
    char path[ML_DURABLE_PATH];
    owner me = myself(), by;
    ML_TRY(ml_durable_path(path, "%s/lock", run->path));
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0) return ml_fail(ML_RESOURCE, "%s: cannot be created: %s", path, strerror(errno));
    bool locked = flock(fd, LOCK_EX | LOCK_NB) == 0;
    bool taken = !locked && errno == EWOULDBLOCK;
    bool named = read_owner(fd, &by);
    if (taken || (!locked && named && owner_lives(&by, &me))) {
        st = in_use(run, &by);
    } else {
        if (named)
            ml_log("%s: the lock of a run that is dead (host %s, pid %ld, job %s) is taken over", run->path, by.host, by.pid, by.job);
        st = write_owner(fd, path, &me);
    }
    if (st == ML_OK)
        run->lock = fd;
    else
        (void)close(fd);
done:
    return st;
}

void ml_lock_release(ml_run_directory *run)
{
    if (run->lock < 0) return;
    if (ftruncate(run->lock, 0)) ml_warn("%s/lock: cannot be emptied: %s", run->path, strerror(errno));
    (void)close(run->lock);
    run->lock = -1;
}
