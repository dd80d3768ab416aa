/* One run of an experiment: the launcher as a child process, its output in a file, then its
 * metrics and summary. */
#include <inttypes.h>
#include <jansson.h>
#include <math.h>

#include "cli/experiment/scale.h"
#include "cli/support/launch.h"

const table_column scale_columns[SCALE_COLUMNS] = {
    TABLE_STEP("tokens_per_s"),
    TABLE_STEP("step_s"),
    TABLE_STEP("forward_s"),
    TABLE_STEP("backward_s"),
    TABLE_STEP("comm_s"),
    TABLE_STEP("optimizer_s"),
    TABLE_STEP("data_s"),
    TABLE_STEP("other_s"),
    TABLE_STEP("wait_s"),
    TABLE_STEP("allreduce_bytes"),
    TABLE_STEP("allreduce_bytes_passed"),
    TABLE_STEP("piped_bytes"),
    TABLE_TOP("params_trainable"),
    TABLE_MEMORIES,
    {"node_peak_bytes", "memory", "node_peak_bytes", NULL},
};

int scale_column_find(const char *name)
{
    return table_find_column(scale_columns, SCALE_COLUMNS, name);
}

/* ---- the child ----------------------------------------------------------------------------- */

static void make_command(const scale_options *o, const scale_experiment *e, const char *run_dir,
                         launch *c)
{
    launch_add_launcher(c, o->launcher, e->ranks);
    launch_add_word(c, "%s", o->program);
    launch_add_word(c, "train");
    launch_add_word(c, "%s", o->config_path);
    launch_add_word(c, "--fresh");
    for (int64_t i = 0; i < o->nsets; i++) launch_add_set(c, "%s", o->sets[i]);
    const char *const fixed[] = {"train.save_every=0", "train.eval_every=0",
                                 "train.keep_best=false", "data.valid=null", NULL};
    for (int i = 0; fixed[i]; i++) launch_add_set(c, "%s", fixed[i]);
    launch_add_set(c, "run.dir=%s", run_dir);
    launch_add_set(c, "train.steps=%" PRId64, o->steps + 1);
    launch_add_method(c, e->method);
    launch_add_set(c, "parallel.tp=%" PRId64, e->tp);
    launch_add_set(c, "parallel.cp=%" PRId64, e->cp);
    launch_add_set(c, "parallel.pp=%" PRId64, e->pp);
    launch_add_set(c, "batch.sequences=%" PRId64, e->sequences);
}

/* ---- what it says -------------------------------------------------------------------------- */

static ml_status make_room(scale_experiment *e)
{
    ml_status st = ML_OK;
    if (!e->steps) {
        e->capacity = 64;
        ML_NEW(e->steps, e->capacity, ML_MEM_OTHER, "the steps of an experiment");
    } else if (e->nsteps == e->capacity) {
        void *grown = ml_memory_resize(e->steps, 2 * e->capacity, sizeof *e->steps,
                                       "the steps of an experiment");
        if (!grown) return ML_RESOURCE;
        e->steps = grown;
        e->capacity *= 2;
    }
done:
    return st;
}

/* Adds the steps after the first of a repetition. */
static ml_status read_steps(const char *run_dir, scale_experiment *e)
{
    ml_status st = ML_OK;
    char path[SCALE_PATH + 16], line[8192];
    int64_t lines = 0;
    snprintf(path, sizeof path, "%s/metrics.jsonl", run_dir);
    FILE *file = fopen(path, "r");
    while (file && fgets(line, sizeof line, file)) {
        if (lines++ == 0) continue;
        ML_TRY(make_room(e));
        json_t *step = json_loads(line, 0, NULL);
        double *figures = e->steps[e->nsteps++];
        for (int i = 0; i < SCALE_COLUMNS; i++)
            figures[i] =
                scale_columns[i].member ? table_member(step, scale_columns[i].member) : NAN;
        json_decref(step);
    }
done:
    if (file) fclose(file);
    return st;
}

ml_status scale_run(const scale_options *o, scale_experiment *e, int64_t repetition)
{
    ml_status st = ML_OK;
    launch c = {0};
    int code;
    char run_dir[SCALE_PATH], log[SCALE_PATH + 8], stages[48] = "";
    if (e->cp > 1)
        snprintf(stages, sizeof stages, "x%" PRId64 "x%" PRId64, e->pp, e->cp);
    else if (e->pp > 1)
        snprintf(stages, sizeof stages, "x%" PRId64, e->pp);
    snprintf(run_dir, sizeof run_dir, "%s/runs/%s-%" PRId64 "x%" PRId64 "%s-%" PRId64, o->out,
             e->method, e->dp, e->tp, stages, repetition + 1);
    snprintf(log, sizeof log, "%s.log", run_dir);
    for (int i = 0; i < SCALE_COLUMNS; i++) e->value[repetition][i] = NAN;
    make_command(o, e, run_dir, &c);
    ML_TRY(launch_run(&c, log, e->threads, &code));
    int64_t before = e->nsteps;
    bool whole = code == 0 &&
                 table_read_summary(run_dir, scale_columns, SCALE_COLUMNS, e->value[repetition]);
    if (whole) ML_TRY(read_steps(run_dir, e));
    for (int i = 0; i < SCALE_COLUMNS; i++)
        if (scale_columns[i].member && e->nsteps > before)
            e->value[repetition][i] =
                table_median(&e->steps[before][i], SCALE_COLUMNS, e->nsteps - before);
    if (e->nsteps > before)
        e->done++, e->used[repetition] = true;
    else if (strcmp(e->status, "ok") == 0)
        launch_explain(log, code, e->status);
done:
    launch_destroy(&c);
    return st;
}
