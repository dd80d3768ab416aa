/* The model "Unigram" of a tokenizer.json. */
#include <math.h>

#include "data/tokenizer/models/viterbi.h"
#include "data/tokenizer/stages.h"

typedef struct unigram {
    ml_viterbi viterbi;
    int32_t unknown; /* −1: none */
    bool fallback;
    int32_t byte_tokens[256];
} unigram;

static void destroy(void *self)
{
    unigram *u = self;
    if (!u) return;
    ml_viterbi_destroy(&u->viterbi);
    ml_memory_free(u);
}

static ml_status share(void **out, const void *of)
{
    ml_status st = ML_OK;
    unigram *u = NULL;
    ML_NEW(u, 1, ML_MEM_OTHER, "a Unigram model");
    *u = *(const unigram *)of;
    u->viterbi = ml_viterbi_share(&u->viterbi);
    *out = u;
done:
    return st;
}

static ml_status read_pieces(unigram *u, const json_t *vocab)
{
    const double unknown_penalty = 10;
    ml_status st = ML_OK;
    double least = INFINITY;
    size_t id;
    json_t *piece;
    ML_NEW(u->viterbi.scores, (int64_t)json_array_size(vocab), ML_MEM_OTHER, "scores");
    json_array_foreach(vocab, id, piece)
    {
        const json_t *text = json_array_get(piece, 0), *score = json_array_get(piece, 1);
        if (!json_is_string(text) || !json_is_number(score)) {
            st = ml_fail(ML_INPUT, "piece %zu is not a text and its score", id);
            goto done;
        }
        u->viterbi.scores[id] = json_number_value(score);
        least = fmin(least, u->viterbi.scores[id]);
        ML_TRY(ml_trie_add(&u->viterbi.trie, json_string_value(text),
                           (int64_t)json_string_length(text), (int32_t)id));
    }
    u->viterbi.unknown_score = least - unknown_penalty;
done:
    return st;
}

static ml_status create(void **out, const json_t *json, const ml_plain_model *plain,
                        const ml_vocabulary *vocabulary, bool bytes)
{
    ml_status st = ML_OK;
    unigram *u = NULL;
    const json_t *unknown = json_object_get(json, "unk_id"),
                 *vocab = json_object_get(json, "vocab");
    (void)plain, (void)bytes;
    if (!json_is_array(vocab) || !json_array_size(vocab))
        return ml_fail(ML_INPUT, "the model has no \"vocab\" of a Unigram");
    json_int_t id = json_is_integer(unknown) ? json_integer_value(unknown) : -1;
    if (id < -1 || id >= (json_int_t)json_array_size(vocab))
        return ml_fail(ML_INPUT, "the model's unk_id is outside of its vocabulary");
    ML_NEW(u, 1, ML_MEM_OTHER, "a Unigram model");
    u->unknown = (int32_t)id;
    u->viterbi.vocabulary = vocabulary;
    u->fallback = ml_stage_flag(json, "byte_fallback", false);
    (void)ml_byte_tokens(vocabulary, u->byte_tokens);
    ML_TRY(read_pieces(u, vocab));
    *out = u;
    u = NULL;
done:
    destroy(u);
    return st;
}

/* What no single piece is: a piece all the same, where unknown characters together spell one; else
 * its bytes where all are tokens; else the unknown token. */
static ml_status emit_unknown(const unigram *u, const char *bytes, int64_t length,
                              const ml_encoding *to)
{
    ml_status st = ML_OK;
    int64_t matched;
    int32_t whole = ml_trie_longest(&u->viterbi.trie, bytes, length, 0, &matched);
    bool complete = u->fallback;
    if (whole >= 0 && matched == length &&
        (to->specials || !u->viterbi.vocabulary->tokens[whole].special))
        return ml_ids_add(to->ids, whole);
    for (int64_t i = 0; complete && i < length; i++)
        complete = u->byte_tokens[(unsigned char)bytes[i]] >= 0;
    for (int64_t i = 0; complete && i < length && st == ML_OK; i++)
        st = ml_ids_add(to->ids, u->byte_tokens[(unsigned char)bytes[i]]);
    if (complete) return st;
    if (u->unknown >= 0) return ml_ids_add(to->ids, u->unknown);
    *to->lost += length;
    return ML_OK;
}

static ml_status encode(void *self, const char *piece, int64_t length, const ml_encoding *to)
{
    unigram *u = self;
    ml_status st = ml_viterbi_run(&u->viterbi, piece, length, to->specials);
    for (int64_t i = u->viterbi.nspans - 1; i >= 0 && st == ML_OK; i--) {
        struct viterbi_span span = u->viterbi.spans[i];
        if (span.id >= 0 && span.id != u->unknown) {
            st = ml_ids_add(to->ids, span.id);
            continue;
        }
        int64_t end = span.end; /* unknown neighbours are one */
        for (; i > 0; i--) {
            int32_t next = u->viterbi.spans[i - 1].id;
            if (next >= 0 && next != u->unknown) break;
            end = u->viterbi.spans[i - 1].end;
        }
        st = emit_unknown(u, piece + span.start, end - span.start, to);
    }
    return st;
}

const ml_model_kind ml_unigram_kind = {"Unigram", create, share, destroy, encode, false};
