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
static const char *const own_names[] = {weights_name, config_name, tokenizer_name,
                                        tokenizer_config_name, NULL};

static ml_status put_tokenizer(const ml_tokenizer *tokenizer, const char *json, int64_t length,
                               const char *directory)
{
    ml_status st = ML_OK;
    char path[ML_DURABLE_PATH];
    ml_text vocabulary = {0}, settings = {0};
    if (tokenizer) {
        ML_TRY(ml_tokenizer_to_huggingface(json, length, &vocabulary, &settings));
        ML_TRY(export_directory_put(directory, tokenizer_name, &vocabulary));
        ML_TRY(export_directory_put(directory, tokenizer_config_name, &settings));
        goto done;
    }
    for (int i = 0; i < 2; i++) { /* an earlier export may have had one */
        ML_TRY(
            ml_durable_path(path, "%s/%s", directory, i ? tokenizer_config_name : tokenizer_name));
        (void)unlink(path);
    }
done:
    ml_text_destroy(&vocabulary);
    ml_text_destroy(&settings);
    return st;
}

ml_status ml_export_huggingface(ml_base *base, const char *directory)
{
    ml_status st = ML_OK;
    ml_text config = {0};
    ml_tokenizer *tokenizer = NULL;
    char path[ML_DURABLE_PATH];
    int64_t length;
    const char *json = ml_base_tokenizer(base, &length);
    ML_TRY(export_directory_check(directory, own_names));
    if (length) ML_TRY(ml_tokenizer_create(&tokenizer, json, length));
    st = hf_config_write(ml_base_spec(base), ml_base_dtype(base),
                         tokenizer ? ml_tokenizer_end_of_text(tokenizer) : -1, &config);
    if (st != ML_OK) st = ml_fail_within(st, "%s", ml_base_path(base));
    if (st != ML_OK) goto done;
    ML_TRY(ml_durable_make_directories(directory));
    ML_TRY(ml_durable_path(path, "%s/%s", directory, weights_name));
    ML_TRY(export_hf_weights(base, path));
    ML_TRY(put_tokenizer(tokenizer, json, length, directory));
    ML_TRY(export_directory_put(directory, config_name, &config));
done:
    ml_tokenizer_destroy(tokenizer);
    ml_text_destroy(&config);
    return st;
}
