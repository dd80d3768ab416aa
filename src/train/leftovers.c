/* What Open MPI leaves in /dev/shm where mpirun and its ranks are killed together: a segment of
 * memory for each rank of the node, vader_segment.HOST.USER.JOB.RANK. Where a rank is killed while
 * Open MPI makes a shared window, which has a name for a few milliseconds, osc_sm.HOST.JOB.* is
 * left, too. Nothing in these names tells which run made them, so a run notes the segments that
 * world rank 0 has mapped, in RUN/shared-memory, and a later start of the run removes them and the
 * windows of their jobs. The file is gone when a run ends by itself.
 *
 * A file is removed only where all of this holds: the note is of this host and this user's, its
 * process is dead, and no process that can be seen has the file mapped. A fault here is no reason
 * for a run to fail. */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/durable.h"
#include "train/run.h"

enum { HOST = 256, LINE = 4096 };
static const char folder[] = "/dev/shm", prefix[] = "/dev/shm/vader_segment.", window[] = "osc_sm.";
static const int64_t largest_note = 1 << 20;

static ml_status note_path(const run *r, char path[ML_DURABLE_PATH])
{
    return ml_durable_path(path, "%s/shared-memory", r->config->run_dir);
}

/* The path in /dev/shm in a line of /proc/PID/maps, cut at its end; NULL: it is of something else.
 */
static char *shared_file_in(char *line)
{
    char *at = strstr(line, folder);
    if (at) at[strcspn(at, " \n")] = '\0'; /* " (deleted)" may follow */
    return at;
}

/* Whether a process that this one may look at has it mapped; also where nothing can be looked at,
 * so that nothing is removed. */
static bool is_mapped(const char *file)
{
    const struct dirent *entry;
    char path[ML_DURABLE_PATH], line[LINE];
    DIR *all = ml_durable_list("/proc");
    bool found = !all;
    while (all && !found && ml_durable_next(all, "/proc", &entry) == ML_OK && entry) {
        snprintf(path, sizeof path, "/proc/%.32s/maps", entry->d_name);
        FILE *maps = *entry->d_name >= '1' && *entry->d_name <= '9' ? fopen(path, "r") : NULL;
        while (maps && !found && fgets(line, sizeof line, maps)) {
            const char *other = shared_file_in(line);
            found = other && !strcmp(other, file);
        }
        if (maps) fclose(maps);
    }
    if (all) closedir(all);
    return found;
}

static void remove_file(const char *file)
{
    struct stat about;
    if (lstat(file, &about) || !S_ISREG(about.st_mode) || about.st_uid != geteuid() ||
        is_mapped(file))
        return;
    if (unlink(file) == 0) ml_log("%s: left by a dead start of this run, removed", file);
}

/* The windows of a job ("368d0001"). */
static void remove_windows(const char *job)
{
    const struct dirent *entry;
    char path[ML_DURABLE_PATH], within[64];
    DIR *all = ml_durable_list(folder);
    snprintf(within, sizeof within, ".%s.", job);
    while (all && ml_durable_next(all, folder, &entry) == ML_OK && entry)
        if (!strncmp(entry->d_name, window, strlen(window)) && strstr(entry->d_name, within) &&
            ml_durable_path(path, "%s/%s", folder, entry->d_name) == ML_OK)
            remove_file(path);
    if (all) closedir(all);
}

/* The job in a segment's name, which has the rank behind it and may have dots in its host's name;
 * false: it has no such form. */
static bool job_of(const char *segment, char job[32])
{
    const char *rank = strrchr(segment, '.'), *start = rank;
    while (rank && start > segment && start[-1] != '.') start--;
    if (!rank || rank == start || rank - start > 16) return false;
    snprintf(job, 32, "%.*s", (int)(rank - start), start);
    return strspn(job, "0123456789abcdef") == strlen(job);
}

static void remove_segment(const char *segment)
{
    char job[32];
    if (strncmp(segment, prefix, strlen(prefix)) || strchr(segment + strlen(prefix), '/')) return;
    remove_file(segment);
    if (job_of(segment + strlen(prefix), job)) remove_windows(job);
}

/* Also one that nobody has waited for yet, as in a container without an init. */
static bool is_dead(long long pid)
{
    char path[64], state = ' ';
    if (pid <= 0) return false;
    if (kill((pid_t)pid, 0)) return errno == ESRCH;
    snprintf(path, sizeof path, "/proc/%lld/stat", pid);
    FILE *stat = fopen(path, "r");
    if (stat && fscanf(stat, "%*d (%*[^)]) %c", &state) != 1) state = ' ';
    if (stat) fclose(stat);
    return state == 'Z';
}

void leftovers_clean(const run *r)
{
    char path[ML_DURABLE_PATH], host[HOST] = "", own[HOST] = "", *text = NULL;
    int64_t length;
    long long pid = 0;
    int used = 0;
    if (note_path(r, path) != ML_OK || access(path, F_OK) ||
        ml_durable_read(path, largest_note, &text, &length) != ML_OK)
        return;
    gethostname(own, sizeof own - 1);
    bool ours = sscanf(text, "host %255s pid %lld%n", host, &pid, &used) == 2 &&
                !strcmp(host, own) && is_dead(pid);
    for (char *next, *line = ours ? strtok_r(text + used, "\n", &next) : NULL; line;
         line = strtok_r(NULL, "\n", &next))
        remove_segment(line);
    ml_memory_free(text);
    if (!strcmp(host, own)) (void)unlink(path);
}

void leftovers_note(const run *r)
{
    char path[ML_DURABLE_PATH], host[HOST] = "", line[LINE], last[LINE] = "";
    ml_text text = {0};
    FILE *maps = fopen("/proc/self/maps", "r");
    gethostname(host, sizeof host - 1);
    bool good = note_path(r, path) == ML_OK &&
                ml_text_printf(&text, "host %s pid %ld\n", host, (long)getpid()) == ML_OK;
    int64_t empty = text.length;
    while (good && maps && fgets(line, sizeof line, maps)) {
        const char *segment = shared_file_in(line);
        if (!segment || strncmp(segment, prefix, strlen(prefix)) || !strcmp(segment, last))
            continue;
        snprintf(last, sizeof last, "%s", segment);
        good = ml_text_printf(&text, "%s\n", segment) == ML_OK;
    }
    if (maps) fclose(maps);
    if (good && text.length > empty &&
        ml_durable_write(path, text.data, text.length, NULL) != ML_OK)
        ml_warn("%s", ml_error_text());
    ml_text_destroy(&text);
}

void leftovers_forget(const run *r)
{
    char path[ML_DURABLE_PATH];
    if (note_path(r, path) == ML_OK) (void)unlink(path);
}
