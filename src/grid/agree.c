/* Agreement: one status and one text for several ranks.
 *
 * Between two collectives ranks agree: whoever failed waits for the others, who are on their way to
 * the same agreement. Around a phase that has collectives of its own they settle: a rank that
 * failed in there may have left a partner in a sum that will never end, so it waits for a while
 * only, and then ends the job. A failure that all agreed on is settled already: one of them may
 * have a save to wait for before it ends, and is given that time. Both use messages of their own,
 * which no sum of a partner can take for its own: settling has a communicator for itself, and an
 * agreement is the same calls on every rank. */
#include <time.h>
#include <unistd.h>

#include "grid/grid_private.h"

enum { TEXT_BYTES = 2048, HOST_BYTES = 256 };
static const double patience = 2.0; /* seconds that a rank which failed waits for the others */

static MPI_Comm settling = MPI_COMM_NULL;
static ml_status settled; /* the last failure that all ranks know of, with its text */
static char settled_text[TEXT_BYTES];

void settling_start(void) { MPI_Comm_dup(MPI_COMM_WORLD, &settling); }

void settling_stop(void)
{
    if (settling != MPI_COMM_NULL) MPI_Comm_free(&settling);
}

/* What a rank knows before it asks: after a minimum over all ranks, who failed first, and whether
 * all did. */
typedef struct verdict {
    int first; /* the lowest-numbered rank that failed; the number of ranks where none did */
    int all;   /* 1: each of them failed */
} verdict;

/* The error text with this rank and its host behind it, for those who read it elsewhere. */
static void sign(char text[TEXT_BYTES])
{
    char host[HOST_BYTES] = "";
    (void)gethostname(host, sizeof host - 1);
    const char *message = ml_error_text();
    if (strstr(message, " (rank "))
        snprintf(text, TEXT_BYTES, "%s", message); /* as a smaller group agreed on it */
    else
        snprintf(text, TEXT_BYTES, "%.*s (rank %d on %s)", TEXT_BYTES - HOST_BYTES - 32, message,
                 ml_grid_world_rank(), host);
}

/* Every rank gets the first failing one's status and text; the rank is named where others did not
 * fail. */
static ml_status spread(MPI_Comm comm, int rank, verdict v, ml_status local)
{
    struct {
        int status;
        char text[TEXT_BYTES];
    } message = {(int)local, ""};
    if (rank == v.first && v.all) snprintf(message.text, TEXT_BYTES, "%s", ml_error_text());
    if (rank == v.first && !v.all) sign(message.text);
    MPI_Bcast(&message, (int)sizeof message, MPI_BYTE, v.first, comm);
    return ml_fail((ml_status)message.status, "%s", message.text);
}

/* What all ranks of the world know of last; a failure that they know of needs no settling. */
static ml_status remember(ml_status st)
{
    settled = st;
    if (st != ML_OK) snprintf(settled_text, sizeof settled_text, "%s", ml_error_text());
    return st;
}

static verdict verdict_of(ml_status local, int rank, int size)
{
    return (verdict){local == ML_OK ? size : rank, local != ML_OK};
}

ml_status ml_grid_agree_in(const ml_grid *grid, ml_group group, ml_status local)
{
    int size = grid->group_size[group], rank = grid->group_rank[group];
    MPI_Comm comm = grid->group[group];
    if (size == 1) return local;
    double since = grid_enter(grid);
    verdict mine = verdict_of(local, rank, size), v;
    MPI_Allreduce(&mine, &v, 2, MPI_INT, MPI_MIN, comm);
    ml_status st = v.first == size ? ML_OK : spread(comm, rank, v, local);
    grid_leave(grid, since);
    return size == ml_grid_world_size() ? remember(st) : st;
}

ml_status ml_grid_agree(const ml_grid *grid, ml_status local)
{
    return ml_grid_agree_in(grid, ML_GROUP_WORLD, local);
}

/* Whether the other ranks came, too: without an end where this one did not fail, since the one that
 * did ends the job. */
static bool wait_for_others(MPI_Request *request, bool failed)
{
    const struct timespec pause = {0, 200 * 1000};
    double until = ml_seconds() + patience;
    int done = 0;
    for (;;) {
        MPI_Test(request, &done, MPI_STATUS_IGNORE);
        if (done || (failed && ml_seconds() > until)) return done;
        nanosleep(&pause, NULL);
    }
}

static void end_job(ml_status st)
{
    char text[TEXT_BYTES];
    sign(text);
    fprintf(stderr, "mpilora: %s; the other ranks are stopped\n", text);
    fflush(stderr);
    ml_grid_abort((int)st);
}

ml_status ml_grid_settle(ml_status local)
{
    int rank = ml_grid_world_rank(), size = ml_grid_world_size();
    if (size == 1 || settling == MPI_COMM_NULL) return local;
    if (local != ML_OK && local == settled && !strcmp(ml_error_text(), settled_text)) return local;
    verdict mine = verdict_of(local, rank, size), v;
    MPI_Request request;
    MPI_Iallreduce(&mine, &v, 2, MPI_INT, MPI_MIN, settling, &request);
    if (!wait_for_others(&request, local != ML_OK)) {
        end_job(local);
        return local;
    }
    return remember(v.first == size ? ML_OK : spread(settling, rank, v, local));
}
