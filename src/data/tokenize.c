/* A text file to a data set: chooses the format, keeps the figures of the report. */
#include <inttypes.h>
#include <stdlib.h>
#include <strings.h>

#include "data/tokenize_private.h"
#include "io/durable.h"
#include "mpilora/chat.h"

typedef struct format {
    const char *name;
    ml_status (*read)(ml_tokenize_job *job);
} format;

static const format formats[] = {
    [ML_FORMAT_GUESS] = {"guess", NULL},
    [ML_FORMAT_JSONL] = {"jsonl", ml_tokenize_jsonl},
    [ML_FORMAT_E2E] = {"e2e", ml_tokenize_e2e},
    [ML_FORMAT_TEXT] = {"text", ml_tokenize_text},
    [ML_FORMAT_IDS] = {"ids", ml_tokenize_ids},
    [ML_FORMAT_GLUE] = {"glue", ml_tokenize_glue},
    [ML_FORMAT_CONLL] = {"conll", ml_tokenize_conll},
};

const char *ml_text_format_name(ml_text_format format) { return formats[format].name; }

/* ---- sequences ----------------------------------------------------------------------------- */

ml_status ml_tokenize_make_mask(ml_tokenize_job *job, int64_t count)
{
    ml_status st = ML_OK;
    if (count <= job->mask_capacity) return ML_OK;
    ml_memory_free(job->mask);
    job->mask_capacity = 0;
    ML_NEW(job->mask, 2 * count, ML_MEM_OTHER, "a sequence's mask");
    job->mask_capacity = 2 * count;
done:
    return st;
}

/* A table of how many sequences have each length: no more memory for more sequences. */
static ml_status count_length(ml_tokenize_job *job, int64_t length)
{
    ml_status st = ML_OK;
    while (length >= job->of_length_capacity)
        ML_GROW(job->of_length, job->of_length_capacity, job->of_length_capacity, ML_MEM_OTHER,
                "the lengths of the sequences");
    job->of_length[length]++;
done:
    return st;
}

ml_status ml_tokenize_count(ml_tokenize_job *job, int64_t count, int64_t targets, int64_t kept)
{
    ml_tokenize_report *report = job->report;
    ml_status st = count_length(job, count);
    if (st != ML_OK) return st;
    report->sequences++;
    report->tokens += count;
    report->targets += targets;
    report->longer += count > report->limit;
    report->cut_tokens += ml_max(0, count - report->limit);
    report->without_target += !kept;
    return ML_OK;
}

ml_status ml_tokenize_emit(ml_tokenize_job *job, const int32_t *tokens, const uint8_t *mask,
                           int64_t count)
{
    ml_tokenize_report *report = job->report;
    int64_t targets = 0, kept = 0;
    for (int64_t i = 1; i < count; i++) {
        targets += mask[i] != 0;
        if (i < report->limit) kept = targets;
    }
    if (!targets)
        return ml_fail(ML_INPUT,
                       "a sequence of %" PRId64
                       " tokens without a target: nothing in it can be learnt; leave it out",
                       count);
    ml_status st = ml_dataset_writer_add(job->writer, tokens, mask, count);
    return st == ML_OK ? ml_tokenize_count(job, count, targets, kept) : st;
}

/* ---- the report ---------------------------------------------------------------------------- */

/* The length of sequence `rank`, from 0, in the order of lengths. */
static int64_t length_at(const ml_tokenize_job *job, int64_t rank)
{
    int64_t length = 0;
    for (int64_t before = job->of_length[0]; before <= rank; before += job->of_length[length])
        length++;
    return length;
}

static void summarise(const ml_tokenize_job *job)
{
    ml_tokenize_report *report = job->report;
    int64_t n = report->sequences;
    report->shortest = length_at(job, 0);
    report->longest = length_at(job, n - 1);
    report->median = (double)(length_at(job, (n - 1) / 2) + length_at(job, n / 2)) / 2;
    report->mean = (double)report->tokens / (double)n;
    report->p95 = length_at(job, (n * 95 + 99) / 100 - 1); /* nearest rank */
}

/* ---- the format ---------------------------------------------------------------------------- */

/* Whether the file's name, but for that of its compression, ends in one of the words. */
static bool is_named(const char *path, const char *const words[])
{
    static const char *const packed[] = {".gz", ".zst", NULL};
    size_t length = strlen(path);
    for (int i = 0; packed[i]; i++) {
        size_t n = strlen(packed[i]);
        if (length > n && !strncasecmp(path + length - n, packed[i], n)) {
            length -= n;
            break;
        }
    }
    for (int i = 0; words[i]; i++) {
        size_t n = strlen(words[i]);
        if (length > n && !strncasecmp(path + length - n, words[i], n)) return true;
    }
    return false;
}

