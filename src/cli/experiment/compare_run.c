/* One run of a method is a child process under the launcher, whose output goes to a file;
 * afterwards its summary.json gives the row's numbers. */
#include <inttypes.h>
#include <jansson.h>
#include <math.h>

#include "cli/experiment/compare.h"
#include "io/durable.h"

const table_column compare_columns[COMPARE_COLUMNS] = {
    TABLE_TOP("params_trainable"),
    TABLE_TOP("checkpoint_bytes"),
    TABLE_TOP("allreduce_bytes_per_step"),
    TABLE_TOP("tokens_per_s"),
    TABLE_TOP("loss_first"),
    TABLE_TOP("loss_last"),
    TABLE_TOP("valid_loss"),
    TABLE_MEMORIES,
    TABLE_TOP("ranks"),
};

int compare_column_find(const char *name)
{
    return table_find_column(compare_columns, COMPARE_COLUMNS, name);
}

static void begin(const compare_options *o, const char *what, launch *c)
{
    launch_add_launcher(c, o->launcher, o->ranks);
    launch_add_word(c, "%s", o->program);
    launch_add_word(c, "%s", what);
    launch_add_word(c, "%s", o->config_path);
    for (int64_t i = 0; i < o->nsets; i++) launch_add_set(c, "%s", o->sets[i]);
}

static void add_row(const compare_row *row, launch *c)
{
    launch_add_method(c, ml_method_name(row->method));
    for (int i = 0; i < row->nsets; i++) launch_add_set(c, "%s", row->set[i]);
}

ml_status compare_row_check(const compare_options *o, const compare_row *row)
{
    launch c = {0};
    const char *sets[LAUNCH_WORDS];
    char why[1024];
    int64_t count = 0;
    ml_run_config config = {0};
    for (int64_t i = 0; i < o->nsets; i++) launch_add_set(&c, "%s", o->sets[i]);
    add_row(row, &c);
    for (int i = 1; i < c.count; i += 2) sets[count++] = c.words[i]; /* those behind a --set */
    ml_status st = ml_run_config_read(&config, o->config_path, sets, count);
    if (st != ML_OK) {
        snprintf(why, sizeof why, "%s", ml_error_text());
        st = ml_fail(st, "--methods: %s: %s", row->words, why);
    }
    ml_run_config_destroy(&config);
    launch_destroy(&c);
    return st;
}

ml_status compare_run(const compare_options *o, compare_row *row, int64_t seed)
{
    ml_status st = ML_OK;
    launch c = {0};
    int code;
    char run_dir[ML_DURABLE_PATH], log[ML_DURABLE_PATH];
    for (int i = 0; i < COMPARE_COLUMNS; i++) row->value[seed][i] = NAN;
    ML_TRY(ml_durable_path(run_dir, "%s/runs/%s-seed%" PRIu64, o->out, row->name, o->seed[seed]));
    ML_TRY(ml_durable_path(log, "%s.log", run_dir));
    begin(o, "train", &c);
    launch_add_set(&c, "run.dir=%s", run_dir);
    launch_add_set(&c, "run.seed=%" PRIu64, o->seed[seed]);
    add_row(row, &c);
    ML_TRY(launch_run(&c, log, o->threads, &code));
    row->used[seed] = code == 0 && table_read_summary(run_dir, compare_columns, COMPARE_COLUMNS,
                                                      row->value[seed]);
    if (row->used[seed])
        row->done++;
    else if (!strcmp(row->status, "ok"))
        launch_explain(log, code, row->status);
done:
    launch_destroy(&c);
    return st;
}

ml_status compare_base(compare_options *o)
{
    ml_status st = ML_OK;
    launch c = {0};
    int code;
    char log[ML_DURABLE_PATH];
    ML_TRY(ml_durable_path(log, "%s/runs/base.log", o->out));
    begin(o, "eval", &c);
    launch_add_word(&c, "--json");
    ML_TRY(launch_run(&c, log, o->threads, &code));
    FILE *file = fopen(log, "r");
    char line[4096];
    while (file && fgets(line, sizeof line, file)) {
        json_t *found = line[0] == '{' ? json_loads(line, 0, NULL) : NULL;
        if (found) o->base_loss = table_member(found, "loss");
        json_decref(found);
    }
    if (file) fclose(file);
    if (code != 0) {
        char why[LAUNCH_TEXT];
        launch_explain(log, code, why);
        st = ml_fail(
            (ml_status)(code > 1 && code < 128 ? code : ML_INTERNAL), /* 1 is the launcher's */
            "the base alone cannot be evaluated: %s; its output is in %s", why, log);
    }
done:
    launch_destroy(&c);
    return st;
}
