/* The table of a comparison: CSV with median, least and most over the seeds, HDF5 with every run,
 * and lines to read. */
#include <inttypes.h>
#include <math.h>

#include "cli/experiment/compare.h"
#include "io/durable.h"
#include "io/image.h"

static table_spread spread_at(const compare_row *row, int column)
{
    return table_spread_of(&row->value[0][column], COMPARE_COLUMNS, row->used, COMPARE_SEEDS);
}

table_spread compare_spread(const compare_row *row, const char *column)
{
    return spread_at(row, compare_column_find(column));
}

/* ---- files --------------------------------------------------------------------------------- */

static ml_status add_row(ml_text *text, const compare_options *o, const compare_row *row)
{
    ml_status st = ML_OK;
    ML_TRY(table_add_quoted(text, row->words));
    ML_TRY(ml_text_printf(text, ",%s,%" PRId64, ml_method_name(row->method), row->done));
    ML_TRY(table_add_number(text, o->base_loss));
    for (int i = 0; i < COMPARE_COLUMNS; i++) ML_TRY(table_add_spread(text, spread_at(row, i)));
    ML_TRY(ml_text_printf(text, ","));
    ML_TRY(table_add_quoted(text, row->status));
    ML_TRY(ml_text_printf(text, "\n"));
done:
    return st;
}

static ml_status make_csv(const compare_options *o, const compare_row *rows, int64_t count,
                          ml_text *text)
{
    ml_status st = ML_OK;
    ML_TRY(ml_text_printf(text, "what,method,seeds,base_valid_loss"));
    ML_TRY(table_add_heads(text, compare_columns, COMPARE_COLUMNS));
    ML_TRY(ml_text_printf(text, ",status\n"));
    for (int64_t i = 0; i < count; i++) ML_TRY(add_row(text, o, &rows[i]));
done:
    return st;
}

static ml_status write_hdf5(const compare_options *o, const compare_row *rows, int64_t count,
                            const char *csv)
{
    ml_status st = ML_OK;
    ml_image *image = NULL;
    double *work = NULL;
    ML_NEW(work, ml_max(count, 1) * ml_max(o->nseeds, 1), ML_MEM_OTHER, "a table's column");
    ML_TRY(ml_image_create(&image, 1 << 20, 0));
    ML_TRY(ml_image_put_text(ml_image_file(image), "format", "mpilora comparison"));
    ML_TRY(ml_image_put_long_text(ml_image_file(image), "csv", csv));
    for (int64_t i = 0; i < o->nseeds; i++) work[i] = (double)o->seed[i];
    ML_TRY(table_put_column(ml_image_file(image), "seed", o->nseeds, 0, work));
    for (int c = 0; c < COMPARE_COLUMNS; c++) {
        for (int64_t i = 0; i < count * o->nseeds; i++)
            work[i] = rows[i / o->nseeds].value[i % o->nseeds][c];
        ML_TRY(table_put_column(ml_image_file(image), compare_columns[c].name, count, o->nseeds,
                                work));
    }
    ML_TRY(table_write_image(o->out, "compare", image));
done:
    ml_image_destroy(image);
    ml_memory_free(work);
    return st;
}

ml_status compare_write(const compare_options *o, const compare_row *rows, int64_t count)
{
    ml_status st = ML_OK;
    ml_text csv = {0};
    ML_TRY(make_csv(o, rows, count, &csv));
    ML_TRY(table_write_csv(o->out, "compare", &csv));
    ML_TRY(write_hdf5(o, rows, count, csv.data));
done:
    ml_text_destroy(&csv);
    return st;
}

/* ---- to read ------------------------------------------------------------------------------- */

static double median(const compare_row *row, const char *column)
{
    return compare_spread(row, column).median;
}

static void print_runs(const compare_row *rows, int64_t count)
{
    printf("%-32s %12s %13s %13s %9s %17s %9s  %s\n", "method", "trained", "checkpoint, B",
           "summed, B", "tokens/s", "training loss", "valid", "(least to most)");
    for (int64_t i = 0; i < count; i++) {
        const compare_row *row = &rows[i];
        table_spread valid = compare_spread(row, "valid_loss");
        printf("%-32s ", row->words);
        if (row->done > 0)
            printf("%12.0f %13.0f %13.0f %9.1f %7.4f -> %6.4f %9.4f  (%.4f to %.4f)",
                   median(row, "params_trainable"), median(row, "checkpoint_bytes"),
                   median(row, "allreduce_bytes_per_step"), median(row, "tokens_per_s"),
                   median(row, "loss_first"), median(row, "loss_last"), valid.median, valid.least,
                   valid.most);
        if (strcmp(row->status, "ok"))
            printf("%s%s", row->done > 0 ? "  a seed failed: " : "", row->status);
        printf("\n");
    }
}

bool compare_any_done(const compare_row *rows, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        if (rows[i].done > 0) return true;
    return false;
}

/* Measured / planned. */
static void print_memory(const compare_row *rows, int64_t count)
{
    static const char *const categories[] = {"frozen",     "trainable", "gradient", "optimizer",
                                             "activation", "workspace", "total"};
    enum { CATEGORIES = sizeof categories / sizeof *categories };
    printf("%-32s", "MiB a rank, measured/planned");
    for (int c = 0; c < CATEGORIES; c++) printf(" %15s", categories[c]);
    printf("\n");
    for (int64_t i = 0; i < count; i++) {
        if (rows[i].done == 0) continue;
        printf("%-32s", rows[i].words);
        for (int c = 0; c < CATEGORIES; c++) {
            char measured[32], planned[32];
            snprintf(measured, sizeof measured, "memory_%s", categories[c]);
            snprintf(planned, sizeof planned, "planned_%s", categories[c]);
            printf(" %7.1f/%7.1f", median(&rows[i], measured) / (1 << 20),
                   median(&rows[i], planned) / (1 << 20));
        }
        printf("\n");
    }
}

void compare_print(const compare_options *o, const compare_row *rows, int64_t count)
{
    printf("%s on %" PRId64 " rank%s, %" PRId64 " seed%s; medians.", o->config_path, o->ranks,
           o->ranks > 1 ? "s" : "", o->nseeds, o->nseeds > 1 ? "s" : "");
    if (!isnan(o->base_loss)) printf(" Validation loss of the base alone: %.4f", o->base_loss);
    printf("\n");
    print_runs(rows, count);
    if (compare_any_done(rows, count)) print_memory(rows, count);
    printf(
        "table: %s/compare.csv, %s/compare.h5; plot: python3 analysis/compare.py %s/compare.csv\n",
        o->out, o->out, o->out);
}

ml_status compare_print_json(const compare_options *o, const compare_row *rows, int64_t count)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < count; i++) {
        const compare_row *row = &rows[i];
        json_t *item = json_pack("{s:s,s:s,s:I,s:s}", "what", row->words, "method",
                                 ml_method_name(row->method), "seeds", (json_int_t)row->done,
                                 "status", row->status);
        for (int c = 0; item && c < COMPARE_COLUMNS; c++) {
            json_object_set_new(item, compare_columns[c].name,
                                table_json_spread(spread_at(row, c)));
        }
        json_array_append_new(list, item);
    }
    json_t *all =
        json_pack("{s:o,s:o}", "base_valid_loss", table_json_number(o->base_loss), "rows", list);
    if (!all) return ml_fail(ML_RESOURCE, "out of memory: the table as JSON");
    json_dumpf(all, stdout, JSON_INDENT(1));
    printf("\n");
    json_decref(all);
    return ML_OK;
}
