/* Reading a decoder's stages, and running them one after the other. */
#include "data/tokenizer/decoder.h"

#include "data/tokenizer/byte_level.h"
#include "data/tokenizer/decoder_stages.h"
#include "data/tokenizer/stages.h"

#define BLANK "\xe2\x96\x81" /* ▁ U+2581 */

enum { MOST_STAGES = 64 };

typedef ml_decode_stage stage;

struct ml_decoder {
    int64_t count;
    stage stages[MOST_STAGES];
    bool sentencepiece; /* the first stage needs the kinds of tokens */
    bool bytes;         /* byte-level alone: no list is made */
};

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
    ml_status (*run)(const ml_decode_stage *s, const ml_decode_texts *in, ml_decode_texts *out);
    ml_status (*read)(stage *s, const json_t *json);
    const ml_json_key keys[5];
} kinds[] = {
    {"ByteLevel", ml_decode_byte_level, read_nothing, {{NULL, 0}}},
    {"WordPiece",
     ml_decode_wordpiece,
     read_wordpiece,
     {{"prefix", ML_JSON_TEXT}, {"cleanup", ML_JSON_FLAG}, {NULL, 0}}},
    {"Metaspace",
     ml_decode_metaspace,
     read_metaspace,
     {{"replacement", ML_JSON_TEXT},
      {"prepend_scheme", ML_STAGE_TEXT},
      {"add_prefix_space", ML_STAGE_FLAG},
      {NULL, 0}}},
    {"BPEDecoder", ml_decode_suffix, read_suffix, {{"suffix", ML_JSON_TEXT}, {NULL, 0}}},
    {"CTC",
     ml_decode_ctc,
     read_ctc,
     {{"pad_token", ML_JSON_TEXT},
      {"word_delimiter_token", ML_JSON_TEXT},
      {"cleanup", ML_JSON_FLAG},
      {NULL, 0}}},
    {"ByteFallback", ml_decode_byte_fallback, read_nothing, {{NULL, 0}}},
    {"Fuse", ml_decode_fuse, read_nothing, {{NULL, 0}}},
    {"Strip",
     ml_decode_strip,
     read_strip,
     {{"content", ML_JSON_TEXT}, {"start", ML_JSON_INTEGER}, {"stop", ML_JSON_INTEGER}, {NULL, 0}}},
    {"Replace",
     ml_decode_replace,
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
    d->bytes = d->count == 1 && d->stages[0].run == ml_decode_byte_level;
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

static ml_status list_tokens(const ml_vocabulary *v, const int32_t *ids, int64_t count,
                             ml_decode_texts *out)
{
    ml_status st = ML_OK;
    for (int64_t i = 0; i < count; i++) {
        int64_t length;
        const char *text = ml_vocabulary_shown(v, ids[i], &length);
        if (ids[i] < 0 || ids[i] >= v->size || !v->tokens[ids[i]].known) continue;
        ML_TRY(ml_text_add(&out->bytes, text, length));
        ML_TRY(ml_decode_text_end(out));
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
    ml_decode_texts lists[2] = {{{0}, 0, 0, 0}, {{0}, 0, 0, 0}};
    int now = 0;
    if (d->bytes) return decode_bytes(v, ids, count, out);
    if (d->sentencepiece) return ml_decode_sentencepiece(&d->stages[0], v, ids, count, out);
    ML_TRY(list_tokens(v, ids, count, &lists[0]));
    for (int64_t i = 0; i < d->count; i++, now = 1 - now) {
        ml_decode_texts *next = &lists[1 - now];
        next->count = next->bytes.length = 0;
        ML_TRY(ml_text_add(&lists[now].bytes, "", 0));
        ML_TRY(d->stages[i].run(&d->stages[i], &lists[now], next));
    }
    for (int64_t i = 0; i < lists[now].count; i++) {
        int64_t length;
        const char *text = ml_decode_text_at(&lists[now], i, &length);
        if (i && !d->count) ML_TRY(ml_text_add(out, " ", 1));
        ML_TRY(ml_text_add(out, text, length));
    }
done:
    ml_decode_texts_destroy(&lists[0]);
    ml_decode_texts_destroy(&lists[1]);
    return st;
}
