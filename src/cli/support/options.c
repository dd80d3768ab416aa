/* A command line is read by a table of options: one row says an option's name, kind, place in a
 * struct and help text. Whatever no row names is refused with the usage. */
#include "cli/support/options.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

static const option *find(const option *table, const char *name, size_t length)
{
    for (; table->name; table++)
        if (strlen(table->name) == length && !strncmp(table->name, name, length)) return table;
    return NULL;
}

static ml_status unknown(const option *table, const char *word, const char *usage)
{
    enum { MOST = 32 };
    const char *names[MOST] = {NULL};
    for (int i = 0; i + 1 < MOST && table[i].name; i++) names[i] = table[i].name;
    const char *near = ml_nearest_word(word, names);
    return ml_fail(ML_USAGE, "unknown option %s%s%s%s; usage: %s", word,
                   near ? "; did you mean " : "", near ? near : "", near ? "?" : "", usage);
}

static ml_status store_int(const char *name, const char *text, int64_t *out)
{
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (end == text || *end || errno)
        return ml_fail(ML_USAGE, "%s: \"%s\" is not a whole number", name, text);
    *out = value;
    return ML_OK;
}

static ml_status store_number(const char *name, const char *text, double *out)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || !isfinite(value))
        return ml_fail(ML_USAGE, "%s: \"%s\" is not a number", name, text);
    *out = value;
    return ML_OK;
}

static ml_status store_list(const char *name, const char *text, option_list *list)
{
    if (list->count == OPTION_REPEATS)
        return ml_fail(ML_USAGE, "%s: given more than %d times", name, OPTION_REPEATS);
    list->items[list->count++] = text;
    return ML_OK;
}

static ml_status store(const option *o, void *given, const char *text)
{
    void *place = (char *)given + o->offset;
    switch (o->kind) {
    case OPTION_TEXT:
        *(const char **)place = text;
        return ML_OK;
    case OPTION_LIST:
        return store_list(o->name, text, place);
    case OPTION_INT:
        return store_int(o->name, text, place);
    case OPTION_NUMBER:
        return store_number(o->name, text, place);
    case OPTION_FLAG:
        break;
    }
    return ml_fail(ML_USAGE, "%s: takes no value", o->name);
}

/* One --option at argv[*i]; its value is the rest of the word after '=' or the next word. */
static ml_status read_option(int argc, char **argv, int *i, const option *table, void *given,
                             const char *usage)
{
    char *word = argv[*i], *equals = strchr(word, '=');
    size_t length = equals ? (size_t)(equals - word) : strlen(word);
    const option *o = find(table, word, length);
    if (!o) return unknown(table, word, usage);
    if (o->kind == OPTION_FLAG && !equals) {
        *(bool *)((char *)given + o->offset) = true;
        return ML_OK;
    }
    if (equals) return store(o, given, equals + 1);
    if (*i + 1 >= argc)
        return ml_fail(ML_USAGE, "%s: its value is missing; usage: %s", o->name, usage);
    return store(o, given, argv[++*i]);
}

/* Word number `index` of the usage that stands for itself, not for an option's value: those begin
 * with a capital. What is missing has its name. */
static void name_missing(const option *table, const char *usage, int index, char name[64])
{
    const char *at = usage;
    bool value = false;
    while (*at && *at != '|') {
        size_t length = strcspn(at, " ");
        const option *o = find(table, at, length);
        if (!value && *at >= 'A' && *at <= 'Z' && index-- == 0) {
            snprintf(name, 64, "%.*s", (int)length, at);
            return;
        }
        value = o && o->kind != OPTION_FLAG;
        at += length;
        at += strspn(at, " ");
    }
    snprintf(name, 64, "a word");
}

ml_status options_read(int argc, char **argv, const option *table, void *given, int least, int most,
                       const char **words, const char *usage)
{
    int found = 0;
    bool only_words = false;
    for (const option *o = table; o->name; o++) {
        ml_status st = o->standard ? store(o, given, o->standard) : ML_OK;
        if (st != ML_OK) return st;
    }
    for (int i = 1; i < argc; i++) {
        if (!only_words && !strcmp(argv[i], "--")) {
            only_words = true;
        } else if (!only_words && argv[i][0] == '-' && argv[i][1] == '-') {
            ml_status st = read_option(argc, argv, &i, table, given, usage);
            if (st != ML_OK) return st;
        } else {
            if (found == most)
                return ml_fail(ML_USAGE, "\"%s\" is one word too many; usage: %s", argv[i], usage);
            words[found++] = argv[i];
        }
    }
    if (found >= least) return ML_OK;
    char name[64];
    name_missing(table, usage, found, name);
    return ml_fail(ML_USAGE, "%s is missing; usage: %s", name, usage);
}

ml_status options_choose(const char *option, const char *text, const char *first,
                         const char *second, bool *is_second)
{
    *is_second = !strcmp(text, second);
    if (*is_second || !strcmp(text, first)) return ML_OK;
    return ml_fail(ML_USAGE, "%s %s: expected %s or %s", option, text, first, second);
}

ml_status options_read_numbers(const char *name, const char *text, int64_t most, int64_t *out,
                               int64_t *count)
{
    char *end = NULL;
    *count = 0;
    for (const char *at = text; at; at = *end ? end + 1 : NULL) {
        long long value = strtoll(at, &end, 10);
        if (end == at || (*end && *end != ',') || value < 1 || value > 1 << 20 || *count == most)
            return ml_fail(ML_USAGE,
                           "%s: \"%s\", expected up to %lld whole numbers of at least 1 with "
                           "commas between them",
                           name, text, (long long)most);
        out[(*count)++] = value;
    }
    return ML_OK;
}

ml_status options_read_bytes(const char *option, const char *text, int64_t *out)
{
    static const char units[] = "KMGTP";
    char *end;
    double value = strtod(text, &end), factor = 1.0;
    const char *unit = *end ? strchr(units, *end) : NULL;
    if (unit) {
        bool binary = end[1] == 'i';
        factor = pow(binary ? 1024.0 : 1000.0, (double)(unit - units + 1));
        end += binary ? 2 : 1;
    }
    if (*end == 'B') end++;
    if (end == text || *end || !(value * factor >= 1.0 && value * factor < 0x1p60))
        return ml_fail(ML_USAGE, "%s: \"%s\", expected bytes, as 256G or 512MiB", option, text);
    *out = (int64_t)(value * factor);
    return ML_OK;
}
