/* The tokenizer as a pipeline: added tokens out of the text, the normalizer, added tokens once
 * more, the pre-tokenizer, and the model for each piece; back by the decoder. */
#include <inttypes.h>

#include "data/tokenizer/added.h"
#include "data/tokenizer/canonical.h"
#include "data/tokenizer/decoder.h"
#include "data/tokenizer/normalizer.h"
#include "data/tokenizer/postprocessor.h"
#include "data/tokenizer/pretokenizer.h"
#include "data/tokenizer/stages.h"
#include "data/tokenizer/tokenizer_json.h"
#include "io/utf8.h"

struct ml_tokenizer {
    ml_vocabulary vocabulary;
    ml_added *added;
    ml_normalizer *normalizer; /* or NULL */
    ml_pretokenizer *pretokenizer;
    const ml_model_kind *kind;
    void *model;
    bool bytes; /* the model works on bytes, whether they are UTF-8 or not */
    ml_postprocessor postprocessor;
    ml_decoder *decoder;
    int32_t begin, end;
    int64_t lost;
    ml_text valid; /* a text in which what is no UTF-8 was replaced */
    bool borrows;  /* all that encoding only reads */
};

/* ---- making it ----------------------------------------------------------------------------- */

static ml_status add_token(ml_tokenizer *t, const ml_added_token *token)
{
    int64_t length;
    const char *text = ml_vocabulary_text(&t->vocabulary, token->id, &length);
    const ml_aligned *made;
    if (!token->normalized || !t->normalizer) return ml_added_add(t->added, token, text, length);
    ml_status st = ml_normalizer_run(t->normalizer, text, length, true, &made);
    if (st == ML_OK)
        st = ml_vocabulary_show(&t->vocabulary, token->id, made->text.data, made->text.length);
    return st == ML_OK ? ml_added_add(t->added, token, made->text.data, made->text.length) : st;
}

static ml_status read_added(ml_tokenizer *t, const json_t *added)
{
    ml_status st = ml_added_create(&t->added);
    size_t i;
    json_t *one;
    json_array_foreach(added, i, one)
    {
        if (st != ML_OK) break;
        const json_t *content = json_object_get(one, "content");
        ml_added_token token = {.id = ml_vocabulary_find(&t->vocabulary, json_string_value(content),
                                                         (int64_t)json_string_length(content)),
                                .special = ml_stage_flag(one, "special", false),
                                .single_word = ml_stage_flag(one, "single_word", false),
                                .lstrip = ml_stage_flag(one, "lstrip", false),
                                .rstrip = ml_stage_flag(one, "rstrip", false)};
        token.normalized = ml_stage_flag(one, "normalized", !token.special);
        if (t->vocabulary.tokens[token.id].special) token.special = true;
        st = add_token(t, &token);
    }
    return st;
}

/* What begins and ends a text is never to be found in data: it is special. */
static ml_status mark_special(ml_tokenizer *t, int64_t id, int32_t *out)
{
    *out = -1;
    if (id < 0) return ML_OK;
    if (id >= t->vocabulary.size || !t->vocabulary.tokens[id].known)
        return ml_fail(ML_INPUT,
                       "tokenizer: the token with id %" PRId64
                       " that begins or ends a text is not in the vocabulary",
                       id);
    *out = (int32_t)id;
    t->vocabulary.tokens[id].special = true;
    return ML_OK;
}

/* The same for tokens that are no added ones. */
static ml_status add_ends(ml_tokenizer *t)
{
    ml_status st = ML_OK;
    int32_t ids[] = {t->begin, t->end};
    for (int i = 0; i < 2 && st == ML_OK; i++) {
        if (ids[i] < 0 || t->vocabulary.tokens[ids[i]].added ||
            !t->vocabulary.tokens[ids[i]].length)
            continue;
        t->vocabulary.tokens[ids[i]].added = true;
        st = add_token(t, &(ml_added_token){.id = ids[i], .special = true});
    }
    return st;
}

