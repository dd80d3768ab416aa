/* What the subjects of `mpilora bench` share: rounds of measurements, and one object or table on
 * standard output. */
#ifndef MPILORA_CLI_BENCH_BENCH_H
#define MPILORA_CLI_BENCH_BENCH_H

#include <jansson.h>

#include "cli/cli.h"
#include "mpilora/config.h"
#include "mpilora/grid.h"
#include "mpilora/kernels.h"

/* The subjects. Rank 0 alone prints. */
extern const ml_command bench_gemm;
extern const ml_command bench_attention;
extern const ml_command bench_step;
extern const ml_command bench_allreduce;
extern const ml_command bench_generate;
extern const ml_command bench_latency;
extern const ml_command bench_machine;

/* ---- measurements of some rounds: seconds, or rates ---------------------------------------- */

enum { BENCH_ROUNDS_MOST = 64 };

typedef struct bench_times {
    int64_t count;
    double values[BENCH_ROUNDS_MOST];
} bench_times;

void bench_add(bench_times *times,
               double value); /* nothing where there are BENCH_ROUNDS_MOST already */
double bench_median(const bench_times *times); /* NaN of none */
/* Rates of work done in these times: the longest is the least. NaN of none. */
ml_kernels_spread bench_rates(const bench_times *times, double work);
double bench_largest(
    const bench_times *times); /* of peaks: a disturbed round says nothing about what is possible */
/* Is another round due? At least `least`, then until `seconds` since `start` have passed. With a
 * grid rank 0 decides for all: collective over the world. */
bool bench_goes_on(const ml_grid *grid, int64_t round, int64_t least, double start, double seconds);

/* ---- input --------------------------------------------------------------------------------- */

typedef struct bench_size {
    const char *name;
    int64_t value, most;
} bench_size;

/* ML_USAGE where a value is not in 1 … most. The table ends with a NULL name. */
ml_status bench_check_sizes(const bench_size *sizes) ML_NODISCARD;
ml_status bench_check_dtype(const char *name, const char *text, ml_dtype *out) ML_NODISCARD;
/* "q,v" or "all" → ml_target bits. */
ml_status bench_read_targets(const char *text, unsigned *out) ML_NODISCARD;
/* The architecture of a base file or of a description (one of them NULL), or GPT-2's of 124 M
 * where neither is given. */
ml_status bench_read_model(const char *base, const char *model, ml_model_spec *out) ML_NODISCARD;
ml_status bench_new_floats(float **out, int64_t n,
                           const char *name) ML_NODISCARD; /* category other; values in ±0.5 */

/* ---- output -------------------------------------------------------------------------------- */

bool bench_speaks(void);              /* world rank 0 */
void bench_print_json(json_t *facts); /* consumed; on world rank 0 alone */

/* "DIRECTION_FIGURE", the median, and with "_min" and "_max" behind it. */
void bench_put_spread(json_t *object, const char *direction, const char *figure,
                      const ml_kernels_spread *spread);
/* `facts`: what was measured; consumed. */
void bench_report_rates(bool json, json_t *facts, const char *title, double peak,
                        const ml_kernels *k, const ml_kernels_rate *rates, int64_t count);

#endif
