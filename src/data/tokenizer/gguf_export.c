/* What GGUF's metadata say of a tokenizer: gguf.c the other way round.
 *
 * A byte-level BPE keeps its tokens and merges; its split patterns become the name that llama.cpp
 * has for exactly these, so a pattern of which it does not know makes no tokenizer. A BPE with
 * byte_fallback is SentencePiece's: there every pair whose text is a piece may be merged, the piece
 * of the highest score first, so the merges must be all such pairs, a piece's next to each other,
 * and its score is the place of the first, negative. Unigram and WordPiece:
 * gguf_export_pieces.c, gguf_export_wordpiece.c. */
#include <inttypes.h>

#include "data/tokenizer/canonical.h"
#include "data/tokenizer/gguf_export.h"
#include "data/tokenizer/scanners.h"
#include "data/tokenizer/stages.h"

ml_status gguf_unsaid(const char *what)
{
    return ml_fail(ML_INPUT, "GGUF has no word for this tokenizer: %s", what);
}

static ml_status put_text(gguf_words *w, int64_t slot, const char *text)
{
    w->place[slot] = w->out->pool.length;
    return ml_text_add(&w->out->pool, text, (int64_t)strlen(text) + 1);
}

ml_status gguf_put_token(gguf_words *w, json_int_t id, const char *text, ml_piece_kind kind)
{
    if (id < 0 || id >= w->tokens)
        return ml_fail(ML_INPUT,
                       "token %" JSON_INTEGER_FORMAT " of the tokenizer has no row of the %" PRId64
                       " of the embedding",
                       id, w->tokens);
    w->out->types[id] = (int32_t)kind;
    return put_text(w, (int64_t)id, text);
}

/* ---- what both kinds have ------------------------------------------------------------------ */

static ml_status put_vocabulary(gguf_words *w)
{
    ml_status st = ML_OK;
    const char *text;
    json_t *id;
    json_object_foreach((json_t *)(uintptr_t)w->vocab, text, id)
        ML_TRY(gguf_put_token(w, json_integer_value(id), text, ML_PIECE_NORMAL));
done:
    return st;
}

ml_status gguf_put_added(gguf_words *w)
{
    ml_status st = ML_OK;
    size_t i;
    json_t *one;
    json_array_foreach(json_object_get(w->root, "added_tokens"), i, one)
    {
        const char *text = json_string_value(json_object_get(one, "content"));
        bool special = json_is_true(json_object_get(one, "special"));
        ML_TRY(gguf_put_token(w, json_integer_value(json_object_get(one, "id")), text ? text : "",
                              special ? ML_PIECE_CONTROL : ML_PIECE_USER_DEFINED));
    }
done:
    return st;
}

static ml_status fill_gaps(gguf_words *w)
{
    ml_status st = ML_OK;
    char text[32];
    for (int64_t id = 0; id < w->tokens; id++) {
        if (w->place[id] >= 0) continue;
        snprintf(text, sizeof text, "[PAD%" PRId64 "]", id);
        ML_TRY(gguf_put_token(w, id, text, ML_PIECE_UNUSED));
    }
done:
    return st;
}

/* "left right", from a text or from a pair of them. */
static ml_status merge_parts(const json_t *merge, const char **left, const char **right, char *copy,
                             size_t size)
{
    const char *whole = json_string_value(merge);
    *left = json_string_value(json_array_get(merge, 0));
    *right = json_string_value(json_array_get(merge, 1));
    if (whole && strlen(whole) < size) {
        snprintf(copy, size, "%s", whole);
        char *blank = strchr(copy, ' ');
        if (blank) *blank = '\0';
        *left = copy;
        *right = blank ? blank + 1 : NULL;
    }
    return *left && *right ? ML_OK : gguf_unsaid("a merge is not two tokens");
}

