/* The table of a scaling experiment: CSV with median, least and most of every figure, HDF5 with
 * every repetition, and lines to read. */
#include <inttypes.h>
#include <math.h>

#include "cli/experiment/scale.h"
#include "io/durable.h"
#include "io/image.h"

table_spread scale_spread_of(const scale_experiment *e, int column)
{
    table_spread s =
        table_spread_of(&e->value[0][column], SCALE_COLUMNS, e->used, SCALE_REPETITIONS);
    if (scale_columns[column].member && e->nsteps > 0)
        s.median = table_median(&e->steps[0][column], SCALE_COLUMNS, e->nsteps);
    return s;
}

/* Tokens/s a rank. */
static table_spread rate_of(const scale_experiment *e)
{
    table_spread s = scale_spread_of(e, scale_column_find("tokens_per_s"));
    double ranks = (double)e->ranks;
    return (table_spread){s.median / ranks, s.least / ranks, s.most / ranks};
}

/* A ratio is a result where the two are further apart than the repetitions of either; of one
 * repetition nobody knows how far they are apart. */
static double clear_ratio(const scale_experiment *a, const scale_experiment *b)
{
    table_spread x = rate_of(a), y = rate_of(b);
    double spread = fmax(x.most - x.least, y.most - y.least);
    bool clear = a->done > 1 && b->done > 1 && fabs(x.median - y.median) > spread;
    return clear ? x.median / y.median : NAN;
}

double scale_efficiency(const scale_experiment *all, int64_t count, const scale_experiment *e)
{
    for (int64_t i = 0; i < count && e->done > 0; i++)
        if (!strcmp(all[i].method, e->method) && all[i].done > 0)
            return &all[i] == e ? 1.0 : clear_ratio(e, &all[i]);
    return NAN;
}

/* What the formula says is summed a step: four bytes for each trainable parameter of the whole
 * grid. */
static double expected_bytes(const scale_experiment *e)
{
    return 4.0 * scale_spread_of(e, scale_column_find("params_trainable")).median;
}

/* ---- files --------------------------------------------------------------------------------- */

static ml_status add_row(ml_text *text, const scale_options *o, const scale_experiment *all,
                         int64_t count, const scale_experiment *e)
{
    ml_status st = ML_OK;
    ML_TRY(ml_text_printf(text,
                          "%s,%s,%" PRId64 ",%" PRId64 ",%" PRId64 ",%" PRId64 ",%" PRId64
                          ",%" PRId64 ",%" PRId64 ",%" PRId64,
                          o->weak ? "weak" : "strong", e->method, e->ranks, e->dp, e->tp, e->pp,
                          e->cp, e->threads, e->sequences, e->done));
    ML_TRY(table_add_number(text, scale_efficiency(all, count, e)));
    ML_TRY(table_add_number(text, expected_bytes(e)));
    ML_TRY(table_add_number(text, e->planned.piped_bytes));
    ML_TRY(table_add_number(text, e->planned.step_s));
    for (int i = 0; i < SCALE_COLUMNS; i++) ML_TRY(table_add_spread(text, scale_spread_of(e, i)));
    ML_TRY(ml_text_printf(text, ","));
    ML_TRY(table_add_quoted(text, e->status));
    ML_TRY(ml_text_printf(text, "\n"));
done:
    return st;
}

static ml_status make_csv(const scale_options *o, const scale_experiment *all, int64_t count,
                          ml_text *text)
{
    ml_status st = ML_OK;
    ML_TRY(ml_text_printf(text, "scaling,method,ranks,dp,tp,pp,cp,threads,sequences,repetitions,"
                                "efficiency,allreduce_bytes_expected,planned_piped_bytes,"
                                "planned_step_s"));
    ML_TRY(table_add_heads(text, scale_columns, SCALE_COLUMNS));
    ML_TRY(ml_text_printf(text, ",status\n"));
    for (int64_t i = 0; i < count; i++) ML_TRY(add_row(text, o, all, count, &all[i]));
done:
    return st;
}

