/* What a run is going to write into run.dir has to have room for its name before the first step: a
 * directory called adapter.h5 would else be found when all steps are done. A link is refused, since
 * it leads out of the directory. */
#include "io/durable.h"
#include "train/run.h"

typedef struct output {
    const char *name;
    bool wanted, folder;
} output;

ml_status outputs_check(const run *r)
{
    ml_status st = ML_OK;
    const ml_run_config *c = r->config;
    const bool full = c->method.name == ML_METHOD_FULL, best = c->train.keep_best;
    const output outputs[] = {
        {"shared-memory", true, false},
        {"config.yaml", true, false},
        {"metrics.jsonl", true, false},
        {"metrics.csv", true, false},
        {"saves.jsonl", true, false},
        {"evaluations.jsonl", c->data.valid != NULL, false},
        {"samples.jsonl", samples_every(r) > 0, false},
        {"trace.jsonl", c->trace, false},
        {"tb", true, true},
        {"reference.bin", ml_run_config_has_reference(c), false},
        {"initial-adapter.h5", ml_run_config_is_pissa(c), false},
        {"summary.json", true, false},
        {"adapter.h5", !full, false},
        {"model.h5", full, false},
        {"best-adapter.h5", best && !full, false},
        {"best-model.h5", best && full, false},
    };
    char path[ML_DURABLE_PATH];
    for (size_t i = 0; i < sizeof outputs / sizeof *outputs; i++) {
        if (!outputs[i].wanted) continue;
        ML_TRY(ml_durable_path(path, "%s/%s", c->run_dir, outputs[i].name));
        ML_TRY(ml_durable_check_own(path, outputs[i].folder));
    }
done:
    return st;
}
