/* compare: several methods on the same data, each a run of its own under a launcher; what they measured, as a table. */
#ifndef MPILORA_CLI_COMPARE_H
#define MPILORA_CLI_COMPARE_H

#include "cli/launch.h"
#include "cli/table_file.h"
#include "mpilora/config.h"

enum { COMPARE_ROWS = 256, COMPARE_SEEDS = 64, COMPARE_SETS = 16, COMPARE_WORDS = 256 };

enum { COMPARE_COLUMNS = 23 };
extern const table_column compare_columns[COMPARE_COLUMNS];
int compare_column_find(const char *name);

/* "lora:rank=4:targets=[q,k]": a method and what it changes of the configuration. */
typedef struct compare_row {
    char words[COMPARE_WORDS]; /* as they were given */
    char name[COMPARE_WORDS];  /* of its directory: only letters, digits, '.', '-', '_' and '+' */
    char set[COMPARE_SETS][COMPARE_WORDS];
    int nsets;
    ml_method method;
    int64_t done;
    bool used[COMPARE_SEEDS];
    double value[COMPARE_SEEDS][COMPARE_COLUMNS]; /* NaN where it is not known */
    char status[LAUNCH_TEXT];                     /* "ok", or what the first failure said */
} compare_row;

typedef struct compare_options {
    const char *config_path, *out, *launcher;
    char program[LAUNCH_PATH];
    const char *const *sets;
    int64_t nsets, ranks, threads, nseeds;
    uint64_t seed[COMPARE_SEEDS];
    double base_loss; /* on data.valid, before any training; NaN: nothing to evaluate */
} compare_options;

/* compare_rows.c: the methods between commas (those in brackets do not count), seeds likewise. ML_USAGE naming what is wrong. */
ml_status compare_rows_read(compare_row *rows, int64_t *count, const char *words) ML_NODISCARD;
ml_status compare_seeds_read(compare_options *o, const char *words) ML_NODISCARD;

/* compare_run.c: what fails is noted in the row; only what concerns all of them is a status. A run that was finished before is not run again. */
ml_status compare_run(const compare_options *o, compare_row *row, int64_t seed) ML_NODISCARD;
ml_status compare_base(compare_options *o) ML_NODISCARD; /* base_loss */

/* compare_table.c: OUT/compare.csv, OUT/compare.h5 */
table_spread compare_spread(const compare_row *row, const char *column);
ml_status compare_write(const compare_options *o, const compare_row *rows, int64_t count) ML_NODISCARD;
void compare_print(const compare_options *o, const compare_row *rows, int64_t count);
ml_status compare_print_json(const compare_options *o, const compare_row *rows, int64_t count) ML_NODISCARD;

#endif
