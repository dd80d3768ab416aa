/* Files of a base's source that go out with it again, byte for byte: the group /files of a base
 * file, a data set of bytes each. They lie outside the extents of the contents, so the seal covers
 * them; content_sha256 does not: it is what two imports of the same weights have in common. */
#include <inttypes.h>
#include <stdlib.h>

#include "io/hdf5_file.h"
#include "io/hdf5_work.h"
#include "io/json.h"
#include "store/base/base_private.h"

/* What a tokenizer, a chat and a generation need. The configuration is kept for its special tokens:
 * what it says of the model is in the base's own description. */
const char *const ml_base_file_names[] = {"config.json",
                                          "generation_config.json",
                                          "tokenizer.json",
                                          "tokenizer_config.json",
                                          "special_tokens_map.json",
                                          "added_tokens.json",
                                          "vocab.json",
                                          "merges.txt",
                                          "vocab.txt",
                                          "encoder.json",
                                          "vocab.bpe",
                                          "tokenizer.model",
                                          "spiece.model",
                                          "sentencepiece.bpe.model",
                                          "sentencepiece.model",
                                          "chat_template.jinja",
                                          "additional_chat_templates/tool_use.jinja",
                                          "chat_template.json",
                                          "modules.json",
                                          "sentence_bert_config.json",
                                          "config_sentence_transformers.json",
                                          "1_Pooling/config.json",
                                          NULL};

void ml_base_files_destroy(ml_base_files *files)
{
    for (int i = 0; i < ML_BASE_FILES; i++) ml_text_destroy(&files->content[i]);
}

ml_text *ml_base_files_place(ml_base_files *files, const char *name)
{
    return &files->content[ml_find_word(name, ml_base_file_names)];
}

const ml_text *ml_base_files_find(const ml_base_files *files, const char *name)
{
    int i = ml_find_word(name, ml_base_file_names);
    return i >= 0 && files->content[i].length ? &files->content[i] : NULL;
}

/* ---- names of classes ---------------------------------------------------------------------- */

/* As transformers writes them. */
static int set_names(json_t *config, const json_t *list)
{
    json_t *names = json_object(), *numbers = json_object();
    int failed = 0;
    for (size_t i = 0; i < json_array_size(list); i++) {
        char number[24];
        const json_t *name = json_array_get(list, i);
        snprintf(number, sizeof number, "%zu", i);
        failed |= json_object_set_new(names, number, json_string(json_string_value(name)));
        failed |=
            json_object_set_new(numbers, json_string_value(name), json_integer((json_int_t)i));
    }
    failed |= json_object_set_new(config, "id2label", names);
    return failed | json_object_set_new(config, "label2id", numbers);
}

ml_status ml_base_files_name_labels(ml_base_files *files, const char *names)
{
    ml_status st = ML_OK;
    json_t *config = NULL, *list = NULL;
    ml_text *content = &files->content[0];
    char *text = NULL;
    ML_TRY(ml_json_read(&list, "names of classes", names, (int64_t)strlen(names)));
    if (content->length)
        ML_TRY(ml_json_read(&config, "config.json", content->data, content->length));
    else
        config = json_object();
    if (!config || set_names(config, list) ||
        !(text = ml_json_dump(config, JSON_INDENT(2) | JSON_REAL_PRECISION(17)))) {
        st = ml_fail(ML_RESOURCE, "config.json: out of memory");
        goto done;
    }
    content->length = 0;
    ML_TRY(ml_text_printf(content, "%s\n", text));
done:
    free(text);
    json_decref(config);
    json_decref(list);
    return st;
}

/* A file of a folder stands beside the others, since a slash would make a group. */
static void name_dataset(const char *file, char out[80])
{
    snprintf(out, 80, "%s", file);
    for (char *at = out; (at = strchr(at, '/'));) *at = ':';
}

/* ---- writing ------------------------------------------------------------------------------- */

bool base_files_lay_out(hid_t file, const ml_base_files *files, base_put_dataset put,
                        extent place[ML_BASE_FILES])
{
    char name[80];
    bool good = true, any = false;
    for (int i = 0; i < ML_BASE_FILES; i++) any = any || files->content[i].length;
    if (!any) return true;
    hid_t group = H5Gcreate2(file, "files", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    for (int i = 0; group >= 0 && good && i < ML_BASE_FILES; i++) {
        hsize_t length = (hsize_t)files->content[i].length;
        name_dataset(ml_base_file_names[i], name);
        if (length) good = put(group, name, H5T_STD_U8LE, 1, &length, &place[i]);
    }
    if (group >= 0) H5Gclose(group);
    return group >= 0 && good;
}

ml_status base_files_write(int fd, const char *path, const ml_base_files *files,
                           const extent place[ML_BASE_FILES])
{
    ml_status st = ML_OK;
    for (int i = 0; st == ML_OK && i < ML_BASE_FILES; i++)
        if (files->content[i].length)
            st = ml_file_write(fd, path, files->content[i].data, files->content[i].length,
                               place[i].offset);
    return st;
}

/* ---- reading ------------------------------------------------------------------------------- */

ml_status base_files_locate(ml_base *b, hid_t file, int64_t bytes)
{
    ml_status st = ML_OK;
    char own[80], name[96];
    if (H5Lexists(file, "files", H5P_DEFAULT) <= 0) return ML_OK;
    for (int i = 0; st == ML_OK && ml_base_file_names[i]; i++) {
        extent *place = &b->files[i];
        name_dataset(ml_base_file_names[i], own);
        snprintf(name, sizeof name, "files/%s", own);
        if (H5Lexists(file, name, H5P_DEFAULT) > 0)
            st = ml_hdf5_locate(file, b->path, name, H5T_STD_U8LE, bytes, &place->bytes,
                                &place->offset);
    }
    return st;
}

static ml_status read_one(const ml_base *b, int i, ml_text *out)
{
    ml_status st = ML_OK;
    char *bytes = NULL;
    if (!b->files[i].bytes) return ML_OK;
    ML_NEW(bytes, b->files[i].bytes, ML_MEM_OTHER, "a file of the source");
    ML_TRY(ml_file_read(b->fd, b->path, bytes, b->files[i].bytes, b->files[i].offset));
    st = ml_text_add(out, bytes, b->files[i].bytes);
done:
    ml_memory_free(bytes);
    return st;
}

ml_status ml_base_read_file(const ml_base *base, const char *name, ml_text *out)
{
    for (int i = 0; ml_base_file_names[i]; i++)
        if (!strcmp(ml_base_file_names[i], name)) return read_one(base, i, out);
    return ml_fail(ML_INTERNAL, "%s is not among the files that a base keeps", name);
}

ml_status ml_base_read_files(const ml_base *base, ml_base_files *out)
{
    ml_status st = ML_OK;
    for (int i = 0; st == ML_OK && ml_base_file_names[i]; i++)
        st = read_one(base, i, &out->content[i]);
    return st;
}
