/* Completion for bash: commands, subjects, the options of each, and the values of those options
 * that have a list of them. Everything else is completed as a file. */
#include "cli/support/commands.h"
#include "cli/support/help.h"

static void put_names(const ml_command *const *list, FILE *to)
{
    for (const ml_command *const *c = list; *c; c++)
        fprintf(to, "%s%s", c == list ? "" : " ", (*c)->name);
}

/* "bf16|fp32" as words. */
static void put_values(const char *argument, FILE *to)
{
    for (; *argument; argument++) fputc(*argument == '|' ? ' ' : *argument, to);
}

static void put_command(const ml_command *parent, const ml_command *command, FILE *to)
{
    const char *first = parent ? parent->name : command->name,
               *second = parent ? command->name : "";
    for (const ml_command *const *s = command->subjects; s && *s; s++) put_command(command, *s, to);
    if (command->subjects) return;
    for (const option *o = command->options; o && o->name; o++) {
        if (!o->argument || !strchr(o->argument, '|')) continue;
        fprintf(to, "    '%s %s %s') values='", first, second, o->name);
        put_values(o->argument, to);
        fputs("' ;;\n", to);
    }
    fprintf(to, "    '%s %s '*) options='", first, second);
    for (const option *o = command->options; o && o->name; o++) fprintf(to, "%s ", o->name);
    fputs("--help' ;;\n", to);
}

void help_print_completion(FILE *to)
{
    fputs("# Completion of mpilora for bash; `mpilora help completion` prints it.\n"
          "_mpilora() {\n"
          "  local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}\n"
          "  local command=${COMP_WORDS[1]} subject= subjects= options= values=\n"
          "  COMPREPLY=()\n"
          "  if [ \"$COMP_CWORD\" -eq 1 ]; then\n"
          "    COMPREPLY=($(compgen -W '",
          to);
    put_names(ml_commands, to);
    fputs(" --help' -- \"$word\"))\n    return\n  fi\n  case $command in\n", to);
    for (const ml_command *const *c = ml_commands; *c; c++) {
        if (!(*c)->subjects) continue;
        fprintf(to, "    %s) subject=${COMP_WORDS[2]} subjects='", (*c)->name);
        put_names((*c)->subjects, to);
        fputs("' ;;\n", to);
    }
    fputs("  esac\n"
          "  if [ -n \"$subjects\" ] && [ \"$COMP_CWORD\" -eq 2 ]; then\n"
          "    COMPREPLY=($(compgen -W \"$subjects --help\" -- \"$word\"))\n    return\n  fi\n"
          "  case \"$command $subject $before\" in\n",
          to);
    for (const ml_command *const *c = ml_commands; *c; c++) put_command(NULL, *c, to);
    fputs("  esac\n"
          "  if [ -n \"$values\" ]; then\n"
          "    COMPREPLY=($(compgen -W \"$values\" -- \"$word\"))\n"
          "  elif [ \"${word#-}\" != \"$word\" ]; then\n"
          "    COMPREPLY=($(compgen -W \"$options\" -- \"$word\"))\n"
          "  else\n"
          "    COMPREPLY=($(compgen -f -- \"$word\"))\n"
          "  fi\n"
          "}\n"
          "complete -o filenames -F _mpilora mpilora\n",
          to);
}
