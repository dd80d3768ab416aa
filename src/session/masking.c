/* Objective mlm: some tokens of a text are chosen, and what stood in their places is predicted from
 * what is left on both sides (Devlin et al. 2018, arXiv:1810.04805, section 3.1). Of the chosen
 * ones most become the mask token, some a token drawn from the vocabulary, and some stay.
 *
 * Three numbers are drawn for every place of a text, from a stream of its own: whether it is
 * chosen, what becomes of it, which token that is. So neither grid nor micro-batches nor where a
 * run was resumed change anything, and an epoch chooses anew. An evaluation's streams are those of
 * the sequences in their file: it asks the same each time. */
#include <inttypes.h>

#include "session/base_json.h"
#include "session/session.h"

enum { SPECIAL = 1, BEGINS = 2 }; /* what is known of a token: never chosen; begins a word */

typedef struct masking {
    const ml_run_config *config; /* borrowed */
    ml_random_key train, valid;
    int32_t mask;
    int64_t vocab, drawn; /* drawn: a token that is drawn is less than that */
    uint8_t *kind;        /* [vocab] */
} masking;

void ml_masking_destroy(masking *m)
{
    if (!m) return;
    ml_memory_free(m->kind);
    ml_memory_free(m);
}

/* ---- the mask token ------------------------------------------------------------------------ */

/* The id that a text spells as one special token; −1: none. */
static ml_status find_id(ml_tokenizer *t, const char *text, int32_t *id)
{
    ml_ids ids = {0};
    ml_status st = ml_tokenizer_encode(t, text, (int64_t)strlen(text), true, &ids);
    bool one = st == ML_OK && ids.count == 1 && ml_tokenizer_is_special(t, ids.data[0]);
    *id = one ? ids.data[0] : -1;
    ml_ids_destroy(&ids);
    return st;
}

/* As a file of the base's directory names it: a text, or an object with one. */
static ml_status find_named(const ml_base *base, const char *file, ml_tokenizer *t, int32_t *id)
{
    ml_status st = ML_OK;
    json_t *root = NULL;
    ML_TRY(ml_session_read_json(&root, base, file));
    const json_t *token = json_object_get(root, "mask_token");
    if (json_is_object(token)) token = json_object_get(token, "content");
    if (json_is_string(token)) ML_TRY(find_id(t, json_string_value(token), id));
done:
    json_decref(root);
    return st;
}

static ml_status find_mask(const ml_base *base, ml_tokenizer *t, int32_t *id)
{
    static const char *const files[] = {"tokenizer_config.json", "special_tokens_map.json"},
                             *const usual[] = {"[MASK]", "<mask>"};
    ml_status st = ML_OK;
    for (int i = 0; i < 2 && *id < 0 && st == ML_OK; i++) st = find_named(base, files[i], t, id);
    for (int i = 0; i < 2 && *id < 0 && st == ML_OK; i++) st = find_id(t, usual[i], id);
    return st;
}

/* ---- what is known of tokens --------------------------------------------------------------- */

/* Without a tokenizer: those that config.json names. */
static ml_status mark_named(masking *m, const ml_base *base)
{
    static const char *const keys[] = {"bos_token_id", "eos_token_id", "pad_token_id",
                                       "cls_token_id", "sep_token_id"};
    ml_status st = ML_OK;
    json_t *root = NULL;
    ML_TRY(ml_session_read_json(&root, base, "config.json"));
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const json_t *id = json_object_get(root, keys[i]);
        if (json_is_integer(id) && json_integer_value(id) >= 0 && json_integer_value(id) < m->vocab)
            m->kind[json_integer_value(id)] |= SPECIAL;
    }
done:
    json_decref(root);
    return st;
}

static bool is_letters(const ml_text *text)
{
    for (int64_t i = 0; i < text->length; i++)
        if (text->data[i] < 'a' || text->data[i] > 'z') return false;
    return text->length > 0;
}

/* A token begins a word where decoding writes a blank between it and a word before it: every
 * vocabulary has its own mark for that. */
static ml_status mark_words(masking *m, const ml_tokenizer *t)
{
    ml_status st = ML_OK;
    ml_text before = {0}, both = {0};
    int32_t pair[2] = {-1, 0};
    for (int32_t id = 0; id < m->drawn && pair[0] < 0; id++) {
        before.length = 0;
        if (ml_tokenizer_is_special(t, id)) continue;
        ML_TRY(ml_tokenizer_decode(t, &id, 1, &before));
        if (is_letters(&before)) pair[0] = id;
    }
    for (int32_t id = 0; id < m->drawn && pair[0] >= 0; id++) {
        both.length = 0;
        pair[1] = id;
        ML_TRY(ml_tokenizer_decode(t, pair, 2, &both));
        if (both.length > before.length && both.data[before.length] == ' ' &&
            !memcmp(both.data, before.data, (size_t)before.length))
            m->kind[id] |= BEGINS;
    }
done:
    ml_text_destroy(&before);
    ml_text_destroy(&both);
    return st;
}

