/* table_file: what the tables of scale and compare have in common: cells of a CSV file, columns of an HDF5 file, medians. */
#ifndef MPILORA_CLI_TABLE_FILE_H
#define MPILORA_CLI_TABLE_FILE_H

#include <hdf5.h>
#include <jansson.h>

#include "mpilora/base.h"

typedef struct table_spread {
    double median, least, most; /* NaN: nothing is known */
} table_spread;

/* Of the finite ones of `count` values with a distance of `stride` (at most 64), of which `used` says which count. */
table_spread table_spread_of(const double *values, int64_t stride, const bool *used, int64_t count);

ml_status table_add_number(ml_text *text, double x) ML_NODISCARD; /* ",x", or "," where it is not finite */
ml_status table_add_quoted(ml_text *text, const char *words) ML_NODISCARD;
json_t *table_json_number(double x); /* null where it is not finite */
/* A column of 64-bit floats, [rows, cols], or [rows] where cols is 0. */
ml_status table_put_column(hid_t file, const char *name, int64_t rows, int64_t cols, const double *values) ML_NODISCARD;

#endif
