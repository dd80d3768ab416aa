/* The objects of a JSON text: a line each (JSON Lines), the elements of one array, or one after the
 * other over as many lines as each takes. The first row tells which: from then on a broken row is
 * found where it is, and does not take the rows behind it into itself. */
#include "data/rows.h"

#include <inttypes.h>

#include "io/json.h"

static const int64_t longest_row = 256 << 20;

void ml_rows_destroy(ml_rows *rows)
{
    ml_text_destroy(&rows->text);
    *rows = (ml_rows){0};
}

/* ---- places -------------------------------------------------------------------------------- */

static char letter(const ml_rows *rows) { return rows->reader->line.data[rows->at]; }

static ml_status next_line(ml_rows *rows, bool *more)
{
    rows->at = 0;
    ml_status st = ml_line_reader_next(rows->reader, more);
    rows->line = rows->reader->number;
    return st;
}

/* Goes on to a letter that is not blank. */
static ml_status skip_blanks(ml_rows *rows, bool *more)
{
    ml_status st = ML_OK;
    *more = true;
    if (!rows->reader->number || rows->reader->again) st = next_line(rows, more);
    while (st == ML_OK && *more) {
        const ml_text *line = &rows->reader->line;
        while (rows->at < line->length && strchr(" \t\r", letter(rows))) rows->at++;
        if (rows->at < line->length) break;
        st = next_line(rows, more);
    }
    return st;
}

static ml_status unexpected(const ml_rows *rows, const char *expected)
{
    return ml_fail(ML_INPUT, "column %" PRId64 ": expected %s", rows->at + 1, expected);
}

/* ---- one row ------------------------------------------------------------------------------- */

ml_status ml_rows_parse(json_t **out, const char *text, int64_t length, int64_t *line)
{
    json_error_t error;
    ml_status st =
        ml_json_parse(out, text, length, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
    if (st == ML_INPUT) {
        *line += ml_max(0, error.line - 1);
        st = ml_fail_within(st, "column %d: not valid JSON", error.column);
    }
    if (st != ML_OK) return st;
    const bool object = json_is_object(*out), empty = json_object_size(*out) == 0;
    ml_row_drop_nulls(*out);
    if (object && (empty || json_object_size(*out) > 0)) return ML_OK;
    json_decref(*out);
    *out = NULL;
    return object ? ml_fail(ML_INPUT, "every column is null: there is nothing to be read; leave "
                                      "the row out")
                  : ml_fail(ML_INPUT, "not a JSON object");
}

typedef struct nesting {
    int64_t depth;
    bool in_text, escaped;
} nesting;

/* The end of the object in this line, or the line's end. */
static int64_t find_end(const ml_text *line, int64_t at, nesting *n)
{
    for (; at < line->length; at++) {
        char c = line->data[at];
        if (n->in_text) {
            if (!n->escaped && c == '"') n->in_text = false;
            n->escaped = !n->escaped && c == '\\';
        } else if (c == '"') {
            n->in_text = true;
        } else if (c == '{' || c == '[') {
            n->depth++;
        } else if ((c == '}' || c == ']') && --n->depth == 0) {
            return at + 1;
        }
    }
    return at;
}

/* The object that begins here, over as many lines as it takes. */
static ml_status collect(ml_rows *rows)
{
    ml_status st = ML_OK;
    nesting n = {0};
    bool more = true;
    int64_t first = rows->reader->number;
    rows->text.length = 0;
    for (;;) {
        const ml_text *line = &rows->reader->line;
        int64_t end = find_end(line, rows->at, &n);
        ML_TRY(ml_text_add(&rows->text, line->data + rows->at, end - rows->at));
        rows->at = end;
        if (n.depth == 0) break;
        if (n.in_text) return ml_fail(ML_INPUT, "not valid JSON: a text ends with the line");
        ML_TRY(ml_text_add(&rows->text, "\n", 1));
        if (rows->text.length <= longest_row) ML_TRY(next_line(rows, &more));
        if (more && rows->text.length <= longest_row) continue;
        rows->line = first;
        return ml_fail(ML_INPUT, "not valid JSON: the object that begins here has no end%s",
                       more ? " in 256 MiB" : "");
    }
    rows->line = first;
done:
    return st;
}

static ml_status take_line(ml_rows *rows)
{
    const ml_text *line = &rows->reader->line;
    rows->text.length = 0;
    ml_status st = ml_text_add(&rows->text, line->data, line->length);
    rows->at = line->length;
    rows->line = rows->reader->number;
    return st;
}

/* ---- the layouts --------------------------------------------------------------------------- */

/* At a letter that is not blank. */
static ml_status next_of_array(ml_rows *rows, bool *end)
{
    bool more = true;
    *end = false;
    if (rows->closed) return unexpected(rows, "nothing behind the array");
    if (rows->between && letter(rows) == ',') {
        rows->at++;
        rows->between = false;
        ml_status st = skip_blanks(rows, &more);
        if (st != ML_OK) return st;
        if (!more || letter(rows) != '{') return unexpected(rows, "an object behind the comma");
    } else if (letter(rows) == ']') {
        rows->at++;
        *end = rows->closed = true;
        return ML_OK;
    }
    if (rows->between) return unexpected(rows, "a comma, or ] at the array's end");
    if (letter(rows) != '{') return unexpected(rows, "an object, for a row");
    rows->between = true;
    return collect(rows);
}

static void find_layout(ml_rows *rows)
{
    nesting n = {0};
    (void)find_end(&rows->reader->line, rows->at, &n);
    rows->layout =
        letter(rows) == '{' && n.depth > 0 && !n.in_text ? ML_ROWS_OBJECTS : ML_ROWS_LINES;
    if (letter(rows) != '[') return;
    rows->layout = ML_ROWS_ARRAY;
    rows->at++;
}

ml_status ml_rows_find(ml_rows *rows, bool *more)
{
    ml_status st = ML_OK;
    bool end = false;
    *more = true;
    if (rows->again) {
        rows->again = false;
        return ML_OK;
    }
    for (;;) {
        ML_TRY(skip_blanks(rows, more));
        if (!*more) break;
        if (rows->layout == ML_ROWS_UNKNOWN) {
            find_layout(rows);
            if (rows->layout == ML_ROWS_ARRAY) continue;
        }
        if (rows->layout == ML_ROWS_LINES) return take_line(rows);
        if (rows->layout == ML_ROWS_ARRAY) st = next_of_array(rows, &end);
        if (rows->layout == ML_ROWS_OBJECTS)
            st = letter(rows) == '{' ? collect(rows) : unexpected(rows, "an object, for a row");
        if (st != ML_OK || !end) return st;
    }
    if (rows->layout == ML_ROWS_ARRAY && !rows->closed)
        st = ml_fail(ML_INPUT, "not valid JSON: the array has no end");
done:
    return st;
}
