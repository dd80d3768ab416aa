/* mpilora compare: methods on the same data, with the same sampler, optimizer and accounting. */
#include "cli/compare.h"

#include <inttypes.h>
#include <math.h>

#include "cli/cli.h"
#include "cli/options.h"
#include "store/durable.h"

static const char usage[] = "mpilora compare CONFIG.yaml --methods lora,full,bitfit,... [--ranks N] [--seeds 1,2,3] [--out DIR]";

typedef struct words {
    const char *methods, *seeds, *launcher, *out;
    bool json;
} words;

static ml_status run_all(const compare_options *o, compare_row *rows, int64_t count)
{
    ml_status st = ML_OK;
    for (int64_t seed = 0; seed < o->nseeds; seed++) {
        for (int64_t i = 0; i < count; i++) {
            ML_TRY(compare_run(o, &rows[i], seed));
            fprintf(stderr, "%s, seed %" PRIu64 ": %s, validation loss %.4f\n", rows[i].words, o->seed[seed],
                    rows[i].used[seed] ? "done" : rows[i].status, rows[i].value[seed][compare_column_find("valid_loss")]);
        }
        ML_TRY(compare_write(o, rows, count)); /* what is known so far */
    }
done:
    return st;
}

static ml_status compare(compare_options *o, const words *w, const ml_run_config *config)
{
    ml_status st = ML_OK;
    compare_row *rows = NULL;
    int64_t count, done = 0;
    char runs[ML_DURABLE_PATH];
    ML_NEW(rows, COMPARE_ROWS, ML_MEM_OTHER, "the rows of a comparison");
    ML_TRY(compare_rows_read(rows, &count, w->methods));
    ML_TRY(ml_run_config_check_training(config));
    if (!config->data.valid) {
        st = ml_fail(ML_USAGE, "%s: data.valid: missing; methods are compared by their loss on it", config->path);
        goto done;
    }
    ML_TRY(launch_find_program(o->program));
    ML_TRY(ml_durable_path(runs, "%s/runs", o->out));
    ML_TRY(ml_durable_make_directories(runs));
    ML_TRY(compare_base(o));
    ML_TRY(run_all(o, rows, count));
    if (w->json)
        ML_TRY(compare_print_json(o, rows, count));
    else
        compare_print(o, rows, count);
    for (int64_t i = 0; i < count; i++) done += rows[i].done;
    if (done == 0) st = ml_fail(ML_INPUT, "compare: no run ended well; what each said is in %s", runs);
done:
    ml_memory_free(rows);
    return st;
}

static ml_status run(int argc, char **argv)
{
    ml_status st = ML_OK;
    const char *path = NULL;
    option_list sets = {0};
    words w = {.out = "compare"};
    compare_options *o = NULL;
    ml_run_config config = {0};
    int64_t ranks = 1, threads = 0;
    const option table[] = {
        {"--methods", OPTION_TEXT, &w.methods}, {"--ranks", OPTION_INT, &ranks},          {"--seeds", OPTION_TEXT, &w.seeds},
        {"--threads", OPTION_INT, &threads},    {"--launcher", OPTION_TEXT, &w.launcher}, {"--set", OPTION_LIST, &sets},
        {"--out", OPTION_TEXT, &w.out},         {"--json", OPTION_FLAG, &w.json},         {NULL, OPTION_FLAG, NULL}};
    ML_TRY(options_read(argc, argv, table, 1, 1, &path, usage));
    if (!w.methods) return ml_fail(ML_USAGE, "compare: --methods is missing; usage: %s", usage);
    if (ranks < 1 || ranks > 1 << 20) return ml_fail(ML_USAGE, "--ranks: %" PRId64 ", expected at least 1", ranks);
    if (threads < 0) return ml_fail(ML_USAGE, "--threads: %" PRId64 ", expected at least 1", threads);
    ML_TRY(ml_run_config_read(&config, path, sets.items, sets.count));
    ML_NEW(o, 1, ML_MEM_OTHER, "a comparison");
    *o = (compare_options){.config_path = path,
                           .out = w.out,
                           .launcher = w.launcher ? w.launcher : launch_default(),
                           .sets = sets.items,
                           .nsets = sets.count,
                           .ranks = ranks,
                           .threads = launch_threads(threads, ranks),
                           .base_loss = NAN};
    if (w.seeds)
        ML_TRY(compare_seeds_read(o, w.seeds));
    else
        o->seed[o->nseeds++] = config.seed;
    st = compare(o, &w, &config);
done:
    ml_memory_free(o);
    ml_run_config_destroy(&config);
    return st;
}

const ml_command ml_command_compare = {
    "compare",
    "several methods on the same data: parameters, memory, bytes, speed and loss as a table",
    "usage: mpilora compare CONFIG.yaml --methods lora,full,bitfit,... [option]...\n"
    "\n"
    "Trains with every method in turn, on the same data with the same sampler, optimizer and accounting, and writes one table:\n"
    "OUT/compare.csv (medians over the seeds, least and most) and OUT/compare.h5 (every run). Not to be started under mpirun: it starts\n"
    "the ranks itself. A method may change the configuration: lora:rank=4:targets=[q,k],full:optim.lr=1e-5 (a key without a dot is one of\n"
    "method; method.init of the configuration is for lora alone). A run that fails is a row that says why; started again, the command\n"
    "goes on where it was stopped.\n"
    "\n"
    "  --methods M        what is compared, with commas between\n"
    "  --ranks N          of every run, 1 unless told; parallel.tp is the configuration's\n"
    "  --seeds 1,2,3      run.seed of the repetitions; the configuration's unless told\n"
    "  --threads N        of a rank; else OMP_NUM_THREADS, else the cores here divided by the ranks\n"
    "  --launcher TEXT    \"srun --mpi=pmix --exact -n {ranks}\" inside a SLURM job, else \"mpirun --oversubscribe --bind-to none -n "
    "{ranks}\"\n"
    "  --set key=value    as in train\n"
    "  --out DIR          compare unless told; runs and their output are in DIR/runs\n"
    "  --json             the table as one JSON object\n"
    "\n"
    "analysis/compare.py draws validation loss over trained parameters.\n",
    run,
    false,
    NULL};
