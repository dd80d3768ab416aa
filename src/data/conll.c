/* Words with a class each: a word a line, the first of its columns, with its class in the last one;
 * an empty line ends a sentence. Words are tokenised apart, as transformers' is_split_into_words
 * does; a word's first piece has its class, what is behind it and special tokens have none. */
#include <inttypes.h>

#include "data/tokenize_private.h"

typedef struct sentence {
    ml_tokenize_job *job;
    ml_ids pieces, class; /* of a word's pieces: its class, then ML_LABEL_IGNORED */
    int columns;          /* of every line; 0: none has been read */
    int64_t line;         /* of the sentence's first word; 0: it has none yet */
    bool blank;           /* a word is encoded with a blank before it */
} sentence;

/* ---- words --------------------------------------------------------------------------------- */

static ml_status add_ids(ml_tokenize_job *job, const char *text, ml_ids *out)
{
    return ml_tokenizer_encode(job->options->tokenizer, text, (int64_t)strlen(text), false, out);
}

/* Whether a blank between two words is part of what is encoded, as in byte-level vocabularies; else
 * words stand for themselves, or get a mark of their own. */
static ml_status find_blank(ml_tokenize_job *job, bool *blank)
{
    ml_status st = ML_OK;
    ml_ids whole = {0}, apart = {0};
    ML_TRY(add_ids(job, "x y", &whole));
    ML_TRY(add_ids(job, "x", &apart));
    ML_TRY(add_ids(job, "y", &apart));
    *blank = apart.count != whole.count ||
             memcmp(apart.data, whole.data, (size_t)whole.count * sizeof *whole.data) != 0;
done:
    ml_ids_destroy(&whole);
    ml_ids_destroy(&apart);
    return st;
}

static ml_status add_word(sentence *s, const ml_slice *word, const ml_slice *label)
{
    ml_status st = ML_OK;
    ml_tokenize_job *job = s->job;
    int32_t class;
    ML_TRY(label_reader_class(&job->labels, label->data, label->length, &class));
    job->ids.count = 0;
    job->text.length = 0;
    if (s->blank) ML_TRY(ml_text_add(&job->text, " ", 1));
    ML_TRY(ml_text_add(&job->text, word->data, word->length));
    ML_TRY(ml_tokenize_encode(job, job->text.data, job->text.length));
    if (job->ids.count == 0) job->report->left_out++;
    for (int64_t i = 0; i < job->ids.count; i++) {
        ML_TRY(ml_ids_add(&s->pieces, job->ids.data[i]));
        ML_TRY(ml_ids_add(&s->class, i == 0 ? class : ML_LABEL_IGNORED));
    }
done:
    return st;
}

/* ---- sentences ----------------------------------------------------------------------------- */

static ml_status end_sentence(sentence *s)
{
    ml_status st = ML_OK;
    ml_tokenize_job *job = s->job;
    ml_ids whole = {0}, classes = {0};
    uint8_t *types = NULL;
    if (!s->line) return ML_OK;
    if (s->pieces.count == 0)
        return ml_fail(ML_INPUT, "no word of the sentence of line %" PRId64 " has a token",
                       s->line);
    ML_TRY(ml_tokenize_fill(job, (ml_ids[]){s->pieces, {0}}, false, &whole, &types));
    /* The same template over the classes: a special token's place is known by the parts. */
    int64_t parts, room = ml_tokenize_room(job, false);
    const ml_template_part *part = ml_tokenizer_template(job->options->tokenizer, false, &parts);
    for (int64_t i = 0; i < parts; i++) {
        if (part[i].id >= 0) ML_TRY(ml_ids_add(&classes, ML_LABEL_IGNORED));
        for (int64_t k = 0; part[i].id < 0 && k < ml_min(room, s->class.count); k++)
            ML_TRY(ml_ids_add(&classes, s->class.data[k]));
    }
    ML_TRY(ml_tokenize_emit_classes(job, whole.data, types, whole.count, classes.data));
    s->pieces.count = s->class.count = 0;
    s->line = 0;
done:
    ml_memory_free(types);
    ml_ids_destroy(&whole);
    ml_ids_destroy(&classes);
    return st;
}

static bool is_blank(char c) { return c == ' ' || c == '\t'; }

/* The first and the last of a line's columns between blanks; how many there are. */
static int split(const ml_slice *line, ml_slice *first, ml_slice *last)
{
    int count = 0;
    for (int64_t at = 0; at < line->length;) {
        while (at < line->length && is_blank(line->data[at])) at++;
        int64_t begin = at;
        while (at < line->length && !is_blank(line->data[at])) at++;
        if (at == begin) break;
        *last = (ml_slice){line->data + begin, at - begin};
        if (count++ == 0) *first = *last;
    }
    return count;
}

/* A line with a blank before it, which is part of what is encoded where there has to be one. */
static ml_status find_line(void *context, ml_text *to, ml_ahead_row *row, bool *more)
{
    const ml_ahead_source lines = ml_tokenize_lines(((sentence *)context)->job);
    ml_status st = ml_text_add(to, " ", 1);
    return st == ML_OK ? lines.find(lines.context, to, row, more) : st;
}

static void prepare_line(const void *context, ml_ahead_row *row, ml_ahead_worker *worker)
{
    ml_slice word, label;
    const ml_slice line = {row->text, row->length};
    const int blank = ((const sentence *)context)->blank;
    if (split(&line, &word, &label) > 1)
        ml_ahead_encode(worker, row, word.data - blank, word.length + blank);
}

static ml_status take_line(void *self, ml_ahead_row *row)
{
    ml_status st = ML_OK;
    sentence *s = self;
    ml_slice word, label;
    const ml_slice line = {row->text, row->length};
    int columns = split(&line, &word, &label);
    if (columns == 0) return end_sentence(s);
    static const char mark[] = "-DOCSTART-";
    if (word.length == (int64_t)strlen(mark) && !memcmp(word.data, mark, strlen(mark)))
        return end_sentence(s);
    if (columns < 2)
        return ml_fail(ML_INPUT, "has one column, expected a word and its label in the last one");
    if (!s->columns) s->columns = columns;
    if (columns != s->columns)
        return ml_fail(ML_INPUT, "has %d columns, the lines before have %d", columns, s->columns);
    if (!s->line) s->line = s->job->line;
    ML_TRY(add_word(s, &word, &label));
done:
    return st;
}

ml_status ml_tokenize_conll(ml_tokenize_job *job)
{
    ml_status st = ML_OK;
    sentence s = {.job = job};
    const ml_ahead_source lines = ml_tokenize_lines(job), source = {.find = find_line,
                                                                    .prepare = prepare_line,
                                                                    .context = &s,
                                                                    .most_bytes = lines.most_bytes};
    ML_TRY(find_blank(job, &s.blank));
    ML_TRY(ml_tokenize_each(job, &source, take_line, &s));
    ML_TRY(end_sentence(&s));
done:
    ml_ids_destroy(&s.pieces);
    ml_ids_destroy(&s.class);
    return st;
}
