/* What the tables of `scale` and `compare` have in common: numbers out of summary.json, medians
 * and spreads, cells of a CSV file, columns of an HDF5 file. */
#include "cli/support/table_file.h"

#include <math.h>
#include <stdlib.h>

#include "io/durable.h"

enum { MOST = 64 };

int table_find_column(const table_column *columns, int count, const char *name)
{
    for (int i = 0; i < count; i++)
        if (!strcmp(columns[i].name, name)) return i;
    return -1;
}

double table_member(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return json_is_number(value) ? json_number_value(value) : NAN;
}

bool table_read_summary(const char *run_dir, const table_column *columns, int count, double *value)
{
    char path[ML_DURABLE_PATH + 16];
    snprintf(path, sizeof path, "%s/summary.json", run_dir);
    json_t *summary = json_load_file(path, 0, NULL);
    const json_t *memory = json_object_get(summary, "memory");
    for (int i = 0; summary && i < count; i++) {
        const table_column *c = &columns[i];
        const json_t *from = !c->object                     ? summary
                             : !strcmp(c->object, "memory") ? memory
                                                            : json_object_get(memory, c->object);
        if (!c->member) value[i] = table_member(from, c->key);
    }
    json_decref(summary);
    return summary != NULL;
}

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

double table_median(const double *values, int64_t stride, int64_t count)
{
    double *sorted =
        count > 0 ? ml_memory_alloc(count, sizeof *sorted, ML_MEM_OTHER, "a column") : NULL;
    if (!sorted) return NAN;
    for (int64_t i = 0; i < count; i++) sorted[i] = values[i * stride];
    qsort(sorted, (size_t)count, sizeof *sorted, ascending);
    double median = 0.5 * (sorted[(count - 1) / 2] + sorted[count / 2]);
    ml_memory_free(sorted);
    return median;
}

ml_status table_add_number(ml_text *text, double x)
{
    return isfinite(x) ? ml_text_printf(text, ",%.9g", x) : ml_text_printf(text, ",");
}

ml_status table_add_spread(ml_text *text, table_spread spread)
{
    ml_status st = ML_OK;
    ML_TRY(table_add_number(text, spread.median));
    ML_TRY(table_add_number(text, spread.least));
    ML_TRY(table_add_number(text, spread.most));
done:
    return st;
}

ml_status table_add_heads(ml_text *text, const table_column *columns, int count)
{
    ml_status st = ML_OK;
    for (int i = 0; i < count && st == ML_OK; i++)
        st = ml_text_printf(text, ",%s,%s_min,%s_max", columns[i].name, columns[i].name,
                            columns[i].name);
    return st;
}

ml_status table_add_quoted(ml_text *text, const char *words)
{
    ml_status st = ml_text_printf(text, "\"");
    for (const char *c = words; st == ML_OK && *c; c++)
        st = ml_text_printf(text, *c == '"' ? "\"\"" : "%c", *c);
    return st == ML_OK ? ml_text_printf(text, "\"") : st;
}

json_t *table_json_number(double x) { return isfinite(x) ? json_real(x) : json_null(); }

ml_status table_put_column(hid_t file, const char *name, int64_t rows, int64_t cols,
                           const double *values)
{
    const hsize_t shape[] = {(hsize_t)rows, (hsize_t)cols};
    hid_t space = H5Screate_simple(cols > 0 ? 2 : 1, shape, NULL);
    hid_t dataset =
        H5Dcreate2(file, name, H5T_IEEE_F64LE, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    bool written = dataset >= 0 &&
                   H5Dwrite(dataset, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) >= 0;
    if (dataset >= 0) H5Dclose(dataset);
    H5Sclose(space);
    return written ? ML_OK : ml_fail(ML_RESOURCE, "a table's column %s cannot be made", name);
}

json_t *table_json_spread(table_spread s)
{
    return json_pack("{s:o,s:o,s:o}", "median", table_json_number(s.median), "min",
                     table_json_number(s.least), "max", table_json_number(s.most));
}

static ml_status write_file(const char *out, const char *name, const char *ending,
                            const char *bytes, int64_t length)
{
    char path[ML_DURABLE_PATH];
    ml_status st = ml_durable_path(path, "%s/%s.%s", out, name, ending);
    return st == ML_OK ? ml_durable_write(path, bytes, length, NULL) : st;
}

ml_status table_check(const char *out, const char *name)
{
    static const char *const endings[] = {"csv", "h5"};
    char path[ML_DURABLE_PATH];
    for (int i = 0; i < 2; i++) {
        ml_status st = ml_durable_path(path, "%s/%s.%s", out, name, endings[i]);
        if (st == ML_OK) st = ml_durable_may_write(path);
        if (st != ML_OK) return st;
    }
    return ML_OK;
}

ml_status table_write_csv(const char *out, const char *name, const ml_text *csv)
{
    return write_file(out, name, "csv", csv->data, csv->length);
}

ml_status table_write_image(const char *out, const char *name, ml_image *image)
{
    char *bytes;
    int64_t length;
    ml_status st = ml_image_finish(image, &bytes, &length);
    return st == ML_OK ? write_file(out, name, "h5", bytes, length) : st;
}
