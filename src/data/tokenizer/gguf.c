/* The tokenizer inside a GGUF file, read as llama.cpp reads it: byte-level BPE ("gpt2"), a
 * SentencePiece BPE ("llama") or Unigram ("t5"), BERT's words ("bert"). */
#include <inttypes.h>
#include <limits.h>

#include "data/tokenizer/gguf_patterns.h"
#include "data/tokenizer/make.h"
#include "data/tokenizer/models/model.h"
#include "data/tokenizer/sentencepiece_json.h"
#include "data/tokenizer/sources.h"

#define BLANK "\xe2\x96\x81" /* ▁ U+2581 */

static ml_status no_memory(void) { return ml_fail(ML_RESOURCE, "out of memory: a tokenizer"); }

static int32_t kind_of(const ml_gguf_vocabulary *g, int64_t id)
{
    return g->types ? g->types[id] : ML_PIECE_NORMAL;
}

/* A flag of the file, or what llama.cpp takes where it says nothing. */
static bool flag(int said, bool usual) { return said < 0 ? usual : said != 0; }

/* An id of the file, or the usual one where there is such a token; −1: none. */
static int64_t token(const ml_gguf_vocabulary *g, int64_t said, int64_t usual)
{
    int64_t id = said >= 0 ? said : usual;
    return id < g->ntokens ? id : -1;
}

/* ---- byte-level BPE ------------------------------------------------------------------------ */

static ml_status take_tokens(ml_maker *m, const ml_gguf_vocabulary *g)
{
    ml_status st = ML_OK;
    for (int64_t id = 0; id < g->ntokens; id++) {
        int32_t kind = kind_of(g, id);
        bool added = kind == ML_PIECE_CONTROL || kind == ML_PIECE_USER_DEFINED;
        ML_TRY(ml_maker_token(m, id, g->tokens[id]));
        if (added) ML_TRY(ml_maker_added(m, id, g->tokens[id], kind == ML_PIECE_CONTROL));
    }
    for (int64_t i = 0; i < g->nmerges; i++) ML_TRY(ml_maker_merge(m, g->merges[i]));
done:
    return st;
}

static const ml_gguf_pre *choose_pre(const ml_gguf_vocabulary *g)
{
    const char *name = g->pre && *g->pre ? g->pre : "default";
    if (!strcmp(name, "default"))
        ml_warn("tokenizer.ggml.pre %s: llama.cpp's compromise for all models is assumed, which "
                "splits text otherwise than most of them; import the model's Hugging Face "
                "directory for its own tokenizer",
                g->pre && *g->pre ? "is \"default\"" : "is missing");
    return ml_gguf_find_pre(name);
}

static ml_status read_bytes(ml_source *s, const ml_gguf_vocabulary *g)
{
    ml_status st = ML_OK;
    ml_maker m = {0};
    const ml_gguf_pre *pre = choose_pre(g);
    if (!pre) return ml_fail(ML_INPUT, "tokenizer.ggml.pre is \"%s\", which is not known", g->pre);
    if (!g->merges) return ml_fail(ML_INPUT, "tokenizer.ggml.merges is missing");
    ML_TRY(ml_maker_start(&m, pre->whole_pieces));
    ML_TRY(take_tokens(&m, g));
    for (int i = 0; pre->patterns[i]; i++) ML_TRY(ml_maker_split(&m, pre->patterns[i]));
    s->end = token(g, g->eos, -1);
    s->begin = flag(g->add_bos, pre->begins) ? token(g, g->bos, -1) : -1;
    ML_TRY(ml_maker_byte_level(&m, s->begin, flag(g->add_eos, false) ? s->end : -1, &s->root));
done:
    ml_maker_destroy(&m);
    return st;
}

/* ---- SentencePiece ------------------------------------------------------------------------- */

static ml_status read_pieces(ml_source *s, const ml_gguf_vocabulary *g, bool unigram)
{
    ml_status st = ML_OK;
    ml_sentencepiece p;
    ML_TRY(ml_sentencepiece_start(&p));
    p.algorithm = unigram ? "unigram" : "bpe";
    p.dummy_prefix = flag(g->add_space_prefix, !unigram);
    p.remove_extra = flag(g->remove_extra_whitespaces, false);
    int64_t bytes = 0;
    for (int64_t id = 0; id < g->ntokens; id++) {
        int32_t kind = kind_of(g, id);
        float score = g->scores ? g->scores[id] : 0.0F;
        if (kind < ML_PIECE_NORMAL || kind > ML_PIECE_BYTE) kind = ML_PIECE_NORMAL;
        bytes += kind == ML_PIECE_BYTE;
        ML_TRY(
            ml_sentencepiece_add(&p, g->tokens[id], (int64_t)strlen(g->tokens[id]), score, kind));
    }
    p.byte_fallback = bytes == 256;
    if (g->charsmap) ML_TRY(ml_text_add(&p.charsmap, g->charsmap, g->charsmap_length));
    s->end = token(g, g->eos, unigram ? 1 : 2);
    s->begin = flag(g->add_bos, !unigram) ? token(g, g->bos, unigram ? -1 : 1) : -1;
    ML_TRY(ml_sentencepiece_json(&p, s->begin, flag(g->add_eos, unigram) ? s->end : -1, &s->root));
done:
    ml_sentencepiece_destroy(&p);
    return st;
}

