/* The tokenizer: special tokens out of the text first, then pieces, then merges; and back. */
#include <inttypes.h>

#include "data/bpe.h"
#include "data/tokenizer_private.h"

enum { MOST_ADDED = 8192 };

typedef struct added_token {
    int32_t id;
    bool special;
    int64_t length;
    const char *text; /* in the tokenizer's `bytes` */
} added_token;

struct ml_tokenizer {
    int64_t size;
    int64_t
        *offsets; /* [size + 1] the bytes of token i are bytes.data[offsets[i] … offsets[i + 1]) */
    ml_text bytes;
    added_token *added; /* [nadded] the longest first */
    int64_t nadded;
    uint8_t *special;         /* [size] */
    bool begins_added[256];   /* an added token begins with this byte */
    bool begins_content[256]; /* one that is not special does */
    ml_splitter *splitter;
    ml_bpe *bpe;
    int32_t begin, end;
    int64_t lost;
};

/* ---- making it from the canonical JSON ----------------------------------------------------- */

/* The member of the right type, or NULL after ml_fail. */
static json_t *member(const json_t *root, const char *key, json_type type)
{
    json_t *value = json_object_get(root, key);
    bool boolean = type == JSON_TRUE && json_is_boolean(value);
    if (value && (boolean || json_typeof(value) == type)) return value;
    (void)ml_fail(ML_INPUT, "tokenizer: its \"%s\" is missing or of the wrong type", key);
    return NULL;
}

static ml_status read_added(ml_tokenizer *t, const json_t *added)
{
    ml_status st = ML_OK;
    size_t i;
    json_t *one;
    if (json_array_size(added) > MOST_ADDED)
        return ml_fail(ML_INPUT, "tokenizer: it has %zu added tokens, expected at most %d",
                       json_array_size(added), MOST_ADDED);
    ML_NEW(t->added, (int64_t)json_array_size(added), ML_MEM_OTHER, "the added tokens");
    json_array_foreach(added, i, one)
    {
        json_t *id = member(one, "id", JSON_INTEGER), *special = member(one, "special", JSON_TRUE);
        if (!id || !special) return ML_INPUT;
        if (json_integer_value(id) < 0 || json_integer_value(id) >= t->size)
            return ml_fail(ML_INPUT,
                           "tokenizer: an added token has the id %" JSON_INTEGER_FORMAT
                           " of %" PRId64,
                           json_integer_value(id), t->size);
        t->added[t->nadded++] =
            (added_token){.id = (int32_t)json_integer_value(id), .special = json_is_true(special)};
        t->special[json_integer_value(id)] =
            json_is_true(special) ? 2 : 1; /* for now: 1 marks added, 2 special */
    }
done:
    return st;
}

/* Appends the bytes of one token to t->bytes and tells the encoder those that are written in the
 * byte-level alphabet. Added tokens are spelt as they are, and a merge may make one of them all
 * the same. */
static ml_status read_token(ml_tokenizer *t, int32_t id, const json_t *token)
{
    ml_status st;
    int64_t start = t->bytes.length;
    const char *text = json_is_string(token) ? json_string_value(token) : "";
    int64_t length = json_is_string(token) ? (int64_t)json_string_length(token) : 0;
    t->offsets[id] = start;
    bool decoded = ml_byte_level_decode(text, length, &t->bytes, &st);
    if (decoded)
        st = ml_bpe_add_token(t->bpe, id, t->bytes.data + start, t->bytes.length - start,
                              t->special[id] == 2);
    if (st != ML_OK || (decoded && !t->special[id])) return st;
    t->bytes.length = start; /* what was decoded, up to a character outside the alphabet */
    return ml_text_add(&t->bytes, text, length);
}

static ml_status read_tokens(ml_tokenizer *t, const json_t *tokens)
{
    ml_status st = ML_OK;
    ML_NEW(t->offsets, t->size + 1, ML_MEM_OTHER, "the vocabulary");
    ML_TRY(ml_text_add(&t->bytes, "", 0)); /* so that an empty token has an address */
    for (int64_t id = 0; id < t->size; id++)
        ML_TRY(read_token(t, (int32_t)id, json_array_get(tokens, (size_t)id)));
    t->offsets[t->size] = t->bytes.length;
done:
    return st;
}

/* The id of a merge's part, written in the byte-level alphabet. */
static ml_status find_part(const ml_tokenizer *t, const char *text, int64_t length, ml_text *joined,
                           int32_t *id)
{
    ml_status st;
    int64_t start = joined->length;
    *id = -1;
    if (ml_byte_level_decode(text, length, joined, &st))
        *id = ml_bpe_find(t->bpe, joined->data + start, joined->length - start);
    if (st != ML_OK) return st;
    return *id >= 0
               ? ML_OK
               : ml_fail(ML_INPUT, "tokenizer: a merge has the part \"%.*s\", which is no token",
                         (int)length, text);
}

