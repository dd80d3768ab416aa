/* table_file: what the tables of scale and compare have in common: cells of a CSV file, columns of
 * an HDF5 file, medians. */
#ifndef MPILORA_CLI_SUPPORT_TABLE_FILE_H
#define MPILORA_CLI_SUPPORT_TABLE_FILE_H

#include <hdf5.h>
#include <jansson.h>

#include "io/image.h"
#include "mpilora/base.h"

/* What a run says, by where it stands: at the top of summary.json (object NULL), in its "memory",
 * or in an object of that. */
typedef struct table_column {
    const char *name, *object, *key;
    const char *member; /* of a step's line in metrics.jsonl instead; NULL: it is in the summary */
} table_column;

#define TABLE_STEP(word)       \
    {                          \
        word, NULL, NULL, word \
    }
#define TABLE_TOP(word)        \
    {                          \
        word, NULL, word, NULL \
    }
#define TABLE_MEMORY(word) \
    {"memory_" word, "memory", word, NULL}, { "planned_" word, "predicted", word, NULL }

/* What a run of any kind of experiment needs in memory, by category and in all. */
#define TABLE_MEMORIES                                                                    \
    TABLE_MEMORY("frozen"), TABLE_MEMORY("trainable"), TABLE_MEMORY("gradient"),          \
        TABLE_MEMORY("optimizer"), TABLE_MEMORY("activation"), TABLE_MEMORY("workspace"), \
        {"memory_total", "memory", "total_peak_bytes", NULL},                             \
        {"planned_total", "predicted", "total_bytes", NULL},                              \
    {                                                                                     \
        "process_peak_bytes", "memory", "process_peak_bytes", NULL                        \
    }

/* The number of a column; −1: there is none of the name. */
int table_find_column(const table_column *columns, int count, const char *name);

double table_member(const json_t *object, const char *key); /* NaN where there is no such number */
/* The columns that RUN_DIR/summary.json has, into value[]; false where it cannot be read. */
bool table_read_summary(const char *run_dir, const table_column *columns, int count, double *value);

typedef struct table_spread {
    double median, least, most; /* NaN: nothing is known */
} table_spread;

/* Of the finite ones of `count` values with a distance of `stride` (at most 64), of which `used`
 * says which count. */
table_spread table_spread_of(const double *values, int64_t stride, const bool *used, int64_t count);

/* Of any number of values with a distance of `stride`; NaN of none, or without memory. */
double table_median(const double *values, int64_t stride, int64_t count);

ml_status table_add_number(ml_text *text,
                           double x) ML_NODISCARD; /* ",x", or "," where it is not finite */
/* Three cells: median, least, most; and the three heads of each of some columns. */
ml_status table_add_spread(ml_text *text, table_spread spread) ML_NODISCARD;
ml_status table_add_heads(ml_text *text, const table_column *columns, int count) ML_NODISCARD;
ml_status table_add_quoted(ml_text *text, const char *words) ML_NODISCARD;
json_t *table_json_number(double x); /* null where it is not finite */
/* A column of 64-bit floats, [rows, cols], or [rows] where cols is 0. */
ml_status table_put_column(hid_t file, const char *name, int64_t rows, int64_t cols,
                           const double *values) ML_NODISCARD;
json_t *table_json_spread(table_spread spread); /* {"median": …, "min": …, "max": …} */
/* That both can be written there, before the runs whose results they hold. ML_RESOURCE. */
ml_status table_check(const char *out, const char *name) ML_NODISCARD;
/* OUT/NAME.csv and, finished, OUT/NAME.h5. */
ml_status table_write_csv(const char *out, const char *name, const ml_text *csv) ML_NODISCARD;
ml_status table_write_image(const char *out, const char *name, ml_image *image) ML_NODISCARD;

#endif
