/* mpilora help: what there is to say about a command, and about the keys of a configuration. */
#include "cli/support/commands.h"
#include "cli/support/options.h"
#include "mpilora/config.h"

static const char usage[] = "mpilora help [COMMAND | configuration]";

static ml_status print_keys(void)
{
    ml_text page = {0};
    ml_status st = ml_run_config_describe(&page);
    if (st == ML_OK) fputs(page.data, stdout);
    ml_text_destroy(&page);
    return st;
}

static ml_status run(int argc, char **argv)
{
    const char *topic = NULL;
    const option table[] = {{NULL, OPTION_FLAG, NULL}};
    ml_status st = options_read(argc, argv, table, 0, 1, &topic, usage);
    if (st != ML_OK) return st;
    if (topic && !strcmp(topic, "configuration")) return print_keys();
    const ml_command *command = topic ? commands_find(topic) : NULL;
    if (topic && !command) return commands_unknown(topic);
    if (command)
        fputs(command->help, stdout);
    else
        commands_print(stdout);
    return ML_OK;
}

const ml_command ml_command_help = {
    "help",
    "what a command does, and every key of a configuration",
    "usage: mpilora help [COMMAND | configuration]\n"
    "\n"
    "mpilora help COMMAND prints what mpilora COMMAND --help prints; mpilora help configuration "
    "describes every\n"
    "key of a run's file: type, range, default, meaning. It is the page docs/configuration.md.\n",
    run,
    false,
    NULL};
