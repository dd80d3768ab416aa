/* The rows of a comparison with one seed: one after the other, or several in one job, whose list of
 * runs is a key of the configuration like any other. */
#include <inttypes.h>
#include <math.h>

#include "cli/experiment/compare.h"
#include "io/durable.h"

static void say(const compare_row *row, uint64_t number, int64_t seed)
{
    fprintf(stderr, "%s, seed %" PRIu64 ": ", row->words, number);
    if (row->used[seed])
        fprintf(stderr, "validation loss %.4f\n",
                row->value[seed][compare_column_find("valid_loss")]);
    else
        fprintf(stderr, "%s\n", row->status);
}

/* A run of the list: "key=value" becomes a pair of a mapping. */
static ml_status put_run(const compare_options *o, const compare_row *row, int64_t seed,
                         ml_text *out)
{
    ml_status st = ML_OK;
    char run_dir[ML_DURABLE_PATH];
    ML_TRY(compare_directory(o, row, seed, run_dir));
    ML_TRY(ml_text_printf(out, "{dir: \"%s\", set: {run.seed: %" PRIu64 ", method.name: %s",
                          run_dir, o->seed[seed], ml_method_name(row->method)));
    for (int i = 0; i < row->nsets; i++) {
        const char *equals = strchr(row->set[i], '=');
        ML_TRY(ml_text_printf(out, ", \"%.*s\": %s", (int)(equals - row->set[i]), row->set[i],
                              equals + 1));
    }
    ML_TRY(ml_text_printf(out, "}}"));
done:
    return st;
}

/* `number`: of the job among those of the seed. */
static ml_status run_job(const compare_options *o, int64_t count, compare_row *const *rows,
                         int64_t seed, int64_t number)
{
    ml_status st = ML_OK;
    launch c = {0};
    ml_text runs = {0};
    int code;
    char log[ML_DURABLE_PATH], run_dir[ML_DURABLE_PATH];
    ML_TRY(ml_durable_path(log, "%s/runs/together-%" PRId64 "-seed%" PRIu64 ".log", o->out, number,
                           o->seed[seed]));
    for (int64_t i = 0; i < count; i++) {
        ML_TRY(ml_text_printf(&runs, "%s", i == 0 ? "runs=[" : ", "));
        ML_TRY(put_run(o, rows[i], seed, &runs));
    }
    compare_begin(o, "train", &c);
    launch_add_set(&c, "%s]", runs.data);
    ML_TRY(launch_run(&c, log, o->threads, &code));
    bool ended = code == 0 || code == (int)ML_NUMERIC; /* then of one, and the others went on */
    for (int64_t i = 0; i < count; i++) {
        ML_TRY(compare_directory(o, rows[i], seed, run_dir));
        compare_take(rows[i], seed, run_dir, ended, log, code);
        say(rows[i], o->seed[seed], seed);
    }
done:
    ml_text_destroy(&runs);
    launch_destroy(&c);
    return st;
}

/* Takes row `from`, and those behind it that may train with it, out of `left`. */
static ml_status choose(const compare_options *o, compare_row *rows, int64_t count, int64_t from,
                        bool *left, compare_row **chosen, int64_t *n)
{
    ml_status st = ML_OK;
    ml_run_config first = {0}, other = {0};
    chosen[0] = &rows[from];
    *n = 1;
    left[from] = false;
    if (o->together == 1) return ML_OK;
    ML_TRY(compare_row_config(o, &rows[from], &first));
    if (ml_run_config_check_together(&first, &first) != ML_OK) goto done;
    for (int64_t i = from + 1; i < count && *n < o->together; i++) {
        if (!left[i]) continue;
        ML_TRY(compare_row_config(o, &rows[i], &other));
        ml_memory_free(other.run_dir); /* each gets one of its own */
        other.run_dir = NULL;
        if (ml_run_config_check_together(&first, &other) == ML_OK) {
            chosen[(*n)++] = &rows[i];
            left[i] = false;
        }
        ml_run_config_destroy(&other);
    }
done:
    ml_run_config_destroy(&first);
    return st;
}

ml_status compare_run_seed(const compare_options *o, compare_row *rows, int64_t count, int64_t seed)
{
    ml_status st = ML_OK;
    bool left[COMPARE_ROWS];
    compare_row *chosen[COMPARE_ROWS];
    for (int64_t i = 0; i < count; i++) left[i] = true;
    for (int64_t i = 0, number = 0; i < count; i++) {
        int64_t n;
        if (!left[i]) continue;
        ML_TRY(choose(o, rows, count, i, left, chosen, &n));
        if (n > 1) {
            ML_TRY(run_job(o, n, chosen, seed, number++));
            continue;
        }
        ML_TRY(compare_run(o, &rows[i], seed));
        say(&rows[i], o->seed[seed], seed);
    }
done:
    return st;
}