/* Whether the model sees the bytes themselves instead of their alphabet. */
static void choose_bytes(ml_tokenizer *t, const json_t *model)
{
    t->bytes = t->kind->takes_bytes && ml_pretokenizer_ends_in_bytes(t->pretokenizer) &&
               !*ml_stage_text(model, "continuing_subword_prefix") &&
               !*ml_stage_text(model, "end_of_word_suffix") &&
               !ml_stage_flag(model, "byte_fallback", false);
    if (t->bytes) ml_pretokenizer_keep_bytes(t->pretokenizer);
}

static ml_status read_all(ml_tokenizer *t, const json_t *root, const ml_plain_model *plain,
                          const ml_canonical *canonical)
{
    ml_status st = ML_OK;
    const json_t *model = json_object_get(root, "model");
    ML_TRY(ml_tokenizer_json_vocabulary(&t->vocabulary, root, plain));
    ML_TRY(ml_tokenizer_json_kind(model, &t->kind));
    ML_TRY(mark_special(t, canonical->begin, &t->begin));
    ML_TRY(mark_special(t, canonical->end, &t->end));
    ML_TRY(ml_normalizer_create(&t->normalizer, json_object_get(root, "normalizer"),
                                t->vocabulary.frozen.nodes ? &t->vocabulary.frozen : NULL));
    ML_TRY(read_added(t, json_object_get(root, "added_tokens")));
    ML_TRY(add_ends(t));
    ML_TRY(ml_pretokenizer_create(&t->pretokenizer, json_object_get(root, "pre_tokenizer")));
    choose_bytes(t, model);
    ML_TRY(t->kind->create(&t->model, model, plain, &t->vocabulary, t->bytes));
    ML_TRY(ml_postprocessor_read(&t->postprocessor, json_object_get(root, "post_processor"),
                                 &t->vocabulary));
    ML_TRY(ml_decoder_create(&t->decoder, json_object_get(root, "decoder")));
done:
    return st;
}

static ml_status create(ml_tokenizer **out, const char *json, int64_t length, bool cut)
{
    ml_status st = ML_OK;
    ml_tokenizer *t = NULL;
    ml_canonical canonical;
    ml_plain_model plain = {0};
    json_t *root = NULL;
    ML_TRY(ml_canonical_read(&canonical, &root, cut ? &plain : NULL, json, length));
    ML_NEW(t, 1, ML_MEM_OTHER, "a tokenizer");
    ML_TRY(read_all(t, root, &plain, &canonical));
    *out = t;
    t = NULL;
done:
    ml_tokenizer_destroy(t);
    ml_plain_model_destroy(&plain);
    json_decref(root);
    return st;
}

ml_status ml_tokenizer_create(ml_tokenizer **out, const char *json, int64_t length)
{
    ml_status st = create(out, json, length, true);
    if (st != ML_INPUT) return st;
    ml_error_clear(); /* what is not plainly written is not wrong; what is wrong is said so here */
    return create(out, json, length, false);
}

void ml_tokenizer_destroy(ml_tokenizer *t)
{
    if (!t) return;
    if (t->kind && t->model) t->kind->destroy(t->model);
    ml_normalizer_destroy(t->normalizer);
    ml_pretokenizer_destroy(t->pretokenizer);
    ml_text_destroy(&t->valid);
    if (!t->borrows) {
        ml_added_destroy(t->added);
        ml_postprocessor_destroy(&t->postprocessor);
        ml_decoder_destroy(t->decoder);
        ml_vocabulary_destroy(&t->vocabulary);
    }
    ml_memory_free(t);
}

