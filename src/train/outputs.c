/* What a run writes into run.dir beside its checkpoints. All of it has to have room for its name
 * before the first step: a directory called adapter.h5 would else be found when all steps are done.
 * A link is refused, since it leads out of the directory. And a fresh start takes none of it over:
 * what an earlier run has left goes to set-aside/, whole, so that no adapter of that run stands
 * beside the metrics of this one. */
#include "io/durable.h"
#include "train/run.h"

enum { OUTPUTS = 16 };

typedef struct output {
    const char *name;
    bool wanted, folder;
    bool kept; /* by a fresh start, where it is */
} output;

static void list_outputs(const run *r, output out[OUTPUTS])
{
    const ml_run_config *c = r->config;
    const bool full = c->method.name == ML_METHOD_FULL, best = c->train.keep_best;
    const output outputs[OUTPUTS] = {
        {"shared-memory", true, false, true},
        {"config.yaml", true, false, false},
        {"metrics.jsonl", true, false, false},
        {"metrics.csv", true, false, false},
        {"saves.jsonl", true, false, false},
        {"evaluations.jsonl", c->data.valid != NULL, false, false},
        {"samples.jsonl", samples_every(r) > 0, false, false},
        {"trace.jsonl", c->trace, false, false},
        {"tb", true, true, false},
        {"reference.bin", ml_run_config_has_reference(c), false, true},
        {"initial-adapter.h5", ml_run_config_is_pissa(c), false, false},
        {"summary.json", true, false, false},
        {"adapter.h5", !full, false, false},
        {"model.h5", full, false, false},
        {"best-adapter.h5", best && !full, false, false},
        {"best-model.h5", best && full, false, false},
    };
    memcpy(out, outputs, sizeof outputs);
}

ml_status outputs_check(const run *r)
{
    ml_status st = ML_OK;
    char path[ML_DURABLE_PATH];
    output outputs[OUTPUTS];
    list_outputs(r, outputs);
    for (int i = 0; i < OUTPUTS; i++) {
        if (!outputs[i].wanted) continue;
        ML_TRY(ml_durable_path(path, "%s/%s", r->config->run_dir, outputs[i].name));
        ML_TRY(ml_durable_check_own(path, outputs[i].folder));
    }
done:
    return st;
}

/* Whether an earlier run has left anything that is worth keeping: steps, or a result. What a start
 * leaves that failed before its first step is not. */
static ml_status is_worth_keeping(const char *run_dir, bool *worth)
{
    ml_status st = ML_OK;
    static const char *const names[] = {"metrics.jsonl", "adapter.h5", "model.h5"};
    char path[ML_DURABLE_PATH];
    *worth = false;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        int64_t bytes;
        ML_TRY(ml_durable_path(path, "%s/%s", run_dir, names[i]));
        ML_TRY(ml_durable_measure(path, &bytes));
        *worth = *worth || bytes > 0;
    }
done:
    return st;
}

/* They are gathered under another name first: what a process that was killed has moved already is
 * not taken for the older files, which go when the newer ones are all there. */
ml_status outputs_set_aside(const run *r)
{
    ml_status st = ML_OK;
    const char *run_dir = r->config->run_dir;
    char from[ML_DURABLE_PATH], to[ML_DURABLE_PATH], aside[ML_DURABLE_PATH],
        gathered[ML_DURABLE_PATH];
    bool worth, there;
    output outputs[OUTPUTS];
    ML_TRY(ml_durable_path(aside, "%s/set-aside", run_dir));
    ML_TRY(ml_durable_path(gathered, "%s/set-aside.new", run_dir));
    ML_TRY(ml_durable_check_own(aside, true));
    ML_TRY(ml_durable_check_own(gathered, true));
    ML_TRY(ml_durable_find(gathered, &there));
    ML_TRY(is_worth_keeping(run_dir, &worth));
    if (!worth && !there) goto done;
    ML_TRY(ml_durable_make_directories(gathered));
    list_outputs(r, outputs);
    for (int i = 0; i < OUTPUTS; i++) {
        if (outputs[i].kept) continue;
        ML_TRY(ml_durable_path(from, "%s/%s", run_dir, outputs[i].name));
        ML_TRY(ml_durable_path(to, "%s/%s", gathered, outputs[i].name));
        ML_TRY(ml_durable_find(from, &there));
        if (there) ML_TRY(ml_durable_rename(from, to));
    }
    ML_TRY(ml_durable_remove(aside));
    ML_TRY(ml_durable_rename(gathered, aside));
done:
    return st;
}
