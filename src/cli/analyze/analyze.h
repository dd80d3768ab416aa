/* What the subjects of `mpilora analyze` share. */
#ifndef MPILORA_CLI_ANALYZE_ANALYZE_H
#define MPILORA_CLI_ANALYZE_ANALYZE_H

#include <jansson.h>

#include "cli/cli.h"
#include "mpilora/analyze.h"

/* The subjects. Rank 0 alone prints. */
extern const ml_command analyze_subspace;
extern const ml_command analyze_amplification;
extern const ml_command analyze_spectrum;

/* The options that all have. */
typedef struct analyze_options {
    const char *base, *out, *targets, *layers;
    bool json;
    int64_t seed;
    double memory; /* GiB of a node; 0: what the node says */
} analyze_options;

/* Rows of an option table for the member `common` of the struct `s`. */
/* clang-format off */
#define ANALYZE_OPTIONS(s) {"--base", OPTION_TEXT, offsetof(s, common.base), "BASE.h5", "the base of the adapters; of --plan also a model description", NULL}, \
    {"--targets", OPTION_TEXT, offsetof(s, common.targets), "LIST", "only these, as q,v; else those of the adapter, without one every linear layer", NULL}, \
    {"--layers", OPTION_TEXT, offsetof(s, common.layers), "LIST", "only these, counted from 0, as 0-3,7", NULL}, \
    {"--out", OPTION_TEXT, offsetof(s, common.out), "FILE.h5", "all numbers, in double precision; analysis/subspace.py draws them", NULL}, \
    {"--json", OPTION_FLAG, offsetof(s, common.json), NULL, "one JSON object instead of the table", NULL}, \
    {"--seed", OPTION_INT, offsetof(s, common.seed), "N", "of the random matrices", "1"}, \
    {"--memory", OPTION_NUMBER, offsetof(s, common.memory), "GIB", "what a node may use, in place of what it has available", NULL}
/* clang-format on */

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