static ml_status put_columns(hid_t file, const scale_options *o, const scale_experiment *all,
                             int64_t count, double *work)
{
    ml_status st = ML_OK;
    const char *const grid[] = {"ranks", "dp", "tp", "pp", "cp", "threads", "sequences", "full"};
    for (size_t k = 0; k < sizeof grid / sizeof *grid; k++) {
        for (int64_t i = 0; i < count; i++) {
            const scale_experiment *e = &all[i];
            const int64_t number[] = {
                e->ranks, e->dp,      e->tp,        e->pp,
                e->cp,    e->threads, e->sequences, !strcmp(e->method, "full")};
            work[i] = (double)number[k];
        }
        ML_TRY(table_put_column(file, grid[k], count, 0, work));
    }
    for (int64_t i = 0; i < count; i++) work[i] = scale_efficiency(all, count, &all[i]);
    ML_TRY(table_put_column(file, "efficiency", count, 0, work));
    for (int64_t i = 0; i < count; i++) work[i] = expected_bytes(&all[i]);
    ML_TRY(table_put_column(file, "allreduce_bytes_expected", count, 0, work));
    for (int64_t i = 0; i < count; i++) work[i] = all[i].planned.piped_bytes;
    ML_TRY(table_put_column(file, "planned_piped_bytes", count, 0, work));
    for (int64_t i = 0; i < count; i++) work[i] = all[i].planned.step_s;
    ML_TRY(table_put_column(file, "planned_step_s", count, 0, work));
    for (int c = 0; c < SCALE_COLUMNS; c++) {
        for (int64_t i = 0; i < count * o->repetitions; i++)
            work[i] = all[i / o->repetitions].value[i % o->repetitions][c];
        ML_TRY(table_put_column(file, scale_columns[c].name, count, o->repetitions, work));
    }
done:
    return st;
}

static ml_status write_hdf5(const scale_options *o, const scale_experiment *all, int64_t count,
                            const char *csv)
{
    ml_status st = ML_OK;
    ml_image *image = NULL;
    double *work = NULL;
    ML_NEW(work, count * o->repetitions, ML_MEM_OTHER, "a table's column");
    ML_TRY(ml_image_create(&image, 1 << 20, 0));
    ML_TRY(ml_image_put_text(ml_image_file(image), "format", "mpilora scaling"));
    ML_TRY(ml_image_put_text(ml_image_file(image), "scaling", o->weak ? "weak" : "strong"));
    ML_TRY(ml_image_put_long_text(ml_image_file(image), "csv", csv));
    ML_TRY(put_columns(ml_image_file(image), o, all, count, work));
    ML_TRY(table_write_image(o->out, "scaling", image));
done:
    ml_image_destroy(image);
    ml_memory_free(work);
    return st;
}

ml_status scale_write(const scale_options *o, const scale_experiment *all, int64_t count)
{
    ml_status st = ML_OK;
    ml_text csv = {0};
    ML_TRY(make_csv(o, all, count, &csv));
    ML_TRY(table_write_csv(o->out, "scaling", &csv));
    ML_TRY(write_hdf5(o, all, count, csv.data));
done:
    ml_text_destroy(&csv);
    return st;
}

/* ---- to read ------------------------------------------------------------------------------- */

static double mib(double bytes) { return bytes / (1 << 20); }

static double median_of(const scale_experiment *e, const char *column)
{
    return scale_spread_of(e, scale_column_find(column)).median;
}

static void print_efficiency(double efficiency)
{
    if (isfinite(efficiency))
        printf("%5.0f%% ", 100.0 * efficiency);
    else
        printf("%6s ", "-");
}

/* Every other method beside the first one, on the grids that both have. */
static void print_comparison(const scale_experiment *all, int64_t count)
{
    char grid[SCALE_GRID];
    for (int64_t i = 0; i < count; i++) {
        const scale_experiment *e = &all[i], *first = all;
        while (first < e && (first->dp != e->dp || first->tp != e->tp || first->pp != e->pp ||
                             first->cp != e->cp))
            first++;
        if (first == e || first->done == 0 || e->done == 0) continue;
        double ratio = clear_ratio(e, first);
        printf("%s beside %s, %s: ", e->method, first->method, scale_grid_name(e, grid));
        if (isfinite(ratio))
            printf("%.2f x its tokens/s\n", ratio);
        else
            printf("no difference beyond the spread of the repetitions\n");
    }
}

/* Measured beside planned, of each experiment that has it. */
static void print_planned(const scale_experiment *all, int64_t count)
{
    char grid[SCALE_GRID];
    for (int64_t i = 0; i < count; i++) {
        const scale_experiment *e = &all[i];
        double step = median_of(e, "step_s");
        if (e->done == 0) continue;
        if (e->pp > 1 && isfinite(e->planned.piped_bytes))
            printf("%s, %s: %.0f bytes a step to neighbouring stages, %.0f planned\n", e->method,
                   scale_grid_name(e, grid), median_of(e, "piped_bytes"), e->planned.piped_bytes);
        if (isfinite(e->planned.step_s))
            printf("%s, %s: %.4f s a step, %.4f planned (%+.0f %%)\n", e->method,
                   scale_grid_name(e, grid), step, e->planned.step_s,
                   100.0 * (e->planned.step_s / step - 1.0));
    }
}

