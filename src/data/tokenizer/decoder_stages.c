/* What each stage does to the texts of tokens. */
#include "data/tokenizer/decoder_stages.h"

#include "data/tokenizer/byte_level.h"
#include "data/tokenizer/models/model.h"
#include "io/utf8.h"

#define BLANK "\xe2\x96\x81" /* ▁ U+2581 */

/* ---- lists of texts ------------------------------------------------------------------------ */

void ml_decode_texts_destroy(ml_decode_texts *t)
{
    ml_text_destroy(&t->bytes);
    ml_memory_free(t->ends);
    *t = (ml_decode_texts){0};
}

const char *ml_decode_text_at(const ml_decode_texts *t, int64_t i, int64_t *length)
{
    int64_t start = i ? t->ends[i - 1] : 0;
    *length = t->ends[i] - start;
    return t->bytes.data + start;
}

/* Ends the text whose bytes were appended last. */
ml_status ml_decode_text_end(ml_decode_texts *t)
{
    ml_status st = ML_OK;
    ML_TRY(ml_text_add(&t->bytes, "", 0));
    ML_GROW(t->ends, t->count, t->capacity, ML_MEM_OTHER, "the texts of tokens");
    t->ends[t->count++] = t->bytes.length;
done:
    return st;
}

/* Appends bytes in which every `from` has become `to`. */
static ml_status add_replaced(ml_text *out, const char *bytes, int64_t length, const char *from,
                              const char *to)
{
    size_t width = strlen(from);
    const char *end = bytes + length;
    for (const char *at; width && (at = memmem(bytes, (size_t)(end - bytes), from, width)) != NULL;
         bytes = at + width) {
        ml_status st = ml_text_add(out, bytes, at - bytes);
        if (st == ML_OK) st = ml_text_add(out, to, (int64_t)strlen(to));
        if (st != ML_OK) return st;
    }
    return ml_text_add(out, bytes, end - bytes);
}

/* English without the blanks that tokenising put before its marks, one rule after the other. */
static ml_status clean_up(ml_text *text, int64_t start)
{
    static const char *const rules[][2] = {
        {" .", "."},   {" ?", "?"},     {" !", "!"},     {" ,", ","},
        {" ' ", "'"},  {" n't", "n't"}, {" 'm", "'m"},   {" do not", " don't"},
        {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"},
    };
    ml_text made = {0};
    ml_status st = ML_OK;
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        made.length = 0;
        if (!memmem(text->data + start, (size_t)(text->length - start), rules[i][0],
                    strlen(rules[i][0])))
            continue;
        ML_TRY(add_replaced(&made, text->data + start, text->length - start, rules[i][0],
                            rules[i][1]));
        text->length = start;
        ML_TRY(ml_text_add(text, made.data, made.length));
    }
done:
    ml_text_destroy(&made);
    return st;
}

/* ---- stages -------------------------------------------------------------------------------- */

ml_status ml_decode_byte_level(const ml_decode_stage *s, const ml_decode_texts *in,
                               ml_decode_texts *out)
{
    ml_status st = ML_OK;
    int64_t length;
    (void)s;
    for (int64_t i = 0; i < in->count && st == ML_OK; i++) {
        const char *text = ml_decode_text_at(in, i, &length);
        if (!ml_byte_level_decode(text, length, &out->bytes, &st) && st == ML_OK)
            st = ml_text_add(&out->bytes, text, length);
    }
    return st == ML_OK ? ml_decode_text_end(out) : st;
}

ml_status ml_decode_wordpiece(const ml_decode_stage *s, const ml_decode_texts *in,
                              ml_decode_texts *out)
{
    ml_status st = ML_OK;
    int64_t length, prefix = (int64_t)strlen(s->text);
    for (int64_t i = 0; i < in->count; i++) {
        const char *text = ml_decode_text_at(in, i, &length);
        int64_t start = out->bytes.length;
        bool goes_on = i && length >= prefix && !memcmp(text, s->text, (size_t)prefix);
        if (i && !goes_on) ML_TRY(ml_text_add(&out->bytes, " ", 1));
        ML_TRY(ml_text_add(&out->bytes, text + (goes_on ? prefix : 0),
                           length - (goes_on ? prefix : 0)));
        if (s->cleanup) ML_TRY(clean_up(&out->bytes, start));
        ML_TRY(ml_decode_text_end(out));
    }
done:
    return st;
}

