/* Reading a normalizer's stages and running them one after the other. */
#include "data/tokenizer/normalizer_stages.h"
#include "data/tokenizer/stages.h"

enum { MOST_STAGES = 64 };

struct ml_normalizer {
    int64_t count;
    normalizer_stage stages[MOST_STAGES];
    const ml_trie *frozen;
    ml_aligned texts[2];
    bool borrows; /* what stages have, but for patterns */
};

/* ---- reading ------------------------------------------------------------------------------- */

static ml_status read_map(normalizer_stage *s, const json_t *json)
{
    const json_t *map = json_object_get(json, "precompiled_charsmap");
    if (!json_is_string(map) || !json_string_length(map)) return ML_OK;
    return ml_charsmap_create_base64(&s->map, json_string_value(map),
                                     (int64_t)json_string_length(map));
}

static ml_status read_text(normalizer_stage *s, const json_t *json, const char *key)
{
    s->text = ml_memory_string(ml_stage_text(json, key));
    return s->text ? ML_OK : ML_RESOURCE;
}

static ml_status read_nothing(normalizer_stage *s, const json_t *json)
{
    (void)s, (void)json;
    return ML_OK;
}

static ml_status read_strip(normalizer_stage *s, const json_t *json)
{
    s->left = ml_stage_flag(json, "strip_left", true);
    s->right = ml_stage_flag(json, "strip_right", true);
    return ML_OK;
}

static ml_status read_replace(normalizer_stage *s, const json_t *json)
{
    ml_status st = ml_pattern_read(&s->pattern, json_object_get(json, "pattern"));
    return st == ML_OK ? read_text(s, json, "content") : st;
}

static ml_status read_prepend(normalizer_stage *s, const json_t *json)
{
    return read_text(s, json, "prepend");
}

static ml_status read_append(normalizer_stage *s, const json_t *json)
{
    return read_text(s, json, "append");
}

static ml_status read_precompiled(normalizer_stage *s, const json_t *json)
{
    ml_status st = read_map(s, json);
    if (st == ML_OK && !s->map) s->run = NULL; /* an empty map is none */
    return st;
}

static ml_status read_sentencepiece(normalizer_stage *s, const json_t *json)
{
    s->dummy_prefix = ml_stage_flag(json, "add_dummy_prefix", true);
    s->remove_extra = ml_stage_flag(json, "remove_extra_whitespaces", true);
    s->escape = ml_stage_flag(json, "escape_whitespaces", true);
    s->suffix = ml_stage_flag(json, "treat_whitespace_as_suffix", false);
    return read_map(s, json);
}

static const struct kind {
    const char *type;
    ml_status (*run)(const normalizer_stage *s, const ml_aligned *in, ml_aligned *out);
    ml_status (*read)(normalizer_stage *s, const json_t *json);
    ml_normal_form form;
    const ml_json_key keys[6];
} kinds[] = {
    {"NFC", normalizer_form, read_nothing, ML_NFC, {{NULL, 0}}},
    {"NFD", normalizer_form, read_nothing, ML_NFD, {{NULL, 0}}},
    {"NFKC", normalizer_form, read_nothing, ML_NFKC, {{NULL, 0}}},
    {"NFKD", normalizer_form, read_nothing, ML_NFKD, {{NULL, 0}}},
    {"Lowercase", normalizer_lowercase, read_nothing, 0, {{NULL, 0}}},
    {"StripAccents", normalizer_strip_marks, read_nothing, 0, {{NULL, 0}}},
    {"Nmt", normalizer_nmt, read_nothing, 0, {{NULL, 0}}},
    {"ByteLevel", normalizer_bytes, read_nothing, 0, {{NULL, 0}}},
    {"Strip",
     normalizer_strip,
     read_strip,
     0,
     {{"strip_left", ML_JSON_FLAG}, {"strip_right", ML_JSON_FLAG}, {NULL, 0}}},
    {"Replace",
     normalizer_replace,
     read_replace,
     0,
     {{"pattern", ML_STAGE_PATTERN}, {"content", ML_JSON_TEXT}, {NULL, 0}}},
    {"Prepend", normalizer_prepend, read_prepend, 0, {{"prepend", ML_JSON_TEXT}, {NULL, 0}}},
    {"Append", normalizer_append, read_append, 0, {{"append", ML_JSON_TEXT}, {NULL, 0}}},
    {"Precompiled",
     normalizer_precompiled,
     read_precompiled,
     0,
     {{"precompiled_charsmap", ML_STAGE_TEXT}, {NULL, 0}}},
    {"SentencePiece",
     normalizer_sentencepiece,
     read_sentencepiece,
     0,
     {{"precompiled_charsmap", ML_STAGE_TEXT},
      {"add_dummy_prefix", ML_JSON_FLAG},
      {"remove_extra_whitespaces", ML_JSON_FLAG},
      {"escape_whitespaces", ML_JSON_FLAG},
      {"treat_whitespace_as_suffix", ML_JSON_FLAG},
      {NULL, 0}}},
};

