/* What each stage does to a piece. */
#include "data/tokenizer/pretokenizer_stages.h"

#include "data/tokenizer/byte_level.h"
#include "data/tokenizer/unicode.h"

/* ---- cutting at characters ----------------------------------------------------------------- */

ml_status ml_cut_at_characters(ml_cut_stage *s, const ml_piece *piece, ml_piece_sink sink,
                               void *context)
{
    ml_status st = ML_OK;
    ml_split split = {*piece, s->behaviour, sink, context, 0, 0, false};
    int size;
    int64_t start = 0; /* of what lies between matches */
    for (int64_t at = 0; at < piece->length; at += size) {
        if (!s->is_match(s, ml_utf8_next(piece->bytes, piece->length, at, &size))) continue;
        if (at > start) ML_TRY(ml_split_span(&split, start, at, false));
        start = at + size;
        ML_TRY(ml_split_span(&split, at, start, true));
    }
    if (start < piece->length) ML_TRY(ml_split_span(&split, start, piece->length, false));
    ML_TRY(ml_split_end(&split));
done:
    return st;
}

/* \w+|[^\w\s]+ : runs of word characters and of anything else but blanks. */
ml_status ml_cut_words(ml_cut_stage *s, const ml_piece *piece, ml_piece_sink sink, void *context)
{
    int size;
    int64_t start = 0;
    int kind = 0, now; /* 0: blanks, 1: words, 2: others */
    (void)s;
    for (int64_t at = 0;; at += size) {
        bool end = at == piece->length;
        int32_t c = end ? ' ' : ml_utf8_next(piece->bytes, piece->length, at, &size);
        now = ml_char_is_word(c) ? 1 : ml_char_is_space(c) ? 0 : 2;
        if (now == kind && !end) continue;
        if (kind && at > start) {
            ml_status st = ml_piece_send(piece, start, at, sink, context);
            if (st != ML_OK) return st;
        }
        if (end) return ML_OK;
        start = at;
        kind = now;
    }
}

ml_status ml_cut_scripts(ml_cut_stage *s, const ml_piece *piece, ml_piece_sink sink, void *context)
{
    int size, last = -1;
    int64_t start = -1;
    for (int64_t at = 0; at < piece->length; at += size) {
        int script = ml_script_of(s->scripts, ml_utf8_next(piece->bytes, piece->length, at, &size));
        if (script == ML_SCRIPT_ANY || script == last) continue;
        last = script;
        ml_status st = start < 0 ? ML_OK : ml_piece_send(piece, start, at, sink, context);
        if (st != ML_OK) return st;
        start = at;
    }
    return start < 0 ? ML_OK : ml_piece_send(piece, start, piece->length, sink, context);
}

ml_status ml_cut_lengths(ml_cut_stage *s, const ml_piece *piece, ml_piece_sink sink, void *context)
{
    int size;
    int64_t start = 0, count = 0;
    for (int64_t at = 0; at < piece->length;) {
        (void)ml_utf8_next(piece->bytes, piece->length, at, &size);
        at += size;
        if (++count < s->size && at < piece->length) continue;
        ml_status st = ml_piece_send(piece, start, at, sink, context);
        if (st != ML_OK) return st;
        start = at;
        count = 0;
    }
    return ML_OK;
}

/* ---- cutting by patterns ------------------------------------------------------------------- */

ml_status ml_cut_by_scanner(ml_cut_stage *s, const ml_piece *piece, ml_piece_sink sink,
                            void *context)
{
    return ml_scanner_cut(s->scanner, piece, sink, context);
}

ml_status ml_cut_by_pattern(ml_cut_stage *s, const ml_piece *piece, ml_piece_sink sink,
                            void *context)
{
    ml_status st = ML_OK;
    ml_split split = {*piece, s->behaviour, sink, context, 0, 0, false};
    ml_match m = {.last = -1};
    int64_t done = 0;
    bool found;
    for (;;) {
        ML_TRY(ml_pattern_next(s->pattern, piece->bytes, piece->length, &m, &found));
        if (!found) break;
        if (m.start > done) ML_TRY(ml_split_span(&split, done, m.start, s->invert));
        ML_TRY(ml_split_span(&split, m.start, m.end, !s->invert));
        done = m.end;
    }
    if (done < piece->length) ML_TRY(ml_split_span(&split, done, piece->length, s->invert));
    ML_TRY(ml_split_end(&split));
done:
    return st;
}

/* ---- stages that rewrite ------------------------------------------------------------------- */