ml_status ml_decode_metaspace(const ml_decode_stage *s, const ml_decode_texts *in,
                              ml_decode_texts *out)
{
    ml_status st = ML_OK;
    int64_t length;
    for (int64_t i = 0; i < in->count; i++) {
        const char *text = ml_decode_text_at(in, i, &length);
        ML_TRY(add_replaced(&out->bytes, text, length, s->text, i || s->keep_first ? " " : ""));
        ML_TRY(ml_decode_text_end(out));
    }
done:
    return st;
}

ml_status ml_decode_suffix(const ml_decode_stage *s, const ml_decode_texts *in,
                           ml_decode_texts *out)
{
    ml_status st = ML_OK;
    int64_t length;
    for (int64_t i = 0; i < in->count; i++) {
        const char *text = ml_decode_text_at(in, i, &length);
        ML_TRY(add_replaced(&out->bytes, text, length, s->text, i + 1 < in->count ? " " : ""));
        ML_TRY(ml_decode_text_end(out));
    }
done:
    return st;
}

ml_status ml_decode_ctc(const ml_decode_stage *s, const ml_decode_texts *in, ml_decode_texts *out)
{
    ml_status st = ML_OK;
    int64_t length, before_length = -1;
    const char *before = NULL;
    ml_text made = {0};
    for (int64_t i = 0; i < in->count; i++) {
        const char *text = ml_decode_text_at(in, i, &length);
        bool same = length == before_length && !memcmp(text, before, (size_t)length);
        before = text;
        before_length = length;
        if (same) continue;
        made.length = 0;
        ML_TRY(add_replaced(&made, text, length, s->text, ""));
        int64_t start = out->bytes.length;
        if (s->cleanup) {
            ML_TRY(clean_up(&made, 0));
            ML_TRY(add_replaced(&out->bytes, made.data, made.length, s->other, " "));
        } else {
            ML_TRY(ml_text_add(&out->bytes, made.data, made.length));
        }
        if (out->bytes.length > start) ML_TRY(ml_decode_text_end(out));
    }
done:
    ml_text_destroy(&made);
    return st;
}

static bool is_utf8(const char *bytes, int64_t length)
{
    int size;
    for (int64_t at = 0; at < length; at += size)
        if (ml_utf8_next(bytes, length, at, &size) < 0) return false;
    return true;
}

/* Ends a run of tokens of bytes: its text, or U+FFFD for each byte where it is none. */
static ml_status end_bytes(ml_text *run, ml_decode_texts *out)
{
    ml_status st = ML_OK;
    if (!run->length) return ML_OK;
    if (is_utf8(run->data, run->length)) {
        ML_TRY(ml_text_add(&out->bytes, run->data, run->length));
        ML_TRY(ml_decode_text_end(out));
        run->length = 0;
    }
    for (int64_t i = 0; i < run->length; i++) {
        ML_TRY(ml_text_add(&out->bytes, UTF8_REPLACEMENT, 3));
        ML_TRY(ml_decode_text_end(out));
    }
    run->length = 0;
done:
    return st;
}

ml_status ml_decode_byte_fallback(const ml_decode_stage *s, const ml_decode_texts *in,
                                  ml_decode_texts *out)
{
    ml_status st = ML_OK;
    ml_text run = {0};
    int64_t length;
    (void)s;
    for (int64_t i = 0; i < in->count; i++) {
        const char *text = ml_decode_text_at(in, i, &length);
        int value = ml_byte_token_value(text, length);
        char byte = (char)value;
        if (value >= 0) {
            ML_TRY(ml_text_add(&run, &byte, 1));
            continue;
        }
        ML_TRY(end_bytes(&run, out));
        ML_TRY(ml_text_add(&out->bytes, text, length));
        ML_TRY(ml_decode_text_end(out));
    }
    ML_TRY(end_bytes(&run, out));
done:
    ml_text_destroy(&run);
    return st;
}

