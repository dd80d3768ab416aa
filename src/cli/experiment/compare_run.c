/* One run of a method is a child process under the launcher, whose output goes to a file;
 * afterwards its summary.json gives the row's numbers. */
#include <inttypes.h>
#include <jansson.h>
#include <math.h>

#include "cli/experiment/compare.h"
#include "io/durable.h"
#include "session/session.h"

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

void compare_begin(const compare_options *o, const char *what, launch *c)
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

ml_status compare_row_config(const compare_options *o, const compare_row *row, ml_run_config *out)
{
    launch c = {0};
    const char *sets[LAUNCH_WORDS];
    int64_t count = 0;
    for (int64_t i = 0; i < o->nsets; i++) launch_add_set(&c, "%s", o->sets[i]);
    add_row(row, &c);
    for (int i = 1; i < c.count; i += 2) sets[count++] = c.words[i]; /* those behind a --set */
    ml_status st = ml_run_config_read(out, o->config_path, sets, count);
    launch_destroy(&c);
    return st == ML_OK ? st : ml_fail_within(st, "--methods: %s", row->words);
}

ml_status compare_directory(const compare_options *o, const compare_row *row, int64_t seed,
                            char path[ML_DURABLE_PATH])
{
    return ml_durable_path(path, "%s/runs/%s-seed%" PRIu64, o->out, row->name, o->seed[seed]);
}

void compare_take(compare_row *row, int64_t seed, const char *run_dir, bool ended, const char *log,
                  int code)
{
    for (int i = 0; i < COMPARE_COLUMNS; i++) row->value[seed][i] = NAN;
    row->used[seed] =
        ended && table_read_summary(run_dir, compare_columns, COMPARE_COLUMNS, row->value[seed]);
    if (row->used[seed])
        row->done++;
    else if (!strcmp(row->status, "ok"))
        launch_explain(log, code, row->status);
}

ml_status compare_run(const compare_options *o, compare_row *row, int64_t seed)
{
    ml_status st = ML_OK;
    launch c = {0};
    int code;
    char run_dir[ML_DURABLE_PATH], log[ML_DURABLE_PATH];
    ML_TRY(compare_directory(o, row, seed, run_dir));
    ML_TRY(ml_durable_path(log, "%s.log", run_dir));
    compare_begin(o, "train", &c);
    launch_add_set(&c, "run.dir=%s", run_dir);
    launch_add_set(&c, "run.seed=%" PRIu64, o->seed[seed]);
    add_row(row, &c);
    ML_TRY(launch_run(&c, log, o->threads, &code));
    compare_take(row, seed, run_dir, code == 0, log, code);
done:
    launch_destroy(&c);
    return st;
}

/* Whether the base brings the head for masked tokens. */
static ml_status predicts_masked(const char *path, bool *yes)
{
    ml_status st = ML_OK;
    ml_base *base = NULL;
    ML_TRY(ml_base_open(&base, path));
    *yes = ml_model_predicts_masked(ml_base_spec(base));
done:
    ml_base_close(base);
    return st;
}

/* A base whose head for labels is new, as it mostly is, has no loss of its own; nor has one without
 * a head for masked tokens. */
static ml_status finds_base(const compare_options *o, bool *yes)
{
    ml_run_config config = {0};
    ml_dataset *data = NULL;
    ml_status st = ml_run_config_read(&config, o->config_path, o->sets, o->nsets);
    if (st != ML_OK) return st;
    if (config.objective.by_data && config.data.valid) {
        ML_TRY(ml_dataset_open(&data, config.data.valid));
        ML_TRY(ml_session_settle_objective(&config, data));
    }
    *yes = !ml_run_config_scores_labels(&config);
    if (ml_run_config_masks(&config)) ML_TRY(predicts_masked(config.base, yes));
done:
    ml_dataset_destroy(data);
    ml_run_config_destroy(&config);
    return st;
}

ml_status compare_base(compare_options *o)
{
    ml_status st = ML_OK;
    launch c = {0};
    int code;
    bool has_loss;
    ML_TRY(finds_base(o, &has_loss));
    if (!has_loss) return ML_OK;
    char log[ML_DURABLE_PATH];
    ML_TRY(ml_durable_path(log, "%s/runs/base.log", o->out));
    compare_begin(o, "eval", &c);
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
