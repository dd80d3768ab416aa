/* The tokens and merges of a byte-pair encoder. */
#include "data/tokenizer/models/bpe_private.h"

/* ---- tokens and merges --------------------------------------------------------------------- */

static ml_status take_options(ml_bpe *bpe, const ml_bpe_options *options)
{
    ml_status st = ML_OK;
    bpe->options = *options;
    bool affixes = *options->prefix || *options->suffix;
    if (!options->bytes && !affixes && !options->unmerge)
        ML_NEW(bpe->joins, JOIN_BITS / 64, ML_MEM_OTHER, "the joints of merges");
    if (options->unmerge)
        ML_NEW(bpe->parts, bpe->vocabulary->size, ML_MEM_OTHER, "the parts of tokens");
done:
    return st;
}

ml_status ml_bpe_create(ml_bpe **out, const ml_vocabulary *vocabulary, int64_t nmerges,
                        const ml_bpe_options *options)
{
    ml_status st = ML_OK;
    ml_bpe *bpe = NULL;
    ML_NEW(bpe, 1, ML_MEM_OTHER, "a byte-pair encoder");
    bpe->vocabulary = vocabulary;
    ML_TRY(take_options(bpe, options));
    bpe->token_mask = bpe_table_size(vocabulary->size) - 1;
    bpe->merge_mask = bpe_table_size(nmerges) - 1;
    ML_NEW(bpe->tokens, (int64_t)bpe->token_mask + 1, ML_MEM_OTHER, "the tokens");
    ML_NEW(bpe->merges, (int64_t)bpe->merge_mask + 1, ML_MEM_OTHER, "the merges");
    ML_NEW(bpe->cache, CACHE_SLOTS, ML_MEM_OTHER, "the table of pieces");
    memset(bpe->merges, 0xff, (bpe->merge_mask + 1) * sizeof *bpe->merges);
    memset(bpe->byte_id, 0xff, sizeof bpe->byte_id);
    *out = bpe;
    bpe = NULL;
done:
    ml_bpe_destroy(bpe);
    return st;
}

ml_status ml_bpe_share(ml_bpe **out, const ml_bpe *of)
{
    ml_status st = ML_OK;
    ml_bpe *bpe = NULL;
    ML_NEW(bpe, 1, ML_MEM_OTHER, "a byte-pair encoder");
    *bpe = *of;
    bpe->borrows = true;
    bpe->parts = NULL;
    bpe->cache = NULL;
    bpe->symbols = NULL;
    bpe->heap = NULL;
    bpe->room = bpe->heap_count = 0;
    bpe->spelt = (ml_text){0};
    ML_NEW(bpe->cache, CACHE_SLOTS, ML_MEM_OTHER, "the table of pieces");
    if (of->parts) ML_NEW(bpe->parts, of->vocabulary->size, ML_MEM_OTHER, "the parts of tokens");
    *out = bpe;
    bpe = NULL;
done:
    ml_bpe_destroy(bpe);
    return st;
}

void ml_bpe_destroy(ml_bpe *bpe)
{
    if (!bpe) return;
    if (!bpe->borrows) {
        ml_text_destroy(&bpe->bytes);
        ml_memory_free(bpe->tokens);
        ml_memory_free(bpe->merges);
        ml_memory_free(bpe->joins);
    }
    ml_text_destroy(&bpe->spelt);
    ml_memory_free(bpe->parts);
    ml_memory_free(bpe->cache);
    ml_memory_free(bpe->symbols);
    ml_memory_free(bpe->heap);
    ml_memory_free(bpe);
}

/* Twice the room; SentencePiece's characters come on top of the vocabulary. */
static ml_status grow_tokens(ml_bpe *bpe)
{
    ml_status st = ML_OK;
    bpe_token *old = bpe->tokens;
    uint64_t before = bpe->token_mask + 1;
    if (2 * (uint64_t)bpe->ntokens < before) return ML_OK;
    ML_NEW(bpe->tokens, (int64_t)(2 * before), ML_MEM_OTHER, "the tokens");
    bpe->token_mask = 2 * before - 1;
    for (uint64_t i = 0; i < before; i++)
        if (old[i].length)
            *bpe_token_slot(bpe, bpe->bytes.data + old[i].at, old[i].length, old[i].hash) = old[i];
    ml_memory_free(old);
    return ML_OK;
done:
    bpe->tokens = old;
    return st;
}

