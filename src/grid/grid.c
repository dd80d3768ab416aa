/* The process grid: tp fastest, then cp, dp and pp; one communicator a group, the groups of a node
 * among them. */
#include <dlfcn.h>
#include <inttypes.h>
#include <link.h>
#include <stdlib.h>

#include "grid/grid_private.h"

static bool started_here;

/* What Open MPI is told where the user has said nothing. Not to processes that are started from
 * here later, mpirun above all. */
typedef struct setting {
    const char *name, *value;
} setting;
enum { SETTINGS_MOST = 2 };

static bool start_with(const setting *settings, int count, int *argc, char ***argv, int *provided)
{
    bool set[SETTINGS_MOST];
    for (int i = 0; i < count; i++)
        set[i] = !getenv(settings[i].name) && setenv(settings[i].name, settings[i].value, 0) == 0;
    bool started = MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, provided) == MPI_SUCCESS;
    for (int i = 0; i < count; i++)
        if (set[i]) unsetenv(settings[i].name);
    return started;
}

/* A process without a launcher: Open MPI would start a daemon for it, only needed to start more
 * processes, and wait for it (0.15 s of 0.5 s); without the daemon all such processes of a user
 * share one session directory, and one that ends removes it while another is starting: they get
 * none. A launched one waits for others: between two looks it lets another process have the core,
 * which may be the rank that it waits for. mpirun alone knows of too few cores, and only where its
 * own ranks are too many. */
static bool start_mpi(bool launched, int *argc, char ***argv, int *provided)
{
    static const setting alone[] = {{"OMPI_MCA_ess_singleton_isolated", "1"},
                                    {"OMPI_MCA_orte_create_session_dirs", "0"}},
                         beside[] = {{"OMPI_MCA_mpi_yield_when_idle", "1"}};
    return launched ? start_with(beside, 1, argc, argv, provided)
                    : start_with(alone, 2, argc, argv, provided);
}

/* MPI is called by the main thread alone: OpenMP's threads compute, and the thread that writes a
 * checkpoint only writes. An MPI that was built without threads has no lock to miss then. */
static void warn_of_threads(int provided)
{
    if (provided < MPI_THREAD_FUNNELED && ml_grid_world_rank() == 0)
        ml_warn("this MPI does not promise to work beside threads (MPI_THREAD_FUNNELED was asked "
                "for, level %d is provided): none but the main thread calls it, so this goes on",
                provided);
}

ml_status ml_grid_start(int *argc, char ***argv)
{
    int running = 0, provided = MPI_THREAD_SINGLE;
    MPI_Initialized(&running);
    if (running) return ML_OK;
    (void)ml_grid_launch();
    bool launched = getenv("PMIX_RANK") != NULL; /* by mpirun or srun */
    launcher_watch_start();
    bool started = start_mpi(launched, argc, argv, &provided);
    launcher_watch_stop();
    if (!started) return ml_fail(ML_INTERNAL, "MPI does not start");
    started_here = true;
    warn_of_threads(provided);
    settling_start();
    return grid_check_launch();
}

/* In MPI_Finalize Open MPI 4.1 unloads its plug-ins, transports and their handlers among them,
 * while the threads in which it and PMIx wait for messages still run: the code that one of them is
 * in may go. Ranks whose work was done were seen to end with signal 11 on a busy machine, twice in
 * some hundred thousand starts. So what is loaded stays until the process ends. */
static void keep_what_is_loaded(void)
{
    struct link_map *library = NULL;
    void *self = dlopen(NULL, RTLD_LAZY);
    if (!self) return;
    if (dlinfo(self, RTLD_DI_LINKMAP, &library) != 0) library = NULL;
    for (; library; library = library->l_next) {
        void *kept = library->l_name[0]
                         ? dlopen(library->l_name, RTLD_LAZY | RTLD_NOLOAD | RTLD_NODELETE)
                         : NULL;
        if (kept) dlclose(kept);
    }
    dlclose(self);
}

