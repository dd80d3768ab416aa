/* The help of one command is put together from its table of options and wrapped to the width of
 * the terminal. */
#include "cli/support/help.h"

enum { WIDTH = 100, INDENT = 24 };

/* Characters of UTF-8 text of `bytes` bytes. */
static int width_of(const char *text, size_t bytes)
{
    int width = 0;
    for (size_t i = 0; i < bytes; i++) width += ((unsigned char)text[i] & 0xC0) != 0x80;
    return width;
}

/* One line of text from column `at`, wrapped at blanks; further lines begin at `indent`. */
static void print_wrapped(const char *text, size_t bytes, int at, int indent, FILE *to)
{
    const char *end = text + bytes;
    bool first = true;
    while (text < end) {
        size_t length = strcspn(text, " \n");
        if (length > (size_t)(end - text)) length = (size_t)(end - text);
        int width = width_of(text, length);
        if (!first && at + 1 + width > WIDTH) {
            fprintf(to, "\n%*s", indent, "");
            at = indent;
        } else if (!first) {
            fputc(' ', to);
            at++;
        }
        fwrite(text, 1, length, to);
        at += width;
        first = false;
        text += length;
        while (text < end && *text == ' ') text++;
    }
    fputc('\n', to);
}

/* Lines of paragraphs; those that begin with a blank are not wrapped. */
static void print_text(const char *text, FILE *to)
{
    while (text && *text) {
        size_t length = strcspn(text, "\n");
        if (*text == ' ')
            fprintf(to, "%.*s\n", (int)length, text);
        else
            print_wrapped(text, length, 0, 0, to);
        text += length + (text[length] == '\n');
    }
}

const char *help_next_form(const char *usage, size_t *length)
{
    static const char between[] = "  |  ";
    const char *next = strstr(usage, between);
    *length = next ? (size_t)(next - usage) : strlen(usage);
    return next ? next + strlen(between) : NULL;
}

static void print_usage(const ml_command *command, FILE *to)
{
    const char *begin = "usage: ";
    size_t length;
    for (const char *form = command->usage, *next; form; form = next) {
        next = help_next_form(form, &length);
        fputs(begin, to);
        print_wrapped(form, length, 7, 11, to);
        begin = "       ";
    }
}

static void print_option(const option *o, FILE *to)
{
    int used =
        fprintf(to, "  %s%s%s", o->name, o->argument ? " " : "", o->argument ? o->argument : "");
    if (used + 2 > INDENT) {
        fputc('\n', to);
        used = 0;
    }
    fprintf(to, "%*s", INDENT - used, "");
    char text[1024];
    snprintf(text, sizeof text, "%s%s%s%s", o->about, o->standard ? " (default: " : "",
             o->standard ? o->standard : "", o->standard ? ")" : "");
    print_wrapped(text, strlen(text), INDENT, INDENT, to);
}

static void print_subjects(const ml_command *command, FILE *to)
{
    for (const ml_command *const *s = command->subjects; *s; s++)
        fprintf(to, "  %-15s %s\n", (*s)->name, (*s)->summary);
    fprintf(to, "\nmpilora %s SUBJECT --help says more.\n", command->name);
}

void help_print(const ml_command *parent, const ml_command *command, FILE *to)
{
    print_usage(command, to);
    fprintf(to, "\n");
    print_text(command->about, to);
    if (command->options && command->options->name) fprintf(to, "\n");
    for (const option *o = command->options; o && o->name; o++) print_option(o, to);
    if (command->subjects) {
        fprintf(to, "\n");
        print_subjects(command, to);
    }
    const char *notes[] = {command->notes, parent ? parent->notes : NULL};
    for (int i = 0; i < 2; i++) {
        if (!notes[i]) continue;
        fprintf(to, "\n");
        print_text(notes[i], to);
    }
}
