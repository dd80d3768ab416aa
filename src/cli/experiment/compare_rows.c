/* The rows of a comparison are read from the command line: methods with commas between them, each
 * with its settings, and the seeds that each is to run with. */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "cli/experiment/compare.h"

/* Up to the next `separator` outside brackets, or the end. */
static size_t piece_length(const char *at, char separator)
{
    size_t n = 0;
    for (int depth = 0; at[n] && (at[n] != separator || depth > 0); n++)
        depth += (at[n] == '[') - (at[n] == ']');
    return n;
}

/* A row has each key once, and none that makes it the row that it is. */
static ml_status check_key(const compare_row *row, const char *set, size_t length)
{
    static const char *const own[] = {"method.name", "run.dir", "run.seed", "runs"};
    for (size_t i = 0; i < sizeof own / sizeof *own; i++)
        if (strlen(own[i]) == length && !memcmp(own[i], set, length))
            return ml_fail(ML_USAGE,
                           "--methods: %s: %s belongs to the comparison itself (the method's name, "
                           "--out, --seeds, --together); leave it out",
                           row->words, own[i]);
    for (int i = 0; i < row->nsets; i++)
        if (strcspn(row->set[i], "=") == length && !memcmp(row->set[i], set, length))
            return ml_fail(ML_USAGE,
                           "--methods: %s: %.*s stands there twice; give it once, or two methods "
                           "with a comma between them",
                           row->words, (int)length, set);
    return ML_OK;
}

/* "rank=4" stands for "method.rank=4"; "base=other.h5" is the configuration's own key. */
static ml_status add_set(compare_row *row, const char *at, size_t length)
{
    const char *equals = memchr(at, '=', length);
    if (!equals || equals == at)
        return ml_fail(ML_USAGE, "--methods: \"%.*s\" in %s, expected key=value", (int)length, at,
                       row->words);
    if (row->nsets == COMPARE_SETS)
        return ml_fail(ML_USAGE, "--methods: %s: more than %d keys", row->words, COMPARE_SETS);
    bool whole = memchr(at, '.', (size_t)(equals - at)) != NULL ||
                 (equals - at == 4 && !memcmp(at, "base", 4));
    char *set = row->set[row->nsets];
    snprintf(set, COMPARE_WORDS, "%s%.*s", whole ? "" : "method.", (int)length, at);
    ml_status st = check_key(row, set, strcspn(set, "="));
    row->nsets++;
    return st;
}

static ml_status read_row(compare_row *row, const char *at, size_t length)
{
    char name[32];
    *row = (compare_row){.status = "ok"};
    if (length == 0 || length >= COMPARE_WORDS)
        return ml_fail(ML_USAGE, "--methods: \"%.*s\", expected a method", (int)length, at);
    snprintf(row->words, sizeof row->words, "%.*s", (int)length, at);
    for (size_t i = 0; i < length; i++)
        row->name[i] = isalnum((unsigned char)at[i]) || strchr(".-_+", at[i]) ? at[i] : '-';
    size_t first = piece_length(row->words, ':');
    snprintf(name, sizeof name, "%.*s", (int)first, row->words);
    if (!ml_method_find(name, &row->method))
        return ml_fail(
            ML_USAGE, "--methods: \"%s\", expected a method as method.name has it, then :key=value",
            row->words);
    for (const char *next = row->words + first; *next;) {
        size_t n = piece_length(++next, ':');
        ml_status st = add_set(row, next, n);
        if (st != ML_OK) return st;
        next += n;
    }
    return ML_OK;
}

ml_status compare_rows_read(compare_row *rows, int64_t *count, const char *words)
{
    *count = 0;
    for (const char *at = words;; at++) {
        size_t length = piece_length(at, ',');
        if (*count == COMPARE_ROWS)
            return ml_fail(ML_USAGE, "--methods: more than %d", COMPARE_ROWS);
        ml_status st = read_row(&rows[*count], at, length);
        if (st != ML_OK) return st;
        for (int64_t i = 0; i < *count; i++)
            if (!strcmp(rows[i].name, rows[*count].name))
                return ml_fail(ML_USAGE, "--methods: %s stands there twice", rows[i].words);
        ++*count;
        at += length;
        if (!*at) return ML_OK;
    }
}

ml_status compare_seeds_read(compare_options *o, const char *words)
{
    char *end = NULL;
    for (const char *at = words; at; at = *end ? end + 1 : NULL) {
        if (o->nseeds == COMPARE_SEEDS)
            return ml_fail(ML_USAGE, "--seeds: more than %d", COMPARE_SEEDS);
        errno = 0;
        uint64_t seed = strtoull(at, &end, 10);
        if (end == at || !isdigit((unsigned char)*at) || (*end && *end != ',') || errno)
            return ml_fail(
                ML_USAGE,
                "--seeds: \"%s\", expected whole numbers below 2^64 with commas between them",
                words);
        for (int64_t i = 0; i < o->nseeds; i++)
            if (o->seed[i] == seed)
                return ml_fail(ML_USAGE, "--seeds: %" PRIu64 " stands there twice", seed);
        o->seed[o->nseeds++] = seed;
    }
    return ML_OK;
}
