/* Tables as GLUE distributes them: fields between tabs, no quoting, so a quotation mark is one and
 * None, NA and null are words. The header's names say where text and label stand; only CoLA's train
 * and dev have none. Numbers of classes get the names that `datasets` has for them; which number a
 * name has in the data set is not the task's to say. */
#include <inttypes.h>
#include <stdlib.h>

#include "data/tokenize_private.h"

enum { MOST_FIELDS = 64 };

typedef struct task {
    const char *name;
    const char *text[2]; /* names of columns; the second NULL: one text */
    const char *label;
    const char *classes[2]; /* what 0 and 1 are; NULL: the table has names, or numbers to regress */
    bool regress, skips;    /* skips: lines that are short or lack a text are left out */
} task;

static const task tasks[] = {
    {"cola", {"sentence", NULL}, "label", {"unacceptable", "acceptable"}, false, false},
    {"sst2", {"sentence", NULL}, "label", {"negative", "positive"}, false, false},
    {"mrpc", {"#1 String", "#2 String"}, "Quality", {"not_equivalent", "equivalent"}, false, false},
    {"stsb", {"sentence1", "sentence2"}, "score", {NULL, NULL}, true, false},
    {"qqp",
     {"question1", "question2"},
     "is_duplicate",
     {"not_duplicate", "duplicate"},
     false,
     true},
    {"mnli", {"sentence1", "sentence2"}, "gold_label", {NULL, NULL}, false, false},
    {"qnli", {"question", "sentence"}, "label", {NULL, NULL}, false, false},
    {"rte", {"sentence1", "sentence2"}, "label", {NULL, NULL}, false, false},
    {"wnli", {"sentence1", "sentence2"}, "label", {"not_entailment", "entailment"}, false, false},
};

static const task *find_task(const char *name)
{
    for (size_t i = 0; name && i < sizeof tasks / sizeof *tasks; i++)
        if (!strcmp(tasks[i].name, name)) return &tasks[i];
    return NULL;
}

ml_status ml_tokenize_check_task(ml_text_format format, const char *name)
{
    if (format != ML_FORMAT_GLUE)
        return name ? ml_fail(ML_USAGE, "--task %s: is for --format glue", name) : ML_OK;
    if (find_task(name)) return ML_OK;
    return ml_fail(
        ML_USAGE,
        "--task %s: expected cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte or wnli beside "
        "--format glue",
        name ? name : "is missing");
}

/* ---- fields -------------------------------------------------------------------------------- */

/* How many fields a line has, at most MOST_FIELDS of them in `field`. */
static int split(const ml_slice *line, ml_slice field[MOST_FIELDS])
{
    int count = 0;
    const char *at = line->length ? line->data : "", *end = at + line->length;
    for (;;) {
        const char *tab = memchr(at, '\t', (size_t)(end - at));
        if (count < MOST_FIELDS) field[count] = (ml_slice){at, (tab ? tab : end) - at};
        count++;
        if (!tab) return count;
        at = tab + 1;
    }
}

static int find(const ml_slice *field, int count, const char *name)
{
    for (int i = 0; i < count && i < MOST_FIELDS; i++)
        if (field[i].length == (int64_t)strlen(name) && !memcmp(field[i].data, name, strlen(name)))
            return i;
    return -1;
}

typedef struct columns {
    int text[2], label, count; /* text[1] −1: there is one text */
} columns;

/* By the header, the line in hand; CoLA's files without one are known by their second field. */
static ml_status find_columns(const task *t, const ml_slice *line, columns *out, bool *header)
{
    ml_slice field[MOST_FIELDS];
    int count = split(line, field);
    *header = true;
    *out = (columns){{-1, -1}, find(field, count, t->label), count};
    for (int i = 0; i < 2 && t->text[i]; i++) out->text[i] = find(field, count, t->text[i]);
    if (!strcmp(t->name, "cola") && out->text[0] < 0 && count == 4) {
        *out = (columns){{3, -1}, 1, 4};
        *header = false;
        return ML_OK;
    }
    if (out->text[0] < 0 || (t->text[1] && out->text[1] < 0))
        return ml_fail(ML_INPUT, "no column \"%s\" in the header, which a table of %s has",
                       out->text[0] < 0 ? t->text[0] : t->text[1], t->name);
    if (out->label < 0)
        return ml_fail(ML_INPUT,
                       "no column \"%s\" in the header: a test set has no labels, so there is "
                       "nothing to learn or to compare with; take train or dev",
                       t->label);
    return ML_OK;
}

