/* The model of a SentencePiece file or of a GGUF made from one, exactly as that library encodes:
 * {"type": "SentencePiece", "algorithm": "bpe", "unigram" or "char", "byte_fallback": false,
 *  "pieces": [[text, score, kind], …]}. */
#include <float.h>
#include <stdlib.h>

#include "data/tokenizer/models/bpe.h"
#include "data/tokenizer/models/viterbi.h"
#include "data/tokenizer/stages.h"

typedef struct sentencepiece {
    const ml_vocabulary *vocabulary; /* borrowed */
    ml_bpe *bpe;                     /* or the other one */
    ml_viterbi viterbi;
    int32_t unknown; /* −1: none */
    bool fallback;
    int32_t byte_tokens[256];
    int32_t next_character; /* the symbol of the next character that is no piece */
} sentencepiece;

static void destroy(void *self)
{
    sentencepiece *s = self;
    if (!s) return;
    ml_bpe_destroy(s->bpe);
    ml_viterbi_destroy(&s->viterbi);
    ml_memory_free(s);
}

static ml_status share(void **out, const void *of)
{
    ml_status st = ML_OK;
    sentencepiece *s = NULL;
    const sentencepiece *from = of;
    ML_NEW(s, 1, ML_MEM_OTHER, "a SentencePiece model");
    *s = *from;
    s->bpe = NULL;
    s->viterbi = ml_viterbi_share(&from->viterbi);
    if (from->bpe) ML_TRY(ml_bpe_share(&s->bpe, from->bpe));
    *out = s;
    s = NULL;
done:
    destroy(s);
    return st;
}

static bool is_usable(const struct vocabulary_token *token)
{
    return token->kind == ML_PIECE_NORMAL || token->kind == ML_PIECE_USER_DEFINED ||
           token->kind == ML_PIECE_UNUSED;
}

/* ---- merges of a BPE: whatever two symbols spell a piece together, the best score first ----- */

typedef struct ranked {
    float score;
    int32_t id;
} ranked;

static int by_score(const void *a, const void *b)
{
    const ranked *x = a, *y = b;
    return x->score != y->score ? (x->score < y->score) - (x->score > y->score)
                                : (x->id > y->id) - (x->id < y->id);
}

/* The symbol of a part of a piece: a piece, or a single character, which gets one here. */
static ml_status part_of(sentencepiece *s, const char *text, int64_t length, int32_t *id)
{
    int size;
    *id = ml_bpe_find(s->bpe, text, length);
    (void)ml_utf8_next(text, length, 0, &size);
    if (*id >= 0 || size < length) return ML_OK;
    *id = s->next_character++;
    return ml_bpe_add_token(s->bpe, *id, text, length, false);
}

static ml_status add_merges(sentencepiece *s, int32_t joined, int32_t rank)
{
    ml_status st = ML_OK;
    int64_t length;
    int size;
    int32_t left, right;
    const char *text = ml_vocabulary_text(s->vocabulary, joined, &length);
    for (int64_t at = 0; at < length; at += size) {
        (void)ml_utf8_next(text, length, at, &size);
        if (!at) continue;
        ML_TRY(part_of(s, text, at, &left));
        if (left >= 0) ML_TRY(part_of(s, text + at, length - at, &right));
        if (left >= 0 && right >= 0)
            ML_TRY(ml_bpe_add_merge(s->bpe, left, right, joined, rank, text, at, text + at,
                                    length - at));
    }
done:
    return st;
}

static ml_status make_merges(sentencepiece *s)
{
    ml_status st = ML_OK;
    const ml_vocabulary *v = s->vocabulary;
    ranked *order = NULL;
    int64_t n = 0;
    ML_NEW(order, v->size, ML_MEM_OTHER, "pieces by their scores");
    for (int64_t id = 0; id < v->size; id++) {
        if (!v->tokens[id].known || !is_usable(&v->tokens[id])) continue;
        order[n++] = (ranked){v->tokens[id].score, (int32_t)id};
    }
    qsort(order, (size_t)n, sizeof *order, by_score);
    int32_t rank = -1;
    for (int64_t i = 0; i < n; i++) {
        if (!i || order[i].score != order[i - 1].score) rank++;
        ML_TRY(add_merges(s, order[i].id, rank));
    }
done:
    ml_memory_free(order);
    return st;
}

