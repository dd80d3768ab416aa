/* Plain text: documents with an empty line between them, each followed by end-of-text. One that is
 * longer than the limit becomes several sequences. */
#include "data/tokenize_private.h"

/* Documents of any length are read with bounded memory, and by several threads: a part of one is
 * encoded by itself when it has grown, cut where the next line begins with something visible, which
 * is where the split patterns cut as well. */
enum { PART = 1 << 20, LONGEST_PART = 64 << 20, PARTS_BYTES = 8 << 20 };

typedef struct documents {
    ml_tokenize_job *job;
    /* Of reading, which is ahead. */
    bool open, cut; /* a line of the document has been seen; a part of it ends before this line */
    /* Of taking. */
    bool several; /* the document in hand has been cut into sequences */
} documents;

/* ---- reading parts ------------------------------------------------------------------------- */

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || (c >= '\n' && c <= '\r') || (c & 0x80);
}

static ml_status add_line(documents *d, ml_text *to, const ml_ahead_row *row, bool *whole)
{
    ml_status st = ML_OK;
    const ml_text *line = &d->job->reader.line;
    if (d->open && !d->cut) ML_TRY(ml_text_add(to, "\n", 1));
    const int64_t length = to->length - row->at;
    *whole = length > LONGEST_PART || (length > PART && !is_blank(line->data[0]));
    d->job->reader.again = d->cut = *whole; /* it begins the next part */
    if (!*whole) ML_TRY(ml_text_add(to, line->data, line->length));
    d->open = true;
done:
    return st;
}

static ml_status find_part(void *context, ml_text *to, ml_ahead_row *row, bool *more)
{
    ml_status st = ML_OK;
    documents *d = context;
    ml_line_reader *reader = &d->job->reader;
    bool whole = false;
    row->begins = !d->open;
    while (!whole) {
        st = ml_line_reader_next(reader, more);
        row->line = reader->number;
        if (st == ML_OK && *more) st = ml_tokenize_check_text(d->job, &reader->line);
        if (st != ML_OK) goto done;
        if (*more && !ml_tokenize_is_blank(reader->line.data, reader->line.length)) {
            ML_TRY(add_line(d, to, row, &whole));
        } else if (d->open) {
            *more = whole = row->ends = true;
            d->open = d->cut = false;
        } else if (!*more) {
            break;
        }
    }
done:
    return st;
}

static void prepare_part(const void *context, ml_ahead_row *row, ml_ahead_worker *worker)
{
    (void)context;
    ml_ahead_encode(worker, row, row->text, row->length);
}

/* ---- sequences ----------------------------------------------------------------------------- */

/* Writes sequences of at most `limit` tokens until at most `keep` tokens are left. A last token
 * alone would have no target, so the piece before it leaves it one more. */
static ml_status emit_pieces(documents *d, int64_t keep)
{
    ml_status st = ML_OK;
    ml_tokenize_job *job = d->job;
    int64_t limit = job->report->limit, start = 0;
    ML_TRY(ml_tokenize_make_mask(job, limit));
    memset(job->mask, 1, (size_t)limit);
    while (job->ids.count - start > keep) {
        int64_t left = job->ids.count - start, count = ml_min(left, limit);
        if (left == limit + 1 && limit > 2) count = limit - 1;
        if (count < left && !d->several) {
            d->several = true;
            job->report->split_documents++;
        }
        if (count == 1 && d->several)
            break; /* limit 2 and an odd number of tokens: the last one is no target anyhow */
        ML_TRY(ml_tokenize_emit(job, job->ids.data + start, job->mask, count));
        start += count;
    }
    job->ids.count -= start;
    memmove(job->ids.data, job->ids.data + start, (size_t)job->ids.count * sizeof *job->ids.data);
done:
    return st;
}

static ml_status take_part(void *self, ml_ahead_row *row)
{
    ml_status st = ML_OK;
    documents *d = self;
    ml_tokenize_job *job = d->job;
    int32_t end = ml_tokenize_end(job->options->tokenizer);
    if (row->begins) ML_TRY(ml_tokenizer_begin(job->options->tokenizer, &job->ids));
    ML_TRY(ml_tokenize_encode(job, row->text, row->length));
    if (row->ends && end >= 0) ML_TRY(ml_ids_add(&job->ids, end));
    ML_TRY(emit_pieces(d, row->ends ? 0 : 2 * job->report->limit));
    if (!row->ends) goto done;
    job->ids.count = 0;
    d->several = false;
done:
    return st;
}

ml_status ml_tokenize_text(ml_tokenize_job *job)
{
    documents d = {.job = job};
    const ml_ahead_source source = {
        .find = find_part, .prepare = prepare_part, .context = &d, .most_bytes = PARTS_BYTES};
    return ml_tokenize_each(job, &source, take_part, &d);
}
