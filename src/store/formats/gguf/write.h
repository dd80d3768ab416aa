/* Writing GGUF version 3: metadata in memory, then the table of tensors, then their contents in
 * that order. An internal module of the format. */
#ifndef MPILORA_STORE_FORMATS_GGUF_WRITE_H
#define MPILORA_STORE_FORMATS_GGUF_WRITE_H

#include "mpilora/blocks.h"

typedef struct gguf_out_tensor {
    char name[128];
    const ml_block_format *type;
    int64_t rows, cols; /* a vector: 1 row */
    int dims;
    int64_t offset, bytes; /* of the contents, from the table's end on */
} gguf_out_tensor;

typedef struct gguf_writer {
    char path[4096], temporary[4096];
    int fd;
    int64_t contents; /* where they begin */
    ml_text keys;
    int64_t nkeys, ntensors, capacity;
    gguf_out_tensor *tensors; /* [ntensors] */
} gguf_writer;

/* Local, as all of these; ML_RESOURCE where memory is lacking or the file cannot be written. End
 * with gguf_finish or gguf_discard, also after a failure. */
ml_status gguf_create(gguf_writer *w, const char *path) ML_NODISCARD;

/* A key and its value. */
ml_status gguf_put_text(gguf_writer *w, const char *key, const char *text) ML_NODISCARD;
ml_status gguf_put_count(gguf_writer *w, const char *key, int64_t value) ML_NODISCARD; /* u32 */
ml_status gguf_put_real(gguf_writer *w, const char *key, double value) ML_NODISCARD;   /* f32 */
ml_status gguf_put_flag(gguf_writer *w, const char *key, bool value) ML_NODISCARD;
ml_status gguf_put_texts(gguf_writer *w, const char *key, const char *const *texts,
                         int64_t count) ML_NODISCARD;
ml_status gguf_put_integers(gguf_writer *w, const char *key, const int32_t *values,
                            int64_t count) ML_NODISCARD;
ml_status gguf_put_bytes(gguf_writer *w, const char *key, const char *values,
                         int64_t count) ML_NODISCARD;
ml_status gguf_put_reals(gguf_writer *w, const char *key, const float *values,
                         int64_t count) ML_NODISCARD;

/* The next tensor of the table; dims 1: `rows` is 1. */
ml_status gguf_add_tensor(gguf_writer *w, const char *name, const ml_block_format *type,
                          int64_t rows, int64_t cols, int dims) ML_NODISCARD;
/* The head; the file is as long as it will be from here on, with zeros for contents. */
ml_status gguf_put_head(gguf_writer *w) ML_NODISCARD;
/* The next bytes of a tensor, at its byte `first`. */
ml_status gguf_put_contents(gguf_writer *w, const gguf_out_tensor *tensor, int64_t first,
                            const void *data, int64_t bytes) ML_NODISCARD;
/* Syncs and renames: the file is there whole, or what was there before. */
ml_status gguf_finish(gguf_writer *w) ML_NODISCARD;
void gguf_discard(gguf_writer *w);

#endif
