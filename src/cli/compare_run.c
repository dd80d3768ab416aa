/* One run of a method, and what its summary says. */
#include <inttypes.h>
#include <jansson.h>
#include <math.h>

#include "cli/compare.h"
#include "store/durable.h"

#define MEMORY(name) \
    {"memory_" name, "memory", name}, { "planned_" name, "predicted", name }
const compare_column compare_columns[COMPARE_COLUMNS] = {
    {"params_trainable", NULL, "params_trainable"},
    {"checkpoint_bytes", NULL, "checkpoint_bytes"},
    {"allreduce_bytes_per_step", NULL, "allreduce_bytes_per_step"},
    {"tokens_per_s", NULL, "tokens_per_s"},
    {"loss_first", NULL, "loss_first"},
    {"loss_last", NULL, "loss_last"},
    {"valid_loss", NULL, "valid_loss"},
    MEMORY("frozen"),
    MEMORY("trainable"),
    MEMORY("gradient"),
    MEMORY("optimizer"),
    MEMORY("activation"),
    MEMORY("workspace"),
    {"memory_total", "memory", "total_peak_bytes"},
    {"planned_total", "predicted", "total_bytes"},
    {"process_peak_bytes", "memory", "process_peak_bytes"},
    {"ranks", NULL, "ranks"},
};

int compare_column_find(const char *name)
{
    for (int i = 0; i < COMPARE_COLUMNS; i++)
        if (!strcmp(compare_columns[i].name, name)) return i;
    return -1;
}

static double member(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return json_is_number(value) ? json_number_value(value) : NAN;
}

static bool read_summary(const char *run_dir, double *value)
{
    char path[LAUNCH_PATH + 16];
    snprintf(path, sizeof path, "%s/summary.json", run_dir);
    json_t *summary = json_load_file(path, 0, NULL);
    const json_t *memory = json_object_get(summary, "memory");
    for (int i = 0; summary && i < COMPARE_COLUMNS; i++) {
        const compare_column *c = &compare_columns[i];
        const json_t *from = !c->object ? summary : !strcmp(c->object, "memory") ? memory : json_object_get(memory, c->object);
        value[i] = member(from, c->key);
    }
    json_decref(summary);
    return summary != NULL;
}

static void begin(const compare_options *o, const char *what, launch *c)
{
    launch_add_launcher(c, o->launcher, o->ranks);
    launch_add_word(c, "%s", o->program);
    launch_add_word(c, "%s", what);
    launch_add_word(c, "%s", o->config_path);
    for (int64_t i = 0; i < o->nsets; i++) launch_add_set(c, "%s", o->sets[i]);
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
    launch_add_method(&c, ml_method_name(row->method));
    for (int i = 0; i < row->nsets; i++) launch_add_set(&c, "%s", row->set[i]);
    ML_TRY(launch_run(&c, log, o->threads, &code));
    row->used[seed] = code == 0 && read_summary(run_dir, row->value[seed]);
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
        if (found) o->base_loss = member(found, "loss");
        json_decref(found);
    }
    if (file) fclose(file);
    if (code != 0) {
        char why[LAUNCH_TEXT];
        launch_explain(log, code, why);
        st = ml_fail((ml_status)(code < 128 ? code : ML_INTERNAL), "the base alone cannot be evaluated: %s; its output is in %s", why, log);
    }
done:
    launch_destroy(&c);
    return st;
}