void ml_grid_stop(void)
{
    if (started_here) {
        settling_stop();
        keep_what_is_loaded();
        MPI_Finalize();
    }
    started_here = false;
}

static bool mpi_runs(void)
{
    int started = 0, ended = 0;
    MPI_Initialized(&started);
    MPI_Finalized(&ended);
    return started && !ended;
}

void ml_grid_abort(int code)
{
    if (mpi_runs()) MPI_Abort(MPI_COMM_WORLD, code);
}

int ml_grid_world_rank(void)
{
    int rank = 0;
    if (mpi_runs()) MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    return rank;
}

int ml_grid_world_size(void)
{
    int size = 1;
    if (mpi_runs()) MPI_Comm_size(MPI_COMM_WORLD, &size);
    return size;
}

static void count_group(ml_grid *grid, int group)
{
    grid->group_size[group] = 1;
    grid->group_rank[group] = 0;
    if (grid->group[group] == MPI_COMM_NULL) return;
    MPI_Comm_size(grid->group[group], &grid->group_size[group]);
    MPI_Comm_rank(grid->group[group], &grid->group_rank[group]);
}

/* Of one stage all ranks are the stage, and none has neighbours in a pipe. */
static void make_stages(ml_grid *grid)
{
    MPI_Comm *group = grid->group;
    group[ML_GROUP_PIPE] = group[ML_GROUP_ENDS] = MPI_COMM_NULL;
    grid->sent[ML_TO_NEXT] = grid->sent[ML_TO_PREVIOUS] = MPI_REQUEST_NULL;
    if (grid->pp == 1) {
        group[ML_GROUP_STAGE] = group[ML_GROUP_WORLD];
        return;
    }
    bool inside = grid->stage > 0 && grid->stage < grid->pp - 1;
    MPI_Comm_split(group[ML_GROUP_WORLD], grid->stage, grid->rank, &group[ML_GROUP_STAGE]);
    MPI_Comm_split(group[ML_GROUP_WORLD], grid->rank % (grid->size / grid->pp), grid->stage,
                   &group[ML_GROUP_PIPE]);
    MPI_Comm_split(group[ML_GROUP_PIPE], inside ? grid->stage : 0, grid->stage,
                   &group[ML_GROUP_ENDS]);
}

/* Where nobody shares sequences out, a tp group works on its own. */
static void make_sharers(ml_grid *grid)
{
    MPI_Comm *group = grid->group;
    group[ML_GROUP_CP] = MPI_COMM_NULL;
    group[ML_GROUP_BATCH] = group[ML_GROUP_TP];
    if (grid->cp == 1) return;
    MPI_Comm_split(group[ML_GROUP_DP], grid->dp_rank, grid->cp_rank, &group[ML_GROUP_CP]);
    MPI_Comm_split(group[ML_GROUP_STAGE], grid->dp_rank, grid->rank, &group[ML_GROUP_BATCH]);
}

static void make_groups(ml_grid *grid)
{
    MPI_Comm *group = grid->group;
    MPI_Comm_dup(MPI_COMM_WORLD, &group[ML_GROUP_WORLD]);
    int replica = ml_grid_replica(grid);
    make_stages(grid);
    MPI_Comm_split(group[ML_GROUP_STAGE], replica, grid->tp_rank, &group[ML_GROUP_TP]);
    MPI_Comm_split(group[ML_GROUP_STAGE], grid->tp_rank, replica, &group[ML_GROUP_DP]);
    make_sharers(grid);
    MPI_Comm_split_type(group[ML_GROUP_WORLD], MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL,
                        &group[ML_GROUP_NODE]);
    MPI_Comm_split(group[ML_GROUP_NODE], grid->stage * grid->tp + grid->tp_rank, replica,
                   &group[ML_GROUP_REPLICA]);
    group[ML_GROUP_HEAD] = group[ML_GROUP_HEAD_TP] = MPI_COMM_NULL;
    for (int g = 0; g < GROUPS; g++) count_group(grid, g);
}

