/* The man page, in the macros of man(7): a section a command, with every option. */
#include "cli/support/commands.h"
#include "cli/support/help.h"

/* A character that roff would take for its own is written in another way. */
static void put(const char *text, size_t bytes, FILE *to)
{
    bool line_begins = true;
    for (size_t i = 0; i < bytes; i++) {
        char c = text[i];
        if (line_begins && (c == '.' || c == '\'')) fputs("\\&", to);
        line_begins = c == '\n';
        if (c == '\\')
            fputs("\\e", to);
        else if (c == '-')
            fputs("\\-", to);
        else
            fputc(c, to);
    }
}

static void put_word(const char *text, FILE *to) { put(text, strlen(text), to); }

/* Paragraphs; a line that begins with a blank stays a line of its own. */
static void put_text(const char *text, FILE *to)
{
    bool fill = true;
    while (text && *text) {
        size_t length = strcspn(text, "\n");
        bool plain = *text != ' ';
        if (plain != fill) fputs(plain ? ".fi\n" : ".nf\n", to);
        fill = plain;
        if (length)
            put(text, length, to);
        else
            fputs(".PP", to);
        fputc('\n', to);
        text += length + (text[length] == '\n');
    }
    if (!fill) fputs(".fi\n", to);
}

static void put_option(const option *o, FILE *to)
{
    fputs(".TP\n\\fB", to);
    put_word(o->name, to);
    fputs("\\fR", to);
    if (o->argument) {
        fputs(" \\fI", to);
        put_word(o->argument, to);
        fputs("\\fR", to);
    }
    fputc('\n', to);
    put_word(o->about, to);
    if (o->standard) {
        fputs("; default ", to);
        put_word(o->standard, to);
    }
    fputs(".\n", to);
}

static void put_command(const ml_command *parent, const ml_command *command, FILE *to)
{
    fprintf(to, ".SS \"mpilora %s%s%s\"\n", parent ? parent->name : "", parent ? " " : "",
            command->name);
    size_t length;
    for (const char *form = command->usage, *next; form; form = next) {
        next = help_next_form(form, &length);
        put(form, length, to);
        fputs(next ? "\n.br\n" : "\n.PP\n", to);
    }
    put_text(command->about, to);
    for (const option *o = command->options; o && o->name; o++) put_option(o, to);
    if (command->notes) {
        fputs(".PP\n", to);
        put_text(command->notes, to);
    }
    for (const ml_command *const *s = command->subjects; s && *s; s++) put_command(command, *s, to);
}

void help_print_manual(FILE *to)
{
    fputs(".TH MPILORA 1\n.SH NAME\nmpilora \\- fine\\-tunes GPT\\-type language models on CPU "
          "clusters with LoRA\n.SH SYNOPSIS\n\\fBmpilora\\fR \\fICOMMAND\\fR ...\n.SH COMMANDS\n",
          to);
    for (const ml_command *const *c = ml_commands; *c; c++) put_command(NULL, *c, to);
    fputs(".SH EXIT STATUS\n", to);
    put_text(commands_exit_codes, to);
}
