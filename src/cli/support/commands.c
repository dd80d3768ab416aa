/* The list of all commands of mpilora, and the overview that `mpilora --help` prints of them. */
#include "cli/support/commands.h"

/* Each lives in the file of its name. */
extern const ml_command ml_command_import;
extern const ml_command ml_command_tokenize;
extern const ml_command ml_command_train;
extern const ml_command ml_command_eval;
extern const ml_command ml_command_generate;
extern const ml_command ml_command_embed;
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
extern const ml_command ml_command_help;

/* clang-format off */
const ml_command *const ml_commands[] = {
    &ml_command_import,
    &ml_command_tokenize,
    &ml_command_train,
    &ml_command_eval,
    &ml_command_generate,
    &ml_command_embed,
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
    &ml_command_help,
    NULL,
};
/* clang-format on */

const char commands_exit_codes[] =
    "0 done; 2 usage or configuration; 3 bad or missing input; 4 out of memory or disk;\n"
    "5 NaN or Inf; 70 internal; 75 stopped by a signal after saving (start again to go on).";

void commands_print(FILE *to)
{
    fputs("mpilora fine-tunes GPT-type language models on CPU clusters with LoRA.\n\nusage: "
          "mpilora COMMAND …\n\n",
          to);
    for (const ml_command *const *c = ml_commands; *c; c++)
        fprintf(to, "  %-10s %s\n", (*c)->name, (*c)->summary);
    fprintf(to,
            "\nmpilora --version [--json] says what runs here.\nmpilora COMMAND --help says more; "
            "mpilora help configuration describes the keys of a "
            "run.\nExit codes: %s\n",
            commands_exit_codes);
}

const ml_command *commands_find(const char *name)
{
    for (const ml_command *const *c = ml_commands; *c; c++)
        if (!strcmp((*c)->name, name)) return *c;
    return NULL;
}

ml_status commands_unknown(const char *word)
{
    static const char *names[sizeof ml_commands / sizeof *ml_commands];
    for (size_t i = 0; ml_commands[i]; i++) names[i] = ml_commands[i]->name;
    const char *near = ml_nearest_word(word, names);
    return ml_fail(ML_USAGE, "there is no command \"%s\"%s%s%s; see mpilora --help", word,
                   near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
}

const ml_command *commands_find_subject(const ml_command *command, const char *name)
{
    for (const ml_command *const *s = command->subjects; s && *s; s++)
        if (!strcmp((*s)->name, name)) return *s;
    return NULL;
}

ml_status commands_unknown_subject(const ml_command *command, const char *word)
{
    enum { MOST = 16 };
    const char *names[MOST] = {NULL};
    for (int i = 0; command->subjects && i + 1 < MOST && command->subjects[i]; i++)
        names[i] = command->subjects[i]->name;
    const char *near = ml_nearest_word(word, names);
    return ml_fail(ML_USAGE, "there is no %s \"%s\"%s%s%s; usage: %s", command->name, word,
                   near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "",
                   command->usage);
}

ml_status commands_run(const ml_command *command, int argc, char **argv)
{
    if (!command->subjects) return command->run(argc, argv);
    if (argc < 2) return ml_fail(ML_USAGE, "the subject is missing; usage: %s", command->usage);
    const ml_command *subject = commands_find_subject(command, argv[1]);
    return subject ? subject->run(argc - 1, argv + 1) : commands_unknown_subject(command, argv[1]);
}