/* The ranks of a tp group in order, so many next to each other. */
void ml_grid_group_heads(const ml_grid *caller, int copies)
{
    ml_grid *grid = (ml_grid *)(uintptr_t)caller;
    MPI_Comm *group = grid->group;
    if (grid->copies == copies) return;
    for (int g = ML_GROUP_HEAD; g <= ML_GROUP_HEAD_TP; g++)
        if (group[g] != MPI_COMM_NULL) MPI_Comm_free(&group[g]);
    grid->copies = copies;
    MPI_Comm_split(group[ML_GROUP_STAGE], grid->tp_rank / copies, grid->rank,
                   &group[ML_GROUP_HEAD]);
    MPI_Comm_split(group[ML_GROUP_TP], grid->tp_rank / copies, grid->tp_rank,
                   &group[ML_GROUP_HEAD_TP]);
    count_group(grid, ML_GROUP_HEAD);
    count_group(grid, ML_GROUP_HEAD_TP);
    sums_renew_heads(grid);
}

static void count_nodes(ml_grid *grid)
{
    MPI_Comm world = grid->group[ML_GROUP_WORLD];
    int leads = grid->group_rank[ML_GROUP_NODE] == 0;
    MPI_Allreduce(&leads, &grid->nodes, 1, MPI_INT, MPI_SUM, world);
    MPI_Allreduce(&grid->group_size[ML_GROUP_NODE], &grid->ranks_on_node, 1, MPI_INT, MPI_MAX,
                  world);
}

static void free_memory(ml_grid *grid)
{
    if (!grid) return;
    ml_memory_free(grid->told);
    ml_memory_free(grid->count);
    ml_memory_free(grid->start);
    ml_memory_free(grid->member);
    ml_memory_free(grid);
}

const char *ml_grid_list_divisors(int groups, char out[ML_GRID_DIVISORS])
{
    size_t used = 0;
    out[0] = '\0';
    for (int n = 1; n <= groups && used < ML_GRID_DIVISORS - 1; n++)
        if (groups % n == 0)
            used += (size_t)snprintf(out + used, ML_GRID_DIVISORS - used, "%s%d",
                                     used == 0     ? ""
                                     : n == groups ? " or "
                                                   : ", ",
                                     n);
    return out;
}

ml_status ml_grid_check_shape(int size, ml_grid_shape s)
{
    char good[ML_GRID_DIVISORS];
    if (s.tp < 1 || size % s.tp != 0)
        return ml_fail(ML_USAGE,
                       "parallel.tp: %d does not divide the %d ranks of this job; start a multiple "
                       "of %d ranks, or choose tp %s",
                       s.tp, size, s.tp, ml_grid_list_divisors(size, good));
    int left = size / s.tp;
    if (s.cp < 1 || left % s.cp != 0)
        return ml_fail(
            ML_USAGE,
            "parallel.cp: %d times tp %d does not divide the %d ranks of this job; start "
            "a multiple of %" PRId64 " ranks, or choose cp %s",
            s.cp, s.tp, size, (int64_t)s.tp * s.cp, ml_grid_list_divisors(left, good));
    left /= s.cp;
    if (s.pp >= 1 && left % s.pp == 0) return ML_OK;
    char shared[32] = "";
    if (s.cp > 1) snprintf(shared, sizeof shared, " times cp %d", s.cp);
    return ml_fail(
        ML_USAGE,
        "parallel.pp: %d stages of tp %d%s do not divide the %d ranks of this job; start a "
        "multiple of %" PRId64 " ranks, or choose pp %s",
        s.pp, s.tp, shared, size, (int64_t)s.tp * s.cp * s.pp, ml_grid_list_divisors(left, good));
}

ml_status ml_grid_create(ml_grid **out, int tp)
{
    return ml_grid_create_shape(out, (ml_grid_shape){tp, 1, 1});
}

