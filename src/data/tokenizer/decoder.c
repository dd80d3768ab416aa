/* Reading a decoder's stages, and what each does to the texts of tokens. */
#include "data/tokenizer/decoder.h"

#include "data/tokenizer/byte_level.h"
#include "data/tokenizer/models/model.h"
#include "data/tokenizer/pattern.h"
#include "data/tokenizer/stages.h"

#define BLANK "\xe2\x96\x81" /* ▁ U+2581 */
#define REPLACEMENT "\xef\xbf\xbd"

enum { MOST_STAGES = 64 };

/* Texts one after the other. */
typedef struct texts {
    ml_text bytes;
    int64_t *ends;
    int64_t count, capacity;
} texts;

typedef struct stage stage;
struct stage {
    ml_status (*run)(const stage *s, const texts *in, texts *out);
    char *text, *other; /* prefix, suffix, content, padding; delimiter, replacement */
    bool cleanup, keep_first;
    int64_t start, stop; /* of Strip */
    ml_pattern *pattern;
    bool drop_blank, drop_all; /* of SentencePiece: the first blank, all leading ones */
    const char *unknown;
};

struct ml_decoder {
    int64_t count;
    stage stages[MOST_STAGES];
    bool sentencepiece; /* the first stage needs the kinds of tokens */
    bool bytes;         /* byte-level alone: no list is made */
};

/* ---- lists of texts ------------------------------------------------------------------------ */

static void destroy_texts(texts *t)
{
    ml_text_destroy(&t->bytes);
    ml_memory_free(t->ends);
    *t = (texts){0};
}

static const char *text_at(const texts *t, int64_t i, int64_t *length)
{
    int64_t start = i ? t->ends[i - 1] : 0;
    *length = t->ends[i] - start;
    return t->bytes.data + start;
}

/* Ends the text whose bytes were appended last. */
static ml_status end_text(texts *t)
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

static ml_status run_byte_level(const stage *s, const texts *in, texts *out)
{
    ml_status st = ML_OK;
    int64_t length;
    (void)s;
    for (int64_t i = 0; i < in->count && st == ML_OK; i++) {
        const char *text = text_at(in, i, &length);
        if (!ml_byte_level_decode(text, length, &out->bytes, &st) && st == ML_OK)
            st = ml_text_add(&out->bytes, text, length);
    }
    return st == ML_OK ? end_text(out) : st;
}

static ml_status run_wordpiece(const stage *s, const texts *in, texts *out)
{
    ml_status st = ML_OK;
    int64_t length, prefix = (int64_t)strlen(s->text);
    for (int64_t i = 0; i < in->count; i++) {
        const char *text = text_at(in, i, &length);
        int64_t start = out->bytes.length;
        bool goes_on = i && length >= prefix && !memcmp(text, s->text, (size_t)prefix);
        if (i && !goes_on) ML_TRY(ml_text_add(&out->bytes, " ", 1));
        ML_TRY(ml_text_add(&out->bytes, text + (goes_on ? prefix : 0),
                           length - (goes_on ? prefix : 0)));
        if (s->cleanup) ML_TRY(clean_up(&out->bytes, start));
        ML_TRY(end_text(out));
    }
done:
    return st;
}

static ml_status run_metaspace(const stage *s, const texts *in, texts *out)
{
    ml_status st = ML_OK;
    int64_t length;
    for (int64_t i = 0; i < in->count; i++) {
        const char *text = text_at(in, i, &length);
        ML_TRY(add_replaced(&out->bytes, text, length, s->text, i || s->keep_first ? " " : ""));
        ML_TRY(end_text(out));
    }
done:
    return st;
}

static ml_status run_suffix(const stage *s, const texts *in, texts *out)
{
    ml_status st = ML_OK;
    int64_t length;
    for (int64_t i = 0; i < in->count; i++) {
        const char *text = text_at(in, i, &length);
        ML_TRY(add_replaced(&out->bytes, text, length, s->text, i + 1 < in->count ? " " : ""));
        ML_TRY(end_text(out));
    }
done:
    return st;
}

