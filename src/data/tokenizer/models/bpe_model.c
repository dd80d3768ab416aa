/* The model "BPE" of a tokenizer.json: its options, tokens and merges. */
#include <inttypes.h>

#include "data/tokenizer/byte_level.h"
#include "data/tokenizer/models/bpe.h"
#include "data/tokenizer/stages.h"

typedef struct bpe_model {
    ml_bpe *bpe;
    int32_t byte_tokens[256];
    char *prefix, *suffix;
    ml_text left, right, joined; /* of the merge in work */
    bool bytes;
} bpe_model;

bool ml_byte_tokens(const ml_vocabulary *vocabulary, int32_t ids[256])
{
    bool all = true;
    for (int i = 0; i < 256; i++) {
        char text[8];
        int length = snprintf(text, sizeof text, "<0x%02X>", (unsigned)i);
        ids[i] = ml_vocabulary_find(vocabulary, text, length);
        all = all && ids[i] >= 0;
    }
    return all;
}

int ml_byte_token_value(const char *text, int64_t length)
{
    int value = 0;
    if (length != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>') return -1;
    for (int i = 3; i < 5; i++) {
        char c = text[i];
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                           : -1;
        if (digit < 0) return -1;
        value = value * 16 + digit;
    }
    return value;
}

/* ---- tokens -------------------------------------------------------------------------------- */

static ml_status add_tokens(bpe_model *m, const ml_vocabulary *vocabulary)
{
    int64_t length;
    for (int64_t id = 0; id < vocabulary->size; id++) {
        ml_status st = ML_OK;
        const char *text = ml_vocabulary_text(vocabulary, id, &length);
        bool special = vocabulary->tokens[id].special;
        if (!vocabulary->tokens[id].of_model) continue;
        m->left.length = 0;
        if (!m->bytes)
            st = ml_bpe_add_token(m->bpe, (int32_t)id, text, length, special);
        else if (ml_byte_level_decode(text, length, &m->left, &st))
            st = ml_bpe_add_token(m->bpe, (int32_t)id, m->left.data, m->left.length, special);
        if (st != ML_OK) return st;
    }
    return ML_OK;
}

/* ---- merges -------------------------------------------------------------------------------- */

/* A part of a merge as the encoder has it, and its symbol. */
static ml_status read_part(bpe_model *m, const char *text, int64_t length, ml_text *part,
                           int32_t *id)
{
    ml_status st = ML_OK;
    part->length = 0;
    *id = -1;
    if (!m->bytes) st = ml_text_add(part, text, length);
    if (st == ML_OK && (!m->bytes || ml_byte_level_decode(text, length, part, &st)))
        *id = ml_bpe_find(m->bpe, part->data, part->length);
    if (st != ML_OK || *id >= 0) return st;
    return ml_fail(ML_INPUT, "a merge has the part \"%.*s\", which is no token", (int)length, text);
}

static ml_status add_merge(void *self, const char *left, int64_t left_length, const char *right,
                           int64_t right_length, int32_t rank)
{
    ml_status st = ML_OK;
    bpe_model *m = self;
    int32_t left_id, right_id;
    size_t prefix = strlen(m->prefix);
    if (!left_length || !right_length)
        return ml_fail(ML_INPUT, "merge %d is not two tokens with one blank between them", rank);
    ML_TRY(read_part(m, left, left_length, &m->left, &left_id));
    ML_TRY(read_part(m, right, right_length, &m->right, &right_id));
    int64_t skip = ml_min((int64_t)prefix, m->right.length);
    m->joined.length = 0;
    ML_TRY(ml_text_add(&m->joined, m->left.data, m->left.length));
    ML_TRY(ml_text_add(&m->joined, m->right.data + skip, m->right.length - skip));
    int32_t joined = ml_bpe_find(m->bpe, m->joined.data, m->joined.length);
    if (joined < 0) {
        st = ml_fail(ML_INPUT, "the merge \"%.*s %.*s\" makes no token of the vocabulary",
                     (int)left_length, left, (int)right_length, right);
        goto done;
    }
    ML_TRY(ml_bpe_add_merge(m->bpe, left_id, right_id, joined, rank, m->left.data, m->left.length,
                            m->right.data, m->right.length));
done:
    return st;
}

static ml_status read_merge(bpe_model *m, const json_t *merge, int32_t rank)
{
    if (json_is_array(merge)) {
        const json_t *left = json_array_get(merge, 0), *right = json_array_get(merge, 1);
        if (json_array_size(merge) == 2 && json_is_string(left) && json_is_string(right))
            return add_merge(m, json_string_value(left), (int64_t)json_string_length(left),
                             json_string_value(right), (int64_t)json_string_length(right), rank);
        return ml_fail(ML_INPUT, "merge %d is not a pair of tokens", rank);
    }
    const char *text = json_string_value(merge), *blank = text ? strchr(text, ' ') : NULL;
    if (!blank || strchr(blank + 1, ' '))
        return ml_fail(ML_INPUT, "merge %d is not two tokens with one blank between them", rank);
    return add_merge(m, text, blank - text, blank + 1, (int64_t)strlen(blank + 1), rank);
}

static ml_status read_merges(bpe_model *m, const json_t *merges)
{
    size_t i;
    json_t *one;
    json_array_foreach(merges, i, one)
    {
        ml_status st = read_merge(m, one, (int32_t)i);
        if (st != ML_OK) return st;
    }
    return ML_OK;
}

/* ---- the model ----------------------------------------------------------------------------- */

static void destroy(void *self)
{
    bpe_model *m = self;
    if (!m) return;
    ml_bpe_destroy(m->bpe);
    ml_memory_free(m->prefix);
    ml_memory_free(m->suffix);
    ml_text_destroy(&m->left);
    ml_text_destroy(&m->right);
    ml_text_destroy(&m->joined);
    ml_memory_free(m);
}

static ml_status share(void **out, const void *of)
{
    ml_status st = ML_OK;
    bpe_model *m = NULL;
    ML_NEW(m, 1, ML_MEM_OTHER, "a BPE model");
    ML_TRY(ml_bpe_share(&m->bpe, ((const bpe_model *)of)->bpe));
    *out = m;
    m = NULL;
done:
    destroy(m);
    return st;
}

static ml_status check(const json_t *json)
{
    if (!json_is_object(json_object_get(json, "vocab")) ||
        !json_is_array(json_object_get(json, "merges")))
        return ml_fail(ML_INPUT, "the model has no \"vocab\" and \"merges\" of a BPE");
    if (json_number_value(json_object_get(json, "dropout")) > 0)
        return ml_fail(ML_INPUT, "the model has BPE dropout; that is not supported");
    return ML_OK;
}

static ml_status create(void **out, const json_t *json, const ml_plain_model *plain,
                        const ml_vocabulary *vocabulary, bool bytes)
{
    ml_status st = ML_OK;
    bpe_model *m = NULL;
    const json_t *merges = json_object_get(json, "merges");
    const char *unknown = ml_stage_text(json, "unk_token");
    ML_TRY(check(json));
    ML_NEW(m, 1, ML_MEM_OTHER, "a BPE model");
    m->bytes = bytes;
    m->prefix = ml_memory_string(ml_stage_text(json, "continuing_subword_prefix"));
    m->suffix = ml_memory_string(ml_stage_text(json, "end_of_word_suffix"));
    if (!m->prefix || !m->suffix) {
        st = ML_RESOURCE;
        goto done;
    }
    bool fallback = ml_stage_flag(json, "byte_fallback", false);
    bool all = ml_byte_tokens(vocabulary, m->byte_tokens);
    ml_bpe_options options = {
        .bytes = bytes,
        .whole_pieces = ml_stage_flag(json, "ignore_merges", false),
        .fuse_unknown = ml_stage_flag(json, "fuse_unk", false),
        .unknown =
            *unknown ? ml_vocabulary_find(vocabulary, unknown, (int64_t)strlen(unknown)) : -1,
        .byte_tokens = fallback && !bytes ? m->byte_tokens : NULL,
        .prefix = m->prefix,
        .suffix = m->suffix};
    if (fallback && all) options.unknown = -1; /* nothing is unknown then */
    ML_TRY(ml_bpe_create(&m->bpe, vocabulary, (int64_t)json_array_size(merges), &options));
    ML_TRY(add_tokens(m, vocabulary));
    ML_TRY(plain->merges.text ? ml_plain_model_merges(plain, add_merge, m)
                              : read_merges(m, merges));
    *out = m;
    m = NULL;
done:
    destroy(m);
    return st;
}

static ml_status encode(void *self, const char *piece, int64_t length, const ml_encoding *to)
{
    return ml_bpe_encode(((bpe_model *)self)->bpe, piece, length, to);
}

const ml_model_kind ml_bpe_kind = {"BPE", create, share, destroy, encode, true};