static bool is_named_json(const char *path)
{
    static const char *const words[] = {".json", ".jsonl", NULL};
    return is_named(path, words);
}

/* What is plain text by none of its signs would be learnt with its commas, or as noise. */
static ml_status check_is_text(const char *path, const ml_text *line)
{
    static const char *const tables[] = {".csv", ".tsv", NULL};
    if (line->length >= 4 && !memcmp(line->data, "PAR1", 4))
        return ml_fail(ML_INPUT,
                       "%s: is a Parquet file; jobs/parquet_to_jsonl.py makes jsonl of it", path);
    if (is_named(path, tables))
        return ml_fail(
            ML_INPUT,
            "%s: is a table by its name, and columns are not read: make a line of JSON of "
            "each row (docs/data.md has the command), or say --format glue of a table of "
            "GLUE, --format text of plain text",
            path);
    return ML_OK;
}

/* By the first row, which is given back. */
static ml_status guess_json(ml_tokenize_job *job, ml_text_format *format)
{
    json_t *row = NULL;
    ml_rows *rows = &job->rows;
    bool more;
    ml_status st = ml_rows_find(rows, &more);
    rows->again = st == ML_OK && more;
    if (rows->again) st = ml_rows_parse(&row, rows->text.data, rows->text.length, &rows->line);
    *format = json_object_get(row, "input_ids") || json_object_get(row, "prompt_ids") ||
                      json_object_get(row, "anchor_ids")
                  ? ML_FORMAT_IDS
                  : ML_FORMAT_JSONL;
    json_decref(row);
    return st == ML_OK
               ? st
               : ml_fail_within(st, "%s: line %" PRId64 " (for plain text say --format text)",
                                job->options->in, rows->line);
}

/* By the first line that is not blank, which is given back to the reader. JSON is never taken for
 * plain text: its braces and keys would be learnt. */
static ml_status guess(ml_tokenize_job *job)
{
    const char *path = job->options->in;
    ml_text_format *format = &job->report->format;
    ml_status st = ML_OK;
    bool more = true;
    size_t blanks = 0;
    const ml_text *line = &job->reader.line;
    do {
        ML_TRY(ml_line_reader_next(&job->reader, &more));
        if (!more)
            return ml_fail(ML_INPUT, "%s: is empty; a data set needs at least one line", path);
        blanks = line->length ? strspn(line->data, " \t") : 0;
    } while ((int64_t)blanks == line->length);
    char first = line->data[blanks];
    job->reader.again = true;
    if (first == '{' || first == '[') {
        ML_TRY(guess_json(job, format));
    } else if (is_named_json(path)) {
        st = ml_fail(ML_INPUT,
                     "%s: line %" PRId64 ": begins with \"%.8s\", expected { or [ in a file of "
                     "this name (for plain text say --format text)",
                     path, job->reader.number, line->data + blanks);
    } else {
        ML_TRY(check_is_text(path, line));
        *format = strstr(line->data, "||") ? ML_FORMAT_E2E : ML_FORMAT_TEXT;
    }
done:
    return st;
}

static ml_status choose_format(ml_tokenize_job *job)
{
    job->report->format = job->options->format;
    ml_status st = job->report->format == ML_FORMAT_GUESS ? guess(job) : ML_OK;
    if (st != ML_OK) return st;
    if (job->report->format != ML_FORMAT_IDS && !job->options->tokenizer)
        return ml_fail(ML_INPUT,
                       "%s: the base file has no tokenizer, so only --format ids can be read (this "
                       "is %s); import the model with its "
                       "tokenizer files",
                       job->options->in, ml_text_format_name(job->report->format));
    return ML_OK;
}

static ml_status check_options(const ml_tokenize_options *options)
{
    if (options->max_len < 0 || options->max_len == 1)
        return ml_fail(ML_USAGE,
                       "a max_len of %" PRId64
                       " leaves no token to be predicted; at least 2 are needed",
                       options->max_len);
    if (options->max_len > options->context)
        return ml_fail(ML_USAGE,
                       "max_len %" PRId64 " is beyond the model's context of %" PRId64 " tokens",
                       options->max_len, options->context);
    ml_status st = ml_durable_check_apart(options->out, &options->in, 1);
    return st == ML_OK ? ml_tokenize_check_task(options->format, options->task) : st;
}