/* What begins and ends every text. */
static ml_status take_ends(gguf_words *w, const char *json, int64_t length)
{
    ml_status st = ML_OK;
    ml_tokenizer *tokenizer = NULL;
    int64_t parts, before = 0;
    ml_gguf_vocabulary *v = &w->out->vocabulary;
    ML_TRY(ml_tokenizer_create(&tokenizer, json, length));
    const ml_template_part *part = ml_tokenizer_template(tokenizer, false, &parts);
    while (before < parts && part[before].id >= 0) before++;
    w->before = before;
    w->behind = ml_max(0, parts - before - 1);
    w->first = before > 0 ? part[0].id : -1;
    w->last = w->behind > 0 ? part[parts - 1].id : -1;
    v->bos = ml_tokenizer_begin_of_text(tokenizer);
    v->eos = ml_tokenizer_end_of_text(tokenizer);
    v->add_bos = v->bos >= 0;
    v->add_eos = w->behind == 1 && w->last == v->eos;
done:
    ml_tokenizer_destroy(tokenizer);
    return st;
}

ml_status gguf_check_ends(const gguf_words *w)
{
    if (w->before > 1 || w->behind > 1 || (w->behind == 1 && !w->out->vocabulary.add_eos))
        return gguf_unsaid("its post_processor adds more than a token before and one behind a "
                           "text");
    return ML_OK;
}

/* ---- byte-level BPE ------------------------------------------------------------------------ */

static ml_status add_pattern(gguf_words *w, const char *pattern)
{
    if (w->npatterns == ML_GGUF_PATTERNS) return gguf_unsaid("too many split patterns");
    w->patterns[w->npatterns++] = pattern;
    return ML_OK;
}

static ml_status take_split(gguf_words *w, const json_t *stage)
{
    const json_t *pattern = json_object_get(stage, "pattern");
    const char *regex = json_string_value(json_object_get(pattern, "Regex"));
    const char *behavior = ml_stage_text(stage, "behavior");
    bool invert = ml_stage_flag(stage, "invert", false);
    bool isolated = !strcmp(behavior, "Isolated") || (!strcmp(behavior, "Removed") && invert);
    if (!regex) regex = json_string_value(json_object_get(pattern, "String"));
    if (!regex || !isolated)
        return gguf_unsaid("its pre_tokenizer splits otherwise than by isolating");
    return add_pattern(w, regex);
}

static ml_status take_stage(void *self, const char *type, const json_t *stage)
{
    gguf_words *w = self;
    if (!strcmp(type, "Split")) return take_split(w, stage);
    if (!strcmp(type, "Digits"))
        return add_pattern(w, ml_stage_flag(stage, "individual_digits", false) ? ML_PATTERN_DIGIT
                                                                               : "\\p{N}+");
    if (!strcmp(type, "ByteLevel")) {
        if (ml_stage_flag(stage, "add_prefix_space", true))
            return gguf_unsaid("its byte-level pre_tokenizer puts a blank before a text");
        w->byte_level = true;
        return ml_stage_flag(stage, "use_regex", true) ? add_pattern(w, ML_PATTERN_GPT2) : ML_OK;
    }
    return ml_fail(ML_INPUT, "GGUF has no word for this tokenizer: its pre_tokenizer is a %s",
                   type);
}

static ml_status take_normalizer(gguf_words *w)
{
    const json_t *normalizer = json_object_get(w->root, "normalizer");
    if (json_is_null(normalizer) || !normalizer) return ML_OK;
    if (!strcmp(ml_stage_text(normalizer, "type"), "NFC")) {
        w->out->caveat = "its normalizer NFC, without which text that is not composed gets other "
                         "tokens";
        return ML_OK;
    }
    return ml_fail(ML_INPUT, "GGUF has no word for this tokenizer: its normalizer is a %s",
                   ml_stage_text(normalizer, "type"));
}

static ml_status put_merges(gguf_words *w)
{
    ml_status st = ML_OK;
    ml_text line = {0};
    char copy[512];
    size_t i;
    json_t *merge;
    json_array_foreach(json_object_get(w->model, "merges"), i, merge)
    {
        const char *left, *right;
        ML_TRY(merge_parts(merge, &left, &right, copy, sizeof copy));
        line.length = 0;
        ML_TRY(ml_text_printf(&line, "%s %s", left, right));
        ML_TRY(put_text(w, w->tokens + (int64_t)i, line.data));
    }
done:
    ml_text_destroy(&line);
    return st;
}

