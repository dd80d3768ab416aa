/* mpilora scale: the same configuration on several grids, repetitions in turn, one table. */
#include "cli/experiment/scale.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "cli/cli.h"
#include "cli/support/launch.h"
#include "cli/support/options.h"
#include "io/durable.h"

static const char usage[] =
    "mpilora scale CONFIG.yaml --ranks 1,2,4 [--grid DPxTP[xPP[xCP]],...] [--weak | "
    "--strong] [--methods lora,full] [--steps N] [--repetitions N]";

typedef struct words {
    const char *ranks, *grid, *methods, *launcher, *machine, *out;
    int64_t threads, steps, repetitions, nodes;
    option_list sets;
    bool weak, strong, json;
} words;

static const option options[] = {
    {"--ranks", OPTION_TEXT, offsetof(words, ranks), "LIST",
     "numbers of ranks as 1,2,4, with the configuration's parallel.tp, parallel.pp and parallel.cp",
     NULL},
    {"--grid", OPTION_TEXT, offsetof(words, grid), "LIST",
     "dp x tp of each grid instead, as 4x1,2x2, or dp x tp x pp, as 1x1x2, or dp x tp x pp x cp, "
     "as "
     "1x1x1x2",
     NULL},
    {"--strong", OPTION_FLAG, offsetof(words, strong), NULL,
     "the same batch on every grid, as without an option", NULL},
    {"--weak", OPTION_FLAG, offsetof(words, weak), NULL, "batch.sequences grows with dp", NULL},
    {"--methods", OPTION_TEXT, offsetof(words, methods), "LIST",
     "as method.name has them, lora,full; else the configuration's", NULL},
    {"--steps", OPTION_INT, offsetof(words, steps), "N", "counted steps of a run", "5"},
    {"--repetitions", OPTION_INT, offsetof(words, repetitions), "N", "of every grid, in turn", "3"},
    {"--threads", OPTION_INT, offsetof(words, threads), "N",
     "of a rank; else OMP_NUM_THREADS, else the cores here divided by the ranks", NULL},
    {"--machine", OPTION_TEXT, offsetof(words, machine), "FILE",
     "as `mpilora bench machine` writes it: plan's seconds a step beside the measured ones", NULL},
    {"--nodes", OPTION_INT, offsetof(words, nodes), "M", "that the ranks of a run lie on, for that",
     "1"},
    {"--launcher", OPTION_TEXT, offsetof(words, launcher), "TEXT",
     "what starts a run; else \"srun --mpi=pmix --exact -n {ranks}\" inside a SLURM job, \"mpirun "
     "--oversubscribe --bind-to none -n {ranks}\" outside",
     NULL},
    {"--set", OPTION_LIST, offsetof(words, sets), "KEY=VALUE",
     "sets a key of the configuration, as optim.lr=1e-4 or method.targets=[q,v]; again and again",
     NULL},
    {"--out", OPTION_TEXT, offsetof(words, out), "DIR", "runs and their output are in DIR/runs",
     "scaling"},
    {"--json", OPTION_FLAG, offsetof(words, json), NULL, "the table as one JSON object", NULL},
    {NULL, OPTION_FLAG, 0, NULL, NULL, NULL}};

/* ---- which experiments --------------------------------------------------------------------- */

enum { SCALE_RANKS = 1 << 20 };

typedef struct plan {
    const ml_run_config *config;
    const words *words;
    scale_options *options;
    scale_experiment *all;
    int64_t count, first_dp;
} plan;

/* Of a grid, by place. */
enum { DP, TP, PP, CP, GRID };

static ml_status add_experiment(plan *p, const char *method, const int64_t grid[GRID])
{
    int64_t dp = grid[DP], ranks = dp * grid[TP] * grid[PP] * grid[CP];
    if (p->count == SCALE_EXPERIMENTS)
        return ml_fail(ML_USAGE, "more than %d experiments", SCALE_EXPERIMENTS);
    if (p->first_dp == 0) p->first_dp = dp;
    int64_t sequences = p->config->batch.sequences;
    if (p->options->weak) sequences = ml_max(1, sequences * dp / p->first_dp);
    scale_experiment *e = &p->all[p->count++];
    *e = (scale_experiment){.method = method,
                            .ranks = ranks,
                            .dp = dp,
                            .tp = grid[TP],
                            .pp = grid[PP],
                            .cp = grid[CP],
                            .threads = launch_threads(p->words->threads, ranks),
                            .sequences = sequences,
                            .status = "ok"};
    return ML_OK;
}

