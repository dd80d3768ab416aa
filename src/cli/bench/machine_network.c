/* Latency and bandwidth of sums, between ranks of a node and between nodes. A process that is
 * alone starts two others, which sum as `bench allreduce` does. */
#include <errno.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/bench/machine.h"
#include "cli/support/launch.h"

/* Where nothing was measured: shared memory of a common server, and a 100 Gb/s network. */
static const double default_inside[] = {2e-6, 3e9}, default_between[] = {5e-6, 1e10};

enum { ROUNDS = 15, FLOATS = 1 << 19, SMALL_CALLS = 64 };

/* ---- this run's own ranks ------------------------------------------------------------------ */

static double time_sum(const ml_grid *grid, ml_group group, float *x, int64_t n, int calls)
{
    bench_times seconds = {0};
    for (int round = 0; round < ROUNDS; round++) {
        ml_grid_barrier(grid);
        double start = ml_seconds();
        for (int i = 0; i < calls; i++) ml_grid_sum_float(grid, group, x, n);
        double once = (ml_seconds() - start) / calls;
        ml_grid_max_double(grid, ML_GROUP_WORLD, &once, 1);
        memset(x, 0, (size_t)n * sizeof *x);
        bench_add(&seconds, once);
    }
    return bench_median(&seconds);
}

/* Latency of one stage and the bandwidth of the sum's 2·(p − 1)/p of all bytes. */
static ml_status measure_group(const ml_grid *grid, ml_group group, int members, double *latency,
                               double *bandwidth)
{
    ml_status st = ML_OK;
    float *x = NULL;
    ML_TRY(ml_grid_agree(grid, bench_new_floats(&x, FLOATS, "a buffer to be summed")));
    double stages = 0.0, once = time_sum(grid, group, x, 1, SMALL_CALLS),
           large = time_sum(grid, group, x, FLOATS, 2);
    for (int p = 1; p < members; p *= 2) stages += 1.0;
    *latency = once / stages;
    if (large > once)
        *bandwidth = 2.0 * (members - 1) / members * FLOATS * (double)sizeof *x / (large - once);
done:
    ml_memory_free(x);
    return st;
}

/* ---- a pair of processes ------------------------------------------------------------------- */

/* The environment without what an MPI process leaves for its children; settings of the user
 * stay. */
static char **clean_environment(char **to)
{
    static const char *const left[] = {"PMIX_",
                                       "PMI_",
                                       "ORTE_",
                                       "PRTE_",
                                       "OMPI_COMM_",
                                       "OMPI_UNIVERSE_",
                                       "OMPI_MCA_orte_",
                                       "OMPI_MCA_ess",
                                       "OMPI_NUM_APP",
                                       "OMPI_APP_CTX",
                                       "OMPI_FIRST_RANKS",
                                       "OMPI_FILE_LOCATION",
                                       "OMP_NUM_THREADS="};
    static char threads[] = "OMP_NUM_THREADS=1";
    char **first = to;
    for (char **from = environ; *from; from++) {
        bool keep = true;
        for (size_t i = 0; i < sizeof left / sizeof *left; i++)
            keep = keep && strncmp(*from, left[i], strlen(left[i])) != 0;
        if (keep) *to++ = *from;
    }
    *to++ = threads;
    *to = NULL;
    return first;
}

/* Starts `words` with its output in a pipe and reads one JSON object from there; NULL where that
 * fails. */
static json_t *run_child(char *const *words, char **environment)
{
    int ends[2], status = -1;
    pid_t child;
    posix_spawn_file_actions_t actions;
    if (pipe(ends)) return NULL;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
    posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", 1, 0);
    posix_spawn_file_actions_addclose(&actions, ends[0]);
    int failed = posix_spawnp(&child, words[0], &actions, NULL, words, environment);
    posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    FILE *from = fdopen(ends[0], "r");
    json_t *found = from && !failed ? json_loadf(from, JSON_DISABLE_EOF_CHECK, NULL) : NULL;
    if (from)
        fclose(from);
    else
        close(ends[0]);
    while (!failed && waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
    if (!failed && status == 0) return found;
    json_decref(found);
    return NULL;
}

static ml_status measure_pair(ml_machine *out, bool *done)
{
    ml_status st = ML_OK;
    char program[4096], **environment = NULL;
    launch call = {0};
    size_t count = 0;
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    while (environ[count]) count++;
    ML_NEW(environment, (int64_t)count + 2, ML_MEM_OTHER, "an environment");
    program[length > 0 ? length : 0] = '\0';
    launch_add_launcher(&call, launch_mpirun(), 2);
    launch_add_word(&call, "%s", program);
    launch_add_word(&call, "bench");
    launch_add_word(&call, "allreduce");
    launch_add_word(&call, "--json");
    launch_add_word(&call, "--largest");
    launch_add_word(&call, "%d", FLOATS * 4);
    json_t *found =
        length > 0 && !call.full ? run_child(call.words, clean_environment(environment)) : NULL;
    double latency = json_number_value(json_object_get(found, "latency_s"));
    double bandwidth = json_number_value(json_object_get(found, "bus_bandwidth_bytes_per_s"));
    *done = latency > 0.0 && bandwidth > 0.0;
    if (*done) {
        out->inside_latency = latency;
        out->inside_bandwidth = bandwidth;
    }
    json_decref(found);
done:
    launch_destroy(&call);
    ml_memory_free(environment);
    return st;
}

ml_status bench_machine_network(const ml_grid *grid, ml_machine *out, bool *inside, bool *between)
{
    ml_status st = ML_OK;
    int here = ml_grid_ranks_on_node(grid), nodes = ml_grid_nodes(grid);
    out->inside_latency = default_inside[0];
    out->inside_bandwidth = default_inside[1];
    out->between_latency = default_between[0];
    out->between_bandwidth = default_between[1];
    *inside = here > 1;
    *between = nodes > 1;
    if (*inside)
        ML_TRY(
            measure_group(grid, ML_GROUP_NODE, here, &out->inside_latency, &out->inside_bandwidth));
    if (*between)
        ML_TRY(measure_group(grid, ML_GROUP_WORLD, nodes, &out->between_latency,
                             &out->between_bandwidth));
    if (ml_grid_size(grid) == 1) ML_TRY(measure_pair(out, inside));
    if (!*inside)
        ml_warn("no second rank on this node: latency and bandwidth inside a node are defaults; "
                "start it with mpirun -n 2");
done:
    return st;
}
