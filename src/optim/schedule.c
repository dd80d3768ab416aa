/* Learning-rate factors, as Hugging Face's transformers has them. */
#include <math.h>

#include "mpilora/optim.h"

double ml_schedule_factor(ml_schedule schedule, int64_t done, int64_t warmup, int64_t steps)
{
    if (done < warmup) return (double)done / (double)ml_max(1, warmup);
    if (schedule == ML_SCHEDULE_CONSTANT) return 1.0;
    double length = (double)ml_max(1, steps - warmup);
    if (schedule == ML_SCHEDULE_LINEAR) return fmax(0.0, (double)(steps - done) / length);
    double progress = (double)(done - warmup) / length;
    return fmax(0.0, 0.5 * (1.0 + cos(3.141592653589793 * progress)));
}
