/* The keys of a GGUF file that make its tokenizer, from the base's: gguf/tokenizer.c the other way
 * round, with the special ids that only the files of its source name. */
#include <inttypes.h>

#include "io/json.h"
#include "mpilora/data.h"
#include "store/formats/gguf/export.h"

static ml_status read_json(const ml_base *base, const char *name, json_t **out)
{
    ml_text text = {0};
    json_error_t error;
    ml_status st = ml_base_read_file(base, name, &text);
    if (st == ML_OK && text.length) /* transformers writes 10^30 for "no limit" */
        st = ml_json_parse(out, text.data, text.length, JSON_DECODE_INT_AS_REAL, &error);
    ml_text_destroy(&text);
    return st == ML_OK ? ML_OK : ml_fail_within(st, "%s: %s", ml_base_path(base), name);
}

/* The files that name special tokens; the first one goes before the other. */
typedef struct special_files {
    json_t *config, *map; /* tokenizer_config.json, special_tokens_map.json; NULL: not there */
} special_files;

static const char *text_of(const json_t *file, const char *name)
{
    const json_t *token = json_object_get(file, name);
    if (json_is_object(token)) token = json_object_get(token, "content");
    return json_string_value(token);
}

/* The id of a token that they name; −1: none. */
static int64_t named_token(const special_files *files, const char *name,
                           const ml_gguf_vocabulary *v)
{
    const char *text = text_of(files->config, name);
    if (!text) text = text_of(files->map, name);
    for (int64_t id = v->ntokens - 1; text && id >= 0; id--)
        if (!strcmp(v->tokens[id], text)) return id;
    return -1;
}

/* Further ends of a text, which generation_config.json lists: of a turn and of a message. */
static ml_status put_ends(gguf_writer *w, const json_t *generation, const ml_gguf_vocabulary *v)
{
    static const char *const keys[] = {"tokenizer.ggml.eot_token_id",
                                       "tokenizer.ggml.eom_token_id"};
    ml_status st = ML_OK;
    size_t i, used = 0;
    json_t *one;
    json_array_foreach(json_object_get(generation, "eos_token_id"), i, one)
    {
        int64_t id = (int64_t)json_number_value(one);
        if (id == v->eos || id < 0 || id >= v->ntokens) continue;
        if (used == sizeof keys / sizeof *keys) {
            ml_warn("GGUF has room for three tokens that end a text: \"%s\" is left out",
                    v->tokens[id]);
            continue;
        }
        ML_TRY(gguf_put_count(w, keys[used++], id));
    }
done:
    return st;
}

static ml_status put_id(gguf_writer *w, const char *key, int64_t id)
{
    return id >= 0 ? gguf_put_count(w, key, id) : ML_OK;
}

/* A flag that is −1 where nothing is said. */
static ml_status put_said(gguf_writer *w, const char *key, int said)
{
    return said >= 0 ? gguf_put_flag(w, key, said) : ML_OK;
}