static ml_status run_ctc(const stage *s, const texts *in, texts *out)
{
    ml_status st = ML_OK;
    int64_t length, before_length = -1;
    const char *before = NULL;
    ml_text made = {0};
    for (int64_t i = 0; i < in->count; i++) {
        const char *text = text_at(in, i, &length);
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
        if (out->bytes.length > start) ML_TRY(end_text(out));
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
static ml_status end_bytes(ml_text *run, texts *out)
{
    ml_status st = ML_OK;
    if (!run->length) return ML_OK;
    if (is_utf8(run->data, run->length)) {
        ML_TRY(ml_text_add(&out->bytes, run->data, run->length));
        ML_TRY(end_text(out));
        run->length = 0;
    }
    for (int64_t i = 0; i < run->length; i++) {
        ML_TRY(ml_text_add(&out->bytes, REPLACEMENT, 3));
        ML_TRY(end_text(out));
    }
    run->length = 0;
done:
    return st;
}

static ml_status run_byte_fallback(const stage *s, const texts *in, texts *out)
{
    ml_status st = ML_OK;
    ml_text run = {0};
    int64_t length;
    (void)s;
    for (int64_t i = 0; i < in->count; i++) {
        const char *text = text_at(in, i, &length);
        int value = ml_byte_token_value(text, length);
        char byte = (char)value;
        if (value >= 0) {
            ML_TRY(ml_text_add(&run, &byte, 1));
            continue;
        }
        ML_TRY(end_bytes(&run, out));
        ML_TRY(ml_text_add(&out->bytes, text, length));
        ML_TRY(end_text(out));
    }
    ML_TRY(end_bytes(&run, out));
done:
    ml_text_destroy(&run);
    return st;
}

static ml_status run_fuse(const stage *s, const texts *in, texts *out)
{
    (void)s;
    ml_status st = ml_text_add(&out->bytes, in->bytes.data, in->bytes.length);
    return st == ML_OK ? end_text(out) : st;
}

static ml_status run_strip(const stage *s, const texts *in, texts *out)
{
    ml_status st = ML_OK;
    int64_t length, width = (int64_t)strlen(s->text);
    for (int64_t i = 0; i < in->count; i++) {
        const char *text = text_at(in, i, &length);
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
        ML_TRY(end_text(out));
    }
done:
    return st;
}

static ml_status run_replace(const stage *s, const texts *in, texts *out)
{
    ml_status st = ML_OK;
    int64_t length;
    for (int64_t i = 0; i < in->count; i++) {
        const char *text = text_at(in, i, &length);
        ml_match m = {.last = -1};
        int64_t done = 0;
        for (bool found;; done = m.end) {
            ML_TRY(ml_pattern_next(s->pattern, text, length, &m, &found));
            if (!found) break;
            ML_TRY(ml_text_add(&out->bytes, text + done, m.start - done));
            ML_TRY(ml_text_add(&out->bytes, s->text, (int64_t)strlen(s->text)));
        }
        ML_TRY(ml_text_add(&out->bytes, text + done, length - done));
        ML_TRY(end_text(out));
    }
done:
    return st;
}

/* ---- SentencePiece ------------------------------------------------------------------------- */

/* Bytes that are no UTF-8 become U+FFFD one by one. */
static ml_status add_lossy(ml_text *out, ml_text *run)
{
    ml_status st = ML_OK;
    int size;
    for (int64_t at = 0; at < run->length && st == ML_OK; at += size) {
        bool valid = ml_utf8_next(run->data, run->length, at, &size) >= 0;
        st = valid ? ml_text_add(out, run->data + at, size) : ml_text_add(out, REPLACEMENT, 3);
    }
    run->length = 0;
    return st;
}

/* One token that is no byte. *at_start: a blank that begins it is the one that encoding put there;
 * it stays so until something was written, or the blank was seen. */
static ml_status add_piece(const stage *s, uint8_t kind, const char *text, int64_t length,
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

static ml_status run_sentencepiece(const stage *s, const ml_vocabulary *v, const int32_t *ids,
                                   int64_t count, ml_text *out)
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

/* ---- reading ------------------------------------------------------------------------------- */

static ml_status keep_text(char **to, const char *text)
{
    *to = ml_memory_string(text);
    return *to ? ML_OK : ML_RESOURCE;
}

/* A member's text, or what it is where it is absent. */
static const char *text_or(const json_t *json, const char *key, const char *absent)
{
    const json_t *value = json_object_get(json, key);
    return json_is_string(value) ? json_string_value(value) : absent;
}

static ml_status read_nothing(stage *s, const json_t *json)
{
    (void)s, (void)json;
    return ML_OK;
}

static ml_status read_wordpiece(stage *s, const json_t *json)
{
    s->cleanup = ml_stage_flag(json, "cleanup", true);
    return keep_text(&s->text, text_or(json, "prefix", "##"));
}

static ml_status read_metaspace(stage *s, const json_t *json)
{
    s->keep_first = !strcmp(text_or(json, "prepend_scheme", "always"), "never") ||
                    !ml_stage_flag(json, "add_prefix_space", true);
    return keep_text(&s->text, text_or(json, "replacement", BLANK));
}

static ml_status read_suffix(stage *s, const json_t *json)
{
    return keep_text(&s->text, text_or(json, "suffix", "</w>"));
}

static ml_status read_ctc(stage *s, const json_t *json)
{
    s->cleanup = ml_stage_flag(json, "cleanup", true);
    ml_status st = keep_text(&s->text, text_or(json, "pad_token", "<pad>"));
    return st == ML_OK ? keep_text(&s->other, text_or(json, "word_delimiter_token", "|")) : st;
}

static ml_status read_strip(stage *s, const json_t *json)
{
    s->start = json_integer_value(json_object_get(json, "start"));
    s->stop = json_integer_value(json_object_get(json, "stop"));
    const char *content = text_or(json, "content", " ");
    return *content ? keep_text(&s->text, content) : ml_fail(ML_INPUT, "its \"content\" is empty");
}

static ml_status read_replace(stage *s, const json_t *json)
{
    ml_status st = ml_pattern_read(&s->pattern, json_object_get(json, "pattern"));
    return st == ML_OK ? keep_text(&s->text, text_or(json, "content", "")) : st;
}

static ml_status read_sentencepiece(stage *s, const json_t *json)
{
    s->drop_all = ml_stage_flag(json, "remove_extra_whitespaces", true);
    s->drop_blank = s->drop_all || ml_stage_flag(json, "add_dummy_prefix", true);
    ml_status st = keep_text(&s->text, text_or(json, "unk_surface", " \xe2\x81\x87 "));
    s->unknown = s->text;
    return st;
}

static const struct kind {
    const char *type;
    ml_status (*run)(const stage *s, const texts *in, texts *out);
    ml_status (*read)(stage *s, const json_t *json);
    const ml_json_key keys[5];
} kinds[] = {
    {"ByteLevel", run_byte_level, read_nothing, {{NULL, 0}}},
    {"WordPiece",
     run_wordpiece,
     read_wordpiece,
     {{"prefix", ML_JSON_TEXT}, {"cleanup", ML_JSON_FLAG}, {NULL, 0}}},
    {"Metaspace",
     run_metaspace,
     read_metaspace,
     {{"replacement", ML_JSON_TEXT},
      {"prepend_scheme", ML_STAGE_TEXT},
      {"add_prefix_space", ML_STAGE_FLAG},
      {NULL, 0}}},
    {"BPEDecoder", run_suffix, read_suffix, {{"suffix", ML_JSON_TEXT}, {NULL, 0}}},
    {"CTC",
     run_ctc,
     read_ctc,
     {{"pad_token", ML_JSON_TEXT},
      {"word_delimiter_token", ML_JSON_TEXT},
      {"cleanup", ML_JSON_FLAG},
      {NULL, 0}}},
    {"ByteFallback", run_byte_fallback, read_nothing, {{NULL, 0}}},
    {"Fuse", run_fuse, read_nothing, {{NULL, 0}}},
    {"Strip",
     run_strip,
     read_strip,
     {{"content", ML_JSON_TEXT}, {"start", ML_JSON_INTEGER}, {"stop", ML_JSON_INTEGER}, {NULL, 0}}},
    {"Replace",
     run_replace,
     read_replace,
     {{"pattern", ML_STAGE_PATTERN}, {"content", ML_JSON_TEXT}, {NULL, 0}}},
    {"SentencePiece",
     NULL,
     read_sentencepiece,
     {{"add_dummy_prefix", ML_JSON_FLAG},
      {"remove_extra_whitespaces", ML_JSON_FLAG},
      {"unk_surface", ML_JSON_TEXT},
      {NULL, 0}}},
};

static ml_status add_stage(void *self, const char *type, const json_t *json)
{
    ml_decoder *d = self;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (strcmp(kinds[i].type, type) != 0) continue;
        ml_status st = ml_json_check(json, kinds[i].keys);
        if (st != ML_OK) return st;
        if (d->count == MOST_STAGES || d->sentencepiece || (!kinds[i].run && d->count))
            return ml_fail(ML_INPUT, "stands among too many stages");
        stage *s = &d->stages[d->count++];
        s->run = kinds[i].run;
        d->sentencepiece = !s->run;
        return kinds[i].read(s, json);
    }
    return ml_fail(ML_INPUT, "is not known");
}

ml_status ml_decoder_create(ml_decoder **out, const json_t *json)
{
    ml_status st = ML_OK;
    ml_decoder *d = NULL;
    ML_NEW(d, 1, ML_MEM_OTHER, "a decoder");
    ML_TRY(ml_stages_each(json, "decoder", "decoders", add_stage, d));
    d->bytes = d->count == 1 && d->stages[0].run == run_byte_level;
    *out = d;
    d = NULL;
done:
    ml_decoder_destroy(d);
    return st;
}

void ml_decoder_destroy(ml_decoder *d)
{
    if (!d) return;
    for (int64_t i = 0; i < d->count; i++) {
        ml_memory_free(d->stages[i].text);
        ml_memory_free(d->stages[i].other);
        ml_pattern_destroy(d->stages[i].pattern);
    }
    ml_memory_free(d);
}

/* ---- running ------------------------------------------------------------------------------- */

static ml_status list_tokens(const ml_vocabulary *v, const int32_t *ids, int64_t count, texts *out)
{
    ml_status st = ML_OK;
    for (int64_t i = 0; i < count; i++) {
        int64_t length;
        const char *text = ml_vocabulary_shown(v, ids[i], &length);
        if (ids[i] < 0 || ids[i] >= v->size || !v->tokens[ids[i]].known) continue;
        ML_TRY(ml_text_add(&out->bytes, text, length));
        ML_TRY(end_text(out));
    }
done:
    return st;
}

static ml_status decode_bytes(const ml_vocabulary *v, const int32_t *ids, int64_t count,
                              ml_text *out)
{
    ml_status st = ML_OK;
    for (int64_t i = 0; i < count && st == ML_OK; i++) {
        int64_t length;
        const char *text = ml_vocabulary_shown(v, ids[i], &length);
        if (!ml_byte_level_decode(text, length, out, &st) && st == ML_OK)
            st = ml_text_add(out, text, length);
    }
    return st;
}

ml_status ml_decoder_run(const ml_decoder *d, const ml_vocabulary *v, const int32_t *ids,
                         int64_t count, ml_text *out)
{
    ml_status st = ML_OK;
    texts lists[2] = {{{0}, 0, 0, 0}, {{0}, 0, 0, 0}};
    int now = 0;
    if (d->bytes) return decode_bytes(v, ids, count, out);
    if (d->sentencepiece) return run_sentencepiece(&d->stages[0], v, ids, count, out);
    ML_TRY(list_tokens(v, ids, count, &lists[0]));
    for (int64_t i = 0; i < d->count; i++, now = 1 - now) {
        texts *next = &lists[1 - now];
        next->count = next->bytes.length = 0;
        ML_TRY(ml_text_add(&lists[now].bytes, "", 0));
        ML_TRY(d->stages[i].run(&d->stages[i], &lists[now], next));
    }
    for (int64_t i = 0; i < lists[now].count; i++) {
        int64_t length;
        const char *text = text_at(&lists[now], i, &length);
        if (i && !d->count) ML_TRY(ml_text_add(out, " ", 1));
        ML_TRY(ml_text_add(out, text, length));
    }
done:
    destroy_texts(&lists[0]);
    destroy_texts(&lists[1]);
    return st;
}
