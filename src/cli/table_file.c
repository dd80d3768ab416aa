/* Cells, columns and medians of tables. */
#include "cli/table_file.h"

#include <math.h>
#include <stdlib.h>

enum { MOST = 64 };

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

table_spread table_spread_of(const double *values, int64_t stride, const bool *used, int64_t count)
{
    double known[MOST];
    size_t n = 0;
    for (int64_t i = 0; i < count && n < MOST; i++)
        if (used[i] && isfinite(values[i * stride])) known[n++] = values[i * stride];
    if (n == 0) return (table_spread){NAN, NAN, NAN};
    qsort(known, n, sizeof *known, ascending);
    return (table_spread){0.5 * (known[(n - 1) / 2] + known[n / 2]), known[0], known[n - 1]};
}

ml_status table_add_number(ml_text *text, double x) { return isfinite(x) ? ml_text_printf(text, ",%.9g", x) : ml_text_printf(text, ","); }

ml_status table_add_quoted(ml_text *text, const char *words)
{
    ml_status st = ml_text_printf(text, "\"");
    for (const char *c = words; st == ML_OK && *c; c++) st = ml_text_printf(text, *c == '"' ? "\"\"" : "%c", *c);
    return st == ML_OK ? ml_text_printf(text, "\"") : st;
}

json_t *table_json_number(double x) { return isfinite(x) ? json_real(x) : json_null(); }

ml_status table_put_column(hid_t file, const char *name, int64_t rows, int64_t cols, const double *values)
{
    const hsize_t shape[] = {(hsize_t)rows, (hsize_t)cols};
    hid_t space = H5Screate_simple(cols > 0 ? 2 : 1, shape, NULL);
    hid_t dataset = H5Dcreate2(file, name, H5T_IEEE_F64LE, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    bool written = dataset >= 0 && H5Dwrite(dataset, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) >= 0;
    if (dataset >= 0) H5Dclose(dataset);
    H5Sclose(space);
    return written ? ML_OK : ml_fail(ML_RESOURCE, "a table's column %s cannot be made", name);
}
