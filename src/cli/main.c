/* mpilora: finds the subcommand, runs it, prints one line where it fails; the status is the exit
 * code. */
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

static bool asks_help(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) return true;
    return false;
}

static ml_status run_command(const ml_command *command, int argc, char **argv)
{
    if (!command->parallel) return command->run(argc, argv);
    if (command->prepare) command->prepare();
    ml_status st = ml_grid_start(&argc, &argv);
    if (st != ML_OK) return st;
    ml_log_enable(ml_grid_world_rank() == 0);
    return command->run(argc, argv);
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
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
        print_help(stdout);
        return ML_OK;
    }
    const ml_command *command = find_command(argv[1]);
    if (!command) {
        for (size_t i = 0; commands[i]; i++) names[i] = commands[i]->name;
        const char *near = ml_nearest_word(argv[1], names);
        fprintf(stderr, "mpilora: there is no command \"%s\"%s%s%s; see mpilora --help\n", argv[1],
                near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
        return ML_USAGE;
    }
    if (asks_help(argc - 1, argv + 1)) {
        fputs(command->help, stdout);
        return ML_OK;
    }
    ml_status st = run_command(command, argc - 1, argv + 1);
    if (st != ML_OK && ml_grid_world_rank() == 0)
        fprintf(stderr, "mpilora %s: %s\n", command->name, ml_error_text());
    if (command->parallel) ml_grid_stop();
#ifdef MPILORA_CHECK_LEAKS
    st = check_leaks(command, st);
#endif
    return (int)st;
}