/* "4x1", "2x1x2" or "1x1x1x2" at *at, which goes on behind it. */
static bool read_grid(const char **at, int64_t grid[GRID])
{
    int read = 0;
    grid[PP] = grid[CP] = 1;
    for (bool more = true; more; read++) {
        char *end;
        if (read == GRID) return false;
        grid[read] = strtoll(*at, &end, 10);
        if (end == *at || grid[read] < 1 || grid[read] > SCALE_RANKS) return false;
        more = *end == 'x';
        *at = end + more;
    }
    return read >= 2;
}

/* A number of ranks, with the configuration's tp, pp and cp; *divides: it can be divided by these.
 */
static bool read_ranks(const char **at, const ml_run_config *c, int64_t grid[GRID], bool *divides)
{
    char *end;
    int64_t ranks = strtoll(*at, &end, 10), parts = ml_run_config_replica_ranks(c);
    if (end == *at || ranks < 1 || ranks > SCALE_RANKS) return false;
    *at = end;
    *divides = ranks % parts == 0;
    grid[DP] = ranks / parts;
    grid[TP] = c->parallel.tp;
    grid[PP] = c->parallel.pp;
    grid[CP] = c->parallel.cp;
    return true;
}

/* Whether a job can have so many ranks. */
static bool is_countable(const int64_t grid[GRID])
{
    double ranks = 1.0;
    for (int i = 0; i < GRID; i++) ranks *= (double)grid[i];
    return ranks <= SCALE_RANKS;
}

/* "1,2,4" with the configuration's tp, pp and cp, or "4x1,2x2,1x1x2". */
static ml_status add_grids(plan *p, const char *method)
{
    bool grids = p->words->grid != NULL;
    const char *text = grids ? p->words->grid : p->words->ranks,
               *option = grids ? "--grid" : "--ranks", *at = text;
    do {
        int64_t grid[GRID];
        bool divides = true;
        bool good = grids ? read_grid(&at, grid) : read_ranks(&at, p->config, grid, &divides);
        if (!good || (*at && *at != ',') || (*at && !at[1]) || !is_countable(grid))
            return ml_fail(ML_USAGE, "%s: \"%s\", expected %s", option, text,
                           grids
                               ? "dp x tp of each grid, as 4x1,2x2,1x4, dp x tp x pp, as 2x1x2, or "
                                 "dp x tp x pp x cp, as 1x1x1x2"
                               : "numbers of ranks, as 1,2,4");
        if (!divides)
            return ml_fail(
                ML_USAGE,
                "--ranks: \"%s\", expected multiples of parallel.tp %" PRId64
                " x parallel.pp %" PRId64 " x parallel.cp %" PRId64 "; name the grids with --grid",
                text, p->config->parallel.tp, p->config->parallel.pp, p->config->parallel.cp);
        ml_status st = add_experiment(p, method, grid);
        if (st != ML_OK) return st;
        at += *at == ',';
    } while (*at);
    return ML_OK;
}

static ml_status add_methods(plan *p)
{
    const char *text =
        p->words->methods ? p->words->methods : ml_method_name(p->config->method.name);
    const char *at = text;
    do {
        size_t length = strcspn(at, ",");
        ml_method method;
        char name[32];
        snprintf(name, sizeof name, "%.*s", (int)length, at);
        if (!ml_method_find(name, &method))
            return ml_fail(
                ML_USAGE,
                "--methods: \"%s\" in %s, expected methods of method.name with commas between them",
                name, text);
        p->first_dp = 0;
        ml_status st = add_grids(p, ml_method_name(method));
        if (st != ML_OK) return st;
        at += length + (at[length] == ',');
    } while (*at);
    return ML_OK;
}

/* ---- running ------------------------------------------------------------------------------- */

static void say(const scale_experiment *e, int64_t repetition)
{
    char grid[SCALE_GRID];
    double rate = e->value[repetition][scale_column_find("tokens_per_s")];
    fprintf(stderr, "repetition %" PRId64 ": %s, %s: ", repetition + 1, e->method,
            scale_grid_name(e, grid));
    if (e->used[repetition])
        fprintf(stderr, "%.1f tokens/s\n", rate);
    else
        fprintf(stderr, "%s\n", e->status);
}

static ml_status run_all(const plan *p)
{
    ml_status st = ML_OK;
    for (int64_t repetition = 0; repetition < p->options->repetitions; repetition++) {
        for (int64_t k = 0; k < p->count; k++) {
            /* Every second time in reverse order: what grows with time hits all alike. */
            int64_t i = repetition % 2 ? p->count - 1 - k : k;
            scale_experiment *e = &p->all[i];
            ML_TRY(scale_run(p->options, e, repetition));
            say(e, repetition);
        }
    }
done:
    return st;
}