ml_status ml_grid_create_shape(ml_grid **out, ml_grid_shape shape)
{
    ml_status st = ML_OK;
    ml_grid *grid = NULL;
    int size = ml_grid_world_size();
    ML_TRY(ml_grid_check_shape(size, shape));
    ML_TRY(sums_check());
    ML_TRY(share_check());
    ML_NEW(grid, 1, ML_MEM_COMMUNICATION, "the process grid");
    ML_NEW(grid->count, size, ML_MEM_COMMUNICATION, "the process grid");
    ML_NEW(grid->start, size, ML_MEM_COMMUNICATION, "the process grid");
    grid->rank = ml_grid_world_rank();
    grid->size = size;
    grid->tp = shape.tp;
    grid->cp = shape.cp;
    grid->pp = shape.pp;
    grid->dp = size / grid->tp / grid->cp / grid->pp;
    grid->tp_rank = grid->rank % grid->tp;
    grid->cp_rank = grid->rank / grid->tp % grid->cp;
    grid->dp_rank = grid->rank / grid->tp / grid->cp % grid->dp;
    grid->stage = grid->rank / grid->tp / grid->cp / grid->dp;
    int told = grid->pp * (grid->pp - 1);
    ML_NEW(grid->told, told, ML_MEM_COMMUNICATION, "the process grid");
    for (int i = 0; i < told; i++) grid->told[i] = MPI_REQUEST_NULL;
    make_groups(grid);
    count_nodes(grid);
    sums_start(grid);
    *out = grid;
    grid = NULL;
done:
    free_memory(grid);
    return st;
}

void ml_grid_destroy(ml_grid *grid)
{
    if (!grid) return;
    patience_stop(grid);
    sums_stop(grid);
    if (grid->pp == 1) grid->group[ML_GROUP_STAGE] = MPI_COMM_NULL; /* the world's */
    if (grid->cp == 1) grid->group[ML_GROUP_BATCH] = MPI_COMM_NULL; /* that of tp */
    for (int g = GROUPS - 1; g >= 0; g--)
        if (grid->group[g] != MPI_COMM_NULL) MPI_Comm_free(&grid->group[g]);
    free_memory(grid);
}

int ml_grid_rank(const ml_grid *grid) { return grid->rank; }
int ml_grid_size(const ml_grid *grid) { return grid->size; }
int ml_grid_tp(const ml_grid *grid) { return grid->tp; }
int ml_grid_tp_rank(const ml_grid *grid) { return grid->tp_rank; }
int ml_grid_cp(const ml_grid *grid) { return grid->cp; }
int ml_grid_cp_rank(const ml_grid *grid) { return grid->cp_rank; }
int ml_grid_dp(const ml_grid *grid) { return grid->dp; }
int ml_grid_dp_rank(const ml_grid *grid) { return grid->dp_rank; }
int ml_grid_replicas(const ml_grid *grid) { return grid->dp * grid->cp; }
int ml_grid_replica(const ml_grid *grid) { return grid->dp_rank * grid->cp + grid->cp_rank; }
int ml_grid_pp(const ml_grid *grid) { return grid->pp; }
int ml_grid_stage(const ml_grid *grid) { return grid->stage; }
int ml_grid_rank_at(const ml_grid *grid, int stage, int replica, int tp_rank)
{
    return (stage * ml_grid_replicas(grid) + replica) * grid->tp + tp_rank;
}
int ml_grid_group_size(const ml_grid *grid, ml_group group) { return grid->group_size[group]; }
int ml_grid_group_rank(const ml_grid *grid, ml_group group) { return grid->group_rank[group]; }
int ml_grid_nodes(const ml_grid *grid) { return grid->nodes; }
int ml_grid_ranks_on_node(const ml_grid *grid) { return grid->ranks_on_node; }
int64_t ml_grid_summed_bytes(const ml_grid *grid, ml_group group) { return grid->summed[group]; }
double ml_grid_comm_seconds(const ml_grid *grid) { return grid->seconds; }
