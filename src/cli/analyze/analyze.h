/* What the subjects of `mpilora analyze` share. */
#ifndef MPILORA_CLI_ANALYZE_ANALYZE_H
#define MPILORA_CLI_ANALYZE_ANALYZE_H

#include <jansson.h>

#include "cli/support/options.h"
#include "mpilora/analyze.h"

/* Each takes argv with argv[0] = its own name. Rank 0 alone prints. */
ml_status analyze_subspace(int argc, char **argv) ML_NODISCARD;
ml_status analyze_amplification(int argc, char **argv) ML_NODISCARD;
ml_status analyze_spectrum(int argc, char **argv) ML_NODISCARD;

/* The options that all have. */
typedef struct analyze_options {
    const char *base, *out, *targets, *layers;
    bool json;
    int64_t seed;
    double memory; /* GiB of a node; 0: what the node says */
} analyze_options;

enum { ANALYZE_COMMON = 7, ANALYZE_OPTIONS = 12 };

/* Puts them into the first places of a table; the caller's own and the end follow. */
void analyze_common_options(option table[ANALYZE_OPTIONS], analyze_options *o);

typedef struct analyze_run {
    ml_grid *grid;
    ml_study study;
} analyze_run;

/* Checks the options and opens the study. `usage` ends the messages. Collective over the world. */
ml_status analyze_open(analyze_run *run, const analyze_options *o,
                       const char *const adapters[ML_STUDY_ADAPTERS],
                       const char *usage) ML_NODISCARD;
void analyze_close(analyze_run *run);
int64_t analyze_memory(const analyze_options *o); /* bytes */

/* What the spectra of a base, or of a description *.yaml, would need on `ranks` ranks; 0: those
 * that run, and then whether their nodes have it. Collective over the world. */
ml_status analyze_plan(const analyze_options *o, int64_t ranks, const char *usage) ML_NODISCARD;

bool analyze_speaks(void); /* world rank 0 */
/* {"kind", "base", "adapters", "modules": []}; the caller adds to the modules. */
json_t *analyze_json(const ml_study *study, const char *kind);
json_t *
analyze_json_module(const ml_study_module *module); /* {"module", "layer", "target", "out", "in"} */
json_t *analyze_json_numbers(const double *x, int64_t n);
void analyze_print_json(json_t *result); /* consumed */

#endif
