/* How rows come to the formats: in the file's order, with the ids of their texts, which other
 * threads find ahead (ahead.h). */
#include "data/tokenize_private.h"

/* Of a batch: a row of ids takes ten times its text once it is parsed. */
enum { ROWS_BYTES = 2 << 20 };

ml_status ml_tokenize_encode(ml_tokenize_job *job, const char *bytes, int64_t length)
{
    ml_status st = ML_OK;
    ml_tokenizer *t = job->options->tokenizer;
    const ml_ahead_text *found = job->ahead ? ml_ahead_find(job->ahead, bytes, length) : NULL;
    if (!found) {
        job->report->spelled += ml_tokenizer_spelled(t, bytes, length);
        return ml_tokenizer_encode(t, bytes, length, job->options->specials, &job->ids);
    }
    ML_TRY(ml_ids_append(&job->ids, ml_ahead_ids(job->ahead, found), found->count));
    job->report->spelled += found->spelled;
    job->lost += found->lost;
done:
    return st;
}

ml_chat_found ml_tokenize_find_rendered(ml_tokenize_job *job, const json_t *text)
{
    if (!job->ahead || !text) return (ml_chat_found){0};
    const ml_ahead_text *found =
        ml_ahead_find(job->ahead, json_string_value(text), (int64_t)json_string_length(text));
    if (!found) return (ml_chat_found){.rendered = ml_ahead_rendered(job->ahead)};
    job->lost += found->lost;
    return (ml_chat_found){ml_ahead_rendered(job->ahead), ml_ahead_ids(job->ahead, found),
                           found->count};
}

ml_status ml_tokenize_each(ml_tokenize_job *job, const ml_ahead_source *source,
                           ml_status (*one)(void *self, ml_ahead_row *row), void *self)
{
    ml_status st = ML_OK;
    ml_ahead_row *row;
    ML_TRY(ml_ahead_create(&job->ahead, source, job->options->tokenizer, job->options->specials));
    for (;;) {
        ML_TRY(ml_ahead_next(job->ahead, &row, &job->line));
        if (!row) break;
        ML_TRY(one(self, row));
    }
done:
    ml_ahead_destroy(job->ahead);
    job->ahead = NULL;
    return st;
}

/* ---- lines --------------------------------------------------------------------------------- */

static ml_status find_line(void *context, ml_text *to, ml_ahead_row *row, bool *more)
{
    ml_tokenize_job *job = context;
    ml_line_reader *reader = &job->reader;
    ml_status st = ml_line_reader_next(reader, more);
    row->line = reader->number;
    if (st == ML_OK && *more) st = ml_tokenize_check_text(job, &reader->line);
    return st == ML_OK && *more ? ml_text_add(to, reader->line.data, reader->line.length) : st;
}

ml_ahead_source ml_tokenize_lines(ml_tokenize_job *job)
{
    return (ml_ahead_source){.find = find_line, .context = job, .most_bytes = ROWS_BYTES};
}

/* ---- rows of JSON -------------------------------------------------------------------------- */

static ml_status find_row(void *context, ml_text *to, ml_ahead_row *row, bool *more)
{
    ml_rows *rows = &((ml_tokenize_job *)context)->rows;
    ml_status st = ml_rows_find(rows, more);
    row->line = rows->line;
    return st == ML_OK && *more ? ml_text_add(to, rows->text.data, rows->text.length) : st;
}

/* The texts that a row is going to be encoded for: where it has no prompt, its answers are not. */
static void prepare_row(const void *context, ml_ahead_row *row, ml_ahead_worker *worker)
{
    static const char *const keys[] = {"prompt", "completion", "chosen", "rejected", "text",
                                       "text_a", "text_b",     "anchor", "positive", "negative"};
    ml_chat *chat = ((const ml_tokenize_job *)context)->options->chat;
    if (!ml_ahead_parse(row)) return;
    if (chat && ml_chat_prepare(chat, row, worker)) return;
    const json_t *from = row->json;
    if (json_is_string(json_object_get(from, "chosen")) && !json_object_get(from, "prompt")) {
        if (ml_tokenize_find_prompt(from, &row->own) != ML_OK) ml_error_clear();
        if (row->own) from = row->own;
    }
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const json_t *text = json_object_get(from, keys[i]);
        if (json_is_string(text))
            ml_ahead_encode(worker, row, json_string_value(text),
                            (int64_t)json_string_length(text));
    }
}

typedef struct row_taker {
    ml_tokenize_job *job;
    ml_status (*one)(ml_tokenize_job *job, const json_t *row);
} row_taker;

static ml_status take_row(void *self, ml_ahead_row *row)
{
    const row_taker *t = self;
    ml_status st = ML_OK;
    if (!row->json) ML_TRY(ml_rows_parse(&row->json, row->text, row->length, &t->job->line));
    st = t->one(t->job, row->json);
done:
    return st;
}

ml_status ml_tokenize_rows(ml_tokenize_job *job,
                           ml_status (*one)(ml_tokenize_job *job, const json_t *row))
{
    row_taker taker = {job, one};
    const ml_ahead_source source = {.find = find_row,
                                    .prepare = prepare_row,
                                    .context = job,
                                    .most_bytes = ROWS_BYTES,
                                    .release = ml_chat_release};
    return ml_tokenize_each(job, &source, take_row, &taker);
}