ml_status ml_bpe_add_token(ml_bpe *bpe, int32_t id, const char *bytes, int64_t length, bool special)
{
    if (length < 1 || length > INT32_MAX) return ML_OK;
    ml_status st = grow_tokens(bpe);
    if (st != ML_OK) return st;
    uint64_t hash = bpe_hash(bytes, length);
    bpe_token *t = bpe_token_slot(bpe, bytes, length, hash);
    if (t->length) return ML_OK;
    *t = (bpe_token){bpe->bytes.length, (int32_t)length, id, hash, special};
    bpe->ntokens++;
    if (length == 1) bpe->byte_id[(unsigned char)bytes[0]] = id;
    return ml_text_add(&bpe->bytes, bytes, length);
}

int32_t ml_bpe_find(const ml_bpe *bpe, const char *bytes, int64_t length)
{
    if (length == 1) return bpe->byte_id[(unsigned char)bytes[0]];
    const bpe_token *t = bpe_token_slot(bpe, bytes, length, bpe_hash(bytes, length));
    return t->length ? t->id : -1;
}

static ml_status grow_merges(ml_bpe *bpe)
{
    ml_status st = ML_OK;
    bpe_merge *old = bpe->merges;
    uint64_t before = bpe->merge_mask + 1;
    if (2 * (uint64_t)bpe->nmerges < before) return ML_OK;
    ML_NEW(bpe->merges, (int64_t)(2 * before), ML_MEM_OTHER, "the merges");
    memset(bpe->merges, 0xff, 2 * before * sizeof *bpe->merges);
    bpe->merge_mask = 2 * before - 1;
    for (uint64_t i = 0; i < before; i++)
        if (old[i].pair != UINT64_MAX)
            *bpe_merge_slot(bpe, (int32_t)(old[i].pair >> 32), (int32_t)(uint32_t)old[i].pair) =
                old[i];
    ml_memory_free(old);
    return ML_OK;
done:
    bpe->merges = old;
    return st;
}

/* ---- where a piece may be cut -------------------------------------------------------------- */

static int32_t last_character(const char *text, int64_t length)
{
    int size;
    int64_t at = length - 1;
    while (at > 0 && (text[at] & 0xc0) == 0x80) at--;
    return ml_utf8_next(text, length, at, &size);
}

/* A merge of tokens that stand for other characters than their spelling has joins anything. */
static bool is_no_spelling(const ml_bpe *bpe, int32_t id, const char *text, int64_t length)
{
    return id == bpe->options.unknown ||
           (bpe->options.byte_tokens && ml_byte_token_value(text, length) >= 0);
}

ml_status ml_bpe_add_merge(ml_bpe *bpe, int32_t left, int32_t right, int32_t joined, int32_t rank,
                           const char *last, int64_t last_length, const char *first,
                           int64_t first_length)
{
    int size;
    ml_status st = grow_merges(bpe);
    if (st != ML_OK) return st;
    bpe_merge *m = bpe_merge_slot(bpe, left, right);
    bpe->nmerges += m->pair == UINT64_MAX;
    *m = (bpe_merge){(uint64_t)left << 32 | (uint32_t)right, rank, joined};
    if (!bpe->joins) return ML_OK;
    if (is_no_spelling(bpe, left, last, last_length) ||
        is_no_spelling(bpe, right, first, first_length)) {
        ml_memory_free(bpe->joins);
        bpe->joins = NULL;
        return ML_OK;
    }
    uint32_t bit = bpe_joint_of(last_character(last, last_length),
                                ml_utf8_next(first, first_length, 0, &size));
    bpe->joins[bit / 64] |= (uint64_t)1 << bit % 64;
    return ML_OK;
}