static ml_status check(const scale_options *o, const words *w)
{
    if (!w->ranks && !w->grid)
        return ml_fail(ML_USAGE, "--ranks or --grid is missing; usage: %s", usage);
    if (o->weak && w->strong) return ml_fail(ML_USAGE, "--weak and --strong: give one of them");
    if (o->steps < 1 || o->steps > 1000000)
        return ml_fail(ML_USAGE, "--steps: %" PRId64 ", expected 1 to 1000000", o->steps);
    if (o->repetitions < 1 || o->repetitions > SCALE_REPETITIONS)
        return ml_fail(ML_USAGE, "--repetitions: %" PRId64 ", expected 1 to %d", o->repetitions,
                       SCALE_REPETITIONS);
    if (w->nodes < 1 || w->nodes > SCALE_RANKS)
        return ml_fail(ML_USAGE, "--nodes: %" PRId64 ", expected 1 to %d", w->nodes, SCALE_RANKS);
    if (w->nodes > 1 && !w->machine) return ml_fail(ML_USAGE, "--nodes: belongs to --machine");
    if (w->threads < 0)
        return ml_fail(ML_USAGE, "--threads: %" PRId64 ", expected at least 1", w->threads);
    return ML_OK;
}

static bool any_done(const plan *p)
{
    for (int64_t i = 0; i < p->count; i++)
        if (p->all[i].done > 0) return true;
    return false;
}

static ml_status experiment(plan *p, char *program)
{
    ml_status st = ML_OK;
    char runs[SCALE_PATH];
    ML_TRY(launch_find_program(program));
    ML_NEW(p->all, SCALE_EXPERIMENTS, ML_MEM_OTHER, "the experiments");
    ML_TRY(add_methods(p));
    ML_TRY(ml_run_config_check_training(p->config));
    ML_TRY(ml_durable_path(runs, "%s/runs", p->options->out));
    ML_TRY(ml_durable_make_directories(runs));
    ML_TRY(table_check(p->options->out, "scaling"));
    for (int64_t i = 0; i < p->count; i++) ML_TRY(scale_predict(p->options, &p->all[i]));
    ML_TRY(run_all(p));
    ML_TRY(scale_write(p->options, p->all, p->count));
    if (p->words->json)
        ML_TRY(scale_print_json(p->options, p->all, p->count));
    else
        scale_print(p->options, p->all, p->count);
    if (!any_done(p)) st = ml_fail(ML_INPUT, "no run ended well; what each said is in %s", runs);
done:
    for (int64_t i = 0; p->all && i < p->count; i++) ml_memory_free(p->all[i].steps);
    ml_memory_free(p->all);
    return st;
}

static ml_status run(int argc, char **argv)
{
    ml_status st = ML_OK;
    const char *path = NULL;
    char program[LAUNCH_PATH];
    words w = {0};
    scale_options o;
    ml_run_config config = {0};
    ml_machine machine = {0};
    ML_TRY(options_read(argc, argv, options, &w, 1, 1, &path, usage));
    o = (scale_options){.weak = w.weak, .steps = w.steps, .repetitions = w.repetitions};
    ML_TRY(check(&o, &w));
    ML_TRY(ml_run_config_read(&config, path, w.sets.items, w.sets.count));
    ML_TRY(ml_run_config_check_single(&config));
    if (w.machine) ML_TRY(ml_machine_read(&machine, w.machine));
    o.config = &config;
    o.machine = w.machine ? &machine : NULL;
    o.nodes = w.nodes;
    o.config_path = path;
    o.out = w.out;
    o.launcher = w.launcher ? w.launcher : launch_default();
    o.program = program;
    o.sets = w.sets.items;
    o.nsets = w.sets.count;
    plan p = {.config = &config, .words = &w, .options = &o};
    st = experiment(&p, program);
done:
    ml_machine_destroy(&machine);
    ml_run_config_destroy(&config);
    return st;
}

const ml_command ml_command_scale = {
    .name = "scale",
    .summary = "one configuration on several grids: tokens/s, phases, bytes and memory as a table",
    .usage = usage,
    .about = "Starts short runs of the configuration on every grid, repetitions in turn and every "
             "second time in reverse order, and "
             "writes one table: OUT/scaling.csv (median, least and most) and OUT/scaling.h5 (every "
             "repetition). Not to be started under mpirun: it starts the ranks itself. A run that "
             "fails is a row that says why. Saving and evaluation are left out, the first step of "
             "a run does not count.",
    .options = options,
    .notes =
        "Efficiency is tokens/s a rank beside that of the method's first grid; left out where the "
        "difference is within the spread of the repetitions, or where there is only one. "
        "analysis/scaling.py plots the table.",
    .run = run,
    .parallel = false,
};
