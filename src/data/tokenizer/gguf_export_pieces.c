/* Pieces with scores as GGUF's metadata: SentencePiece's BPE ("llama") and Unigram ("t5").
 *
 * llama.cpp's Unigram maps characters by SentencePiece's table, puts a blank before a text, takes
 * extra ones away, and knows no bytes: a character without a piece is unknown. It does not cut
 * texts at blanks, so a Unigram of `tokenizers` that is cut there must have no piece with a blank
 * inside.
 */
#include "data/tokenizer/charsmap.h"
#include "data/tokenizer/gguf_export.h"
#include "data/tokenizer/stages.h"

static ml_status take_map(gguf_words *w, const char *base64)
{
    ml_gguf_tokenizer *out = w->out;
    if (out->charsmap.length) return gguf_unsaid("its normalizer has two maps of characters");
    ml_status st = ml_base64_read(&out->charsmap, base64, (int64_t)strlen(base64));
    out->vocabulary.charsmap = out->charsmap.data;
    out->vocabulary.charsmap_length = out->charsmap.length;
    return st;
}

/* ---- SentencePiece's own model --------------------------------------------------------------- */

static ml_status take_rules(gguf_words *w, bool unigram)
{
    ml_gguf_vocabulary *v = &w->out->vocabulary;
    const json_t *rules = json_object_get(w->root, "normalizer");
    bool extra = ml_stage_flag(rules, "remove_extra_whitespaces", false);
    const char *map = ml_stage_text(rules, "precompiled_charsmap");
    if (*map && !unigram) return gguf_unsaid("its normalizer has a map of characters");
    if ((extra && !unigram) || ml_stage_flag(rules, "treat_whitespace_as_suffix", false) ||
        !ml_stage_flag(rules, "escape_whitespaces", true))
        return gguf_unsaid("its normalizer takes blanks away, or leaves them blanks");
    v->add_space_prefix = ml_stage_flag(rules, "add_dummy_prefix", true);
    if (unigram) v->remove_extra_whitespaces = extra;
    return *map ? take_map(w, map) : ML_OK;
}

ml_status gguf_write_pieces(gguf_words *w)
{
    ml_status st = ML_OK;
    ml_gguf_vocabulary *v = &w->out->vocabulary;
    const char *algorithm = ml_stage_text(w->model, "algorithm");
    bool unigram = !strcmp(algorithm, "unigram");
    size_t i;
    json_t *piece;
    if (!unigram && strcmp(algorithm, "bpe") != 0)
        return gguf_unsaid("its model is SentencePiece's of characters or words");
    if (unigram && ml_stage_flag(w->model, "byte_fallback", false))
        return gguf_unsaid("its Unigram makes bytes of unknown characters");
    ML_TRY(gguf_check_ends(w));
    ML_TRY(take_rules(w, unigram));
    v->model = unigram ? "t5" : "llama";
    v->pre = "default";
    json_array_foreach(json_object_get(w->model, "pieces"), i, piece)
    {
        const char *text = json_string_value(json_array_get(piece, 0));
        int64_t kind = (int64_t)json_integer_value(json_array_get(piece, 2));
        ML_TRY(gguf_put_token(w, (json_int_t)i, text ? text : "", (ml_piece_kind)kind));
        w->out->scores[i] = (float)json_number_value(json_array_get(piece, 1));
        if (kind == ML_PIECE_UNKNOWN) v->unk = (int64_t)i;
    }
    json_array_foreach(json_object_get(w->root, "added_tokens"), i, piece)
    {
        int64_t id = (int64_t)json_integer_value(json_object_get(piece, "id"));
        const char *text = json_string_value(json_object_get(piece, "content"));
        bool special = json_is_true(json_object_get(piece, "special"));
        if (id >= 0 && id < w->tokens && w->place[id] >= 0) continue;
        ML_TRY(gguf_put_token(w, id, text ? text : "",
                              special ? ML_PIECE_CONTROL : ML_PIECE_USER_DEFINED));
    }
done:
    return st;
}

/* ---- a Unigram of `tokenizers` --------------------------------------------------------------- */

/* tokenizers puts no blank before a word that begins with the sign for one. */
#define OWN_BLANK "that a \"" BLANK "\" of a text's own, where a word begins, is its blank"

/* What becomes of blanks. */
typedef struct blanks {
    gguf_words *w;
    bool stripped, merged; /* at both ends; runs of them */
    bool words;            /* all white space goes, words are what is left */
    bool cut;              /* pieces are looked for between blanks */
} blanks;

static ml_status take_normalizer(void *self, const char *type, const json_t *stage)
{
    blanks *b = self;
    const json_t *pattern = json_object_get(stage, "pattern");
    const char *regex = json_string_value(json_object_get(pattern, "Regex")),
               *content = ml_stage_text(stage, "content");
    if (!strcmp(type, "Precompiled"))
        return take_map(b->w, ml_stage_text(stage, "precompiled_charsmap"));
    if (!strcmp(type, "Strip") && ml_stage_flag(stage, "strip_left", true) &&
        ml_stage_flag(stage, "strip_right", true)) {
        b->stripped = true;
        return ML_OK;
    }
    if (!strcmp(type, "Replace") && regex && !strcmp(regex, " {2,}") &&
        (!strcmp(content, " ") || !strcmp(content, BLANK))) {
        b->merged = true;
        return ML_OK;
    }
    return ml_fail(ML_INPUT, "GGUF has no word for this tokenizer: its normalizer has a %s", type);
}

