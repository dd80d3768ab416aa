/* The files of a Hugging Face directory that a base keeps as they are. */
#include "io/durable.h"
#include "store/base/import_private.h"
#include "store/formats/huggingface/shards.h"

ml_status import_keep_file(const char *path, ml_text *out)
{
    static const int64_t largest = 256 << 20;
    ml_status st = ML_OK;
    char *bytes = NULL;
    int64_t length;
    ML_TRY(ml_durable_read(path, largest, &bytes, &length));
    st = ml_text_add(out, bytes, length);
done:
    ml_memory_free(bytes);
    return st;
}

static ml_status keep_file(const char *directory, const char *name, ml_text *out)
{
    ml_status st = ML_OK;
    ml_text path = {0};
    if (!hf_has_file(directory, name)) return ML_OK;
    ML_TRY(ml_text_printf(&path, "%s/%s", directory, name));
    st = import_keep_file(path.data, out);
done:
    ml_text_destroy(&path);
    return st;
}

static ml_status keep_those(const char *directory, bool (*wanted)(const char *name),
                            ml_base_files *files)
{
    ml_status st = ML_OK;
    for (int i = 0; st == ML_OK && ml_base_file_names[i]; i++)
        if (wanted(ml_base_file_names[i]))
            st = keep_file(directory, ml_base_file_names[i], &files->content[i]);
    return st;
}

static bool any(const char *name) { return name != NULL; }

static bool is_of_tokenizer(const char *name)
{
    static const char *const of_model[] = {"config.json",
                                           "modules.json",
                                           "sentence_bert_config.json",
                                           "config_sentence_transformers.json",
                                           "1_Pooling/config.json",
                                           NULL};
    return ml_find_word(name, of_model) < 0;
}

/* What a tokenizer's directory says beside its vocabulary. */
static bool is_setting(const char *name)
{
    static const char *const names[] = {"tokenizer_config.json",
                                        "special_tokens_map.json",
                                        "generation_config.json",
                                        "chat_template.jinja",
                                        "additional_chat_templates/tool_use.jinja",
                                        "chat_template.json",
                                        NULL};
    return ml_find_word(name, names) >= 0;
}

ml_status import_keep_settings(const char *directory, ml_base_files *files)
{
    return keep_those(directory, is_setting, files);
}

ml_status import_keep_tokenizer(const char *directory, ml_base_files *files)
{
    return keep_those(directory, is_of_tokenizer, files);
}

ml_status import_keep_files(const char *directory, ml_base_files *files)
{
    return keep_those(directory, any, files);
}
