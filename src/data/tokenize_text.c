/* Plain text: documents with an empty line between them, each followed by end-of-text. A document
 * longer than the limit becomes several sequences. Documents of any length are read with bounded
 * memory: part of one is encoded when it has grown, cut where the next line begins with something
 * visible, which is where the split patterns cut as well. */
#include "data/tokenize_private.h"

enum { PART = 4 << 20, LONGEST_PART = 64 << 20 };

typedef struct document {
    ml_text text; /* not encoded yet */
    bool open;    /* a line of it has been seen */
    bool several; /* it has been cut */
} document;

/* Writes sequences of at most `limit` tokens until at most `keep` tokens are left. A last token
 * alone would have no target, so the piece before it leaves it one more. */
static ml_status emit_pieces(ml_tokenize_job *job, document *doc, int64_t keep)
{
    ml_status st = ML_OK;
    int64_t limit = job->report->limit, start = 0;
    ML_TRY(ml_tokenize_make_mask(job, limit));
    memset(job->mask, 1, (size_t)limit);
    while (job->ids.count - start > keep) {
        int64_t left = job->ids.count - start, count = ml_min(left, limit);
        if (left == limit + 1 && limit > 2) count = limit - 1;
        if (count < left && !doc->several) {
            doc->several = true;
            job->report->split_documents++;
        }
        if (count == 1 && doc->several)
            break; /* limit 2 and an odd number of tokens: the last one is no target anyhow */
        ML_TRY(ml_tokenize_emit(job, job->ids.data + start, job->mask, count));
        start += count;
    }
    job->ids.count -= start;
    memmove(job->ids.data, job->ids.data + start, (size_t)job->ids.count * sizeof *job->ids.data);
done:
    return st;
}

static ml_status encode_part(ml_tokenize_job *job, document *doc)
{
    ml_status st = ml_tokenizer_encode(job->options->tokenizer, doc->text.data, doc->text.length,
                                       false, &job->ids);
    doc->text.length = 0;
    return st;
}

static ml_status end_document(ml_tokenize_job *job, document *doc)
{
    ml_status st = ML_OK;
    int32_t end = ml_tokenizer_end_of_text(job->options->tokenizer);
    if (!doc->open) return ML_OK;
    ML_TRY(encode_part(job, doc));
    if (end >= 0) ML_TRY(ml_ids_add(&job->ids, end));
    ML_TRY(emit_pieces(job, doc, 0));
    job->ids.count = 0;
    doc->open = doc->several = false;
done:
    return st;
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || (c >= '\n' && c <= '\r') || (c & 0x80);
}

static ml_status add_line(ml_tokenize_job *job, document *doc)
{
    ml_status st = ML_OK;
    const ml_text *line = &job->reader.line;
    int32_t begin = ml_tokenizer_begin_of_text(job->options->tokenizer);
    if (!doc->open && begin >= 0) ML_TRY(ml_ids_add(&job->ids, begin));
    if (doc->open) ML_TRY(ml_text_add(&doc->text, "\n", 1));
    if (doc->text.length > LONGEST_PART || (doc->text.length > PART && !is_blank(line->data[0]))) {
        ML_TRY(encode_part(job, doc));
        ML_TRY(emit_pieces(job, doc, 2 * job->report->limit));
    }
    ML_TRY(ml_text_add(&doc->text, line->data, line->length));
    doc->open = true;
done:
    return st;
}

static bool is_empty(const ml_text *line)
{
    for (int64_t i = 0; i < line->length; i++)
        if (line->data[i] != ' ' && line->data[i] != '\t') return false;
    return true;
}

ml_status ml_tokenize_text(ml_tokenize_job *job)
{
    ml_status st = ML_OK;
    document doc = {0};
    bool more;
    for (;;) {
        ML_TRY(ml_line_reader_next(&job->reader, &more));
        if (!more) break;
        if (is_empty(&job->reader.line)) {
            ML_TRY(end_document(job, &doc));
        } else {
            ML_TRY(add_line(job, &doc));
        }
    }
    ML_TRY(end_document(job, &doc));
done:
    ml_text_destroy(&doc.text);
    return st;
}