static ml_status cut_at_marks(ml_cut_stage *s, const ml_piece *piece, ml_piece_sink sink,
                              void *context)
{
    ml_status st = ML_OK;
    size_t width = strlen(s->mark);
    ml_split split = {*piece, ML_SPLIT_MERGED_WITH_NEXT, sink, context, 0, 0, false};
    int64_t start = 0;
    for (const char *end = piece->bytes + piece->length, *at = piece->bytes;
         (at = memmem(at, (size_t)(end - at), s->mark, width)) != NULL; at += width) {
        int64_t place = at - piece->bytes;
        if (place > start) ML_TRY(ml_split_span(&split, start, place, false));
        start = place + (int64_t)width;
        ML_TRY(ml_split_span(&split, place, start, true));
    }
    if (start < piece->length) ML_TRY(ml_split_span(&split, start, piece->length, false));
    ML_TRY(ml_split_end(&split));
done:
    return st;
}

static bool begins_with(const ml_piece *piece, const char *text)
{
    size_t length = strlen(text);
    return piece->length >= (int64_t)length && !memcmp(piece->bytes, text, length);
}

/* Blanks become marks, and a mark goes before. */
ml_status ml_cut_metaspace(ml_cut_stage *s, const ml_piece *piece, ml_piece_sink sink,
                           void *context)
{
    ml_status st = ML_OK;
    int64_t width = (int64_t)strlen(s->mark), prefix = 0, first = 0;
    bool prepend =
        s->prepend == ML_PREPEND_ALWAYS || (s->prepend == ML_PREPEND_FIRST && piece->first > 0);
    s->buffer.length = 0;
    if (prepend && !begins_with(piece, " ") && !begins_with(piece, s->mark)) {
        ML_TRY(ml_text_add(&s->buffer, s->mark, width));
        prefix = piece->first ? width : 0;
    }
    for (int64_t at = 0; at < piece->length;) {
        const char *blank = memchr(piece->bytes + at, ' ', (size_t)(piece->length - at));
        int64_t end = blank ? blank - piece->bytes : piece->length;
        ML_TRY(ml_text_add(&s->buffer, piece->bytes + at, end - at));
        if (blank) ML_TRY(ml_text_add(&s->buffer, s->mark, width));
        at = end + (blank != NULL);
    }
    if (piece->first) first = prefix + (*piece->bytes == ' ' ? width : piece->first);
    ml_piece made = {s->buffer.data, s->buffer.length, first};
    st = s->cuts ? cut_at_marks(s, &made, sink, context) : sink(context, &made);
done:
    return st;
}

typedef struct to_alphabet {
    ml_cut_stage *stage;
    ml_piece_sink sink;
    void *context;
} to_alphabet;

static ml_status write_alphabet(void *context, const ml_piece *piece)
{
    to_alphabet *to = context;
    ml_text *buffer = &to->stage->buffer;
    int64_t before = buffer->length; /* behind the piece itself, where a blank was prepended */
    ml_status st = ml_byte_level_encode(piece->bytes, piece->length, buffer);
    if (st != ML_OK) return st;
    ml_piece made = {buffer->data + before, buffer->length - before, piece->first ? 1 : 0};
    st = to->sink(to->context, &made);
    buffer->length = before;
    return st;
}

static ml_status run_alphabet(ml_cut_stage *s, const ml_piece *piece, ml_piece_sink sink,
                              void *context)
{
    to_alphabet to = {s, sink, context};
    s->buffer.length = 0;
    if (!s->maps)
        return s->scanner ? ml_scanner_cut(s->scanner, piece, sink, context) : sink(context, piece);
    return s->scanner ? ml_scanner_cut(s->scanner, piece, write_alphabet, &to)
                      : write_alphabet(&to, piece);
}

ml_status ml_cut_byte_level(ml_cut_stage *s, const ml_piece *piece, ml_piece_sink sink,
                            void *context)
{
    ml_status st = ML_OK;
    ml_text prefixed = {0};
    if (!s->prefix || begins_with(piece, " ")) return run_alphabet(s, piece, sink, context);
    ML_TRY(ml_text_add(&prefixed, " ", 1));
    ML_TRY(ml_text_add(&prefixed, piece->bytes, piece->length));
    ml_piece longer = {prefixed.data, prefixed.length, piece->first ? piece->first + 1 : 0};
    ML_TRY(run_alphabet(s, &longer, sink, context));
done:
    ml_text_destroy(&prefixed);
    return st;
}