static ml_status put_special(gguf_writer *w, const ml_base *base, const ml_gguf_vocabulary *v)
{
    ml_status st = ML_OK;
    special_files files = {0};
    json_t *generation = NULL;
    ML_TRY(read_json(base, "tokenizer_config.json", &files.config));
    ML_TRY(read_json(base, "special_tokens_map.json", &files.map));
    ML_TRY(read_json(base, "generation_config.json", &generation));
    int64_t bos = v->bos >= 0 ? v->bos : named_token(&files, "bos_token", v);
    ML_TRY(put_id(w, "tokenizer.ggml.bos_token_id", bos));
    ML_TRY(put_id(w, "tokenizer.ggml.eos_token_id", v->eos));
    ML_TRY(put_id(w, "tokenizer.ggml.unknown_token_id", v->unk));
    ML_TRY(put_id(w, "tokenizer.ggml.seperator_token_id", v->sep)); /* spelt so in the format */
    ML_TRY(put_id(w, "tokenizer.ggml.padding_token_id", named_token(&files, "pad_token", v)));
    ML_TRY(put_id(w, "tokenizer.ggml.mask_token_id", named_token(&files, "mask_token", v)));
    ML_TRY(put_ends(w, generation, v));
    ML_TRY(gguf_put_flag(w, "tokenizer.ggml.add_bos_token", v->add_bos));
    ML_TRY(gguf_put_flag(w, "tokenizer.ggml.add_eos_token", v->add_eos));
    ML_TRY(put_said(w, "tokenizer.ggml.add_space_prefix", v->add_space_prefix));
    ML_TRY(put_said(w, "tokenizer.ggml.remove_extra_whitespaces", v->remove_extra_whitespaces));
    ML_TRY(put_said(w, "tokenizer.ggml.normalizer.lowercase", v->lowercase));
    ML_TRY(put_said(w, "tokenizer.ggml.normalizer.strip_accents", v->strip_accents));
done:
    json_decref(files.config);
    json_decref(files.map);
    json_decref(generation);
    return st;
}

static ml_status put_vocabulary(gguf_writer *w, const ml_gguf_vocabulary *v)
{
    ml_status st = ML_OK;
    ML_TRY(gguf_put_text(w, "tokenizer.ggml.model", v->model));
    ML_TRY(gguf_put_text(w, "tokenizer.ggml.pre", v->pre));
    ML_TRY(gguf_put_texts(w, "tokenizer.ggml.tokens", v->tokens, v->ntokens));
    ML_TRY(gguf_put_integers(w, "tokenizer.ggml.token_type", v->types, v->ntokens));
    if (v->scores) ML_TRY(gguf_put_reals(w, "tokenizer.ggml.scores", v->scores, v->ntokens));
    if (v->charsmap)
        ML_TRY(gguf_put_bytes(w, "tokenizer.ggml.precompiled_charsmap", v->charsmap,
                              v->charsmap_length));
    if (v->merges) ML_TRY(gguf_put_texts(w, "tokenizer.ggml.merges", v->merges, v->nmerges));
done:
    return st;
}

/* Under the names that llama.cpp's converter gives them. */
static ml_status put_templates(gguf_writer *w, const ml_gguf_export_options *o)
{
    static const char *const others[] = {"tool_use"};
    ml_status st = ML_OK;
    if (o->chat_template) ML_TRY(gguf_put_text(w, "tokenizer.chat_template", o->chat_template));
    if (o->tool_template) {
        ML_TRY(gguf_put_texts(w, "tokenizer.chat_templates", others, 1));
        ML_TRY(gguf_put_text(w, "tokenizer.chat_template.tool_use", o->tool_template));
    }
done:
    return st;
}

ml_status gguf_describe_tokenizer(gguf_writer *w, const ml_base *base,
                                  const ml_gguf_export_options *options)
{
    ml_status st = ML_OK;
    ml_gguf_tokenizer t = {0};
    int64_t length;
    const char *json = ml_base_tokenizer(base, &length);
    if (length) st = ml_tokenizer_to_gguf(json, length, ml_base_spec(base)->vocab, &t);
    if (st == ML_INPUT) {
        ml_warn("%s: the file gets no tokenizer", ml_error_text());
        ml_error_clear();
        length = 0;
        st = ML_OK;
    }
    if (st != ML_OK) goto done;
    if (!length) {
        st = gguf_put_text(w, "tokenizer.ggml.model", "none");
        goto done;
    }
    if (t.caveat) ml_warn("GGUF's tokenizers cannot say %s", t.caveat);
    ML_TRY(put_vocabulary(w, &t.vocabulary));
    ML_TRY(put_special(w, base, &t.vocabulary));
    ML_TRY(put_templates(w, options));
done:
    ml_gguf_tokenizer_destroy(&t);
    return st;
}