/* ---- BERT ---------------------------------------------------------------------------------- */

/* Words have the mark of a blank before them there, and what continues them has nothing. */
static ml_status add_word(ml_maker *m, const ml_gguf_vocabulary *g, int64_t id)
{
    ml_text text = {0};
    const char *word = g->tokens[id];
    int32_t kind = kind_of(g, id);
    bool whole = !strncmp(word, BLANK, 3) && word[3], plain = kind == ML_PIECE_NORMAL;
    ml_status st = ml_text_printf(&text, "%s%s", whole || !plain ? "" : "##",
                                  whole && plain ? word + 3 : word);
    if (st == ML_OK) st = ml_maker_token(m, id, text.data);
    if (st == ML_OK && kind == ML_PIECE_CONTROL) st = ml_maker_added(m, id, text.data, true);
    ml_text_destroy(&text);
    return st;
}

static ml_status read_words(ml_source *s, const ml_gguf_vocabulary *g)
{
    ml_status st = ML_OK;
    ml_maker m = {0};
    bool lower = flag(g->lowercase, true), strips = flag(g->strip_accents, lower);
    int64_t cls = token(g, g->bos, 101), sep = token(g, g->sep, 102), unk = token(g, g->unk, 100);
    ML_TRY(ml_maker_start(&m, false));
    for (int64_t id = 0; id < g->ntokens; id++) ML_TRY(add_word(&m, g, id));
    s->begin = flag(g->add_bos, true) ? cls : -1;
    s->end = g->eos >= 0 ? token(g, g->eos, -1) : sep;
    s->root = json_pack(
        "{s:s, s:O, s:{s:s, s:b, s:b, s:b, s:b}, s:{s:s}, s:o, s:{s:s, s:s, s:b}, "
        "s:{s:s, s:s?, s:s, s:i, s:O}}",
        "version", "1.0", "added_tokens", m.added, "normalizer", "type", "BertNormalizer",
        "clean_text", 1, "handle_chinese_chars", 1, "strip_accents", strips, "lowercase", lower,
        "pre_tokenizer", "type", "BertPreTokenizer", "post_processor",
        ml_make_template(s->begin < 0 ? NULL : g->tokens[s->begin], s->begin,
                         sep < 0 ? NULL : g->tokens[sep], sep),
        "decoder", "type", "WordPiece", "prefix", "##", "cleanup", 1, "model", "type", "WordPiece",
        "unk_token", unk < 0 ? NULL : g->tokens[unk], "continuing_subword_prefix", "##",
        "max_input_chars_per_word", INT_MAX, "vocab", m.vocab);
    if (!s->root) st = no_memory();
done:
    ml_maker_destroy(&m);
    return st;
}

/* ---- all ----------------------------------------------------------------------------------- */

static ml_status read_any(ml_source *s, const ml_gguf_vocabulary *g)
{
    const char *model = g->model ? g->model : "missing";
    if (g->eos >= g->ntokens || g->bos >= g->ntokens)
        return ml_fail(ML_INPUT,
                       "the eos or bos token id (%" PRId64 ", %" PRId64
                       ") is not one of the %" PRId64 " tokens",
                       g->eos, g->bos, g->ntokens);
    if (!strcmp(model, "gpt2")) return read_bytes(s, g);
    if (!strcmp(model, "llama")) return read_pieces(s, g, false);
    if (!strcmp(model, "t5")) return read_pieces(s, g, true);
    if (!strcmp(model, "bert")) return read_words(s, g);
    return ml_fail(ML_INPUT,
                   "tokenizer.ggml.model is \"%s\"; known are gpt2 (byte-level BPE), llama and t5 "
                   "(SentencePiece) and bert (WordPiece)",
                   model);
}

ml_status ml_tokenizer_from_gguf(const ml_gguf_vocabulary *gguf, ml_text *json)
{
    ml_source s = {.begin = -1, .end = -1, .bos = -1};
    ml_status st = read_any(&s, gguf);
    if (st == ML_OK) st = ml_source_write(&s, json);
    ml_source_destroy(&s);
    return st == ML_OK ? ML_OK : ml_fail_within(st, "tokenizer");
}
