/* The keys of a GGUF file that make its tokenizer. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "io/json.h"
#include "mpilora/data.h"
#include "store/formats/gguf/gguf.h"

/* A key of one kind, or NULL. */
static const gguf_value *find(const gguf_file *f, const char *key, gguf_kind kind)
{
    const gguf_value *v = gguf_find(f, key);
    return v && v->kind == kind ? v : NULL;
}

static int64_t token_id(const gguf_file *f, const char *key)
{
    const gguf_value *v = find(f, key, GGUF_NUMBER);
    return v && v->whole ? v->integer : -1;
}

static int flag(const gguf_file *f, const char *key)
{
    const gguf_value *v = find(f, key, GGUF_FLAG);
    return v ? v->integer != 0 : -1;
}

/* What a vocabulary points to beside the file. */
typedef struct arrays {
    int32_t *types;
    float *scores;
    char *charsmap;
} arrays;

static ml_status check_count(const gguf_file *f, const gguf_value *array, int64_t tokens)
{
    if (!array || array->count == tokens) return ML_OK;
    return ml_fail(ML_INPUT, "%s: key %s does not fit the %" PRId64 " tokens", f->path, array->key,
                   tokens);
}

static ml_status take_arrays(const gguf_file *f, arrays *a, ml_gguf_vocabulary *v)
{
    ml_status st = ML_OK;
    const gguf_value *types = find(f, "tokenizer.ggml.token_type", GGUF_NUMBERS),
                     *scores = find(f, "tokenizer.ggml.scores", GGUF_NUMBERS),
                     *map = find(f, "tokenizer.ggml.precompiled_charsmap", GGUF_NUMBERS);
    ML_TRY(check_count(f, types, v->ntokens));
    ML_TRY(check_count(f, scores, v->ntokens));
    if (types) ML_NEW(a->types, types->count, ML_MEM_OTHER, "token types");
    if (scores) ML_NEW(a->scores, scores->count, ML_MEM_OTHER, "token scores");
    if (map) ML_NEW(a->charsmap, map->count, ML_MEM_OTHER, "a character map");
    for (int64_t i = 0; types && i < types->count; i++)
        a->types[i] = fabs(types->reals[i]) < 1e6 ? (int32_t)types->reals[i] : 0;
    for (int64_t i = 0; scores && i < scores->count; i++) a->scores[i] = (float)scores->reals[i];
    for (int64_t i = 0; map && i < map->count; i++) /* signed or unsigned bytes */
        a->charsmap[i] = (char)(unsigned char)(fabs(map->reals[i]) < 256 ? (int)map->reals[i] : 0);
    v->types = a->types;
    v->scores = a->scores;
    v->charsmap = a->charsmap;
    v->charsmap_length = map ? map->count : 0;
done:
    return st;
}

ml_status gguf_read_tokenizer(const gguf_file *f, ml_text *json)
{
    ml_status st = ML_OK;
    arrays a = {0};
    const gguf_value *model = find(f, "tokenizer.ggml.model", GGUF_TEXT),
                     *tokens = find(f, "tokenizer.ggml.tokens", GGUF_TEXTS),
                     *merges = find(f, "tokenizer.ggml.merges", GGUF_TEXTS),
                     *pre = find(f, "tokenizer.ggml.pre", GGUF_TEXT);
    if (!model || !strcmp(model->text, "none") || !strcmp(model->text, "no_vocab")) {
        ml_warn("%s: no tokenizer inside: the base gets none", f->path);
        return ML_OK;
    }
    if (!tokens)
        return ml_fail(ML_INPUT, "%s: tokenizer.ggml.tokens is missing or no array of texts",
                       f->path);
    ml_gguf_vocabulary v = {
        .model = model->text,
        .pre = pre ? pre->text : NULL,
        .ntokens = tokens->count,
        .nmerges = merges ? merges->count : 0,
        .tokens = (const char *const *)tokens->texts,
        .merges = merges ? (const char *const *)merges->texts : NULL,
        .bos = token_id(f, "tokenizer.ggml.bos_token_id"),
        .eos = token_id(f, "tokenizer.ggml.eos_token_id"),
        .unk = token_id(f, "tokenizer.ggml.unknown_token_id"),
        .sep = token_id(f, "tokenizer.ggml.seperator_token_id"), /* spelt so in the format */
        .add_bos = flag(f, "tokenizer.ggml.add_bos_token"),
        .add_eos = flag(f, "tokenizer.ggml.add_eos_token"),
        .add_space_prefix = flag(f, "tokenizer.ggml.add_space_prefix"),
        .remove_extra_whitespaces = flag(f, "tokenizer.ggml.remove_extra_whitespaces"),
        .lowercase = flag(f, "tokenizer.ggml.normalizer.lowercase"),
        .strip_accents = flag(f, "tokenizer.ggml.normalizer.strip_accents")};
    ML_TRY(take_arrays(f, &a, &v));
    st = ml_tokenizer_from_gguf(&v, json);
    if (st != ML_OK) st = ml_fail_within(st, "%s", f->path);
done:
    ml_memory_free(a.types);
    ml_memory_free(a.scores);
    ml_memory_free(a.charsmap);
    return st;
}

/* ---- special tokens ------------------------------------------------------------------------ */

/* The text of a token that is no piece of words, whose letters stand for themselves; NULL: none. */
static const char *text_of(const gguf_file *f, int64_t id)
{
    enum { NORMAL = 1 };
    const gguf_value *tokens = find(f, "tokenizer.ggml.tokens", GGUF_TEXTS),
                     *types = find(f, "tokenizer.ggml.token_type", GGUF_NUMBERS);
    if (!tokens || id < 0 || id >= tokens->count) return NULL;
    bool special = types && id < types->count && types->reals[id] != (double)NORMAL;
    const char *text = tokens->texts[id];
    for (const char *at = text; *at && !special; at++)
        if (*at <= ' ' || *at > '~') return NULL;
    return text;
}

ml_status gguf_read_specials(const gguf_file *f, ml_text *map)
{
    static const struct {
        const char *name, *key;
        int64_t usual; /* of SentencePiece's BPE, as llama.cpp has it; -1: none */
    } specials[] = {{"bos_token", "tokenizer.ggml.bos_token_id", 1},
                    {"eos_token", "tokenizer.ggml.eos_token_id", 2},
                    {"unk_token", "tokenizer.ggml.unknown_token_id", 0},
                    {"sep_token", "tokenizer.ggml.seperator_token_id", -1},
                    {"pad_token", "tokenizer.ggml.padding_token_id", -1},
                    {"cls_token", "tokenizer.ggml.cls_token_id", -1},
                    {"mask_token", "tokenizer.ggml.mask_token_id", -1}};
    const gguf_value *model = find(f, "tokenizer.ggml.model", GGUF_TEXT);
    bool pieces = model && !strcmp(model->text, "llama");
    json_t *object = json_object();
    for (size_t i = 0; i < sizeof specials / sizeof *specials; i++) {
        int64_t said = token_id(f, specials[i].key);
        const char *text = text_of(f, said < 0 && pieces ? specials[i].usual : said);
        if (text) json_object_set_new(object, specials[i].name, json_string(text));
    }
    char *json = object ? ml_json_dump(object, JSON_INDENT(2)) : NULL;
    bool any = json_object_size(object) > 0;
    json_decref(object);
    if (!json) return ml_fail(ML_RESOURCE, "out of memory: special tokens");
    ml_status st = any ? ml_text_printf(map, "%s\n", json) : ML_OK;
    free(json);
    return st;
}