static ml_status ask_tokenizer(masking *m, const ml_base *base, const char *json, int64_t length)
{
    ml_tokenizer *t = NULL;
    ml_status st = ML_OK;
    ML_TRY(ml_tokenizer_create(&t, json, length));
    m->drawn = ml_min(ml_tokenizer_size(t), m->vocab);
    for (int32_t id = 0; id < m->drawn; id++)
        if (ml_tokenizer_is_special(t, id)) m->kind[id] |= SPECIAL;
    if (m->mask < 0) ML_TRY(find_mask(base, t, &m->mask));
    if (m->config->objective.whole_words) ML_TRY(mark_words(m, t));
done:
    ml_tokenizer_destroy(t);
    return st;
}

/* ---- create -------------------------------------------------------------------------------- */

static ml_status check_mask(const masking *m, const ml_base *base)
{
    if (m->mask < 0)
        return ml_run_config_refuse(m->config, "objective.mask_token",
                                    "not given, and the tokenizer of %s names no mask token; give "
                                    "its id",
                                    ml_base_path(base));
    if (m->mask >= m->vocab)
        return ml_run_config_refuse(m->config, "objective.mask_token",
                                    "%" PRId32 ", but %s has %" PRId64 " tokens", m->mask,
                                    ml_base_path(base), m->vocab);
    return ML_OK;
}

ml_status ml_masking_create(masking **out, const ml_run_config *c, const ml_base *base)
{
    ml_status st = ML_OK;
    masking *m = NULL;
    int64_t length;
    const char *json = ml_base_tokenizer(base, &length);
    if (length == 0 && c->objective.whole_words)
        return ml_run_config_refuse(c, "objective.whole_words",
                                    "%s has no tokenizer, which says where words begin; leave it "
                                    "out",
                                    ml_base_path(base));
    ML_NEW(m, 1, ML_MEM_OTHER, "what is masked");
    *m = (masking){.config = c,
                   .train = ml_random_key_make(c->seed, "mask"),
                   .valid = ml_random_key_make(c->seed, "mask of an evaluation"),
                   .mask = (int32_t)c->objective.mask_token,
                   .vocab = ml_base_spec(base)->vocab,
                   .drawn = ml_base_spec(base)->vocab};
    ML_NEW(m->kind, m->vocab, ML_MEM_OTHER, "what is masked");
    ML_TRY(length > 0 ? ask_tokenizer(m, base, json, length) : mark_named(m, base));
    ML_TRY(check_mask(m, base));
    m->kind[m->mask] |= SPECIAL;
    *out = m;
    m = NULL;
done:
    ml_masking_destroy(m);
    return st;
}

/* ---- drawing ------------------------------------------------------------------------------- */

enum { CHOSEN, BECOMES, WHICH, DRAWS }; /* what is drawn for a place */

static double number_at(ml_random_key key, int64_t place, int64_t i, int what)
{
    return ml_random_uniform(key, (uint64_t)place, (uint64_t)(DRAWS * i + what));
}

static int32_t replacement(const masking *m, ml_random_key key, int64_t place, int64_t i,
                           int32_t token)
{
    const ml_run_config *c = m->config;
    double share = number_at(key, place, i, BECOMES);
    if (share < c->objective.mask_replace) return m->mask;
    if (share >= c->objective.mask_replace + c->objective.random_replace) return token;
    return (int32_t)(number_at(key, place, i, WHICH) * (double)m->drawn);
}

int64_t ml_masking_draw(const masking *m, bool training, int64_t place, int64_t length,
                        int32_t *token, int32_t *original)
{
    const ml_random_key key = training ? m->train : m->valid;
    bool words = m->config->objective.whole_words, apart = true; /* apart: from what is before */
    int64_t count = 0, word = 0;
    for (int64_t i = 0; i < length; i++) {
        unsigned kind = m->kind[token[i]];
        original[i] = -1;
        if (!words || apart || kind & BEGINS) word = i;
        apart = (kind & SPECIAL) != 0;
        if (apart || number_at(key, place, word, CHOSEN) >= m->config->objective.mask_probability)
            continue;
        original[i] = token[i];
        token[i] = replacement(m, key, place, i, token[i]);
        count++;
    }
    return count;
}

ml_status ml_session_count_masked(session *s, const data_source *source, int64_t first,
                                  int64_t count, int64_t *targets)
{
    packer *p = &s->packer;
    bool training = source == &s->train;
    *targets = 0;
    for (int64_t i = first; i < first + count; i++) {
        int64_t sequence = ml_sampler_at(source->sampler, i),
                length = ml_dataset_length(source->dataset, sequence, s->max_len);
        ml_status st =
            ml_dataset_read(source->dataset, sequence, s->max_len, p->read_token, p->read_mask);
        if (st != ML_OK) return st;
        *targets += ml_masking_draw(s->masking, training, training ? i : sequence, length,
                                    p->read_token, p->token_label);
    }
    return ML_OK;
}
