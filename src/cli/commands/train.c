/* mpilora train: fine-tunes as a configuration says. */
#include "mpilora/train.h"

#include "cli/cli.h"
#include "cli/support/options.h"
#include "cli/support/prompts.h"
#include "cli/support/run_list.h"
#include "mpilora/grid.h"

static const char usage[] = "mpilora train CONFIG.yaml [--set key=value]... [--fresh] "
                            "[--allow-change key]...";

typedef struct given {
    option_list sets, allowed;
    bool fresh;
} given;

static const option options[] = {
    {"--set", OPTION_LIST, offsetof(given, sets), "KEY=VALUE",
     "sets a key of the configuration, as optim.lr=1e-4 or method.targets=[q,v]; again and again",
     NULL},
    {"--fresh", OPTION_FLAG, offsetof(given, fresh), NULL,
     "start over; older checkpoints are set aside", NULL},
    {"--allow-change", OPTION_LIST, offsetof(given, allowed), "KEY",
     "let a resumed run go on with another value of this key of optim; the run records it "
     "(summary.json: allowed_changes) and keeps to the new value",
     NULL},
    {NULL, OPTION_FLAG, 0, NULL, NULL, NULL}};

static bool has_samples(const ml_run_config *c)
{
    return c->train.samples.file && c->train.samples.every > 0;
}

static ml_status train_together(const char *path, const ml_run_list *runs, const option_list *sets,
                                const ml_train_options *how)
{
    ml_run_config *config;
    ml_status st = run_list_read(&config, path, runs, sets);
    for (int64_t i = 0; i < runs->count && st == ML_OK; i++)
        if (has_samples(&config[i]))
            st = ml_run_config_refuse(&config[i], "train.samples.file",
                                      "runs of one job make no samples; train them one by one");
    if (st == ML_OK) st = ml_train_together(runs->count, config, how);
    run_list_destroy(config, runs->count);
    return st;
}

/* The prompts of train.samples. */
static ml_status read_samples(const ml_run_config *c, prompts *p, ml_samples **out)
{
    if (!has_samples(c)) return ML_OK;
    ml_status st = ml_grid_settle(prompts_read(p, c->train.samples.file));
    if (st == ML_OK && p->nadapters > 0)
        st = ml_fail(ML_INPUT,
                     "%s: names an adapter; the prompts of train.samples are for the one "
                     "that trains",
                     c->train.samples.file);
    return st == ML_OK ? ml_samples_create(out, p->items, p->count, c->train.samples.max_new,
                                           c->train.samples.file)
                       : st;
}

static ml_status run(int argc, char **argv)
{
    ml_status st = ML_OK;
    const char *path = NULL;
    given given = {0};
    ml_train_options how;
    prompts *p = NULL;
    ml_samples *samples = NULL;
    ml_run_config config = {0};
    ML_TRY(options_read(argc, argv, options, &given, 1, 1, &path, usage));
    ML_TRY(ml_run_config_read(&config, path, given.sets.items, given.sets.count));
    how = (ml_train_options){
        .fresh = given.fresh, .allowed = given.allowed.count, .allow = given.allowed.items};
    if (config.runs.count > 0) {
        st = train_together(path, &config.runs, &given.sets, &how);
        goto done;
    }
    ml_run_config_warn_unread(&config);
    ML_NEW(p, 1, ML_MEM_OTHER, "prompts");
    ML_TRY(read_samples(&config, p, &samples));
    const ml_train_sampler sampler = {samples, ml_samples_prepare, ml_samples_make};
    if (samples) how.sampler = &sampler;
    ML_TRY(ml_train_run(&config, &how));
done:
    ml_samples_destroy(samples);
    if (p) prompts_destroy(p);
    ml_memory_free(p);
    ml_run_config_destroy(&config);
    return st;
}

const ml_command ml_command_train = {
    .name = "train",
    .summary = "fine-tune a base as a configuration says (under mpirun or srun)",
    .usage = usage,
    .about = "Trains on any number of ranks: dp = ranks / parallel.tp. Writes run.dir/: "
             "metrics.jsonl (a line a step), summary.json, config.yaml as resolved, checkpoints/, "
             "and adapter.h5, for method full model.h5.",
    .options = options,
    .notes =
        "Started again on the same run.dir it resumes from the newest valid checkpoint, on any "
        "grid. SIGTERM, SIGINT and SIGUSR1 that reach the ranks save the last whole step, between "
        "two micro-batches at the latest, and end with code 75: start the same command again. srun "
        "hands TERM and USR1 to the ranks, mpirun USR1. Ctrl-C or TERM at Open MPI's mpirun leaves "
        "them some two seconds: a micro-batch and a save that fit into them are saved, but mpirun "
        "ends with 1. A second Ctrl-C kills at once: only the checkpoints before it stay, and Open "
        "MPI may leave /dev/shm/vader_segment.* files behind, which the next start on that node "
        "removes. `mpilora help configuration` "
        "describes every key.",
    .run = run,
    .parallel = true,
    .prepare = ml_train_catch_signals,
};
