/* A base that has no file: what an open one holds of a model, for plans. */
#include "store/base/base_private.h"

/* As open.c finds them in a file: none where no matrix is in blocks. */
static ml_status copy_formats(ml_base *b, const ml_dtype *formats)
{
    ml_status st = ML_OK;
    int64_t count = ml_model_formats(&b->spec);
    bool any = false;
    for (int64_t i = 0; formats && i < count; i++) any = any || ml_dtype_is_block(formats[i]);
    b->spec.formats = NULL;
    if (!any) return ML_OK;
    ML_NEW(b->formats, count, ML_MEM_OTHER, "formats of tensors");
    memcpy(b->formats, formats, (size_t)count * sizeof *formats);
    b->spec.formats = b->formats;
done:
    return st;
}

ml_status ml_base_describe(ml_base **out, const char *path, const ml_model_spec *spec)
{
    ml_status st = ML_OK;
    ml_base *b = NULL;
    ml_text architecture = {0};
    ML_NEW(b, 1, ML_MEM_OTHER, "a base");
    b->fd = -1;
    b->dtype = ML_BF16;
    b->spec = *spec;
    b->ntensors = ml_model_tensor_count(spec);
    ML_TRY(copy_formats(b, spec->formats));
    ML_TRY(base_spec_to_json(spec, &architecture));
    b->path = ml_memory_string(path);
    b->architecture = ml_memory_string(architecture.data);
    if (!b->path || !b->architecture) {
        st = ML_RESOURCE;
        goto done;
    }
    ML_NEW(b->offset, b->ntensors, ML_MEM_OTHER, "places of tensors");
    ML_NEW(b->tokenizer, 1, ML_MEM_OTHER, "no tokenizer");
    *out = b;
    b = NULL;
done:
    ml_text_destroy(&architecture);
    ml_base_close(b);
    return st;
}
