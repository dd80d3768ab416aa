/* The hash of what a base holds, whatever its file looks like: the description's text, each
 * tensor's name and bytes in the order of the model, the tokenizer. A writer feeds it as it goes;
 * of a file it is taken again when that is verified. */
#include "io/hdf5_file.h"
#include "store/base/base_private.h"

ml_status base_content_begin(ml_sha256 **hash, const char *architecture)
{
    ml_status st = ml_sha256_create(hash);
    if (st == ML_OK) ml_sha256_add(*hash, architecture, strlen(architecture));
    return st;
}

void base_content_name(ml_sha256 *hash, const char *name)
{
    ml_sha256_add(hash, name, strlen(name) + 1);
}

void base_content_finish(ml_sha256 *hash, const char *tokenizer, int64_t length,
                         char hex[ML_SHA256_HEX])
{
    ml_sha256_add(hash, tokenizer, (size_t)length);
    ml_sha256_finish(hash, hex);
}

ml_status base_content_hash(const ml_base *b, char hex[ML_SHA256_HEX])
{
    ml_status st = ML_OK;
    ml_sha256 *hash = NULL;
    char *piece = NULL;
    ML_NEW(piece, ML_SHA256_PIECE, ML_MEM_OTHER, "a read buffer");
    ML_TRY(base_content_begin(&hash, b->architecture));
    for (int64_t i = 0; i < b->ntensors; i++) {
        ml_model_tensor t;
        ml_model_tensor_at(&b->spec, i, &t);
        base_content_name(hash, t.name);
        int64_t bytes = ml_dtype_bytes(base_stored(&b->spec, b->dtype, &t), t.rows * t.cols);
        for (int64_t at = 0; at < bytes; at += ML_SHA256_PIECE) {
            int64_t n = ml_min(ML_SHA256_PIECE, bytes - at);
            ML_TRY(ml_file_read(b->fd, b->path, piece, n, b->offset[i] + at));
            ml_sha256_add(hash, piece, (size_t)n);
        }
    }
    base_content_finish(hash, b->tokenizer, b->tokenizer_length, hex);
    hash = NULL;
done:
    ml_sha256_destroy(hash);
    ml_memory_free(piece);
    return st;
}
