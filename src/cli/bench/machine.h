/* What the files of `mpilora bench machine` share. */
#ifndef MPILORA_CLI_BENCH_MACHINE_H
#define MPILORA_CLI_BENCH_MACHINE_H

#include "cli/bench/bench.h"
#include "mpilora/plan.h"

/* bench_machine_compute.c: the rates of one core while all threads of all ranks work. */
ml_status bench_machine_compute(const ml_grid *grid, double seconds, ml_machine *out) ML_NODISCARD;

/* bench_machine_network.c: sums between ranks; of a single rank by a pair of processes that it
 * starts. What cannot be measured keeps a default; *inside and *between say what was. */
ml_status bench_machine_network(const ml_grid *grid, ml_machine *out, bool *inside,
                                bool *between) ML_NODISCARD;

#endif
