/* mpilora train: fine-tunes as a configuration says. */
#include "mpilora/train.h"

#include "cli/cli.h"
#include "cli/support/last_words.h"
#include "cli/support/options.h"

static const char usage[] = "mpilora train CONFIG.yaml [--set key=value]... [--fresh] "
                            "[--allow-change key]...";

static ml_status run(int argc, char **argv)
{
    ml_status st = ML_OK;
    const char *path = NULL;
    ml_train_options options = {.fresh = false};
    option_list sets = {0}, allow = {0};
    ml_run_config config = {0};
    const option table[] = {{"--set", OPTION_LIST, &sets},
                            {"--fresh", OPTION_FLAG, &options.fresh},
                            {"--allow-change", OPTION_LIST, &allow},
                            {NULL, OPTION_FLAG, NULL}};
    ML_TRY(options_read(argc, argv, table, 1, 1, &path, usage));
    ML_TRY(ml_run_config_read(&config, path, sets.items, sets.count));
    ml_run_config_warn_unread(&config);
    last_words_prepare();
    options.allowed = allow.count;
    options.allow = allow.items;
    ML_TRY(ml_train_run(&config, &options));
done:
    ml_run_config_destroy(&config);
    return st;
}

const ml_command ml_command_train = {
    "train",
    "fine-tune a base as a configuration says (under mpirun or srun)",
    "usage: mpirun -n RANKS mpilora train CONFIG.yaml [--set key=value]... [--fresh]\n"
    "                                      [--allow-change key]...\n"
    "\n"
    "Trains on any number of ranks: dp = ranks / parallel.tp. Writes run.dir/: metrics.jsonl (a "
    "line a step), summary.json, config.yaml\n"
    "as resolved, checkpoints/, and adapter.h5 (method lora) or model.h5 (method full).\n"
    "\n"
    "  --set key=value  overrides a key, e.g. --set optim.lr=1e-4 --set method.targets=[q,v]\n"
    "  --fresh          starts over; older checkpoints are set aside\n"
    "  --allow-change optim.lr  lets a resumed run go on with another value of this key of optim; "
    "the run\n"
    "                   records it (summary.json: allowed_changes) and keeps to the new value\n"
    "\n"
    "Started again on the same run.dir it resumes from the newest valid checkpoint, on any grid. "
    "SIGTERM, SIGINT and SIGUSR1 save after "
    "the\n"
    "current step and end with code 75: start the same command again.\n",
    run,
    true,
    ml_train_catch_signals};
