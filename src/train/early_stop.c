/* train.early_stop: the run ends, and is finished, where validation no longer becomes better.
 *
 * An evaluation is better where it lies below the value at the last reset by more than min_delta;
 * that resets value and count. So small gains add up until they count, unlike in the Trainer of
 * transformers, which compares with the best value so far: there a slow descent counts as none. */
#include <inttypes.h>
#include <math.h>

#include "train/run.h"

void early_stop_note(run *r)
{
    ml_checkpoint_progress *p = &r->progress;
    if (r->config->train.early_stop.patience == 0) return;
    bool better =
        isnan(p->stop_loss) || r->valid_loss < p->stop_loss - r->config->train.early_stop.min_delta;
    if (better) p->stop_loss = r->valid_loss;
    p->stop_count = better ? 0 : p->stop_count + 1;
    if (early_stop_reached(r))
        ml_log("step %" PRId64 ": the last %" PRId64
               " evaluations were not below %.6f by more than %g: the run ends here "
               "(train.early_stop)",
               r->step, p->stop_count, p->stop_loss, r->config->train.early_stop.min_delta);
}

bool early_stop_reached(const run *r)
{
    int64_t patience = r->config->train.early_stop.patience;
    return patience > 0 && r->progress.stop_count >= patience;
}