static ml_status read_merge(ml_tokenizer *t, const char *merge, ml_text *joined)
{
    int32_t left, right;
    const char *blank = merge ? strchr(merge, ' ') : NULL;
    if (!blank)
        return ml_fail(ML_INPUT, "tokenizer: the merge \"%s\" has no blank",
                       merge ? merge : "(no text)");
    joined->length = 0;
    ml_status st = find_part(t, merge, blank - merge, joined, &left);
    if (st == ML_OK) st = find_part(t, blank + 1, (int64_t)strlen(blank + 1), joined, &right);
    if (st != ML_OK) return st;
    int32_t whole = ml_bpe_find(t->bpe, joined->data, joined->length);
    if (whole < 0)
        return ml_fail(ML_INPUT, "tokenizer: the merge \"%s\" makes no token of the vocabulary",
                       merge);
    ml_bpe_add_merge(t->bpe, left, right, whole);
    return ML_OK;
}

static ml_status read_merges(ml_tokenizer *t, const json_t *merges)
{
    ml_status st = ML_OK;
    ml_text joined = {0};
    size_t i;
    json_t *one;
    json_array_foreach(merges, i, one) ML_TRY(read_merge(t, json_string_value(one), &joined));
done:
    ml_text_destroy(&joined);
    return st;
}

static ml_status read_split(ml_tokenizer *t, const json_t *split)
{
    const char *patterns[64];
    int64_t count = 0;
    size_t i;
    json_t *one;
    json_array_foreach(split, i, one)
    {
        if (!json_is_string(one) || count == 64)
            return ml_fail(ML_INPUT, "tokenizer: its \"split\" is not a short list of patterns");
        patterns[count++] = json_string_value(one);
    }
    return ml_splitter_create(&t->splitter, patterns, count, true);
}

/* The spellings of added tokens, once all bytes have their final place; the longest first, so that
 * it is found first. */
static ml_status settle_added(ml_tokenizer *t)
{
    for (int64_t i = 0; i < t->nadded; i++) {
        added_token a = t->added[i];
        a.text = t->bytes.data + t->offsets[a.id];
        a.length = t->offsets[a.id + 1] - t->offsets[a.id];
        if (!a.length)
            return ml_fail(ML_INPUT, "tokenizer: the added token %" PRId32 " has no text", a.id);
        t->begins_added[(unsigned char)a.text[0]] = true;
        if (!a.special) t->begins_content[(unsigned char)a.text[0]] = true;
        int64_t place = i;
        for (; place > 0 && t->added[place - 1].length < a.length; place--)
            t->added[place] = t->added[place - 1];
        t->added[place] = a;
    }
    for (int64_t i = 0; i < t->size; i++) t->special[i] = t->special[i] == 2;
    return ML_OK;
}

static ml_status read_all(ml_tokenizer *t, const json_t *root)
{
    ml_status st = ML_OK;
    const json_t *tokens = member(root, "tokens", JSON_ARRAY),
                 *added = member(root, "added", JSON_ARRAY),
                 *merges = member(root, "merges", JSON_ARRAY),
                 *split = member(root, "split", JSON_ARRAY),
                 *whole = member(root, "whole_pieces", JSON_TRUE),
                 *begin = member(root, "begin", JSON_INTEGER),
                 *end = member(root, "end", JSON_INTEGER);
    if (!tokens || !added || !merges || !split || !whole || !begin || !end) return ML_INPUT;
    t->size = (int64_t)json_array_size(tokens);
    int64_t begin_id = json_integer_value(begin), end_id = json_integer_value(end);
    if (t->size < 1 || t->size > ML_LARGEST_VOCABULARY || begin_id < -1 || begin_id >= t->size ||
        end_id < -1 || end_id >= t->size)
        return ml_fail(ML_INPUT,
                       "tokenizer: %" PRId64 " tokens, text begins with %" PRId64
                       " and ends with %" PRId64 ": not possible",
                       t->size, begin_id, end_id);
    t->begin = (int32_t)begin_id;
    t->end = (int32_t)end_id;
    ML_NEW(t->special, t->size, ML_MEM_OTHER, "the special tokens");
    ML_TRY(ml_bpe_create(&t->bpe, t->size, (int64_t)json_array_size(merges), json_is_true(whole)));
    ML_TRY(read_added(t, added));
    ML_TRY(read_tokens(t, tokens));
    ML_TRY(read_merges(t, merges));
    ML_TRY(read_split(t, split));
    ML_TRY(settle_added(t));
done:
    return st;
}

ml_status ml_tokenizer_create(ml_tokenizer **out, const char *json, int64_t length)
{
    ml_status st = ML_OK;
    ml_tokenizer *t = NULL;
    json_t *root = NULL;
    ML_TRY(ml_json_read(&root, "tokenizer", json, length));
    const char *format = json_string_value(json_object_get(root, "format"));
    if (!format || strcmp(format, "mpilora-tokenizer") != 0 ||
        json_integer_value(json_object_get(root, "version")) != 1) {
        st = ml_fail(ML_INPUT, "tokenizer: it is not a mpilora-tokenizer of version 1");
        goto done;
    }
    ML_NEW(t, 1, ML_MEM_OTHER, "a tokenizer");
    ML_TRY(read_all(t, root));
    *out = t;
    t = NULL;
done:
    ml_tokenizer_destroy(t);
    json_decref(root);
    return st;
}