static ml_status push(ml_normalizer *n, normalizer_stage stage)
{
    if (n->count == MOST_STAGES)
        return ml_fail(ML_INPUT, "there are more than %d stages", MOST_STAGES);
    stage.frozen = n->frozen;
    n->stages[n->count++] = stage;
    return ML_OK;
}

/* BERT's normalizer is four of the others: cleaning, then NFD without accents, then small letters.
 */
static ml_status push_bert(ml_normalizer *n, const json_t *json)
{
    static const ml_json_key keys[] = {{"clean_text", ML_STAGE_FLAG},
                                       {"handle_chinese_chars", ML_STAGE_FLAG},
                                       {"strip_accents", ML_STAGE_FLAG},
                                       {"lowercase", ML_STAGE_FLAG},
                                       {NULL, 0}};
    ml_status st = ML_OK;
    ML_TRY(ml_json_check(json, keys));
    bool lower = ml_stage_flag(json, "lowercase", true);
    normalizer_stage first = {.run = normalizer_clean,
                              .clean = ml_stage_flag(json, "clean_text", true),
                              .chinese = ml_stage_flag(json, "handle_chinese_chars", true)};
    if (first.clean || first.chinese) ML_TRY(push(n, first));
    if (ml_stage_flag(json, "strip_accents", lower)) {
        ML_TRY(push(n, (normalizer_stage){.run = normalizer_form, .form = ML_NFD}));
        ML_TRY(push(n, (normalizer_stage){.run = normalizer_strip_accents}));
    }
    if (lower) ML_TRY(push(n, (normalizer_stage){.run = normalizer_lowercase}));
done:
    return st;
}

static ml_status add_stage(void *self, const char *type, const json_t *json)
{
    ml_status st = ML_OK;
    ml_normalizer *n = self;
    if (!strcmp(type, "BertNormalizer")) return push_bert(n, json);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        const struct kind *kind = &kinds[i];
        if (strcmp(kind->type, type) != 0) continue;
        ML_TRY(ml_json_check(json, kind->keys));
        ML_TRY(push(n, (normalizer_stage){.run = kind->run, .form = kind->form}));
        st = kind->read(&n->stages[n->count - 1], json);
        goto done;
    }
    st = ml_fail(ML_INPUT, "is not known");
done:
    return st;
}

ml_status ml_normalizer_create(ml_normalizer **out, const json_t *json, const ml_trie *frozen)
{
    ml_status st = ML_OK;
    ml_normalizer *n = NULL;
    *out = NULL;
    if (!json || json_is_null(json)) return ML_OK;
    ML_NEW(n, 1, ML_MEM_OTHER, "a normalizer");
    n->frozen = frozen;
    ML_TRY(ml_stages_each(json, "normalizer", "normalizers", add_stage, n));
    *out = n;
    n = NULL;
done:
    ml_normalizer_destroy(n);
    return st;
}

ml_status ml_normalizer_share(ml_normalizer **out, const ml_normalizer *of)
{
    ml_status st = ML_OK;
    ml_normalizer *n = NULL;
    *out = NULL;
    if (!of) return ML_OK;
    ML_NEW(n, 1, ML_MEM_OTHER, "a normalizer");
    n->borrows = true;
    n->frozen = of->frozen;
    for (; n->count < of->count; n->count++) {
        normalizer_stage *s = &n->stages[n->count];
        *s = of->stages[n->count];
        s->pattern = NULL; /* `count` has this stage only once its pattern is its own */
        ML_TRY(ml_pattern_share(&s->pattern, of->stages[n->count].pattern));
    }
    *out = n;
    n = NULL;
done:
    ml_normalizer_destroy(n);
    return st;
}

void ml_normalizer_destroy(ml_normalizer *n)
{
    if (!n) return;
    for (int64_t i = 0; i < n->count; i++) {
        ml_pattern_destroy(n->stages[i].pattern);
        if (n->borrows) continue;
        ml_memory_free(n->stages[i].text);
        ml_charsmap_destroy(n->stages[i].map);
    }
    ml_text_destroy(&n->texts[0].text);
    ml_text_destroy(&n->texts[1].text);
    ml_memory_free(n);
}

/* ---- running ------------------------------------------------------------------------------- */

ml_status ml_normalizer_run(ml_normalizer *n, const char *text, int64_t length, bool first,
                            const ml_aligned **out)
{
    ml_status st = ML_OK;
    int size = 0, now = 0;
    ml_aligned *texts = n->texts;
    texts[0].text.length = 0;
    ML_TRY(ml_text_add(&texts[0].text, text, length));
    if (length) (void)ml_utf8_next(text, length, 0, &size);
    texts[0].first = first ? size : 0;
    for (int64_t i = 0; i < n->count && texts[now].text.length; i++) {
        ml_aligned *next = &texts[1 - now];
        if (!n->stages[i].run) continue;
        next->text.length = next->first = 0;
        ML_TRY(ml_text_add(&next->text, "", 0)); /* so that it has an address */
        ML_TRY(n->stages[i].run(&n->stages[i], &texts[now], next));
        if (!first) next->first = 0;
        now = 1 - now;
    }
    *out = &texts[now];
done:
    return st;
}
