/* What a step's time goes to, as one rank sees it.
 *
 * Computing is timed outside collectives, so the phases add up to the step. Time inside
 * collectives is moving data and waiting for slower ranks, which one rank cannot tell apart; but
 * the rank that all others wait for does not wait itself. So a rank's wait is its communication
 * beyond the least of all ranks. */
#include "train/run.h"

const char *ml_phase_name(ml_phase phase)
{
    static const char *const names[ML_PHASES] = {"forward",   "backward", "comm",
                                                 "optimizer", "data",     "other"};
    return names[phase];
}

double busy_seconds(const session *s) { return ml_seconds() - ml_grid_comm_seconds(s->grid); }

step_clock step_clock_start(const session *s)
{
    return (step_clock){ml_seconds(), ml_grid_comm_seconds(s->grid),
                        ml_model_forward_seconds(s->model), ml_model_backward_seconds(s->model)};
}

void step_clock_stop(const step_clock *clock, const session *s, step_result *out)
{
    double named = 0.0;
    out->phase[ML_PHASE_FORWARD] = ml_model_forward_seconds(s->model) - clock->forward;
    out->phase[ML_PHASE_BACKWARD] = ml_model_backward_seconds(s->model) - clock->backward;
    out->phase[ML_PHASE_COMM] = ml_grid_comm_seconds(s->grid) - clock->comm;
    out->seconds = ml_seconds() - clock->started;
    for (int p = 0; p < ML_PHASE_OTHER; p++) named += out->phase[p];
    out->phase[ML_PHASE_OTHER] = out->seconds > named ? out->seconds - named : 0.0;
}

void find_wait(const session *s, step_result *out)
{
    double least = -out->phase[ML_PHASE_COMM];
    ml_grid_max_double(s->grid, ML_GROUP_WORLD, &least, 1);
    out->wait_seconds = out->phase[ML_PHASE_COMM] + least;
}
