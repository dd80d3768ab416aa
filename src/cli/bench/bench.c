/* mpilora bench SUBJECT: each subject has a file of its own. Candidates run in turn, so that a
 * disturbance of the machine meets all of them; the median counts, of a peak the largest. */
#include "cli/bench/bench.h"

static const ml_command *const subjects[] = {
    &bench_gemm,     &bench_attention, &bench_step,    &bench_allreduce,
    &bench_generate, &bench_latency,   &bench_machine, NULL};

const ml_command ml_command_bench = {
    .name = "bench",
    .summary = "measure this machine: products, attention, training steps, sums over ranks, "
               "generation; write its machine file",
    .usage = "mpilora bench gemm|attention|step|allreduce|generate|latency|machine [option]...",
    .about = "Measures, on any number of ranks, and prints a table or with --json one JSON object.",
    .notes = "OMP_NUM_THREADS sets the threads of a rank, MPILORA_VECTOR_PATH the instructions, "
             "MPILORA_PRODUCT_PATH the products.",
    .parallel = true,
    .subjects = subjects};