/* ---- rows ---------------------------------------------------------------------------------- */

/* The label's text as a number to regress, or as the name of a class. ML_INPUT. */
static ml_status read_label(const task *t, const ml_slice *field, json_t **out)
{
    char text[64];
    snprintf(text, sizeof text, "%.*s", (int)ml_min(field->length, 63), field->data);
    *out = NULL;
    if (t->regress) {
        char *end;
        double value = strtod(text, &end);
        if (end != text && !*end && field->length < 63) *out = json_real(value);
        if (!*out) return ml_fail(ML_INPUT, "the score \"%s\" is no number", text);
        return ML_OK;
    }
    if (!t->classes[0]) {
        *out = json_stringn(field->data, (size_t)field->length);
        return *out ? ML_OK : ml_fail(ML_INPUT, "the label is no UTF-8");
    }
    bool known = field->length == 1 && (text[0] == '0' || text[0] == '1');
    if (!known)
        return ml_fail(ML_INPUT, "the label \"%s\" of %s is neither 0 nor 1", text, t->name);
    *out = json_string(t->classes[text[0] - '0']);
    return *out ? ML_OK : ml_fail(ML_RESOURCE, "out of memory: a label");
}

static bool is_left_out(const task *t, const columns *c, const ml_slice *field, int count)
{
    if (t->skips && (count < c->count || !field[c->text[0]].length || !field[c->text[1]].length))
        return true;
    const bool names = !t->regress && !t->classes[0]; /* "-" where those who labelled disagreed */
    return names && count == c->count && field[c->label].length == 1 &&
           field[c->label].data[0] == '-';
}

typedef struct table {
    ml_tokenize_job *job;
    const task *task;
    columns columns;
} table;

static ml_status find_line(void *context, ml_text *to, ml_ahead_row *row, bool *more)
{
    const table *of = context;
    const ml_ahead_source lines = ml_tokenize_lines(of->job);
    return lines.find(lines.context, to, row, more);
}

static void prepare_row(const void *context, ml_ahead_row *row, ml_ahead_worker *worker)
{
    const table *of = context;
    ml_slice field[MOST_FIELDS];
    const ml_slice line = {row->text, row->length};
    if (split(&line, field) != of->columns.count) return;
    for (int i = 0; i < 2; i++) {
        const int at = of->columns.text[i];
        if (at >= 0) ml_ahead_encode(worker, row, field[at].data, field[at].length);
    }
}

static ml_status take_row(void *self, ml_ahead_row *row)
{
    const table *of = self;
    ml_tokenize_job *job = of->job;
    const task *t = of->task;
    const columns *c = &of->columns;
    ml_slice field[MOST_FIELDS];
    const ml_slice line = {row->text, row->length};
    if (!line.length) return ML_OK;
    int count = split(&line, field);
    json_t *label = NULL;
    if (is_left_out(t, c, field, count)) {
        job->report->left_out++;
        return ML_OK;
    }
    if (count != c->count)
        return ml_fail(ML_INPUT, "has %d fields between tabs, expected %d", count, c->count);
    ml_status st = read_label(t, &field[c->label], &label);
    if (st == ML_OK)
        st = ml_tokenize_labelled_text(job, &field[c->text[0]],
                                       c->text[1] >= 0 ? &field[c->text[1]] : NULL, label);
    json_decref(label);
    return st;
}

ml_status ml_tokenize_glue(ml_tokenize_job *job)
{
    ml_status st = ML_OK;
    table of = {.job = job, .task = find_task(job->options->task)};
    const ml_ahead_source lines = ml_tokenize_lines(job), source = {.find = find_line,
                                                                    .prepare = prepare_row,
                                                                    .context = &of,
                                                                    .most_bytes = lines.most_bytes};
    bool more = true, header;
    job->labels.usual = of.task->classes;
    ML_TRY(ml_line_reader_next(&job->reader, &more));
    job->line = job->reader.number;
    if (!more) goto done;
    const ml_slice line = {job->reader.line.data, job->reader.line.length};
    ML_TRY(find_columns(of.task, &line, &of.columns, &header));
    if (of.columns.count > MOST_FIELDS) {
        st = ml_fail(ML_INPUT, "has %d fields between tabs, expected at most %d", of.columns.count,
                     (int)MOST_FIELDS);
        goto done;
    }
    job->reader.again = !header;
    ML_TRY(ml_tokenize_each(job, &source, take_row, &of));
done:
    return st;
}