static ml_status write_bytes(gguf_words *w, char pre[ML_GGUF_PRE_NAME])
{
    ml_status st = ML_OK;
    ML_TRY(take_normalizer(w));
    if (!ml_gguf_name_pre(w->patterns, w->npatterns,
                          ml_stage_flag(w->model, "ignore_merges", false), pre))
        return ml_fail(ML_INPUT,
                       "GGUF has no word for this tokenizer: llama.cpp has no name for its split "
                       "pattern %.200s",
                       w->npatterns ? w->patterns[0] : "(none)");
    w->out->vocabulary.model = "gpt2";
    w->out->vocabulary.pre = pre;
    ML_TRY(put_vocabulary(w));
    ML_TRY(gguf_put_added(w));
    ML_TRY(put_merges(w));
done:
    return st;
}

/* ---- SentencePiece ------------------------------------------------------------------------- */

/* Whether texts begin with a blank, and blanks become ▁. */
static ml_status take_blanks(void *self, const char *type, const json_t *stage)
{
    gguf_words *w = self;
    const json_t *pattern = json_object_get(stage, "pattern");
    const char *blank = json_string_value(json_object_get(pattern, "String"));
    if (!strcmp(type, "Prepend") && !strcmp(ml_stage_text(stage, "prepend"), BLANK)) {
        w->out->vocabulary.add_space_prefix = 1;
        return ML_OK;
    }
    if (!strcmp(type, "Replace") && blank && !strcmp(blank, " ") &&
        !strcmp(ml_stage_text(stage, "content"), BLANK)) {
        w->metaspace = true;
        return ML_OK;
    }
    return ml_fail(ML_INPUT, "GGUF has no word for this tokenizer: its normalizer has a %s", type);
}

/* Stages that cut nothing that SentencePiece does not. */
static ml_status take_cuts(void *self, const char *type, const json_t *stage)
{
    gguf_words *w = self;
    const char *blank =
        json_string_value(json_object_get(json_object_get(stage, "pattern"), "String"));
    if (!strcmp(type, "Split") && blank && !strcmp(blank, " ") && w->metaspace) return ML_OK;
    if (!strcmp(type, "Metaspace") && !ml_stage_flag(stage, "split", true)) {
        const char *scheme = ml_stage_text(stage, "prepend_scheme");
        w->metaspace = true;
        w->out->vocabulary.add_space_prefix = strcmp(scheme, "never") != 0;
        if (!strcmp(scheme, "first"))
            w->out->caveat = "that no blank goes before text behind a special token";
        return ML_OK;
    }
    return ml_fail(ML_INPUT, "GGUF has no word for this tokenizer: its pre_tokenizer has a %s",
                   type);
}

/* The scores, and how many merges make each piece: they stand next to each other. */
static ml_status score_merges(gguf_words *w, int64_t *made)
{
    ml_status st = ML_OK;
    ml_text piece = {0};
    char copy[512];
    size_t i;
    json_t *merge;
    int64_t last = -1;
    json_array_foreach(json_object_get(w->model, "merges"), i, merge)
    {
        const char *left, *right;
        ML_TRY(merge_parts(merge, &left, &right, copy, sizeof copy));
        piece.length = 0;
        ML_TRY(ml_text_printf(&piece, "%s%s", left, right));
        const json_t *found = json_object_get(w->vocab, piece.data);
        int64_t id = found ? (int64_t)json_integer_value(found) : -1;
        if (id < 0 || id >= w->tokens || (made[id] > 0 && id != last)) {
            st = gguf_unsaid("its merges are not in the order of its pieces");
            goto done;
        }
        if (made[id]++ == 0) w->out->scores[id] = -(float)(i + 1);
        last = id;
    }
done:
    ml_text_destroy(&piece);
    return st;
}