ml_status ml_tokenizer_share(ml_tokenizer **out, const ml_tokenizer *of)
{
    ml_status st = ML_OK;
    ml_tokenizer *t = NULL;
    ML_NEW(t, 1, ML_MEM_OTHER, "a tokenizer");
    *t = *of;
    t->borrows = true;
    t->normalizer = NULL;
    t->pretokenizer = NULL;
    t->model = NULL;
    t->lost = 0;
    t->valid = (ml_text){0};
    ML_TRY(ml_normalizer_share(&t->normalizer, of->normalizer));
    ML_TRY(ml_pretokenizer_share(&t->pretokenizer, of->pretokenizer));
    ML_TRY(of->kind->share(&t->model, of->model));
    *out = t;
    t = NULL;
done:
    ml_tokenizer_destroy(t);
    return st;
}

/* ---- encoding ------------------------------------------------------------------------------ */

typedef struct target {
    ml_tokenizer *tokenizer;
    ml_encoding encoding;
    ml_piece normalized; /* the text in work */
    const char *start;   /* of the whole text; NULL: what is in work begins elsewhere */
} target;

static ml_status encode_piece(void *context, const ml_piece *piece)
{
    target *to = context;
    return to->tokenizer->kind->encode(to->tokenizer->model, piece->bytes, piece->length,
                                       &to->encoding);
}

/* A token, or normalized text between tokens. */
static ml_status take_normalized(void *context, int32_t id, const char *text, int64_t length)
{
    target *to = context;
    if (id >= 0) return ml_ids_add(to->encoding.ids, id);
    int64_t start = text - to->normalized.bytes;
    const ml_piece part = ml_piece_part(&to->normalized, start, start + length);
    return ml_pretokenizer_run(to->tokenizer->pretokenizer, &part, encode_piece, to);
}

/* A token, or text between tokens. */
static ml_status take_text(void *context, int32_t id, const char *text, int64_t length)
{
    target *to = context;
    ml_tokenizer *t = to->tokenizer;
    bool first = text == to->start;
    if (id >= 0) return ml_ids_add(to->encoding.ids, id);
    to->normalized = (ml_piece){text, length, first ? 1 : 0};
    if (t->normalizer) {
        const ml_aligned *made;
        ml_status st = ml_normalizer_run(t->normalizer, text, length, first, &made);
        if (st != ML_OK) return st;
        to->normalized = (ml_piece){made->text.data, made->text.length, made->first};
    }
    const ml_added_search search = {true, to->encoding.specials, take_normalized, to};
    return ml_added_find(t->added, to->normalized.bytes, to->normalized.length, &search);
}

static ml_status encode_valid(target *to, const char *text, int64_t length)
{
    ml_tokenizer *t = to->tokenizer;
    const ml_added_search search = {false, to->encoding.specials, take_text, to};
    return ml_added_find(t->added, text, length, &search);
}

/* Past the characters of ASCII at `at`, eight at a time: most text is nothing else. */
static int64_t skip_ascii(const char *bytes, int64_t length, int64_t at)
{
    uint64_t eight;
    for (; length - at >= 8; at += 8) {
        memcpy(&eight, bytes + at, 8);
        if (eight & 0x8080808080808080u) break;
    }
    return at;
}

/* The end of the run of valid (or of invalid) UTF-8 that begins at `at`. */
static int64_t end_of_validity(const char *bytes, int64_t length, int64_t at, bool *valid)
{
    int size;
    *valid = ml_utf8_next(bytes, length, at, &size) >= 0;
    if (*valid) at = skip_ascii(bytes, length, at);
    while (at < length && (ml_utf8_next(bytes, length, at, &size) >= 0) == *valid) {
        at += size;
        if (*valid) at = skip_ascii(bytes, length, at);
    }
    return at;
}

/* For a model of bytes: what is no UTF-8 makes pieces of its own. */
static ml_status encode_bytes(target *to, const char *bytes, int64_t length)
{
    bool valid;
    for (int64_t at = 0, end; at < length; at = end) {
        end = end_of_validity(bytes, length, at, &valid);
        ml_status st = valid ? encode_valid(to, bytes + at, end - at)
                             : encode_piece(to, &(ml_piece){bytes + at, end - at, 0});
        if (st != ML_OK) return st;
    }
    return ML_OK;
}

