/* mpilora help: what there is to say about a command, and about the keys of a configuration. */
#include "cli/support/help.h"
#include "cli/support/commands.h"
#include "mpilora/config.h"

static const char usage[] = "mpilora help [COMMAND [SUBJECT] | configuration | man | completion]";

static const option options[] = {{NULL, OPTION_FLAG, 0, NULL, NULL, NULL}};

static ml_status print_keys(void)
{
    ml_text page = {0};
    ml_status st = ml_run_config_describe(&page);
    if (st == ML_OK) fputs(page.data, stdout);
    ml_text_destroy(&page);
    return st;
}

/* A command, or one subject of it. */
static ml_status print_command(const char *const words[2])
{
    const ml_command *command = commands_find(words[0]), *subject = NULL;
    if (!command) return commands_unknown(words[0]);
    if (words[1]) {
        subject = commands_find_subject(command, words[1]);
        if (!subject) return commands_unknown_subject(command, words[1]);
    }
    help_print(subject ? command : NULL, subject ? subject : command, stdout);
    return ML_OK;
}

static ml_status run(int argc, char **argv)
{
    const char *words[2] = {NULL, NULL};
    ml_status st = options_read(argc, argv, options, NULL, 0, 2, words, usage);
    if (st != ML_OK) return st;
    if (!words[0])
        commands_print(stdout);
    else if (!strcmp(words[0], "configuration"))
        return print_keys();
    else if (!strcmp(words[0], "man"))
        help_print_manual(stdout);
    else if (!strcmp(words[0], "completion"))
        help_print_completion(stdout);
    else
        return print_command(words);
    return ML_OK;
}

const ml_command ml_command_help = {
    .name = "help",
    .summary = "what a command does, and every key of a configuration",
    .usage = usage,
    .about = "mpilora help COMMAND prints what mpilora COMMAND --help prints. mpilora help "
             "configuration describes every key of a run's file: type, range, default, meaning; it "
             "is the page docs/configuration.md. mpilora help man and mpilora help completion "
             "print the man page and the completion for bash that are installed with the program.",
    .options = options,
    .run = run,
    .parallel = false,
};
