/* Who started this process, and as one of how many. MPI cannot say it: a program that was built for
 * one MPI and is started by the launcher of another is as many worlds of one rank each, all of
 * which would do the same work over each other's files. Launchers leave the numbers in the
 * environment.
 *
 * Launchers stand inside each other (srun starts mpirun's daemons, a step holds a whole mpirun),
 * and each leaves its variables to all processes below it. The table goes from those that can only
 * be the innermost to the one that is most likely around another; the first that is there decides.
 */
#include <errno.h>
#include <stdlib.h>

#include "grid/grid_private.h"

typedef struct launcher {
    const char *ranks, *rank; /* variables */
    const char *advice;
} launcher;

static const launcher launchers[] = {
    {"OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK",
     "start it with the mpirun of the MPI that it was built with, or build it with Open MPI"},
    {"MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK",
     "start it with the mpirun of the MPI that it was built with, or build it with MVAPICH2"},
    {"PMI_SIZE", "PMI_RANK",
     "start it with the mpirun of the MPI that it was built with, or build it with the MPI whose "
     "launcher this is"},
    {"FLUX_JOB_SIZE", "FLUX_TASK_RANK",
     "start it with flux run -o mpi=NAME for the MPI that it was built with"}};
enum { LAUNCHERS = sizeof launchers / sizeof *launchers };

static const char slurm_advice[] =
    "start it with srun --mpi=pmix (srun --mpi=list names what there is), or with the mpirun of "
    "the MPI that it was built with";

/* A whole number from `least` on; −1 where the variable has none. */
static int number(const char *variable, int least)
{
    const char *text = getenv(variable);
    char *end;
    if (!text || !*text) return -1;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    return *end || errno || value < least || value > INT32_MAX ? -1 : (int)value;
}

/* A batch script and the shell that salloc opens have the job's SLURM_NTASKS and often
 * SLURM_PROCID, too, but no step; or one whose number is no int32, as SLURM's own steps are (batch
 * is 2³² − 5). */
static ml_launch launched_by_slurm(void)
{
    int rank = number("SLURM_PROCID", 0), ranks = number("SLURM_STEP_NUM_TASKS", 1);
    if (number("SLURM_STEP_ID", 0) < 0 || rank < 0) return (ml_launch){.ranks = 0};
    if (ranks > 0) return (ml_launch){"SLURM_STEP_NUM_TASKS", slurm_advice, ranks, rank == 0};
    return (ml_launch){"SLURM_NTASKS", slurm_advice, number("SLURM_NTASKS", 1), rank == 0};
}

/* PMIx names no number of ranks; but a rank that is not the first is not alone. */
static ml_launch launched_by_pmix(void)
{
    int rank = number("PMIX_RANK", 1);
    return (ml_launch){"PMIX_RANK", slurm_advice, rank + 1, rank == 1};
}

static ml_launch look(void)
{
    for (int i = 0; i < LAUNCHERS; i++) {
        const launcher *l = &launchers[i];
        int ranks = number(l->ranks, 1);
        if (ranks > 0) return (ml_launch){l->ranks, l->advice, ranks, number(l->rank, 0) <= 0};
    }
    ml_launch launch = launched_by_slurm();
    if (launch.ranks < 1) launch = launched_by_pmix();
    return launch.ranks > 0 ? launch : (ml_launch){.ranks = 1, .speaks = true};
}

ml_launch ml_grid_launch(void)
{
    static ml_launch launch; /* MPI_Init changes these variables where it is not launched */
    if (launch.ranks == 0) launch = look();
    return launch;
}

/* Its name and version: what stands before the first comma or end of line. */
static void name_mpi(char *name, size_t size)
{
    char text[MPI_MAX_LIBRARY_VERSION_STRING];
    int length = 0;
    MPI_Get_library_version(text, &length);
    snprintf(name, size, "%.*s", (int)strcspn(text, ",\n"), text);
}

ml_status grid_check_launch(void)
{
    ml_launch launch = ml_grid_launch();
    char mpi[128];
    if (launch.ranks == 1 || ml_grid_world_size() > 1) return ML_OK;
    name_mpi(mpi, sizeof mpi);
    return ml_fail(ML_USAGE,
                   "%d ranks were started, says %s, but each is alone for the MPI of this program "
                   "(%s): %s. Where each is to be a run of its own: env -u %s mpilora …",
                   launch.ranks, launch.variable, mpi, launch.advice, launch.variable);
}
