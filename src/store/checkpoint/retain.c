/* Which old checkpoints go: only those that enough whole newer ones make dispensable. */
#include <inttypes.h>

#include "store/checkpoint/run_directory.h"

enum { LEAST_KEPT = 2 };

static bool is_whole(ml_run_directory *run, int64_t step)
{
    bool bad;
    if (ml_step_is_verified(run, step)) return true;
    ml_status st = ml_step_check(run, step, NULL, &bad);
    if (st != ML_OK)
        ml_warn("checkpoint of step %" PRId64 ": %s; it does not count as kept", step,
                ml_error_text());
    return st == ML_OK;
}

void ml_steps_retain(ml_run_directory *run, int64_t keep, int64_t keep_step)
{
    int64_t *steps = NULL, count = 0, kept = 0;
    keep = ml_max(keep, LEAST_KEPT);
    ml_status st = ml_steps_list(run, true, &steps, &count);
    for (int64_t i = count - 1; st == ML_OK && count > keep && i >= 0; i--) {
        if (kept < keep)
            kept += is_whole(run, steps[i]);
        else if (steps[i] != keep_step)
            st = ml_step_remove(run, steps[i]);
    }
    if (st != ML_OK) ml_warn("old checkpoints stay: %s", ml_error_text());
    ml_memory_free(steps);
}
