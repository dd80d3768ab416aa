/* How long passes go forward and how long backward. The clock stands still inside collectives:
 * their time is the grid's. */
#include "model/model_private.h"

static double busy_seconds(const ml_model *m)
{
    return ml_seconds() - (m->grid ? ml_grid_comm_seconds(m->grid) : 0.0);
}

void pass_enter(ml_model *m, pass_phase phase)
{
    double now = busy_seconds(m);
    m->clock.seconds[m->clock.phase] += now - m->clock.since;
    m->clock.phase = phase;
    m->clock.since = now;
}

double ml_model_forward_seconds(const ml_model *m) { return m->clock.seconds[PASS_FORWARD]; }
double ml_model_backward_seconds(const ml_model *m) { return m->clock.seconds[PASS_BACKWARD]; }
