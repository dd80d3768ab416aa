/* Reading a pre-tokenizer's stages, and what each does to a piece. */
#include "data/tokenizer/pretokenizer.h"

#include "data/tokenizer/byte_level.h"
#include "data/tokenizer/pattern.h"
#include "data/tokenizer/scanners.h"
#include "data/tokenizer/scripts.h"
#include "data/tokenizer/stages.h"
#include "data/tokenizer/unicode.h"

enum { MOST_STAGES = 64 };

typedef enum prepend_scheme { PREPEND_ALWAYS, PREPEND_FIRST, PREPEND_NEVER } prepend_scheme;

typedef struct stage stage;
struct stage {
    ml_status (*run)(stage *s, const ml_piece *piece, ml_piece_sink sink, void *context);
    ml_split_behaviour behaviour;
    bool invert;
    bool (*is_match)(const stage *s, int32_t c); /* each character that is, is a match */
    int32_t delimiter;
    ml_pattern *pattern;
    ml_scanner *scanner;
    ml_scripts *scripts;
    int64_t size; /* of FixedLength */
    char mark[5]; /* of Metaspace: what stands for a blank */
    bool cuts;    /* Metaspace: at the marks */
    prepend_scheme prepend;
    bool prefix, maps; /* ByteLevel: a blank before every piece; writes the alphabet */
    ml_text buffer;
};

struct ml_pretokenizer {
    int64_t count;
    stage stages[MOST_STAGES];
};

/* ---- cutting at characters ----------------------------------------------------------------- */

static bool is_space(const stage *s, int32_t c) { return (void)s, ml_char_is_space(c); }
static bool is_number(const stage *s, int32_t c) { return (void)s, ml_char_is_number(c); }
static bool is_punctuation(const stage *s, int32_t c) { return (void)s, ml_char_is_punctuation(c); }
static bool is_delimiter(const stage *s, int32_t c) { return c == s->delimiter; }