static ml_status take_pre_tokenizer(void *self, const char *type, const json_t *stage)
{
    blanks *b = self;
    const char *scheme = ml_stage_text(stage, "prepend_scheme");
    if (!strcmp(type, "WhitespaceSplit")) {
        b->words = true;
        return ML_OK;
    }
    if (strcmp(type, "Metaspace") != 0 || strcmp(ml_stage_text(stage, "replacement"), BLANK) != 0)
        return ml_fail(ML_INPUT, "GGUF has no word for this tokenizer: its pre_tokenizer has a %s",
                       type);
    b->w->metaspace = true;
    b->cut = ml_stage_flag(stage, "split", true);
    b->w->out->vocabulary.add_space_prefix = strcmp(scheme, "never") != 0;
    if (!strcmp(scheme, "first"))
        b->w->out->caveat = "that no blank goes before text behind a special token";
    return ML_OK;
}

/* Whether the map makes blanks of line feeds and tabs, as SentencePiece's usual ones do. */
static bool maps_white_space(const gguf_words *w)
{
    ml_charsmap *map = NULL;
    int64_t key;
    bool both = true;
    if (ml_charsmap_create(&map, w->out->charsmap.data, w->out->charsmap.length) != ML_OK) {
        ml_error_clear();
        return false;
    }
    for (const char *c = "\n\t"; *c; c++) {
        const char *made = ml_charsmap_find(map, c, 1, true, &key);
        both = both && made && !strcmp(made, " ");
    }
    ml_charsmap_destroy(map);
    return both;
}

static ml_status take_blanks(gguf_words *w)
{
    ml_status st = ML_OK;
    blanks b = {.w = w};
    ml_gguf_vocabulary *v = &w->out->vocabulary;
    ML_TRY(ml_stages_each(json_object_get(w->root, "normalizer"), "normalizer", "normalizers",
                          take_normalizer, &b));
    ML_TRY(ml_stages_each(json_object_get(w->root, "pre_tokenizer"), "pre_tokenizer",
                          "pretokenizers", take_pre_tokenizer, &b));
    if (!w->metaspace) return gguf_unsaid("its blanks stay blanks");
    if (b.words && !v->add_space_prefix)
        return gguf_unsaid("its words are put together without blanks");
    v->remove_extra_whitespaces = b.merged || b.words;
    if (b.words && (!v->charsmap || !maps_white_space(w)))
        w->out->caveat = "that line feeds and tabs separate words, and " OWN_BLANK;
    else if (b.words)
        w->out->caveat = OWN_BLANK;
    else if (b.merged && !b.stripped && !b.words)
        w->out->caveat = "that blanks at the ends of a text stay";
    else if (!v->remove_extra_whitespaces && v->add_space_prefix)
        w->out->caveat = "that a text that begins with a blank gets no other one before it";
    w->cuts = b.cut;
done:
    return st;
}

/* A piece with a blank inside, which is never found where texts are cut there; of blanks alone,
 * such a piece is found nowhere where extra ones are taken away. */
static bool spans_words(const gguf_words *w, const char *text)
{
    const char *inner = strlen(text) > 3 ? strstr(text + 1, BLANK) : NULL;
    if (!inner || w->out->vocabulary.remove_extra_whitespaces <= 0) return inner != NULL;
    while (!strncmp(text, BLANK, 3)) text += 3;
    return *text != '\0';
}

ml_status gguf_write_unigram(gguf_words *w)
{
    ml_status st = ML_OK;
    ml_gguf_vocabulary *v = &w->out->vocabulary;
    const json_t *unknown = json_object_get(w->model, "unk_id");
    size_t i;
    json_t *piece;
    if (ml_stage_flag(w->model, "byte_fallback", false))
        return gguf_unsaid("its Unigram makes bytes of unknown characters");
    if (!json_is_integer(unknown)) return gguf_unsaid("its Unigram has no unknown token");
    ML_TRY(gguf_check_ends(w));
    ML_TRY(take_blanks(w));
    v->model = "t5";
    v->pre = "default";
    json_array_foreach(w->vocab, i, piece)
    {
        const char *text = json_string_value(json_array_get(piece, 0));
        if (w->cuts && spans_words(w, text ? text : ""))
            return gguf_unsaid("its Unigram has pieces with a blank inside, and cuts at blanks");
        ML_TRY(gguf_put_token(w, (json_int_t)i, text ? text : "", ML_PIECE_NORMAL));
        w->out->scores[i] = (float)json_number_value(json_array_get(piece, 1));
    }
    ML_TRY(gguf_put_added(w));
    v->unk = (int64_t)json_integer_value(unknown);
    if (v->unk >= 0 && v->unk < w->tokens) w->out->types[v->unk] = ML_PIECE_UNKNOWN;
done:
    return st;
}
