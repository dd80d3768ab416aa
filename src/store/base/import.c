/* Import: a source of weights, tensor by tensor, in blocks of rows, into a base file. */
#include <errno.h>
#include <inttypes.h>
#include <sys/stat.h>

#include "mpilora/data.h"
#include "store/base/import_private.h"

enum { BLOCK = 32 << 20 }; /* values in memory at once: 128 MiB */

ml_status import_read_tokenizer(ml_status st, ml_text *json)
{
    if (st != ML_INPUT) return st;
    ml_warn("%s: the base gets no tokenizer; it takes data as ids (--format ids)", ml_error_text());
    ml_error_clear();
    json->length = 0;
    return ML_OK;
}

ml_status import_check_tokenizer(const ml_text *json, const ml_model_spec *spec)
{
    ml_tokenizer *tokenizer = NULL;
    if (!json->length) return ML_OK;
    ml_status st = ml_tokenizer_create(&tokenizer, json->data, json->length);
    if (st == ML_OK && ml_tokenizer_size(tokenizer) > spec->vocab)
        st = ml_fail(ML_INPUT,
                     "the tokenizer has %" PRId64 " tokens, the model's vocabulary only %" PRId64,
                     ml_tokenizer_size(tokenizer), spec->vocab);
    ml_tokenizer_destroy(tokenizer);
    return st;
}

static int64_t block_values(const ml_model_spec *spec)
{
    int64_t widest = ml_max(spec->width, ml_max(spec->mlp_width, spec->heads * spec->head_dim));
    return ml_max(BLOCK, widest);
}

static ml_status copy_tensor(const import_source *source, ml_base_writer *w,
                             const ml_model_tensor *t, float *block, int64_t room)
{
    int64_t step = ml_max(1, room / t->cols);
    for (int64_t row = 0; row < t->rows; row += step) {
        int64_t n = ml_min(step, t->rows - row);
        ml_status st = source->read_rows(source->self, t, row, n, block);
        if (st == ML_OK) st = ml_base_writer_rows(w, t->name, row, n, block);
        if (st != ML_OK) return st;
    }
    return ML_OK;
}

static ml_status copy_all(const import_source *source, ml_dtype dtype, const char *out)
{
    ml_status st = ML_OK;
    ml_base_writer *w = NULL;
    float *block = NULL;
    int64_t room = block_values(&source->spec);
    ML_NEW(block, room, ML_MEM_OTHER, "a block of rows");
    ML_TRY(ml_base_writer_create(&w, out, &source->spec, dtype, source->tokenizer.data,
                                 source->tokenizer.length, source->hash, &source->files));
    for (int64_t i = 0; i < ml_model_tensor_count(&source->spec); i++) {
        ml_model_tensor t;
        ml_model_tensor_at(&source->spec, i, &t);
        ML_TRY(copy_tensor(source, w, &t, block, room));
    }
    st = ml_base_writer_finish(w);
    w = NULL;
done:
    ml_base_writer_discard(w);
    ml_memory_free(block);
    return st;
}

ml_status ml_import(const char *path, const char *hf_config, ml_dtype dtype, const char *out)
{
    ml_status st = ML_OK;
    import_source source = {0};
    struct stat about;
    if (stat(path, &about))
        return ml_fail(ML_INPUT, "%s: cannot be opened: %s", path, strerror(errno));
    if (S_ISDIR(about.st_mode) && hf_config)
        return ml_fail(ML_USAGE,
                       "--hf-config is for a GGUF file; %s is a directory, which has its own "
                       "config.json",
                       path);
    ML_TRY(S_ISDIR(about.st_mode) ? import_open_huggingface(&source, path)
                                  : import_open_gguf(&source, path, hf_config));
    st = import_check_tokenizer(&source.tokenizer, &source.spec);
    if (st != ML_OK) st = ml_fail_within(st, "%s", path);
    st = import_read_tokenizer(st, &source.tokenizer);
    if (st == ML_OK) st = copy_all(&source, dtype, out);
done:
    if (source.close) source.close(source.self);
    ml_text_destroy(&source.tokenizer);
    ml_base_files_destroy(&source.files);
    return st;
}
