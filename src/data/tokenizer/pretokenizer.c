/* Reading a pre-tokenizer's stages, and the chain that pieces go through. */
#include "data/tokenizer/pretokenizer.h"

#include "data/tokenizer/pretokenizer_stages.h"
#include "data/tokenizer/stages.h"
#include "data/tokenizer/unicode.h"

enum { MOST_STAGES = 64 };

typedef ml_cut_stage stage;

struct ml_pretokenizer {
    int64_t count;
    stage stages[MOST_STAGES];
};

/* ---- reading ------------------------------------------------------------------------------- */

static bool is_space(const stage *s, int32_t c) { return (void)s, ml_char_is_space(c); }
static bool is_number(const stage *s, int32_t c) { return (void)s, ml_char_is_number(c); }
static bool is_punctuation(const stage *s, int32_t c) { return (void)s, ml_char_is_punctuation(c); }
static bool is_delimiter(const stage *s, int32_t c) { return c == s->delimiter; }

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
        if (s->scanner) s->run = ml_cut_by_scanner;
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
        [ML_PREPEND_ALWAYS] = "always", [ML_PREPEND_FIRST] = "first", [ML_PREPEND_NEVER] = "never"};
    int32_t mark;
    const char *scheme = ml_stage_text(json, "prepend_scheme");
    ml_status st = read_character(json, "replacement", &mark);
    if (st != ML_OK) return st;
    (void)ml_utf8_put(mark, s->mark);
    s->cuts = ml_stage_flag(json, "split", true);
    size_t i = 0;
    while (*scheme && i < 3 && strcmp(schemes[i], scheme) != 0) i++;
    if (i == 3) return ml_fail(ML_INPUT, "the prepend_scheme \"%s\" is not known", scheme);
    s->prepend = (ml_prepend_scheme)i;
    if (!ml_stage_flag(json, "add_prefix_space", true)) s->prepend = ML_PREPEND_NEVER;
    return ML_OK;
}

static ml_status read_byte_level(stage *s, const json_t *json)
{
    s->prefix = ml_stage_flag(json, "add_prefix_space", false);
    s->maps = true;
    return ml_stage_flag(json, "use_regex", true) ? ml_scanner_create(&s->scanner, ML_PATTERN_GPT2)
                                                  : ML_OK;
}

static const struct kind {
    const char *type;
    ml_cut_run run;
    ml_status (*read)(stage *s, const json_t *json);
    const ml_json_key keys[6];
} kinds[] = {
    {"ByteLevel",
     ml_cut_byte_level,
     read_byte_level,
     {{"add_prefix_space", ML_STAGE_FLAG}, {"use_regex", ML_STAGE_FLAG}, {NULL, 0}}},
    {"Split",
     ml_cut_by_pattern,
     read_split,
     {{"pattern", ML_STAGE_PATTERN},
      {"pattern.Regex", ML_JSON_TEXT},
      {"pattern.String", ML_JSON_TEXT},
      {"behavior", ML_JSON_TEXT},
      {"invert", ML_STAGE_FLAG},
      {NULL, 0}}},
    {"Digits",
     ml_cut_at_characters,
     read_digits,
     {{"individual_digits", ML_STAGE_FLAG}, {NULL, 0}}},
    {"Punctuation",
     ml_cut_at_characters,
     read_punctuation,
     {{"behavior", ML_STAGE_TEXT}, {NULL, 0}}},
    {"Metaspace",
     ml_cut_metaspace,
     read_metaspace,
     {{"replacement", ML_JSON_TEXT},
      {"prepend_scheme", ML_STAGE_TEXT},
      {"add_prefix_space", ML_STAGE_FLAG},
      {"split", ML_STAGE_FLAG},
      {NULL, 0}}},
    {"Whitespace", ml_cut_words, read_nothing, {{NULL, 0}}},
    {"WhitespaceSplit", ml_cut_at_characters, read_space, {{NULL, 0}}},
    {"CharDelimiterSplit",
     ml_cut_at_characters,
     read_delimiter,
     {{"delimiter", ML_JSON_TEXT}, {NULL, 0}}},
    {"UnicodeScripts", ml_cut_scripts, read_scripts, {{NULL, 0}}},
    {"FixedLength", ml_cut_lengths, read_length, {{"length", ML_JSON_INTEGER}, {NULL, 0}}},
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
        stage words = {.run = ml_cut_at_characters,
                       .is_match = is_space,
                       .behaviour = ML_SPLIT_REMOVED},
              marks = {.run = ml_cut_at_characters,
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

ml_status ml_pretokenizer_share(ml_pretokenizer **out, const ml_pretokenizer *of)
{
    ml_status st = ML_OK;
    ml_pretokenizer *p = NULL;
    ML_NEW(p, 1, ML_MEM_OTHER, "a pre-tokenizer");
    p->count = of->count;
    for (int64_t i = 0; i < of->count; i++) { /* first nothing is shared, then each has its own */
        p->stages[i] = of->stages[i];
        p->stages[i].pattern = NULL;
        p->stages[i].scanner = NULL;
        p->stages[i].scripts = NULL;
        p->stages[i].buffer = (ml_text){0};
    }
    for (int64_t i = 0; i < of->count; i++) {
        stage *s = &p->stages[i];
        ML_TRY(ml_pattern_share(&s->pattern, of->stages[i].pattern));
        if (of->stages[i].scanner) ML_TRY(ml_scanner_share(&s->scanner, of->stages[i].scanner));
        if (of->stages[i].scripts) ML_TRY(ml_scripts_create(&s->scripts));
    }
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
        ml_text_destroy(&p->stages[i].buffer);
        ml_scanner_destroy(p->stages[i].scanner);
        ml_scripts_destroy(p->stages[i].scripts);
    }
    ml_memory_free(p);
}

bool ml_pretokenizer_ends_in_bytes(const ml_pretokenizer *p)
{
    return p->count && p->stages[p->count - 1].run == ml_cut_byte_level;
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
