/* Sets out of two files, as the E2E challenge has them: a line an output; references in groups
 * between empty lines. */
#include <inttypes.h>

#include "score/characters.h"
#include "score/set.h"
#include "score/text_lines.h"

typedef struct pair_reader {
    const char *output_path, *reference_path;
    text_lines outputs, references;
    bool grouped; /* empty lines stand between groups; else a line is the one reference of an output
                   */
} pair_reader;

/* The next line without blanks at its ends; *more false at the end. */
static ml_status next_line(text_lines *file, const char *path, const char **line, int64_t *length,
                           bool *more)
{
    *more = text_lines_next(file, line, length);
    if (!*more) return ML_OK;
    int64_t wrong = utf8_invalid(*line, *length);
    if (wrong >= 0)
        return ml_fail(ML_INPUT, "%s: line %" PRId64 ": byte %" PRId64 " is not valid UTF-8", path,
                       file->number, wrong + 1);
    trim(line, length);
    return ML_OK;
}

/* Whether an empty line stands in the file with a text somewhere behind it; counts its groups and
 * lines of text. */
static ml_status survey(text_lines *file, const char *path, int64_t *groups, int64_t *texts)
{
    ml_status st = ML_OK;
    const char *line;
    int64_t length = 0;
    bool more = true, inside = false;
    *groups = *texts = 0;
    for (text_lines look = *file; more;) {
        ML_TRY(next_line(&look, path, &line, &length, &more));
        if (!more) break;
        *groups += length > 0 && !inside;
        *texts += length > 0;
        inside = length > 0;
    }
done:
    return st;
}

/* The references of the item in hand. */
static ml_status add_group(ml_score_set *set, pair_reader *r)
{
    ml_status st = ML_OK;
    const char *line;
    int64_t length, count = 0;
    bool more = true;
    while (more) {
        ML_TRY(next_line(&r->references, r->reference_path, &line, &length, &more));
        if (!more || length == 0) break;
        ML_TRY(ml_score_set_add_reference(set, line, length));
        count++;
        if (!r->grouped) break;
    }
    if (count == 0)
        st = ml_fail(ML_INPUT,
                     "%s: line %" PRId64 " is empty where a reference of output %" PRId64
                     " is expected",
                     r->reference_path, r->references.number, ml_score_set_items(set));
done:
    return st;
}

static ml_status count_outputs(const pair_reader *r, int64_t *count)
{
    ml_status st = ML_OK;
    const char *line;
    int64_t length;
    bool more = true;
    text_lines look = r->outputs;
    for (*count = 0; more; *count += more)
        ML_TRY(next_line(&look, r->output_path, &line, &length, &more));
done:
    return st;
}

static ml_status check_counts(pair_reader *r)
{
    ml_status st = ML_OK;
    int64_t outputs, groups, texts;
    ML_TRY(count_outputs(r, &outputs));
    ML_TRY(survey(&r->references, r->reference_path, &groups, &texts));
    r->grouped = groups != 1 || outputs == 1;
    int64_t expected = r->grouped ? groups : texts;
    if (texts == 0)
        st = ml_fail(ML_INPUT, "%s: no line has a text; there is nothing to score against",
                     r->reference_path);
    else if (expected != outputs)
        st = ml_fail(ML_INPUT,
                     "%s has %" PRId64 " outputs (lines), but %s has references for %" PRId64
                     " (%s); they must be as many",
                     r->output_path, outputs, r->reference_path, expected,
                     r->grouped ? "groups between empty lines"
                                : "lines: without an empty line, one each");
done:
    return st;
}

static ml_status read_pairs(ml_score_set *set, pair_reader *r)
{
    ml_status st = ML_OK;
    const char *line;
    int64_t length;
    bool more = true;
    ML_TRY(text_lines_open(&r->outputs, r->output_path));
    ML_TRY(text_lines_open(&r->references, r->reference_path));
    ML_TRY(check_counts(r));
    while (more) {
        ML_TRY(next_line(&r->outputs, r->output_path, &line, &length, &more));
        if (!more) break;
        ML_TRY(ml_score_set_add_output(set, line, length));
        ML_TRY(add_group(set, r));
    }
done:
    return st;
}

ml_status ml_score_set_read_files(ml_score_set **out, const char *outputs, const char *references)
{
    pair_reader reader = {.output_path = outputs, .reference_path = references};
    ml_score_set *set = NULL;
    ml_status st = ml_score_set_create(&set);
    if (st == ML_OK) st = read_pairs(set, &reader);
    text_lines_close(&reader.outputs);
    text_lines_close(&reader.references);
    if (st != ML_OK) {
        ml_score_set_destroy(set);
        set = NULL;
    }
    *out = set;
    return st;
}