static ml_status cut_at_characters(stage *s, const ml_piece *piece, ml_piece_sink sink,
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
static ml_status cut_words(stage *s, const ml_piece *piece, ml_piece_sink sink, void *context)
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

static ml_status cut_scripts(stage *s, const ml_piece *piece, ml_piece_sink sink, void *context)
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

static ml_status cut_lengths(stage *s, const ml_piece *piece, ml_piece_sink sink, void *context)
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

static ml_status cut_by_scanner(stage *s, const ml_piece *piece, ml_piece_sink sink, void *context)
{
    return ml_scanner_cut(s->scanner, piece, sink, context);
}

static ml_status cut_by_pattern(stage *s, const ml_piece *piece, ml_piece_sink sink, void *context)
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

static ml_status cut_at_marks(stage *s, const ml_piece *piece, ml_piece_sink sink, void *context)
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
static ml_status run_metaspace(stage *s, const ml_piece *piece, ml_piece_sink sink, void *context)
{
    ml_status st = ML_OK;
    int64_t width = (int64_t)strlen(s->mark), prefix = 0, first = 0;
    bool prepend =
        s->prepend == PREPEND_ALWAYS || (s->prepend == PREPEND_FIRST && piece->first > 0);
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
    stage *stage;
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

static ml_status run_alphabet(stage *s, const ml_piece *piece, ml_piece_sink sink, void *context)
{
    to_alphabet to = {s, sink, context};
    s->buffer.length = 0;
    if (!s->maps)
        return s->scanner ? ml_scanner_cut(s->scanner, piece, sink, context) : sink(context, piece);
    return s->scanner ? ml_scanner_cut(s->scanner, piece, write_alphabet, &to)
                      : write_alphabet(&to, piece);
}

static ml_status run_byte_level(stage *s, const ml_piece *piece, ml_piece_sink sink, void *context)
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

/* ---- reading ------------------------------------------------------------------------------- */

static ml_status read_space(stage *s, const json_t *json)
{
    (void)json;
    s->behaviour = ML_SPLIT_REMOVED;
    s->is_match = is_space;
    return ML_OK;
}

static ml_status read_nothing(stage *s, const json_t *json)
{
    (void)s, (void)json;
    return ML_OK;
}

static ml_status read_digits(stage *s, const json_t *json)
{
    s->is_match = is_number;
    s->behaviour =
        ml_stage_flag(json, "individual_digits", false) ? ML_SPLIT_ISOLATED : ML_SPLIT_CONTIGUOUS;
    return ML_OK;
}

static ml_status read_punctuation(stage *s, const json_t *json)
{
    const char *behaviour = ml_stage_text(json, "behavior");
    s->is_match = is_punctuation;
    return ml_split_behaviour_read(&s->behaviour, *behaviour ? behaviour : "Isolated");
}

static ml_status read_character(const json_t *json, const char *key, int32_t *c)
{
    int size;
    const char *text = ml_stage_text(json, key);
    int64_t length = (int64_t)strlen(text);
    *c = length ? ml_utf8_next(text, length, 0, &size) : -1;
    if (*c >= 0 && size == length) return ML_OK;
    return ml_fail(ML_INPUT, "its \"%s\" is not one character", key);
}

static ml_status read_delimiter(stage *s, const json_t *json)
{
    s->behaviour = ML_SPLIT_REMOVED;
    s->is_match = is_delimiter;
    return read_character(json, "delimiter", &s->delimiter);
}

static ml_status read_split(stage *s, const json_t *json)
{
    const json_t *pattern = json_object_get(json, "pattern");
    const char *regex = ml_stage_text(pattern, "Regex");
    ml_status st = ml_split_behaviour_read(&s->behaviour, ml_stage_text(json, "behavior"));
    s->invert = ml_stage_flag(json, "invert", false);
    /* a scanner's pieces are its matches: whether they count as such changes nothing */
    if (st == ML_OK && s->behaviour == ML_SPLIT_ISOLATED) {
        st = ml_scanner_create(&s->scanner, regex);
        if (s->scanner) s->run = cut_by_scanner;
    }
    return st == ML_OK && !s->scanner ? ml_pattern_read(&s->pattern, pattern) : st;
}

static ml_status read_scripts(stage *s, const json_t *json)
{
    (void)json;
    return ml_scripts_create(&s->scripts);
}

static ml_status read_length(stage *s, const json_t *json)
{
    const json_t *length = json_object_get(json, "length");
    s->size = json_is_integer(length) ? json_integer_value(length) : 5;
    return s->size > 0 ? ML_OK : ml_fail(ML_INPUT, "its \"length\" is not positive");
}

static ml_status read_metaspace(stage *s, const json_t *json)
{
    static const char *const schemes[] = {
        [PREPEND_ALWAYS] = "always", [PREPEND_FIRST] = "first", [PREPEND_NEVER] = "never"};
    int32_t mark;
    const char *scheme = ml_stage_text(json, "prepend_scheme");
    ml_status st = read_character(json, "replacement", &mark);
    if (st != ML_OK) return st;
    (void)ml_utf8_put(mark, s->mark);
    s->cuts = ml_stage_flag(json, "split", true);
    size_t i = 0;
    while (*scheme && i < 3 && strcmp(schemes[i], scheme) != 0) i++;
    if (i == 3) return ml_fail(ML_INPUT, "the prepend_scheme \"%s\" is not known", scheme);
    s->prepend = (prepend_scheme)i;
    if (!ml_stage_flag(json, "add_prefix_space", true)) s->prepend = PREPEND_NEVER;
    return ML_OK;
}

static ml_status read_byte_level(stage *s, const json_t *json)
{
    s->prefix = ml_stage_flag(json, "add_prefix_space", false);
    s->maps = true;
    return ml_stage_flag(json, "use_regex", true) ? ml_scanner_create(&s->scanner, ML_PATTERN_GPT2)
                                                  : ML_OK;
}

typedef ml_status (*stage_run)(stage *s, const ml_piece *piece, ml_piece_sink sink, void *context);

static const struct kind {
    const char *type;
    stage_run run;
    ml_status (*read)(stage *s, const json_t *json);
    const ml_json_key keys[6];
} kinds[] = {
    {"ByteLevel",
     run_byte_level,
     read_byte_level,
     {{"add_prefix_space", ML_STAGE_FLAG}, {"use_regex", ML_STAGE_FLAG}, {NULL, 0}}},
    {"Split",
     cut_by_pattern,
     read_split,
     {{"pattern", ML_STAGE_PATTERN},
      {"pattern.Regex", ML_JSON_TEXT},
      {"pattern.String", ML_JSON_TEXT},
      {"behavior", ML_JSON_TEXT},
      {"invert", ML_STAGE_FLAG},
      {NULL, 0}}},
    {"Digits", cut_at_characters, read_digits, {{"individual_digits", ML_STAGE_FLAG}, {NULL, 0}}},
    {"Punctuation", cut_at_characters, read_punctuation, {{"behavior", ML_STAGE_TEXT}, {NULL, 0}}},
    {"Metaspace",
     run_metaspace,
     read_metaspace,
     {{"replacement", ML_JSON_TEXT},
      {"prepend_scheme", ML_STAGE_TEXT},
      {"add_prefix_space", ML_STAGE_FLAG},
      {"split", ML_STAGE_FLAG},
      {NULL, 0}}},
    {"Whitespace", cut_words, read_nothing, {{NULL, 0}}},
    {"WhitespaceSplit", cut_at_characters, read_space, {{NULL, 0}}},
    {"CharDelimiterSplit",
     cut_at_characters,
     read_delimiter,
     {{"delimiter", ML_JSON_TEXT}, {NULL, 0}}},
    {"UnicodeScripts", cut_scripts, read_scripts, {{NULL, 0}}},
    {"FixedLength", cut_lengths, read_length, {{"length", ML_JSON_INTEGER}, {NULL, 0}}},
};

static ml_status push(ml_pretokenizer *p, stage s)
{
    if (p->count == MOST_STAGES)
        return ml_fail(ML_INPUT, "there are more than %d stages", MOST_STAGES);
    p->stages[p->count++] = s;
    return ML_OK;
}

static ml_status add_stage(void *self, const char *type, const json_t *json)
{
    ml_status st = ML_OK;
    ml_pretokenizer *p = self;
    if (!strcmp(type, "BertPreTokenizer")) { /* two of the others */
        stage words = {.run = cut_at_characters,
                       .is_match = is_space,
                       .behaviour = ML_SPLIT_REMOVED},
              marks = {.run = cut_at_characters,
                       .is_match = is_punctuation,
                       .behaviour = ML_SPLIT_ISOLATED};
        st = push(p, words);
        return st == ML_OK ? push(p, marks) : st;
    }
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (strcmp(kinds[i].type, type) != 0) continue;
        ML_TRY(ml_json_check(json, kinds[i].keys));
        ML_TRY(push(p, (stage){.run = kinds[i].run}));
        st = kinds[i].read(&p->stages[p->count - 1], json);
        goto done;
    }
    st = ml_fail(ML_INPUT, "is not known");
done:
    return st;
}

ml_status ml_pretokenizer_create(ml_pretokenizer **out, const json_t *json)
{
    ml_status st = ML_OK;
    ml_pretokenizer *p = NULL;
    ML_NEW(p, 1, ML_MEM_OTHER, "a pre-tokenizer");
    ML_TRY(ml_stages_each(json, "pre-tokenizer", "pretokenizers", add_stage, p));
    *out = p;
    p = NULL;
done:
    ml_pretokenizer_destroy(p);
    return st;
}

void ml_pretokenizer_destroy(ml_pretokenizer *p)
{
    if (!p) return;
    for (int64_t i = 0; i < p->count; i++) {
        ml_pattern_destroy(p->stages[i].pattern);
        ml_scanner_destroy(p->stages[i].scanner);
        ml_scripts_destroy(p->stages[i].scripts);
        ml_text_destroy(&p->stages[i].buffer);
    }
    ml_memory_free(p);
}

bool ml_pretokenizer_ends_in_bytes(const ml_pretokenizer *p)
{
    return p->count && p->stages[p->count - 1].run == run_byte_level;
}

void ml_pretokenizer_keep_bytes(ml_pretokenizer *p) { p->stages[p->count - 1].maps = false; }

/* ---- running ------------------------------------------------------------------------------- */

typedef struct chain {
    ml_pretokenizer *pretokenizer;
    int64_t next; /* the stage that a piece goes to */
    ml_piece_sink sink;
    void *context;
} chain;

static ml_status pass_on(void *context, const ml_piece *piece)
{
    const chain *c = context;
    if (c->next == c->pretokenizer->count) return c->sink(c->context, piece);
    stage *s = &c->pretokenizer->stages[c->next];
    chain rest = {c->pretokenizer, c->next + 1, c->sink, c->context};
    if (rest.next == c->pretokenizer->count) return s->run(s, piece, c->sink, c->context);
    return s->run(s, piece, pass_on, &rest);
}

ml_status ml_pretokenizer_run(ml_pretokenizer *p, const ml_piece *text, ml_piece_sink sink,
                              void *context)
{
    chain start = {p, 0, sink, context};
    return pass_on(&start, text);
}
