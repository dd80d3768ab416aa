/* Whether the launcher still is there, while a rank waits in MPI_Init for others whom the launcher
 * brings together. Where it is killed then, MPI mostly sees that a connection has ended, but not
 * always, and waits without an end, of which SIGTERM, blocked until the run asks for it, does not
 * wake it. After MPI_Init, MPI itself ends the ranks of a launcher that is gone.
 *
 * The launcher is the nearest process above this one that has not the number of this job in its
 * environment: what stands between, a shell that runs a script for each rank, has it as well. Once
 * it is gone, another process is the parent of the topmost of these. A process that no launcher has
 * started has no such number, and nobody to wait for. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "grid/grid_private.h"

typedef struct watch {
    void (*lost)(void);
    pid_t launcher, below; /* below: its child, this process or one above it */
    bool runs;
    looker looker;
} watch;

static watch watching;

/* Where there is no such process, or /proc does not show it, 0. */
static pid_t parent_of(pid_t process)
{
    char path[32];
    long parent = 0;
    if (process == getpid()) return getppid();
    snprintf(path, sizeof path, "/proc/%ld/status", (long)process);
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    for (char line[256]; fgets(line, sizeof line, file);)
        if (sscanf(line, "PPid: %ld", &parent) == 1) break;
    fclose(file);
    return (pid_t)parent;
}

/* NAME=value, among the words of another process, a zero byte after each; false where they cannot
 * be read, as those of a launcher that another user runs. */
static bool has_setting(pid_t process, const char *setting)
{
    char path[32];
    const char *at = setting;
    bool found = false, same = true;
    snprintf(path, sizeof path, "/proc/%ld/environ", (long)process);
    FILE *file = fopen(path, "r");
    if (!file) return false;
    for (int c; !found && (c = fgetc(file)) != EOF;) {
        found = c == '\0' && same && !*at;
        same = c == '\0' || (same && *at == c);
        at = c == '\0' ? setting : at + same;
    }
    fclose(file);
    return found;
}

/* The variable that PMIx (Open MPI, SLURM, Flux), or MPICH's and SLURM's older interface, have in
 * each process of a job, with another value in each job. */
static bool name_job(char *setting, size_t size)
{
    static const char *const names[] = {"PMIX_NAMESPACE", "PMI_FD"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *value = getenv(names[i]);
        if (!value) continue;
        int length = snprintf(setting, size, "%s=%s", names[i], value);
        return length > 0 && (size_t)length < size;
    }
    return false;
}

/* The first process, whom all are left to, is no launcher that could be gone. */
static bool find_launcher(watch *w)
{
    char setting[512];
    if (!name_job(setting, sizeof setting)) return false;
    w->below = getpid();
    w->launcher = getppid();
    while (w->launcher > 1 && has_setting(w->launcher, setting)) {
        w->below = w->launcher;
        w->launcher = parent_of(w->below);
    }
    return w->launcher > 1;
}

static void look(const void *self)
{
    const watch *w = self;
    if (parent_of(w->below) != w->launcher) w->lost();
}

void ml_grid_on_launcher_lost(void (*lost)(void)) { watching.lost = lost; }

void launcher_watch_start(void)
{
    watch *w = &watching;
    w->runs = w->lost && find_launcher(w) && looker_start(&w->looker, look, w);
}

void launcher_watch_stop(void)
{
    if (watching.runs) looker_stop(&watching.looker);
    watching.runs = false;
}