const char *scale_grid_name(const scale_experiment *e, char text[SCALE_GRID])
{
    int used = snprintf(text, SCALE_GRID, "dp %" PRId64 " x tp %" PRId64, e->dp, e->tp);
    if (e->pp > 1)
        used += snprintf(text + used, (size_t)(SCALE_GRID - used), " x pp %" PRId64, e->pp);
    if (e->cp > 1) snprintf(text + used, (size_t)(SCALE_GRID - used), " x cp %" PRId64, e->cp);
    return text;
}

void scale_print(const scale_options *o, const scale_experiment *all, int64_t count)
{
    printf("%s scaling of %s: %" PRId64 " steps, %" PRId64
           " repetitions; medians (least to most)\n",
           o->weak ? "weak" : "strong", o->config_path, o->steps, o->repetitions);
    printf("%-6s %5s %9s %4s %4s %7s %9s %24s %6s %8s %8s %7s %7s %11s %11s %9s %9s\n", "method",
           "ranks", "dp x tp", "pp", "cp", "threads", "sequences", "tokens/s", "eff.", "forward",
           "backward", "comm", "other", "sum, bytes", "formula", "MiB/rank", "planned");
    for (int64_t i = 0; i < count; i++) {
        const scale_experiment *e = &all[i];
        table_spread rate = scale_spread_of(e, scale_column_find("tokens_per_s"));
        char grid[32], spread[48];
        snprintf(grid, sizeof grid, "%" PRId64 " x %" PRId64, e->dp, e->tp);
        snprintf(spread, sizeof spread, "%.1f (%.1f to %.1f)", rate.median, rate.least, rate.most);
        printf("%-6s %5" PRId64 " %9s %4" PRId64 " %4" PRId64 " %7" PRId64 " %9" PRId64 " ",
               e->method, e->ranks, grid, e->pp, e->cp, e->threads, e->sequences);
        if (e->done == 0) {
            printf("%s\n", e->status);
            continue;
        }
        double forward = median_of(e, "forward_s"), backward = median_of(e, "backward_s"),
               comm = median_of(e, "comm_s"),
               other = median_of(e, "optimizer_s") + median_of(e, "data_s") +
                       median_of(e, "other_s"); /* medians do not add up to the step's */
        printf("%24s ", spread);
        print_efficiency(scale_efficiency(all, count, e));
        printf("%8.3f %8.3f %7.3f %7.3f %11.0f %11.0f %9.1f %9.1f%s%s\n", forward, backward, comm,
               other, median_of(e, "allreduce_bytes"), expected_bytes(e),
               mib(median_of(e, "memory_total")), mib(median_of(e, "planned_total")),
               strcmp(e->status, "ok") ? "  a repetition failed: " : "",
               strcmp(e->status, "ok") ? e->status : "");
    }
    print_comparison(all, count);
    print_planned(all, count);
    printf(
        "table: %s/scaling.csv, %s/scaling.h5; plots: python3 analysis/scaling.py %s/scaling.csv\n",
        o->out, o->out, o->out);
}

ml_status scale_print_json(const scale_options *o, const scale_experiment *all, int64_t count)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < count; i++) {
        const scale_experiment *e = &all[i];
        json_t *item = json_pack(
            "{s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:s,s:o,s:o,s:o,s:o}", "method", e->method,
            "ranks", (json_int_t)e->ranks, "dp", (json_int_t)e->dp, "tp", (json_int_t)e->tp, "pp",
            (json_int_t)e->pp, "cp", (json_int_t)e->cp, "threads", (json_int_t)e->threads,
            "sequences", (json_int_t)e->sequences, "repetitions", (json_int_t)e->done, "status",
            e->status, "efficiency", table_json_number(scale_efficiency(all, count, e)),
            "allreduce_bytes_expected", table_json_number(expected_bytes(e)), "planned_piped_bytes",
            table_json_number(e->planned.piped_bytes), "planned_step_s",
            table_json_number(e->planned.step_s));
        for (int c = 0; item && c < SCALE_COLUMNS; c++) {
            json_object_set_new(item, scale_columns[c].name,
                                table_json_spread(scale_spread_of(e, c)));
        }
        json_array_append_new(list, item);
    }
    json_t *all_of_it = json_pack("{s:s,s:I,s:o}", "scaling", o->weak ? "weak" : "strong", "steps",
                                  (json_int_t)o->steps, "experiments", list);
    if (!all_of_it) return ml_fail(ML_RESOURCE, "out of memory: the table as JSON");
    json_dumpf(all_of_it, stdout, JSON_INDENT(1));
    printf("\n");
    json_decref(all_of_it);
    return ML_OK;
}
