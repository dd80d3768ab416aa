/* How long a rank waits for others. MPI itself waits without an end where a node or the way to it
 * is gone and nothing says so, and the rank is then inside of MPI, so that a thread beside it
 * looks. */
#include <unistd.h>

#include "grid/grid_private.h"

enum { HOST_BYTES = 256, MOST_APART = 4 };
/* Seconds; apart: ranks of a node, so that the launcher has ended the others before they speak. */
static const double apart = 5.0;

typedef struct patience {
    const ml_grid *grid;
    double limit; /* of this rank */
    looker looker;
} patience;

/* There is nobody to agree with. */
static void end_process(const patience *p, double waited)
{
    char host[HOST_BYTES] = "";
    (void)gethostname(host, sizeof host - 1);
    fprintf(stderr,
            "mpilora: run.wait_limit: rank %d on %s has waited %.0f s for other ranks, which have "
            "ended or cannot be reached; the same command goes on from the newest checkpoint\n",
            p->grid->rank, host, waited);
    fflush(stderr);
    ml_grid_abort((int)ML_RESOURCE);
}

static void look(const void *self)
{
    const patience *p = self;
    double since = atomic_load_explicit(&p->grid->inside_since, memory_order_relaxed);
    double waited = since > 0.0 ? ml_seconds() - since : 0.0;
    if (waited > p->limit) end_process(p, waited);
}

ml_status ml_grid_limit_waits(ml_grid *grid, double seconds)
{
    ml_status st = ML_OK;
    patience *p;
    if (grid->size == 1) return ML_OK;
    double later = (double)ml_min(grid->group_rank[ML_GROUP_NODE], MOST_APART);
    ML_NEW(p, 1, ML_MEM_OTHER, "a limit of waiting");
    p->grid = grid;
    p->limit = seconds + apart * later;
    if (looker_start(&p->looker, look, p)) {
        grid->patience = p;
        return ML_OK;
    }
    ml_memory_free(p);
    st = ml_fail(ML_RESOURCE, "run.wait_limit: no thread can be started to look at the time");
done:
    return st;
}

void patience_stop(ml_grid *grid)
{
    patience *p = grid->patience;
    if (!p) return;
    looker_stop(&p->looker);
    ml_memory_free(p);
    grid->patience = NULL;
}
