/* The writer of a base file, of which write.c makes and finishes the file and contents.c puts the
 * tensors' contents at their places. An internal module. */
#ifndef MPILORA_STORE_BASE_WRITER_H
#define MPILORA_STORE_BASE_WRITER_H

#include "io/durable.h"
#include "store/base/base_private.h"

struct ml_base_writer {
    char path[BASE_PATH], temporary[ML_DURABLE_PATH];
    ml_model_spec spec;
    ml_dtype dtype, *formats; /* formats: the specification's, copied; NULL: no blocks */
    int fd;
    int64_t ntensors, tensor, row; /* the next row that the hash expects */
    int64_t nplaces;               /* the tensors', and the tokenizer's where there is one */
    extent *place;                 /* [nplaces] */
    char source[ML_SHA256_HEX];    /* the source's hash */
    char *tokenizer;
    int64_t tokenizer_length;
    const ml_base_files *files; /* borrowed; NULL: none */
    extent file_place[ML_BASE_FILES];
    ml_sha256 *content;
    char *piece;          /* rows as they are written, of ml_base_writer_rows; NULL: none yet */
    ml_block_error error; /* of the blocks that were made here */
};

/* Some rows of a tensor, and what they are written as. */
typedef struct base_rows {
    ml_model_tensor tensor;
    int64_t index; /* of the tensor in the model */
    int64_t first, count;
    ml_dtype stored;
    int64_t offset, bytes; /* in the file */
} base_rows;

base_rows base_writer_at(const ml_base_writer *w, const ml_model_tensor *tensor, int64_t index,
                         int64_t first, int64_t count);
/* Numbers [rows, columns] as they are written; `error` gets what rounding to blocks loses.
 * Thread-safe. ML_INPUT naming tensor, row and block. */
ml_status base_writer_encode(const base_rows *rows, const float *values, void *out,
                             ml_block_error *error) ML_NODISCARD;
/* Puts them at their place, in any order. Thread-safe. */
ml_status base_writer_put(const ml_base_writer *w, const base_rows *rows,
                          const void *stored) ML_NODISCARD;
/* Adds what rounding has lost. */
void base_writer_lost(ml_base_writer *w, const ml_block_error *error);
/* Adds them to the hash of the contents; one after the other, in the order of the model, which the
 * caller keeps. */
void base_writer_pass(ml_base_writer *w, const base_rows *rows, const void *stored);
/* The same of rows of the tensor that is due which were put before, up to row `end`: some of them
 * are read back, by way of piece[ML_SHA256_PIECE]. ML_RESOURCE naming the file. */
ml_status base_writer_pass_back(ml_base_writer *w, int64_t end, char *piece) ML_NODISCARD;

#endif
