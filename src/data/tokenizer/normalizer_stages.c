/* What each stage of a normalizer does to a text. */
#include "data/tokenizer/normalizer_stages.h"

#include "data/tokenizer/byte_level.h"

#define BLANK "\xe2\x96\x81" /* ▁ U+2581 */

ml_status normalizer_put(ml_aligned *out, const ml_aligned *in, int64_t from, const char *bytes,
                         int64_t length)
{
    if (from < in->first && out->first == out->text.length) out->first += length;
    return ml_text_add(&out->text, bytes, length);
}

/* Appends a stretch of the input as it is, of which the first character may be a part only. */
static ml_status keep_part(ml_aligned *out, const ml_aligned *in, int64_t from, int64_t end)
{
    if (from < in->first && out->first == out->text.length)
        out->first += ml_min(end, in->first) - from;
    return ml_text_add(&out->text, in->text.data + from, end - from);
}

/* ---- character by character ---------------------------------------------------------------- */

/* Writes what becomes of one character; how many bytes of out were written. */
typedef size_t (*character_map)(const normalizer_stage *s, int32_t c, const char *bytes, int size,
                                char out[8]);

static ml_status map_characters(const normalizer_stage *s, const ml_aligned *in, ml_aligned *out,
                                character_map map)
{
    int size;
    char bytes[8];
    const char *text = in->text.data;
    for (int64_t at = 0; at < in->text.length; at += size) {
        int32_t c = ml_utf8_next(text, in->text.length, at, &size);
        size_t made = map(s, c, text + at, size, bytes);
        ml_status st = made ? normalizer_put(out, in, at, bytes, (int64_t)made) : ML_OK;
        if (st != ML_OK) return st;
    }
    return ML_OK;
}

static size_t keep(const char *bytes, int size, char out[8])
{
    memcpy(out, bytes, (size_t)size);
    return (size_t)size;
}

static size_t small(const normalizer_stage *s, int32_t c, const char *bytes, int size, char out[8])
{
    (void)s, (void)bytes, (void)size;
    return ml_char_lower(c, out);
}

static size_t without_mark(const normalizer_stage *s, int32_t c, const char *bytes, int size,
                           char out[8])
{
    (void)s;
    return ml_char_is_mark(c) ? 0 : keep(bytes, size, out);
}

static size_t without_accent(const normalizer_stage *s, int32_t c, const char *bytes, int size,
                             char out[8])
{
    (void)s;
    return ml_char_is_accent(c) ? 0 : keep(bytes, size, out);
}

/* BERT's cleaning, and blanks around Han. */
static size_t cleaned(const normalizer_stage *s, int32_t c, const char *bytes, int size,
                      char out[8])
{
    if (s->clean) {
        bool blank = c == '\t' || c == '\n' || c == '\r';
        if (!c || c == 0xfffd || (!blank && ml_char_is_control(c))) return 0;
        if (blank || ml_char_is_space(c)) {
            out[0] = ' ';
            return 1;
        }
    }
    if (!s->chinese || !ml_char_is_chinese(c)) return keep(bytes, size, out);
    out[0] = out[size + 1] = ' ';
    memcpy(out + 1, bytes, (size_t)size);
    return (size_t)size + 2;
}

static size_t nmt(const normalizer_stage *s, int32_t c, const char *bytes, int size, char out[8])
{
    (void)s;
    if ((c >= 1 && c <= 8) || c == 0xb || (c >= 0xe && c <= 0x1f) || c == 0x7f || c == 0x8f ||
        c == 0x9f)
        return 0;
    if (c != 9 && c != 0xa && c != 0xc && c != 0xd && c != 0x1680 &&
        !(c >= 0x200b && c <= 0x200f) && c != 0x2028 && c != 0x2029 && c != 0x2581 && c != 0xfeff &&
        c != 0xfffd)
        return keep(bytes, size, out);
    out[0] = ' ';
    return 1;
}

ml_status normalizer_lowercase(const normalizer_stage *s, const ml_aligned *in, ml_aligned *out)
{
    return map_characters(s, in, out, small);
}