/* For any other model: a byte that is no UTF-8 becomes U+FFFD, and is lost. */
static ml_status encode_text(target *to, const char *bytes, int64_t length)
{
    ml_status st = ML_OK;
    bool valid;
    ml_text *text = &to->tokenizer->valid;
    int64_t end = end_of_validity(bytes, length, 0, &valid);
    if (valid && end == length) return encode_valid(to, bytes, length);
    text->length = 0;
    for (int64_t at = 0; at < length; at = end) {
        end = end_of_validity(bytes, length, at, &valid);
        if (valid) ML_TRY(ml_text_add(text, bytes + at, end - at));
        for (int64_t i = at; !valid && i < end; i++) ML_TRY(ml_text_add(text, UTF8_REPLACEMENT, 3));
        if (!valid) to->tokenizer->lost += end - at;
    }
    to->start = text->data;
    ML_TRY(encode_valid(to, text->data, text->length));
done:
    return st;
}

ml_status ml_tokenizer_encode(ml_tokenizer *tokenizer, const char *bytes, int64_t length,
                              bool specials, ml_ids *ids)
{
    target to = {tokenizer, {ids, &tokenizer->lost, specials}, {0}, bytes};
    if (length < 1) return ML_OK;
    return tokenizer->bytes ? encode_bytes(&to, bytes, length) : encode_text(&to, bytes, length);
}

int64_t ml_tokenizer_spelled(const ml_tokenizer *tokenizer, const char *bytes, int64_t length)
{
    return ml_added_count_specials(tokenizer->added, bytes, length);
}

/* ---- decoding and questions ---------------------------------------------------------------- */

ml_status ml_tokenizer_decode(const ml_tokenizer *tokenizer, const int32_t *ids, int64_t count,
                              ml_text *bytes)
{
    for (int64_t i = 0; i < count; i++)
        if (ids[i] < 0)
            return ml_fail(ML_INPUT, "token id %" PRId32 " is negative: ids go from 0", ids[i]);
    return ml_decoder_run(tokenizer->decoder, &tokenizer->vocabulary, ids, count, bytes);
}

int64_t ml_tokenizer_size(const ml_tokenizer *tokenizer) { return tokenizer->vocabulary.size; }
int32_t ml_tokenizer_end_of_text(const ml_tokenizer *tokenizer) { return tokenizer->end; }
int32_t ml_tokenizer_begin_of_text(const ml_tokenizer *tokenizer) { return tokenizer->begin; }
int64_t ml_tokenizer_lost(const ml_tokenizer *tokenizer) { return tokenizer->lost; }

ml_status ml_tokenizer_begin(const ml_tokenizer *tokenizer, ml_ids *ids)
{
    const ml_template *t = &tokenizer->postprocessor.single;
    if (tokenizer->begin < 0) return ML_OK;
    ml_status st = ml_ids_add(ids, tokenizer->begin);
    bool templated = t->parts[0].id == tokenizer->begin;
    for (int64_t i = 1; st == ML_OK && templated && i < t->count && t->parts[i].id >= 0; i++)
        st = ml_ids_add(ids, t->parts[i].id);
    return st;
}

bool ml_tokenizer_is_special(const ml_tokenizer *tokenizer, int32_t id)
{
    return id >= 0 && id < tokenizer->vocabulary.size && tokenizer->vocabulary.tokens[id].special;
}

const ml_template_part *ml_tokenizer_template(const ml_tokenizer *tokenizer, bool pair,
                                              int64_t *count)
{
    const ml_template *t = pair ? &tokenizer->postprocessor.pair : &tokenizer->postprocessor.single;
    *count = t->count;
    return t->parts;
}