/* How many ways there are to cut a piece into two. */
static int64_t count_cuts(const gguf_words *w, const char *text)
{
    int64_t count = 0;
    char left[512];
    size_t length = strlen(text);
    for (size_t cut = 1; cut < length && length < sizeof left; cut++) {
        if ((text[cut] & 0xc0) == 0x80) continue; /* inside a character */
        memcpy(left, text, cut);
        left[cut] = '\0';
        count += json_object_get(w->vocab, left) && json_object_get(w->vocab, text + cut);
    }
    return count;
}

static ml_status check_merges(gguf_words *w, const int64_t *made)
{
    const char *text;
    json_t *id;
    json_object_foreach((json_t *)(uintptr_t)w->vocab, text, id)
    {
        int64_t at = (int64_t)json_integer_value(id);
        bool plain = at >= 0 && at < w->tokens && w->out->types[at] == ML_PIECE_NORMAL;
        if (plain && count_cuts(w, text) != made[at])
            return gguf_unsaid("its merges are not all pairs of pieces that make a piece");
    }
    return ML_OK;
}

static void mark_bytes(gguf_words *w, const char *unknown)
{
    const char *text;
    json_t *id;
    json_object_foreach((json_t *)(uintptr_t)w->vocab, text, id)
    {
        int64_t at = (int64_t)json_integer_value(id);
        if (ml_byte_token_value(text, (int64_t)strlen(text)) >= 0)
            w->out->types[at] = ML_PIECE_BYTE;
        if (strcmp(text, unknown) != 0) continue;
        w->out->types[at] = ML_PIECE_UNKNOWN;
        w->out->vocabulary.unk = at;
    }
}

static ml_status write_merged_pieces(gguf_words *w)
{
    ml_status st = ML_OK;
    int64_t *made = NULL;
    w->out->vocabulary.model = "llama";
    w->out->vocabulary.pre = "default";
    w->out->vocabulary.add_space_prefix = 0;
    ML_NEW(made, w->tokens, ML_MEM_OTHER, "a tokenizer");
    ML_TRY(ml_stages_each(json_object_get(w->root, "normalizer"), "normalizer", "normalizers",
                          take_blanks, w));
    ML_TRY(ml_stages_each(json_object_get(w->root, "pre_tokenizer"), "pre_tokenizer",
                          "pretokenizers", take_cuts, w));
    if (!w->metaspace) {
        st = gguf_unsaid("its blanks stay blanks");
        goto done;
    }
    ML_TRY(put_vocabulary(w));
    ML_TRY(gguf_put_added(w));
    mark_bytes(w, ml_stage_text(w->model, "unk_token"));
    ML_TRY(score_merges(w, made));
    ML_TRY(check_merges(w, made));
done:
    ml_memory_free(made);
    return st;
}

/* ---- all ----------------------------------------------------------------------------------- */

static ml_status start(gguf_words *w, int64_t tokens)
{
    ml_status st = ML_OK;
    ml_gguf_tokenizer *out = w->out;
    w->model = json_object_get(w->root, "model");
    w->vocab = json_object_get(w->model, "vocab");
    w->tokens = tokens;
    w->merges = (int64_t)json_array_size(json_object_get(w->model, "merges"));
    ML_NEW(w->place, w->tokens + w->merges, ML_MEM_OTHER, "a tokenizer");
    for (int64_t i = 0; i < w->tokens + w->merges; i++) w->place[i] = -1;
    ML_NEW(out->texts, w->tokens + w->merges, ML_MEM_OTHER, "a tokenizer");
    ML_NEW(out->types, w->tokens, ML_MEM_OTHER, "a tokenizer");
    ML_NEW(out->scores, w->tokens, ML_MEM_OTHER, "a tokenizer");
    out->vocabulary = (ml_gguf_vocabulary){.bos = -1,
                                           .eos = -1,
                                           .unk = -1,
                                           .sep = -1,
                                           .add_space_prefix = -1,
                                           .remove_extra_whitespaces = -1,
                                           .lowercase = -1,
                                           .strip_accents = -1};
done:
    return st;
}

