/* mpilora: finds the subcommand, runs it, prints one line where it fails; the status is the exit
 * code. */
#include <stdlib.h>
#include <unistd.h>

#include "cli/cli.h"
#include "mpilora/grid.h"

/* Each lives in the file of its name. */
extern const ml_command ml_command_import;
extern const ml_command ml_command_tokenize;
extern const ml_command ml_command_train;
extern const ml_command ml_command_eval;
extern const ml_command ml_command_generate;
extern const ml_command ml_command_plan;
extern const ml_command ml_command_merge;
extern const ml_command ml_command_export;
extern const ml_command ml_command_inspect;
extern const ml_command ml_command_verify;
extern const ml_command ml_command_bench;
extern const ml_command ml_command_compare;
extern const ml_command ml_command_sweep;
extern const ml_command ml_command_scale;
extern const ml_command ml_command_score;
extern const ml_command ml_command_analyze;

/* clang-format off */
static const ml_command *const commands[] = {
    &ml_command_import,
    &ml_command_tokenize,
    &ml_command_train,
    &ml_command_eval,
    &ml_command_generate,
    &ml_command_plan,
    &ml_command_merge,
    &ml_command_export,
    &ml_command_inspect,
    &ml_command_verify,
    &ml_command_bench,
    &ml_command_compare,
    &ml_command_sweep,
    &ml_command_scale,
    &ml_command_score,
    &ml_command_analyze,
    NULL,
};
/* clang-format on */

static const char *names[sizeof commands / sizeof *commands];

static void print_help(FILE *to)
{
    fputs("mpilora fine-tunes GPT-type language models on CPU clusters with LoRA.\n\nusage: "
          "mpilora COMMAND …\n\n",
          to);
    for (const ml_command *const *c = commands; *c; c++)
        fprintf(to, "  %-10s %s\n", (*c)->name, (*c)->summary);
    fputs(
        "\nmpilora COMMAND --help says more.\nExit codes: 0 done; 2 usage or configuration; 3 bad "
        "or missing input; 4 out of memory or "
        "disk;\n"
        "5 NaN or Inf; 70 internal; 75 stopped by a signal after saving (start again to go on).\n",
        to);
}

static const ml_command *find_command(const char *name)
{
    for (const ml_command *const *c = commands; *c; c++)
        if (!strcmp((*c)->name, name)) return *c;
    return NULL;
}

/* A word of a command's, or in the place of a command. */
static bool asks_help(const ml_command *command, int argc, char **argv)
{
    if (!command)
        return !strcmp(argv[0], "help") || !strcmp(argv[0], "--help") || !strcmp(argv[0], "-h");
    for (int i = 1; i < argc; i++)
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) return true;
    return false;
}

static ml_status show_help(const ml_command *command)
{
    if (ml_grid_world_rank() != 0) return ML_OK;
    if (command)
        fputs(command->help, stdout);
    else
        print_help(stdout);
    return ML_OK;
}

static ml_status unknown_command(const char *word)
{
    for (size_t i = 0; commands[i]; i++) names[i] = commands[i]->name;
    const char *near = ml_nearest_word(word, names);
    return ml_fail(ML_USAGE, "there is no command \"%s\"%s%s%s; see mpilora --help", word,
                   near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
}

/* Variables of the environment that choose what is computed, or how ranks work together. */
static const char *const choosing[] = {"MPILORA_PRODUCT_PATH", "MPILORA_VECTOR_PATH",
                                       "MPILORA_SHARED_MEMORY", NULL};

static ml_status agree_on_start(int argc, char **argv)
{
    char name[64];
    ml_status st = ml_grid_agree_on_words(argc, argv);
    for (int i = 0; choosing[i] && st == ML_OK; i++) {
        const char *value = getenv(choosing[i]);
        snprintf(name, sizeof name, "the variable %s", choosing[i]);
        st = ml_grid_agree_on(name, value ? value : "unset", "set it for all ranks, or for none");
    }
    return st;
}

static ml_status start_together(const ml_command *command, int argc, char **argv)
{
    if (command && command->prepare) command->prepare();
    ml_status st = ml_grid_start(&argc, &argv);
    if (st == ML_OK) st = agree_on_start(argc, argv);
    if (st == ML_OK) ml_log_enable(ml_grid_world_rank() == 0);
    return st;
}

/* Several processes of what is one process would do the same work over each other's files. */
static ml_status refuse_ranks(const ml_launch *launch)
{
    return ml_fail(ML_USAGE,
                   "%d ranks of it were started, says %s, but it is one process: start it alone, "
                   "without mpirun or srun -n. Where each is to be a run of its own: env -u %s "
                   "mpilora …",
                   launch->ranks, launch->variable, launch->variable);
}

/* Several ranks start MPI whatever they are asked for: one that was started as something else
 * beside them has to end with them. */
static ml_status run(const ml_command *command, int argc, char **argv)
{
    const ml_launch launch = ml_grid_launch();
    bool helps = asks_help(command, argc, argv);
    ml_status st = ML_OK;
    if (launch.ranks > 1 || (command && command->parallel && !helps))
        st = start_together(command, argc, argv);
    if (st != ML_OK) return st;
    if (helps) return show_help(command);
    if (!command) return unknown_command(argv[0]);
    return ml_grid_settle(launch.ranks > 1 && !command->parallel ? refuse_ranks(&launch)
                                                                 : command->run(argc, argv));
}

/* Once for all ranks: by the first of MPI's world, and where MPI joins none, by the first that the
 * launcher started. The others wait for it, since a launcher ends the job where one ends with an
 * error. */
static void print_error(const ml_command *command)
{
    bool joined = ml_grid_world_size() > 1;
    if (joined ? ml_grid_world_rank() == 0 : ml_grid_launch().speaks)
        fprintf(stderr, "mpilora%s%s: %s\n", command ? " " : "", command ? command->name : "",
                ml_error_text());
    else if (!joined)
        sleep(1);
}

#ifdef MPILORA_CHECK_LEAKS
/* In sanitizer builds: what a command has not given back is a fault, also where Open MPI keeps the
 * leak checker from looking. */
static ml_status check_leaks(const ml_command *command, ml_status st)
{
    for (int c = 0; c < ML_MEM_CATEGORIES; c++) {
        long long left = (long long)ml_memory_current((ml_category)c);
        if (left == 0) continue;
        fprintf(stderr, "mpilora %s: %lld bytes of category %s were never freed\n", command->name,
                left, ml_category_name((ml_category)c));
        st = ML_INTERNAL;
    }
    return st;
}
#endif

int main(int argc, char **argv)
{
    if (argc < 2) {
        print_help(stderr);
        return ML_USAGE;
    }
    const ml_command *command = find_command(argv[1]);
    ml_status st = run(command, argc - 1, argv + 1);
    if (st != ML_OK) print_error(command);
    ml_grid_stop();
#ifdef MPILORA_CHECK_LEAKS
    if (command) st = check_leaks(command, st);
#endif
    return (int)st;
}