static ml_status create_bpe(sentencepiece *s, bool merges)
{
    ml_status st = ML_OK;
    const ml_vocabulary *v = s->vocabulary;
    ml_bpe_options options = {.characters = true,
                              .unknown = s->unknown,
                              .byte_tokens = s->fallback ? s->byte_tokens : NULL,
                              .prefix = "",
                              .suffix = "",
                              .frozen = v->frozen.nodes ? &v->frozen : NULL};
    for (int64_t id = 0; id < v->size; id++)
        options.unmerge = options.unmerge || v->tokens[id].kind == ML_PIECE_UNUSED;
    ML_TRY(ml_bpe_create(&s->bpe, v, v->size, &options));
    for (int64_t id = 0; id < v->size; id++) {
        int64_t length;
        const char *text = ml_vocabulary_text(v, id, &length);
        if (v->tokens[id].known && is_usable(&v->tokens[id]))
            ML_TRY(ml_bpe_add_token(s->bpe, (int32_t)id, text, length, false));
    }
    s->next_character = (int32_t)v->size;
    if (merges) ML_TRY(make_merges(s));
done:
    return st;
}

/* ---- unigram ------------------------------------------------------------------------------- */

static ml_status create_unigram(sentencepiece *s)
{
    const float unknown_penalty = 10;
    ml_status st = ML_OK;
    const ml_vocabulary *v = s->vocabulary;
    float least = FLT_MAX;
    s->viterbi.single = true;
    s->viterbi.vocabulary = v;
    ML_NEW(s->viterbi.scores, v->size, ML_MEM_OTHER, "scores");
    for (int64_t id = 0; id < v->size; id++) {
        int64_t length;
        const char *text = ml_vocabulary_text(v, id, &length);
        const struct vocabulary_token *token = &v->tokens[id];
        if (!token->known || !is_usable(token)) continue;
        s->viterbi.scores[id] = (double)token->score;
        if (token->kind == ML_PIECE_NORMAL && token->score < least) least = token->score;
        ML_TRY(ml_trie_add(&s->viterbi.trie, text, length, (int32_t)id));
    }
    s->viterbi.unknown_score = (double)(least - unknown_penalty);
done:
    return st;
}

static ml_status encode_unigram(sentencepiece *s, const char *piece, int64_t length,
                                const ml_encoding *to)
{
    bool behind_unknown = false;
    ml_status st = ml_viterbi_run(&s->viterbi, piece, length, to->specials);
    for (int64_t i = s->viterbi.nspans - 1; i >= 0 && st == ML_OK; i--) {
        struct viterbi_span span = s->viterbi.spans[i];
        bool unknown = span.id < 0;
        if (!unknown) st = ml_ids_add(to->ids, span.id);
        if (unknown && s->fallback)
            for (int64_t at = span.start; at < span.end && st == ML_OK; at++)
                st = ml_ids_add(to->ids, s->byte_tokens[(unsigned char)piece[at]]);
        else if (unknown && s->unknown < 0)
            *to->lost += span.end - span.start;
        else if (unknown && !behind_unknown)
            st = ml_ids_add(to->ids, s->unknown);
        behind_unknown = unknown;
    }
    return st;
}

/* ---- the model ----------------------------------------------------------------------------- */

static int32_t find_unknown(const ml_vocabulary *v)
{
    for (int64_t id = 0; id < v->size; id++)
        if (v->tokens[id].known && v->tokens[id].kind == ML_PIECE_UNKNOWN) return (int32_t)id;
    return -1;
}

static ml_status create(void **out, const json_t *json, const ml_plain_model *plain,
                        const ml_vocabulary *vocabulary, bool bytes)
{
    ml_status st = ML_OK;
    sentencepiece *s = NULL;
    const char *algorithm = ml_stage_text(json, "algorithm");
    (void)plain, (void)bytes;
    ML_NEW(s, 1, ML_MEM_OTHER, "a SentencePiece model");
    s->vocabulary = vocabulary;
    s->fallback = ml_stage_flag(json, "byte_fallback", false);
    if (!ml_byte_tokens(vocabulary, s->byte_tokens) && s->fallback) {
        st = ml_fail(ML_INPUT, "the model has byte_fallback, but not all tokens of bytes");
        goto done;
    }
    s->unknown = find_unknown(vocabulary);
    if (!strcmp(algorithm, "unigram"))
        ML_TRY(create_unigram(s));
    else if (!strcmp(algorithm, "bpe") || !strcmp(algorithm, "char"))
        ML_TRY(create_bpe(s, *algorithm == 'b'));
    else
        ML_TRY(ml_fail(ML_INPUT, "SentencePiece's algorithm \"%s\" is not known", algorithm));
    *out = s;
    s = NULL;
done:
    destroy(s);
    return st;
}

static ml_status encode(void *self, const char *piece, int64_t length, const ml_encoding *to)
{
    sentencepiece *s = self;
    return s->bpe ? ml_bpe_encode(s->bpe, piece, length, to) : encode_unigram(s, piece, length, to);
}

const ml_model_kind ml_sentencepiece_kind = {"SentencePiece", create, share,
                                             destroy,         encode, false};
