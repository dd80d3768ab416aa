/* A table of keys as a page of Markdown: what `mpilora help configuration` prints and
 * docs/configuration.md holds. */
#include <math.h>

#include "config/table.h"

enum { RANGE = 512, MOST_INT_SAID = 1 << 30 };

static const char *type_name(const key *k)
{
    switch (k->kind) {
    case KEY_INT:
    case KEY_SEED:
        return "whole number";
    case KEY_BYTES:
        return "size";
    case KEY_SECONDS:
        return "time";
    case KEY_EVERY:
        return "steps or time";
    case KEY_REAL:
        return "number";
    case KEY_LEAST:
        return "number as `2^-16` or `1e-5`";
    case KEY_BOOL:
        return "truth value";
    case KEY_TEXT:
        return "text";
    case KEY_CHOICE:
        return "word";
    case KEY_PAIR:
        return "two numbers";
    case KEY_TARGETS:
        return "word or list of words";
    case KEY_LAYERS:
        return "list of ranges";
    case KEY_SITES:
        return "mapping of numbers";
    case KEY_NAMES:
        return "name or list of names";
    case KEY_FILES:
        return "file or list of files";
    case KEY_WORDS:
        return "word or list of words";
    case KEY_NUMBERS:
        return "number or list of numbers";
    case KEY_RUNS:
        return "list of runs";
    }
    return "";
}

static ml_status put_words(const char *const *words, ml_text *out)
{
    ml_status st = ML_OK;
    for (const char *const *word = words; *word; word++)
        ML_TRY(ml_text_printf(out, "%s`%s`", word == words ? "" : ", ", *word));
done:
    return st;
}

/* Bounds that nobody reaches are left out. */
static ml_status put_bounds(const key *k, ml_text *out)
{
    const char *low = k->open_least ? ">" : "≥", *high = k->open_most ? "<" : "≤";
    bool whole = k->kind == KEY_INT || k->kind == KEY_EVERY || k->whole;
    bool least = k->least > -HUGE_VAL,
         most = k->most < HUGE_VAL && !(whole && k->most >= MOST_INT_SAID) && k->most < 9e18;
    ml_status st = ML_OK;
    if (least) ML_TRY(ml_text_printf(out, "%s %g", low, k->least));
    if (most) ML_TRY(ml_text_printf(out, "%s%s %.10g", least ? ", " : "", high, k->most));
done:
    return st;
}

static ml_status put_range(const key *k, ml_text *out)
{
    ml_status st = ML_OK;
    switch (k->kind) {
    case KEY_INT:
    case KEY_BYTES:
    case KEY_SECONDS:
    case KEY_EVERY:
    case KEY_REAL:
    case KEY_PAIR:
    case KEY_SITES:
    case KEY_NUMBERS:
        ML_TRY(put_bounds(k, out));
        break;
    case KEY_LEAST:
        ML_TRY(put_bounds(k, out));
        ML_TRY(ml_text_printf(out, "; or `off`"));
        break;
    case KEY_SEED:
        ML_TRY(ml_text_printf(out, "≥ 0"));
        break;
    case KEY_BOOL:
        ML_TRY(ml_text_printf(out, "`true`, `false`"));
        break;
    case KEY_CHOICE:
    case KEY_WORDS:
        ML_TRY(put_words(k->choices, out));
        break;
    case KEY_TARGETS:
        ML_TRY(put_words(target_words, out));
        break;
    case KEY_TEXT:
        if (k->choices) ML_TRY(put_words(k->choices, out));
        break;
    case KEY_LAYERS:
    case KEY_NAMES:
    case KEY_FILES:
    case KEY_RUNS:
        break;
    }
    bool any = k->kind == KEY_TEXT && !k->choices;
    if (k->nullable) ML_TRY(ml_text_printf(out, "%s`null`", any ? "or " : "; or "));
done:
    return st;
}

static ml_status put_default(const key *k, const void *defaults, ml_text *out)
{
    ml_status st = ML_OK;
    if (k->absent) return ml_text_printf(out, "%s", k->absent);
    ML_TRY(ml_text_printf(out, "`"));
    if (k->kind == KEY_REAL && !k->nullable)
        ML_TRY(ml_text_printf(out, "%g", *(const double *)((const char *)defaults + k->offset)));
    else if (k->kind == KEY_PAIR)
        ML_TRY(ml_text_printf(out, "[%g, %g]",
                              ((const double *)((const char *)defaults + k->offset))[0],
                              ((const double *)((const char *)defaults + k->offset))[1]));
    else
        ML_TRY(value_write(k, defaults, out));
    ML_TRY(ml_text_printf(out, "`"));
done:
    return st;
}

static ml_status put_title(const char *section, size_t length, ml_text *out)
{
    static const char columns[] = "| key | type | range | default | meaning |\n"
                                  "|-----|------|-------|---------|---------|\n";
    if (!length) return ml_text_printf(out, "\n## At the top\n\n%s", columns);
    return ml_text_printf(out, "\n## %.*s\n\n%s", (int)length, section, columns);
}

ml_status table_describe(const key *table, const void *defaults, ml_text *out)
{
    ml_status st = ML_OK;
    const char *open = NULL;
    size_t open_length = 0;
    for (const key *k = table; k->path; k++) {
        const char *dot = strchr(k->path, '.');
        size_t length = dot ? (size_t)(dot - k->path) : 0;
        if (!open || length != open_length || strncmp(open, k->path, length) != 0)
            ML_TRY(put_title(k->path, length, out));
        open = k->path;
        open_length = length;
        ML_TRY(ml_text_printf(out, "| `%s` | %s | ", k->path, type_name(k)));
        ML_TRY(put_range(k, out));
        ML_TRY(ml_text_printf(out, " | "));
        ML_TRY(put_default(k, defaults, out));
        ML_TRY(ml_text_printf(out, " | %s |\n", k->about));
    }
done:
    return st;
}
