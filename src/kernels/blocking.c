/* How the native product divides its work, by processor. None of these numbers changes a bit of a
 * result (the depth of a panel would, so it is the same everywhere); they decide how much of A and
 * B is in which cache, and how evenly threads are busy.
 *
 * tests/bench/tune.py measures them and prints a line for the table: processors are told apart by
 * what /proc/cpuinfo says, as "AuthenticAMD/25/1" (vendor, family, model) or "0x41/0xd40" (Arm's
 * implementer and part); `bench gemm --json` names this one. The first line that fits counts. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "kernels/kernels_private.h"

/* rows_in_l2, group_columns, tasks_a_thread, least_task_rows */
static const ml_blocking_line table[] = {
    {"", "avx512", {96, 64, 8, 96}},
    {"", "", {24, 64, 8, 96}},
};

/* ---- which processor this is --------------------------------------------------------------- */

enum { WORDS = 3, WORD = 32 };
typedef char processor_words[2][WORDS][WORD];

/* What stands behind the colon of a line with one of the names. */
static ml_status take_word(void *self, const char *line, size_t name)
{
    static const char *const names[2][WORDS] = {{"vendor_id", "cpu family", "model"},
                                                {"CPU implementer", "CPU part", ""}};
    processor_words *words = self;
    const char *value = line + name + strspn(line + name, ": \t");
    for (int i = 0; i < 2 * WORDS; i++) {
        const char *wanted = names[i / WORDS][i % WORDS];
        if (strlen(wanted) == name && !strncmp(line, wanted, name))
            snprintf((*words)[i / WORDS][i % WORDS], WORD, "%.*s", (int)strcspn(value, "\n"),
                     value);
    }
    return ML_OK;
}

static ml_status find_processor(char out[ML_PROCESSOR_NAME])
{
    processor_words words = {{""}};
    ml_status st = ml_processor_lines(take_word, &words);
    if (words[0][0][0])
        snprintf(out, ML_PROCESSOR_NAME, "%s/%s/%s", words[0][0], words[0][1], words[0][2]);
    else
        snprintf(out, ML_PROCESSOR_NAME, "%s/%s", words[1][0], words[1][1]);
    return st;
}

/* ---- the numbers --------------------------------------------------------------------------- */

static bool fits(const ml_blocking_line *line, const char *processor, const char *vector)
{
    return (!*line->processor || !strcmp(line->processor, processor)) &&
           (!*line->vector || !strcmp(line->vector, vector));
}

const ml_product_blocking *ml_blocking_among(const ml_blocking_line *lines, const char *processor,
                                             const char *vector)
{
    while (!fits(lines, processor, vector)) lines++;
    return &lines->blocking;
}

/* Four whole numbers with commas between, each from 1 on and no larger than makes sense. */
static bool read_numbers(const char *text, ml_product_blocking *out)
{
    int64_t *const to[] = {&out->rows_in_l2, &out->group_columns, &out->tasks_a_thread,
                           &out->least_task_rows};
    static const int64_t most[] = {ML_PRODUCT_ROWS, ML_PRODUCT_COLUMNS, 1024, ML_PRODUCT_ROWS};
    for (int i = 0; i < 4; i++) {
        char *end;
        errno = 0;
        *to[i] = strtoll(text, &end, 10);
        if (end == text || errno || *end != (i < 3 ? ',' : '\0') || *to[i] < 1 || *to[i] > most[i])
            return false;
        text = end + 1;
    }
    return out->group_columns % ML_PRODUCT_COLUMNS_STEP == 0;
}

ml_status ml_kernels_blocking(const char *vector_path, char processor[ML_PROCESSOR_NAME],
                              ml_product_blocking *out)
{
    const char *given = getenv("MPILORA_BLOCKING");
    ml_status st = find_processor(processor);
    if (st != ML_OK) return st;
    if (given && *given)
        return read_numbers(given, out)
                   ? ML_OK
                   : ml_fail(ML_USAGE,
                             "the variable MPILORA_BLOCKING: '%s', expected four whole numbers as "
                             "24,64,8,96: rows of A that stay in the second cache, columns of a "
                             "task (a multiple of %d, at most %d), tasks a thread and rows of a "
                             "task at least",
                             given, (int)ML_PRODUCT_COLUMNS_STEP, (int)ML_PRODUCT_COLUMNS);
    *out = *ml_blocking_among(table, processor, vector_path);
    return ML_OK;
}
