/* Writing a Hugging Face directory: config.json, model.safetensors block by block, the tokenizer's
 * files. */
#include <inttypes.h>
#include <unistd.h>

#include "io/durable.h"
#include "mpilora/data.h"
#include "mpilora/export.h"
#include "store/formats/huggingface/export.h"
#include "store/formats/huggingface/export_directory.h"
#include "store/formats/huggingface/huggingface.h"

static const char weights_name[] = "model.safetensors", config_name[] = "config.json",
                  tokenizer_name[] = "tokenizer.json",
                  tokenizer_config_name[] = "tokenizer_config.json";

/* Everything that an export may have written. */
static void list_own(const char *names[ML_BASE_FILES + 2])
{
    memset(names, 0, (ML_BASE_FILES + 2) * sizeof *names);
    names[0] = weights_name;
    for (int i = 0; ml_base_file_names[i]; i++) names[i + 1] = ml_base_file_names[i];
}

/* Of a tokenizer that did not come as files; settings that came as one stay. */
static ml_status make_tokenizer(const ml_tokenizer *tokenizer, const char *json, int64_t length,
                                const ml_base_files *files, const char *directory)
{
    ml_status st = ML_OK;
    ml_text vocabulary = {0}, settings = {0};
    if (!tokenizer) return ML_OK;
    ML_TRY(ml_tokenizer_to_huggingface(json, length, &vocabulary, &settings));
    ML_TRY(export_directory_put(directory, tokenizer_name, &vocabulary));
    if (!ml_base_files_find(files, tokenizer_config_name))
        ML_TRY(export_directory_put(directory, tokenizer_config_name, &settings));
done:
    ml_text_destroy(&vocabulary);
    ml_text_destroy(&settings);
    return st;
}

/* A GGUF file leaves a chat template and ends of a text, but none of these. */
static bool has_vocabulary(const char *name)
{
    static const char *const vocabularies[] = {tokenizer_name,
                                               "vocab.json",
                                               "vocab.txt",
                                               "encoder.json",
                                               "tokenizer.model",
                                               "spiece.model",
                                               "sentencepiece.bpe.model",
                                               NULL};
    return ml_find_word(name, vocabularies) >= 0;
}

/* Into its folder, which is made where it is not there. */
static ml_status put_file(const char *directory, const char *name, const ml_text *content)
{
    char folder[ML_DURABLE_PATH];
    const char *slash = strchr(name, '/');
    ml_status st = ML_OK;
    if (slash) {
        st = ml_durable_path(folder, "%s/%.*s", directory, (int)(slash - name), name);
        if (st == ML_OK) st = ml_durable_make_directories(folder);
    }
    return st == ML_OK ? export_directory_put(directory, name, content) : st;
}

/* The files that the base keeps, byte for byte, but for config.json, which is made anew; an earlier
 * export may have left others. *tokenizer: a vocabulary is among them. */
static ml_status put_files(const ml_base_files *files, const char *directory, bool *tokenizer)
{
    ml_status st = ML_OK;
    char path[ML_DURABLE_PATH];
    *tokenizer = false;
    for (int i = 0; st == ML_OK && ml_base_file_names[i]; i++) {
        const char *name = ml_base_file_names[i];
        if (!strcmp(name, config_name)) continue;
        if (files->content[i].length) {
            if (has_vocabulary(name)) *tokenizer = true;
            st = put_file(directory, name, &files->content[i]);
        } else if ((st = ml_durable_path(path, "%s/%s", directory, name)) == ML_OK) {
            (void)unlink(path);
        }
    }
    return st;
}

ml_status ml_export_huggingface(ml_base *base, const char *directory)
{
    ml_status st = ML_OK;
    ml_text config = {0};
    ml_tokenizer *tokenizer = NULL;
    ml_base_files files = {0};
    char path[ML_DURABLE_PATH];
    int64_t length;
    bool has_tokenizer, made = false;
    const char *json = ml_base_tokenizer(base, &length), *own[ML_BASE_FILES + 2];
    list_own(own);
    ML_TRY(export_directory_check(directory, own));
    if (length) ML_TRY(ml_tokenizer_create(&tokenizer, json, length));
    ML_TRY(ml_base_read_files(base, &files));
    st = hf_config_write(ml_base_spec(base), ml_base_dtype(base),
                         tokenizer ? ml_tokenizer_end_of_text(tokenizer) : -1,
                         ml_base_files_find(&files, config_name), &config);
    if (st != ML_OK) st = ml_fail_within(st, "%s", ml_base_path(base));
    if (st != ML_OK) goto done;
    ML_TRY(export_directory_make(directory, own, &made));
    ML_TRY(ml_durable_path(path, "%s/%s", directory, weights_name));
    ML_TRY(export_hf_weights(base, path));
    ML_TRY(put_files(&files, directory, &has_tokenizer));
    if (!has_tokenizer) ML_TRY(make_tokenizer(tokenizer, json, length, &files, directory));
    ML_TRY(export_directory_put(directory, config_name, &config));
done:
    if (made) st = export_directory_end(st, directory, own);
    ml_tokenizer_destroy(tokenizer);
    ml_base_files_destroy(&files);
    ml_text_destroy(&config);
    return st;
}
