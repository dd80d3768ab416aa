/* scale: one configuration on several grids, each a run of its own under a launcher; what it
 * measured, as a table. */
#ifndef MPILORA_CLI_EXPERIMENT_SCALE_H
#define MPILORA_CLI_EXPERIMENT_SCALE_H

#include "cli/support/table_file.h"
#include "mpilora/base.h"
#include "mpilora/config.h"
#include "mpilora/plan.h"

enum {
    SCALE_EXPERIMENTS = 256,
    SCALE_REPETITIONS = 64,
    SCALE_STATUS = 256 /* LAUNCH_TEXT */,
    SCALE_PATH = 4096
};

/* Figures of steps are without the first one of a run, which warms up. */
enum { SCALE_COLUMNS = 29 };
extern const table_column scale_columns[SCALE_COLUMNS];
int scale_column_find(const char *name);

/* What plan says of an experiment before it runs; NaN: not known. */
typedef struct scale_plan {
    double piped_bytes, step_s; /* a step; step_s where there is a machine file */
} scale_plan;

typedef struct scale_experiment {
    const char *method;
    int64_t ranks, dp, tp, pp, cp, threads, sequences;
    scale_plan planned;
    int64_t done;                                   /* repetitions that ended well */
    bool used[SCALE_REPETITIONS];                   /* which they are */
    double value[SCALE_REPETITIONS][SCALE_COLUMNS]; /* NaN where it is not known; of steps their
                                                       median */
    double (*steps)[SCALE_COLUMNS];                 /* of all repetitions; owned */
    int64_t nsteps, capacity;
    char status[SCALE_STATUS]; /* "ok", or what the first failure said */
} scale_experiment;

typedef struct scale_options {
    const char *config_path, *out, *launcher, *program;
    const char *const *sets;
    int64_t nsets, steps, repetitions;
    bool weak;
    const ml_run_config *config;
    const ml_machine *machine; /* NULL: none */
    int64_t nodes;             /* that plan lays the ranks on */
} scale_options;

/* "dp 2 x tp 1", and its pp and cp where there are stages, or sharers of sequences. */
enum { SCALE_GRID = 80 };
const char *scale_grid_name(const scale_experiment *e, char text[SCALE_GRID]);

/* scale_plan.c. What cannot be planned is not known, since its run says why. */
ml_status scale_predict(const scale_options *o, scale_experiment *e) ML_NODISCARD;

/* scale_run.c: one repetition. What fails is noted in the experiment; only what concerns all of
 * them is a status. */
ml_status scale_run(const scale_options *o, scale_experiment *e, int64_t repetition) ML_NODISCARD;

/* scale_table.c */
/* The median of all steps, or of the repetitions where the column is no step's; the least and the
 * most of the repetitions. */
table_spread scale_spread_of(const scale_experiment *e, int column);
/* Tokens/s a rank, beside those of the method's first experiment that ended well. NaN where the two
 * are not further apart than the repetitions of one of them, or where there is only one. */
double scale_efficiency(const scale_experiment *all, int64_t count, const scale_experiment *e);
ml_status scale_write(const scale_options *o, const scale_experiment *all,
                      int64_t count) ML_NODISCARD; /* scaling.csv, scaling.h5 */
void scale_print(const scale_options *o, const scale_experiment *all, int64_t count);
ml_status scale_print_json(const scale_options *o, const scale_experiment *all,
                           int64_t count) ML_NODISCARD;

#endif