/* llama.cpp stops at a file in which two tokens have one text. */
static ml_status check_texts(const gguf_words *w)
{
    ml_status st = ML_OK;
    json_t *seen = json_object();
    for (int64_t id = 0; id < w->tokens && st == ML_OK; id++) {
        const char *text = w->out->pool.data + w->place[id];
        const json_t *other = json_object_get(seen, text);
        if (other)
            st = ml_fail(ML_INPUT,
                         "GGUF has no word for this tokenizer: tokens %" JSON_INTEGER_FORMAT
                         " and %" PRId64 " would both be \"%.80s\"",
                         json_integer_value(other), id, text);
        else if (json_object_set_new_nocheck(seen, text, json_integer((json_int_t)id)))
            st = ml_fail(ML_RESOURCE, "out of memory: a tokenizer");
    }
    json_decref(seen);
    return st;
}

/* The texts stay where they are from here on. */
static void finish(gguf_words *w)
{
    ml_gguf_tokenizer *out = w->out;
    ml_gguf_vocabulary *v = &out->vocabulary;
    bool bytes = !strcmp(v->model, "gpt2");
    for (int64_t i = 0; i < w->tokens + w->merges; i++)
        out->texts[i] = w->place[i] < 0 ? NULL : out->pool.data + w->place[i];
    v->ntokens = w->tokens;
    v->tokens = out->texts;
    v->types = out->types;
    v->scores = bytes || !strcmp(v->model, "bert") ? NULL : out->scores;
    v->nmerges = bytes ? w->merges : 0;
    v->merges = bytes ? out->texts + w->tokens : NULL;
}

static ml_status write_model(gguf_words *w, char pre[ML_GGUF_PRE_NAME])
{
    const char *type = ml_stage_text(w->model, "type");
    if (!strcmp(type, "SentencePiece")) return gguf_write_pieces(w);
    if (!strcmp(type, "Unigram")) return gguf_write_unigram(w);
    if (!strcmp(type, "WordPiece")) return gguf_write_wordpiece(w);
    if (strcmp(type, "BPE") != 0 && !(*type == '\0' && w->merges))
        return ml_fail(ML_INPUT, "GGUF has no word for this tokenizer here: its model is %s", type);
    if (*ml_stage_text(w->model, "continuing_subword_prefix") ||
        *ml_stage_text(w->model, "end_of_word_suffix"))
        return gguf_unsaid("its words have a prefix or a suffix");
    ml_status st = gguf_check_ends(w);
    if (st != ML_OK) return st;
    if (ml_stage_flag(w->model, "byte_fallback", false)) return write_merged_pieces(w);
    st = ml_stages_each(json_object_get(w->root, "pre_tokenizer"), "pre_tokenizer", "pretokenizers",
                        take_stage, w);
    if (st == ML_OK && !w->byte_level) st = gguf_unsaid("its BPE works on characters");
    return st == ML_OK ? write_bytes(w, pre) : st;
}

ml_status ml_tokenizer_to_gguf(const char *json, int64_t length, int64_t tokens,
                               ml_gguf_tokenizer *out)
{
    ml_status st = ML_OK;
    ml_canonical canonical;
    json_t *root = NULL;
    gguf_words w = {.out = out};
    char pre[ML_GGUF_PRE_NAME];
    *out = (ml_gguf_tokenizer){0};
    ML_TRY(ml_canonical_read(&canonical, &root, NULL, json, length));
    w.root = root;
    ML_TRY(start(&w, tokens));
    ML_TRY(take_ends(&w, json, length));
    ML_TRY(write_model(&w, pre));
    ML_TRY(fill_gaps(&w));
    ML_TRY(check_texts(&w));
    int64_t name = out->pool.length;
    ML_TRY(ml_text_add(&out->pool, out->vocabulary.pre, (int64_t)strlen(out->vocabulary.pre) + 1));
    finish(&w);
    out->vocabulary.pre = out->pool.data + name;
done:
    ml_memory_free(w.place);
    json_decref(root);
    return st;
}

void ml_gguf_tokenizer_destroy(ml_gguf_tokenizer *t)
{
    ml_text_destroy(&t->pool);
    ml_text_destroy(&t->charsmap);
    ml_memory_free((void *)(uintptr_t)t->texts);
    ml_memory_free(t->types);
    ml_memory_free(t->scores);
    *t = (ml_gguf_tokenizer){0};
}
