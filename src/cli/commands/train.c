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

/* What a run makes of the prompts of its train.samples. */
typedef struct sampling {
    prompts *prompts;
    ml_samples *samples;
    ml_train_sampler sampler;
} sampling;

/* Sets how->sampler where the run has samples. */
static ml_status read_samples(const ml_run_config *c, sampling *s, ml_train_options *how)
{
    ml_status st = ML_OK;
    if (!has_samples(c)) return ML_OK;
    ML_NEW(s->prompts, 1, ML_MEM_OTHER, "prompts");
    ML_TRY(ml_grid_settle(prompts_read(s->prompts, c->train.samples.file)));
    if (s->prompts->nadapters > 0)
        return ml_fail(ML_INPUT,
                       "%s: names an adapter; the prompts of train.samples are for the one "
                       "that trains",
                       c->train.samples.file);
    ML_TRY(ml_samples_create(&s->samples, s->prompts->items, s->prompts->count,
                             c->train.samples.max_new, c->train.samples.file));
    s->sampler = (ml_train_sampler){s->samples, ml_samples_prepare, ml_samples_make};
    how->sampler = &s->sampler;
done:
    return st;
}

static void destroy_samples(sampling *s)
{
    ml_samples_destroy(s->samples);
    if (s->prompts) prompts_destroy(s->prompts);
    ml_memory_free(s->prompts);
}

static ml_status train_together(const char *path, const ml_run_list *runs, const option_list *sets,
                                const ml_train_options *how)
{
    ml_status st = ML_OK;
    ml_run_config *config = NULL;
    sampling *samples = NULL;
    ml_train_options *each = NULL;
    ML_NEW(samples, runs->count, ML_MEM_OTHER, "prompts");
    ML_NEW(each, runs->count, ML_MEM_OTHER, "runs");
    ML_TRY(run_list_read(&config, path, runs, sets));
    for (int64_t i = 0; i < runs->count; i++) {
        each[i] = *how;
        ML_TRY(read_samples(&config[i], &samples[i], &each[i]));
    }
    ML_TRY(ml_train_together(runs->count, config, each));
done:
    for (int64_t i = 0; samples && i < runs->count; i++) destroy_samples(&samples[i]);
    ml_memory_free(samples);
    ml_memory_free(each);
    run_list_destroy(config, runs->count);
    return st;
}

static ml_status run(int argc, char **argv)
{
    ml_status st = ML_OK;
    const char *path = NULL;
    given given = {0};
    ml_train_options how;
    sampling samples = {0};
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
    ML_TRY(read_samples(&config, &samples, &how));
    ML_TRY(ml_train_run(&config, &how));
done:
    destroy_samples(&samples);
    ml_run_config_destroy(&config);
    return st;
}

const ml_command ml_command_train = {
    .name = "train",
    .summary = "fine-tune a base as a configuration says (under mpirun or srun)",
    .usage = usage,
    .about =
        "Trains on any number of ranks: dp = ranks / (parallel.tp x cp x pp). Writes run.dir/: "
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
