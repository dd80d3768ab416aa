/* What Open MPI leaves in /dev/shm where mpirun and its ranks are killed together: a segment of
 * memory for each rank of the node. Nothing in a segment's name tells who made it, so a run notes
 * those that world rank 0 has mapped, in RUN/shared-memory, and a later start of the run removes
 * them. The file is gone when a run ends by itself.
 *
 * A segment is removed only where all of this holds: the note is of this host and this user's, its
 * process is dead, and no process that can be seen has the segment mapped. A fault here is no
 * reason for a run to fail. */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/durable.h"
#include "train/run.h"

enum { HOST = 256, LINE = 4096 };
static const char prefix[] = "/dev/shm/vader_segment.";
static const int64_t largest_note = 1 << 20;

static ml_status note_path(const run *r, char path[ML_DURABLE_PATH])
{
    return ml_durable_path(path, "%s/shared-memory", r->config->run_dir);
}

/* The segment's path in a line of /proc/PID/maps, cut at its end; NULL: it is of something else. */
static char *segment_in(char *line)
{
    char *at = strstr(line, prefix);
    if (at) at[strcspn(at, " \n")] = '\0'; /* " (deleted)" may follow */
    return at;
}

/* Whether a process that this one may look at has it mapped; also where nothing can be looked at,
 * so that nothing is removed. */
static bool is_mapped(const char *segment)
{
    const struct dirent *entry;
    char path[ML_DURABLE_PATH], line[LINE];
    DIR *all = ml_durable_list("/proc");
    bool found = !all;
    while (all && !found && ml_durable_next(all, "/proc", &entry) == ML_OK && entry) {
        snprintf(path, sizeof path, "/proc/%.32s/maps", entry->d_name);
        FILE *maps = *entry->d_name >= '1' && *entry->d_name <= '9' ? fopen(path, "r") : NULL;
        while (maps && !found && fgets(line, sizeof line, maps)) {
            const char *other = segment_in(line);
            found = other && !strcmp(other, segment);
        }
        if (maps) fclose(maps);
    }
    if (all) closedir(all);
    return found;
}

static void remove_segment(const char *segment)
{
    struct stat about;
    bool named =
        !strncmp(segment, prefix, strlen(prefix)) && !strchr(segment + strlen(prefix), '/');
    if (!named || lstat(segment, &about) || !S_ISREG(about.st_mode) || about.st_uid != geteuid() ||
        is_mapped(segment))
        return;
    if (unlink(segment) == 0) ml_log("%s: left by a dead start of this run, removed", segment);
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
        const char *segment = segment_in(line);
        if (!segment || !strcmp(segment, last)) continue;
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