static ml_status read_all(ml_tokenize_job *job)
{
    ml_status st = formats[job->report->format].read(job);
    if (st == ML_OK && job->pairs && job->report->sequences != 2 * job->pairs)
        return ml_fail(ML_INPUT,
                       "%s: %" PRId64 " rows have chosen and rejected answers, %" PRId64
                       " others have not; a data set has pairs alone or none",
                       job->options->in, job->pairs, job->report->sequences - 2 * job->pairs);
    if (st == ML_OK && job->related && job->report->sequences != job->row_texts * job->related)
        return ml_fail(ML_INPUT,
                       "%s: %" PRId64 " rows have an anchor, others have not; a data set has such "
                       "rows alone or none",
                       job->options->in, job->related);
    if (st == ML_OK && job->labelled && job->report->sequences != job->labelled)
        return ml_fail(ML_INPUT,
                       "%s: %" PRId64 " rows have labels, %" PRId64
                       " others have not; a data set has labels for all or for none",
                       job->options->in, job->labelled, job->report->sequences - job->labelled);
    if (st == ML_INPUT) return ml_fail_within(st, "%s: line %" PRId64, job->options->in, job->line);
    if (st == ML_OK && !job->report->sequences)
        return ml_fail(ML_INPUT, "%s: is empty; a data set needs at least one sequence",
                       job->options->in);
    return st;
}

static ml_status finish_labels(ml_tokenize_job *job)
{
    const ml_label_names *known = job->options->labels;
    ml_status st = label_reader_finish(&job->labels);
    job->report->label_kind = job->judged ? ML_LABEL_WANTED : job->labels.kind;
    job->report->label_count = ml_dataset_writer_label_count(job->writer);
    job->report->labels_met = job->labels.different;
    if (st == ML_OK && known && known->count && !job->labelled)
        return ml_fail(ML_INPUT, "%s: no row has a label, but --labels says what they are",
                       job->options->in);
    if (st == ML_INPUT) return ml_fail_within(st, "%s", job->options->in);
    return st;
}

static ml_status warn_of_ignored(const ml_tokenize_job *job)
{
    ml_text names = {0};
    const char *name;
    json_t *none;
    ml_status st = ML_OK;
    json_object_foreach(job->ignored, name, none)
        ML_TRY(ml_text_printf(&names, "%s\"%s\"", names.length ? ", " : "", name));
    if (names.length) ml_warn("%s: not read: %s", job->options->in, names.data);
done:
    ml_text_destroy(&names);
    return st;
}

ml_status ml_tokenize_file(const ml_tokenize_options *options, ml_tokenize_report *report)
{
    ml_status st = ML_OK;
    ml_tokenize_job job = {.options = options, .report = report};
    int64_t lost = options->tokenizer ? ml_tokenizer_lost(options->tokenizer) : 0;
    *report = (ml_tokenize_report){.limit = options->max_len ? options->max_len : options->context};
    ML_TRY(check_options(options));
    ML_TRY(ml_line_reader_open(&job.reader, options->in));
    job.rows.reader = &job.reader;
    ML_TRY(choose_format(&job));
    ML_TRY(ml_dataset_writer_create(&job.writer, options->out, options->vocab,
                                    options->tokenizer_hash, options->max_len));
    ML_TRY(label_reader_create(&job.labels, options->labels, job.writer));
    ML_TRY(read_all(&job));
    ML_TRY(finish_labels(&job));
    ML_TRY(warn_of_ignored(&job));
    summarise(&job);
    if (options->chat && ml_chat_figures(options->chat)->dated)
        ml_dataset_writer_set_date(job.writer, ml_chat_figures(options->chat)->date);
    if (options->tokenizer)
        report->lost_bytes = ml_tokenizer_lost(options->tokenizer) - lost + job.lost;
    st = ml_dataset_writer_finish(job.writer);
    job.writer = NULL;
done:
    ml_dataset_writer_discard(job.writer);
    label_reader_destroy(&job.labels);
    ml_rows_destroy(&job.rows);
    json_decref(job.ignored);
    ml_line_reader_close(&job.reader);
    ml_ids_destroy(&job.ids);
    ml_memory_free(job.mask);
    ml_text_destroy(&job.text);
    ml_memory_free(job.of_length);
    return st;
}