void ml_tokenizer_destroy(ml_tokenizer *tokenizer)
{
    if (!tokenizer) return;
    ml_bpe_destroy(tokenizer->bpe);
    ml_splitter_destroy(tokenizer->splitter);
    ml_text_destroy(&tokenizer->bytes);
    ml_memory_free(tokenizer->offsets);
    ml_memory_free(tokenizer->added);
    ml_memory_free(tokenizer->special);
    ml_memory_free(tokenizer);
}

/* ---- encoding ------------------------------------------------------------------------------ */

typedef struct target {
    ml_tokenizer *tokenizer;
    ml_ids *ids;
} target;

static ml_status encode_piece(void *context, const char *piece, int64_t length)
{
    target *to = context;
    return ml_bpe_encode(to->tokenizer->bpe, piece, length, to->ids, &to->tokenizer->lost);
}

/* The end of the run of valid (or of invalid) UTF-8 that begins at `at`. */
static int64_t end_of_validity(const char *bytes, int64_t length, int64_t at, bool *valid)
{
    int size;
    *valid = ml_utf8_next(bytes, length, at, &size) >= 0;
    while (at < length && (ml_utf8_next(bytes, length, at, &size) >= 0) == *valid) at += size;
    return at;
}

/* Text without added tokens. Bytes that are no UTF-8 make pieces of their own. */
static ml_status encode_text(ml_tokenizer *t, const char *bytes, int64_t length, ml_ids *ids)
{
    target to = {t, ids};
    bool valid;
    for (int64_t at = 0, end; at < length; at = end) {
        end = end_of_validity(bytes, length, at, &valid);
        ml_status st = valid ? ml_splitter_run(t->splitter, bytes + at, end - at, encode_piece, &to)
                             : encode_piece(&to, bytes + at, end - at);
        if (st != ML_OK) return st;
    }
    return ML_OK;
}

/* The longest added token that is spelt at bytes[at], or NULL. */
static const added_token *added_at(const ml_tokenizer *t, const char *bytes, int64_t length,
                                   int64_t at, bool specials)
{
    const bool *begins = specials ? t->begins_added : t->begins_content;
    if (!begins[(unsigned char)bytes[at]]) return NULL;
    for (int64_t i = 0; i < t->nadded; i++) {
        const added_token *a = &t->added[i];
        if ((specials || !a->special) && a->length <= length - at &&
            !memcmp(a->text, bytes + at, (size_t)a->length))
            return a;
    }
    return NULL;
}

ml_status ml_tokenizer_encode(ml_tokenizer *tokenizer, const char *bytes, int64_t length,
                              bool specials, ml_ids *ids)
{
    ml_status st = ML_OK;
    int64_t start = 0; /* of the text that is not encoded yet */
    for (int64_t at = 0; at < length && st == ML_OK;) {
        const added_token *a = added_at(tokenizer, bytes, length, at, specials);
        if (!a) {
            at++;
            continue;
        }
        st = encode_text(tokenizer, bytes + start, at - start, ids);
        if (st == ML_OK) st = ml_ids_add(ids, a->id);
        at += a->length;
        start = at;
    }
    return st == ML_OK ? encode_text(tokenizer, bytes + start, length - start, ids) : st;
}

int64_t ml_tokenizer_spelled(const ml_tokenizer *tokenizer, const char *bytes, int64_t length)
{
    int64_t count = 0;
    for (int64_t at = 0; at < length;) {
        const added_token *a = added_at(tokenizer, bytes, length, at, true);
        if (a && a->special) count++;
        at += a ? a->length : 1;
    }
    return count;
}

/* ---- decoding and properties --------------------------------------------------------------- */

ml_status ml_tokenizer_decode(const ml_tokenizer *tokenizer, const int32_t *ids, int64_t count,
                              ml_text *bytes)
{
    ml_status st = ml_text_add(bytes, "", 0);
    for (int64_t i = 0; i < count && st == ML_OK; i++) {
        if (ids[i] < 0) return ml_fail(ML_INPUT, "token id %" PRId32 " is negative", ids[i]);
        if (ids[i] >= tokenizer->size) continue;
        int64_t start = tokenizer->offsets[ids[i]];
        st = ml_text_add(bytes, tokenizer->bytes.data + start,
                         tokenizer->offsets[ids[i] + 1] - start);
    }
    return st;
}

int64_t ml_tokenizer_size(const ml_tokenizer *tokenizer) { return tokenizer->size; }
int32_t ml_tokenizer_end_of_text(const ml_tokenizer *tokenizer) { return tokenizer->end; }
int32_t ml_tokenizer_begin_of_text(const ml_tokenizer *tokenizer) { return tokenizer->begin; }
int64_t ml_tokenizer_lost(const ml_tokenizer *tokenizer) { return tokenizer->lost; }

bool ml_tokenizer_is_special(const ml_tokenizer *tokenizer, int32_t id)
{
    return id >= 0 && id < tokenizer->size && tokenizer->special[id];
}