ml_status normalizer_strip_marks(const normalizer_stage *s, const ml_aligned *in, ml_aligned *out)
{
    return map_characters(s, in, out, without_mark);
}

ml_status normalizer_strip_accents(const normalizer_stage *s, const ml_aligned *in, ml_aligned *out)
{
    return map_characters(s, in, out, without_accent);
}

ml_status normalizer_clean(const normalizer_stage *s, const ml_aligned *in, ml_aligned *out)
{
    return map_characters(s, in, out, cleaned);
}

ml_status normalizer_nmt(const normalizer_stage *s, const ml_aligned *in, ml_aligned *out)
{
    return map_characters(s, in, out, nmt);
}

/* ---- whole texts --------------------------------------------------------------------------- */

ml_status normalizer_form(const normalizer_stage *s, const ml_aligned *in, ml_aligned *out)
{
    int size;
    if (in->first) { /* what the first character alone becomes is at the beginning */
        (void)ml_utf8_next(in->text.data, in->text.length, 0, &size);
        ml_status st = ml_normal_form_add(s->form, in->text.data, size, &out->text);
        if (st != ML_OK) return st;
        out->first = out->text.length;
        out->text.length = 0;
    }
    return ml_normal_form_add(s->form, in->text.data, in->text.length, &out->text);
}

ml_status normalizer_strip(const normalizer_stage *s, const ml_aligned *in, ml_aligned *out)
{
    int size;
    const char *text = in->text.data;
    int64_t length = in->text.length, start = 0, end = 0;
    while (s->left && start < length && ml_char_is_space(ml_utf8_next(text, length, start, &size)))
        start += size;
    for (int64_t at = start; s->right && at < length; at += size)
        if (!ml_char_is_space(ml_utf8_next(text, length, at, &size))) end = at + size;
    if (!s->right) end = length;
    return end > start ? keep_part(out, in, start, end) : ML_OK;
}

/* What a match becomes counts as of its last character, as `tokenizers` aligns it. */
ml_status normalizer_replace(const normalizer_stage *s, const ml_aligned *in, ml_aligned *out)
{
    ml_status st = ML_OK;
    const char *text = in->text.data;
    int64_t done = 0, made = (int64_t)strlen(s->text);
    ml_match m = {.last = -1};
    bool found;
    for (;;) {
        ML_TRY(ml_pattern_next(s->pattern, text, in->text.length, &m, &found));
        if (!found) break;
        ML_TRY(keep_part(out, in, done, m.start));
        int64_t last = ml_max(m.end - 1, m.start);
        while (last > m.start && (text[last] & 0xc0) == 0x80) last--;
        ML_TRY(normalizer_put(out, in, last, s->text, made));
        done = m.end;
    }
    ML_TRY(keep_part(out, in, done, in->text.length));
done:
    return st;
}

ml_status normalizer_prepend(const normalizer_stage *s, const ml_aligned *in, ml_aligned *out)
{
    ml_status st = ml_text_add(&out->text, s->text, (int64_t)strlen(s->text));
    out->first = out->text.length + in->first;
    return st == ML_OK ? ml_text_add(&out->text, in->text.data, in->text.length) : st;
}

ml_status normalizer_append(const normalizer_stage *s, const ml_aligned *in, ml_aligned *out)
{
    out->first = in->first;
    ml_status st = ml_text_add(&out->text, in->text.data, in->text.length);
    return st == ML_OK ? ml_text_add(&out->text, s->text, (int64_t)strlen(s->text)) : st;
}

ml_status normalizer_bytes(const normalizer_stage *s, const ml_aligned *in, ml_aligned *out)
{
    (void)s;
    ml_status st = ml_byte_level_encode(in->text.data, in->first, &out->text);
    out->first = out->text.length;
    return st == ML_OK ? ml_byte_level_encode(in->text.data + in->first,
                                              in->text.length - in->first, &out->text)
                       : st;
}

/* ---- SentencePiece's character map --------------------------------------------------------- */

/* What comes out first counts as the text's first character, also where characters before it were
 * left out: `tokenizers` does not count those. */
static ml_status put_mapped(ml_aligned *out, const ml_aligned *in, const char *bytes,
                            int64_t length)
{
    return normalizer_put(out, in, out->text.length ? in->first : 0, bytes, length);
}

