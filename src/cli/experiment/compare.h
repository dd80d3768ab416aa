/* compare: several methods on the same data, each a run of its own under a launcher; what they
 * measured, as a table. */
#ifndef MPILORA_CLI_EXPERIMENT_COMPARE_H
#define MPILORA_CLI_EXPERIMENT_COMPARE_H

#include "cli/support/launch.h"
#include "cli/support/options.h"
#include "cli/support/table_file.h"
#include "io/durable.h"
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
    int64_t together; /* runs of one job at most */
    uint64_t seed[COMPARE_SEEDS];
    double base_loss; /* on data.valid, before any training; NaN: nothing to evaluate */
} compare_options;

/* What compare and sweep are told alike. */
typedef struct compare_words {
    const char *seeds, *launcher, *out;
    int64_t ranks, threads, together;
    option_list sets;
    bool json;
} compare_words;
/* Rows of an option table for the member `f` of the struct `s`. */
/* clang-format off */
#define COMPARE_OPTIONS(s, f, out_standard) {"--ranks", OPTION_INT, offsetof(s, f.ranks), "N", "of every run; parallel.tp is the configuration's", "1"}, \
    {"--seeds", OPTION_TEXT, offsetof(s, f.seeds), "LIST", "run.seed of the repetitions, as 1,2,3; else the configuration's", NULL}, \
    {"--threads", OPTION_INT, offsetof(s, f.threads), "N", "of a rank; else OMP_NUM_THREADS, else the cores here divided by the ranks", NULL}, \
    {"--together", OPTION_INT, offsetof(s, f.together), "N", "up to N runs of a seed train in one job on one copy of the frozen weights; those that cannot (another method, another precision) run alone", "1"}, \
    {"--launcher", OPTION_TEXT, offsetof(s, f.launcher), "TEXT", "what starts a run; else \"srun --mpi=pmix --exact -n {ranks}\" inside a SLURM job, \"mpirun --oversubscribe --bind-to none -n {ranks}\" outside", NULL}, \
    {"--set", OPTION_LIST, offsetof(s, f.sets), "KEY=VALUE", "sets a key of the configuration, as optim.lr=1e-4 or method.targets=[q,v]; again and again", NULL}, \
    {"--json", OPTION_FLAG, offsetof(s, f.json), NULL, "the table as one JSON object", NULL}, \
    {"--out", OPTION_TEXT, offsetof(s, f.out), "DIR", "runs and their output are in DIR/runs", out_standard}
/* clang-format on */

/* compare.c. Borrows `path` and `words`; `config` is the caller's to destroy, as is *out with
 * ml_memory_free. */
ml_status compare_options_read(compare_options **out, ml_run_config *config, const char *path,
                               const compare_words *words) ML_NODISCARD;
/* Every row with every seed, those that ended before left alone; the table is written after each
 * seed. */
ml_status compare_run_all(compare_options *o, const ml_run_config *config, compare_row *rows,
                          int64_t count) ML_NODISCARD;
/* ML_INPUT where no run ended well. */
ml_status compare_check_done(const compare_options *o, const compare_row *rows,
                             int64_t count) ML_NODISCARD;

/* compare_rows.c: the methods between commas (those in brackets do not count), seeds likewise.
 * ML_USAGE naming what is wrong. */
ml_status compare_rows_read(compare_row *rows, int64_t *count, const char *words) ML_NODISCARD;
ml_status compare_seeds_read(compare_options *o, const char *words) ML_NODISCARD;

/* compare_run.c: what fails is noted in the row; only what concerns all of them is a status. A run
 * that was finished before is not run again. */
ml_status compare_run(const compare_options *o, compare_row *row, int64_t seed) ML_NODISCARD;
/* What a row trains as; the caller destroys *out. ML_USAGE where the configuration with the row's
 * keys is none: a slip of the pen is said before anything has run. */
ml_status compare_row_config(const compare_options *o, const compare_row *row,
                             ml_run_config *out) ML_NODISCARD;
/* compare_together.c: all rows with one seed, those that may be together `together` at a time. */
ml_status compare_run_seed(const compare_options *o, compare_row *rows, int64_t count,
                           int64_t seed) ML_NODISCARD;
ml_status compare_base(compare_options *o) ML_NODISCARD; /* base_loss */
/* For compare_together.c: the program's command, a row's directory, and what came of its run. */
void compare_begin(const compare_options *o, const char *what, launch *c);
ml_status compare_directory(const compare_options *o, const compare_row *row, int64_t seed,
                            char path[ML_DURABLE_PATH]) ML_NODISCARD;
void compare_take(compare_row *row, int64_t seed, const char *run_dir, bool ended, const char *log,
                  int code);

/* compare_table.c: OUT/compare.csv, OUT/compare.h5 */
table_spread compare_spread(const compare_row *row, const char *column);
ml_status compare_write(const compare_options *o, const compare_row *rows,
                        int64_t count) ML_NODISCARD;
bool compare_any_done(const compare_row *rows, int64_t count);
void compare_print(const compare_options *o, const compare_row *rows, int64_t count);
ml_status compare_print_json(const compare_options *o, const compare_row *rows,
                             int64_t count) ML_NODISCARD;

#endif
