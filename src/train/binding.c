/* Where the ranks of a run compute: host, cores that a rank may use, threads; and a warning where
 * threads outnumber cores.
 *
 * A launcher may bind a rank to one core (Open MPI does so with two ranks or fewer), and a job may
 * be allowed less time than its cores have (cgroups): both are counted, not only the cores of the
 * machine. */
#include <math.h>
#include <omp.h>
#include <sched.h>
#include <stdlib.h>
#include <unistd.h>

#include "train/run.h"

typedef struct binding {
    char host[64];
    cpu_set_t cores;
    int threads;
    double quota; /* cores' worth of time that the job's cgroup allows; Inf: no limit */
} binding;

/* ---- this rank ----------------------------------------------------------------------------- */

/* The limit in one cpu.max: "max 100000" or "150000 100000". */
static double read_quota(const char *path)
{
    char limit[32];
    double period, quota = INFINITY;
    FILE *file = fopen(path, "r");
    if (!file) return INFINITY;
    if (fscanf(file, "%31s %lf", limit, &period) == 2 && strcmp(limit, "max") != 0 && period > 0.0)
        quota = strtod(limit, NULL) / period;
    fclose(file);
    return quota > 0.0 ? quota : INFINITY;
}

/* The tightest limit of this process's cgroup (version 2) and of those above it. */
static double find_quota(void)
{
    char line[1024], path[1200], *group = NULL;
    FILE *file = fopen("/proc/self/cgroup", "r");
    while (file && !group && fgets(line, sizeof line, file))
        if (!strncmp(line, "0::", 3)) group = line + 3;
    if (file) fclose(file);
    if (!group) return INFINITY;
    group[strcspn(group, "\n")] = '\0';
    double least = INFINITY;
    for (char *end = group + strlen(group); end; end = strrchr(group, '/')) {
        *end = '\0';
        snprintf(path, sizeof path, "/sys/fs/cgroup%s/cpu.max", group);
        least = fmin(least, read_quota(path));
    }
    return least;
}

/* Those of all threads: each may be bound to its own (OMP_PROC_BIND). */
static cpu_set_t find_cores(void)
{
    cpu_set_t all;
    bool known = true;
    CPU_ZERO(&all);
#pragma omp parallel
    {
        cpu_set_t own;
        bool found = sched_getaffinity(0, sizeof own, &own) == 0;
#pragma omp critical
        {
            if (found) CPU_OR(&all, &all, &own);
            known = known && found;
        }
    }
    for (long i = 0; !known && i < sysconf(_SC_NPROCESSORS_ONLN) && i < CPU_SETSIZE; i++)
        CPU_SET((size_t)i, &all); /* more processors than the set has room for */
    return all;
}

static binding describe_rank(void)
{
    binding b = {.cores = find_cores(), .threads = omp_get_max_threads(), .quota = find_quota()};
    if (gethostname(b.host, sizeof b.host - 1) != 0) snprintf(b.host, sizeof b.host, "?");
    return b;
}

/* "0-3,8" */
static void list_cores(const cpu_set_t *set, char *text, size_t size)
{
    size_t used = 0;
    text[0] = '\0';
    for (int i = 0; i < CPU_SETSIZE && used + 16 < size; i++) {
        if (!CPU_ISSET((size_t)i, set)) continue;
        int last = i;
        while (last + 1 < CPU_SETSIZE && CPU_ISSET((size_t)last + 1, set)) last++;
        used += (size_t)snprintf(text + used, size - used, last > i ? "%s%d-%d" : "%s%d",
                                 used ? "," : "", i, last);
        i = last;
    }
}

/* ---- all ranks, on rank 0 ------------------------------------------------------------------ */

static void print_ranks(const binding *all, int ranks)
{
    enum { MOST = 16 };
    char cores[128];
    for (int i = 0; i < ranks && i < MOST; i++) {
        list_cores(&all[i].cores, cores, sizeof cores);
        ml_log("  %-12s rank %d: %s, core%s %s, %d thread%s", i == 0 ? "binding" : "", i,
               all[i].host, CPU_COUNT(&all[i].cores) > 1 ? "s" : "", cores, all[i].threads,
               all[i].threads > 1 ? "s" : "");
    }
    if (ranks > MOST) ml_log("               and %d more", ranks - MOST);
}

/* The first rank that has more threads than cores of its own: a launcher's doing. */
static bool warn_of_rank(const binding *all, int ranks)
{
    for (int i = 0; i < ranks; i++) {
        int cores = CPU_COUNT(&all[i].cores);
        if (all[i].threads <= cores) continue;
        ml_warn("rank %d has %d threads on %d core%s: set OMP_NUM_THREADS to at most %d, or give "
                "each rank more cores (mpirun --bind-to none, "
                "or --map-by slot:PE=%d; srun --cpus-per-task=%d)",
                i, all[i].threads, cores, cores > 1 ? "s" : "", cores, all[i].threads,
                all[i].threads);
        return true;
    }
    return false;
}

/* The first host whose ranks have more threads than all their cores together, or than their cgroup
 * gives time for. */
static void warn_of_host(const binding *all, int ranks)
{
    for (int i = 0; i < ranks; i++) {
        int members = 0, threads = 0;
        cpu_set_t together = all[i].cores;
        for (int j = 0; j < ranks; j++) {
            if (strcmp(all[i].host, all[j].host) != 0) continue;
            if (j < i) break; /* seen already */
            members++;
            threads += all[j].threads;
            CPU_OR(&together, &together, &all[j].cores);
        }
        double cores = fmin((double)CPU_COUNT(&together), all[i].quota);
        if ((double)threads <= cores) continue;
        ml_warn("%d ranks x %d threads on %s, which has %g cores for them: set OMP_NUM_THREADS so "
                "that they fit",
                members, all[i].threads, all[i].host, cores);
        return;
    }
}

ml_status print_binding(const session *s)
{
    ml_status st = ML_OK;
    int ranks = ml_grid_size(s->grid), rank = ml_grid_rank(s->grid);
    binding mine = describe_rank(), *all = NULL;
    if (rank == 0) ML_NEW(all, ranks, ML_MEM_OTHER, "the ranks' bindings");
done:
    st = ml_grid_agree(s->grid, st);
    if (st == ML_OK && rank != 0) ml_grid_send(s->grid, 0, &mine, (int64_t)sizeof mine);
    if (st != ML_OK || rank != 0) return st;
    all[0] = mine;
    for (int i = 1; i < ranks; i++) ml_grid_receive(s->grid, i, &all[i], (int64_t)sizeof *all);
    print_ranks(all, ranks);
    if (!warn_of_rank(all, ranks)) warn_of_host(all, ranks);
    ml_memory_free(all);
    return ML_OK;
}