/* As `tokenizers` applies it: a short grapheme cluster as a whole, where the *shortest* key that
 * begins it has a replacement for all of it; else its characters one by one. */
ml_status normalizer_precompiled(const normalizer_stage *s, const ml_aligned *in, ml_aligned *out)
{
    enum { LONG_CLUSTER = 6 };
    ml_status st = ML_OK;
    const char *text = in->text.data;
    int64_t length = in->text.length, key;
    int size;
    for (int64_t at = 0, end; at < length; at = end) {
        end = ml_grapheme_end(text, length, at);
        const char *whole = end - at < LONG_CLUSTER
                                ? ml_charsmap_find(s->map, text + at, end - at, false, &key)
                                : NULL;
        if (whole) {
            ML_TRY(put_mapped(out, in, whole, (int64_t)strlen(whole)));
            continue;
        }
        for (int64_t i = at; i < end; i += size) {
            (void)ml_utf8_next(text, length, i, &size);
            const char *made = ml_charsmap_find(s->map, text + i, size, false, &key);
            ML_TRY(
                put_mapped(out, in, made ? made : text + i, made ? (int64_t)strlen(made) : size));
        }
    }
done:
    return st;
}

/* What the text at `at` begins with becomes, its length in *made and what it stands for in *taken:
 * a frozen spelling, the longest key of the map, or one character. */
static const char *prefix_at(const normalizer_stage *s, const ml_text *text, int64_t at,
                             int64_t *made, int64_t *taken)
{
    int size;
    const char *here = text->data + at;
    if (s->frozen && ml_trie_longest(s->frozen, text->data, text->length, at, taken) >= 0) {
        *made = *taken;
        return here;
    }
    const char *mapped =
        s->map ? ml_charsmap_find(s->map, here, text->length - at, true, taken) : NULL;
    if (mapped) {
        *made = (int64_t)strlen(mapped);
        return mapped;
    }
    (void)ml_utf8_next(text->data, text->length, at, &size);
    *made = *taken = size;
    return here;
}

/* The blanks of one prefix are marked; those behind another blank are left out where extra ones
 * are. */
static ml_status add_prefix(const normalizer_stage *s, const char *bytes, int64_t length,
                            bool *behind_blank, ml_text *out)
{
    ml_status st = ML_OK;
    for (; *behind_blank && length && *bytes == ' '; bytes++) length--;
    for (int64_t i = 0; i < length; i++) {
        bool marked = bytes[i] == ' ' && s->escape;
        ML_TRY(ml_text_add(out, marked ? BLANK : bytes + i, marked ? 3 : 1));
    }
    if (length) *behind_blank = bytes[length - 1] == ' ';
    if (!s->remove_extra) *behind_blank = false;
done:
    return st;
}

/* The normalizer of the sentencepiece library. */
ml_status normalizer_sentencepiece(const normalizer_stage *s, const ml_aligned *in, ml_aligned *out)
{
    ml_status st = ML_OK;
    const char *blank = s->escape ? BLANK : " ", *bytes = NULL;
    int64_t size = s->escape ? 3 : 1, made, taken = 0, at = 0;
    bool behind_blank = s->remove_extra;
    ml_text *text = &out->text;
    for (; s->remove_extra && at < in->text.length; at += taken) {
        bytes = prefix_at(s, &in->text, at, &made, &taken);
        if (made != 1 || *bytes != ' ') break;
    }
    if (at == in->text.length) return ML_OK;
    if (s->dummy_prefix && !s->suffix) ML_TRY(ml_text_add(text, blank, size));
    for (; at < in->text.length; at += taken) {
        bytes = prefix_at(s, &in->text, at, &made, &taken);
        ML_TRY(add_prefix(s, bytes, made, &behind_blank, text));
    }
    while (s->remove_extra && text->length >= size &&
           !memcmp(text->data + text->length - size, blank, (size_t)size))
        text->length -= size;
    if (s->dummy_prefix && s->suffix) ML_TRY(ml_text_add(text, blank, size));
done:
    return st;
}
