/* A file of texts, read once for all ranks. */
#include "cli/support/texts.h"

#include <inttypes.h>

#include "cli/support/unread.h"
#include "io/json.h"
#include "io/line_reader.h"
#include "mpilora/grid.h"

static const int64_t largest_file = (int64_t)1 << 32;

void texts_destroy(texts *t)
{
    for (int64_t i = 0; i < t->count; i++) ml_memory_free(t->text[i]);
    ml_memory_free(t->text);
    ml_memory_free(t->line);
    json_decref(t->unread);
    *t = (texts){0};
}

static ml_status add(texts *t, const char *text, int64_t length, int64_t line)
{
    ml_status st = ML_OK;
    if (length == 0) return ml_fail(ML_INPUT, "the text is empty");
    if (memchr(text, '\0', (size_t)length)) return ml_fail(ML_INPUT, "the text holds a zero byte");
    ML_GROW(t->text, t->count, t->capacity, ML_MEM_OTHER, "texts");
    ML_GROW(t->line, t->count, t->lines, ML_MEM_OTHER, "texts");
    t->text[t->count] = ml_memory_string(text);
    if (!t->text[t->count]) return ML_RESOURCE;
    t->line[t->count++] = line;
done:
    return st;
}

static ml_status add_json(texts *t, const ml_text *line, int64_t number)
{
    static const char *const read[] = {"text", NULL};
    json_error_t error;
    json_t *o;
    ml_status st = ml_json_parse(&o, line->data, line->length,
                                 JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
    const json_t *text = json_object_get(o, "text");
    if (st == ML_INPUT)
        st = ml_fail_within(st, "not valid JSON");
    else if (st == ML_OK && !json_is_string(text))
        st = ml_fail(ML_INPUT, "expected {\"text\": \"…\"}");
    if (st == ML_OK)
        st = add(t, json_string_value(text), (int64_t)json_string_length(text), number);
    if (st == ML_OK) st = unread_note(&t->unread, o, read);
    json_decref(o);
    return st;
}

static bool is_blank(const ml_text *line)
{
    return !line->length || strspn(line->data, " \t") == (size_t)line->length;
}

static bool is_json(const char *path)
{
    const char *dot = strrchr(path, '.');
    return dot && (!strcmp(dot, ".json") || !strcmp(dot, ".jsonl"));
}

ml_status texts_read(texts *t, const char *path)
{
    ml_status st = ML_OK;
    const ml_text_kind kind = {"file of texts", largest_file, ML_INPUT};
    ml_line_reader reader = {0};
    ml_text all = {0};
    bool more, json = is_json(path);
    ML_TRY(ml_grid_read_text(path, &kind, &all));
    ML_TRY(ml_line_reader_open_text(&reader, path, &all));
    for (;;) {
        ML_TRY(ml_line_reader_next(&reader, &more));
        if (!more) break;
        if (json && is_blank(&reader.line)) continue;
        st = json ? add_json(t, &reader.line, reader.number)
                  : add(t, reader.line.data, reader.line.length, reader.number);
        if (st != ML_OK) {
            st = ml_fail_within(st, "%s:%" PRId64, path, reader.number);
            goto done;
        }
    }
    if (t->count == 0)
        st = ml_fail(ML_INPUT, "%s: there is no text in it; expected %s", path,
                     json ? "lines {\"text\": \"…\"}" : "a text a line");
    else
        st = unread_warn(t->unread, path, "{\"text\": \"…\"}");
done:
    ml_line_reader_close(&reader);
    ml_text_destroy(&all);
    return st;
}
