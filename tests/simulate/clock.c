/* The simulation's clock. It stands still while a rank computes here, and goes on while the rank is
 * in MPI: the seconds that its kernels would have taken are collected, and pass before the next
 * call of MPI, which is the first moment at which another rank could notice. */
#include <simgrid/engine.h>
#include <smpi/smpi.h>

#include "simulate.h"

static double ahead; /* of the simulation */

/* Hosts have a speed of 1 Gf, and a core for each of their ranks. */
static const double speed = 1e9;

void clock_spend(double seconds) { ahead += seconds; }

void clock_pass(void)
{
    double seconds = ahead;
    ahead = 0.0;
    if (seconds > 0.0) smpi_execute_flops(seconds * speed);
}

/* In the place of ml_seconds. */
double __wrap_ml_seconds(void);
double __wrap_ml_seconds(void) { return simgrid_get_clock() + ahead; }
