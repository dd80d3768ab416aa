/* What a base gets from a GGUF file beside the weights: the tokenizer, the file's own or a
 * directory's, and the files that Hugging Face's libraries would have of it and of the model. */
#include <inttypes.h>

#include "store/formats/gguf/import.h"

/* The templates of conversations, as the files that Hugging Face has them in. */
static ml_status keep_chat_template(const gguf_source *g, ml_base_files *files)
{
    static const char *const kept[][2] = {
        {"tokenizer.chat_template", "chat_template.jinja"},
        {"tokenizer.chat_template.tool_use", "additional_chat_templates/tool_use.jinja"}};
    ml_status st = ML_OK;
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++) {
        const gguf_value *text = gguf_find(&g->file, kept[i][0]);
        if (text && text->kind == GGUF_TEXT)
            ML_TRY(ml_text_add(ml_base_files_place(files, kept[i][1]), text->text,
                               (int64_t)strlen(text->text)));
    }
done:
    return st;
}

/* The ends of a text, of a turn and of a message, as generation_config.json has them; one alone is
 * the tokenizer's. */
static ml_status keep_ends(const gguf_source *g, ml_base_files *files)
{
    static const char *const keys[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                       "tokenizer.ggml.eom_token_id"};
    ml_status st = ML_OK;
    ml_text ids = {0};
    int64_t found = 0;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const gguf_value *id = gguf_find(&g->file, keys[i]);
        if (id && id->kind == GGUF_NUMBER && id->whole && id->integer >= 0)
            ML_TRY(ml_text_printf(&ids, "%s%" PRId64, found++ ? ", " : "", id->integer));
    }
    if (found > 1)
        ML_TRY(ml_text_printf(ml_base_files_place(files, "generation_config.json"),
                              "{\"eos_token_id\": [%s]}\n", ids.data));
done:
    ml_text_destroy(&ids);
    return st;
}

/* The file's own; one that cannot be read leaves the base without one. */
static ml_status read_vocabulary(const gguf_source *g, import_source *out)
{
    ml_status st = ML_OK;
    ML_TRY(import_read_tokenizer(gguf_read_tokenizer(&g->file, &out->tokenizer), &out->tokenizer));
    ML_TRY(keep_chat_template(g, &out->files));
    ML_TRY(keep_ends(g, &out->files));
    if (out->tokenizer.length)
        ML_TRY(gguf_read_specials(&g->file,
                                  ml_base_files_place(&out->files, "special_tokens_map.json")));
done:
    return st;
}

/* A directory's, with those of its files that are a tokenizer's. What these do not say of
 * conversations and ends the file says. */
static ml_status read_directory(const gguf_source *g, const char *directory, import_source *out)
{
    ml_status st = ML_OK;
    ML_TRY(import_directory_tokenizer(directory, &out->tokenizer));
    ML_TRY(import_keep_tokenizer(directory, &out->files));
    const ml_text *config = ml_base_files_place(&out->files, "tokenizer_config.json");
    if (!ml_base_files_place(&out->files, "chat_template.jinja")->length &&
        !ml_base_files_place(&out->files, "chat_template.json")->length &&
        !(config->length && strstr(config->data, "\"chat_template\"")))
        ML_TRY(keep_chat_template(g, &out->files));
    if (!ml_base_files_place(&out->files, "generation_config.json")->length)
        ML_TRY(keep_ends(g, &out->files));
done:
    return st;
}

/* How texts become vectors, as sentence-transformers' files have it. llama.cpp's numbers: 0 is a
 * model whose tokens stay apart, 4 one that scores pairs of texts, which is no vector. */
static ml_status keep_pooling(const gguf_source *g, import_source *out)
{
    static const char *const words[] = {NULL, "mean", "cls", "last", NULL};
    enum { KINDS = sizeof words / sizeof *words };
    const gguf_value *v = gguf_find_own(g, "pooling_type");
    if (!v) return ML_OK;
    if (v->integer < 0 || v->integer >= KINDS) {
        ml_warn("%s: %s %" PRId64 " is not known and ignored; embed takes --pooling", g->file.path,
                v->key, v->integer);
        return ML_OK;
    }
    const char *word = words[v->integer];
    return word ? ml_base_files_make_vectors(&out->files, &out->spec, word, false) : ML_OK;
}

ml_status gguf_import_files(const gguf_source *g, const ml_import_options *options,
                            import_source *out)
{
    ml_status st = ML_OK;
    /* which says what the ids of labels mean, for which a GGUF file has no keys */
    if (options->hf_config)
        ML_TRY(
            import_keep_file(options->hf_config, ml_base_files_place(&out->files, "config.json")));
    st = options->tokenizer ? read_directory(g, options->tokenizer, out) : read_vocabulary(g, out);
    if (st == ML_OK) st = keep_pooling(g, out);
done:
    return st;
}