ml_status ml_decode_fuse(const ml_decode_stage *s, const ml_decode_texts *in, ml_decode_texts *out)
{
    (void)s;
    ml_status st = ml_text_add(&out->bytes, in->bytes.data, in->bytes.length);
    return st == ML_OK ? ml_decode_text_end(out) : st;
}

ml_status ml_decode_strip(const ml_decode_stage *s, const ml_decode_texts *in, ml_decode_texts *out)
{
    ml_status st = ML_OK;
    int64_t length, width = (int64_t)strlen(s->text);
    for (int64_t i = 0; i < in->count; i++) {
        const char *text = ml_decode_text_at(in, i, &length);
        for (int64_t n = 0;
             n < s->start && length >= width && !memcmp(text, s->text, (size_t)width); n++) {
            text += width;
            length -= width;
        }
        for (int64_t n = 0; n < s->stop && length >= width &&
                            !memcmp(text + length - width, s->text, (size_t)width);
             n++)
            length -= width;
        ML_TRY(ml_text_add(&out->bytes, text, length));
        ML_TRY(ml_decode_text_end(out));
    }
done:
    return st;
}

ml_status ml_decode_replace(const ml_decode_stage *s, const ml_decode_texts *in,
                            ml_decode_texts *out)
{
    ml_status st = ML_OK;
    int64_t length;
    for (int64_t i = 0; i < in->count; i++) {
        const char *text = ml_decode_text_at(in, i, &length);
        ml_match m = {.last = -1};
        int64_t done = 0;
        for (bool found;; done = m.end) {
            ML_TRY(ml_pattern_next(s->pattern, text, length, &m, &found));
            if (!found) break;
            ML_TRY(ml_text_add(&out->bytes, text + done, m.start - done));
            ML_TRY(ml_text_add(&out->bytes, s->text, (int64_t)strlen(s->text)));
        }
        ML_TRY(ml_text_add(&out->bytes, text + done, length - done));
        ML_TRY(ml_decode_text_end(out));
    }
done:
    return st;
}

/* ---- SentencePiece ------------------------------------------------------------------------- */

static ml_status add_lossy(ml_text *out, ml_text *run)
{
    ml_status st = ml_utf8_add(out, run->data, run->length);
    run->length = 0;
    return st;
}

/* One token that is no byte. *at_start: a blank that begins it is the one that encoding put there;
 * it stays so until something was written, or the blank was seen. */
static ml_status add_piece(const ml_decode_stage *s, uint8_t kind, const char *text, int64_t length,
                           bool at_start, bool *seen, ml_text *out)
{
    *seen = false;
    if (kind == ML_PIECE_CONTROL) return ML_OK;
    if (kind == ML_PIECE_UNKNOWN) return ml_text_add(out, s->unknown, (int64_t)strlen(s->unknown));
    if (at_start && s->drop_blank && length >= 3 && !memcmp(text, BLANK, 3)) {
        text += 3;
        length -= 3;
        *seen = !s->drop_all;
    }
    return add_replaced(out, text, length, BLANK, " ");
}

ml_status ml_decode_sentencepiece(const ml_decode_stage *s, const ml_vocabulary *v,
                                  const int32_t *ids, int64_t count, ml_text *out)
{
    ml_status st = ML_OK;
    ml_text run = {0};
    int64_t length, begin = out->length;
    bool at_start = true, seen = false;
    for (int64_t i = 0; i < count; i++) {
        const char *text = ml_vocabulary_text(v, ids[i], &length);
        if (ids[i] < 0 || ids[i] >= v->size || !v->tokens[ids[i]].known) continue;
        uint8_t kind = v->tokens[ids[i]].kind;
        int value = kind == ML_PIECE_BYTE ? ml_byte_token_value(text, length) : -1;
        char byte = (char)value;
        if (value >= 0) {
            ML_TRY(ml_text_add(&run, &byte, 1));
            continue;
        }
        ML_TRY(add_lossy(out, &run));
        if (seen || out->length > begin) at_start = false;
        ML_TRY(add_piece(s, kind, text, length, at_start, &seen, out));
    }
    ML_TRY(add_lossy(out, &run));
done:
    ml_text_destroy(&run);
    return st;
}
