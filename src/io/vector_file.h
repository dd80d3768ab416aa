/* vector_file: one matrix [rows, cols] of fp32 for other programs, written by blocks of rows in any
 * order. Local; an internal module.
 *
 * NAME.npy is NumPy's format, NAME.h5 an HDF5 file with the data set `embeddings` and attributes.
 * The file is there whole or not at all: it is written beside its place and renamed. */
#ifndef MPILORA_IO_VECTOR_FILE_H
#define MPILORA_IO_VECTOR_FILE_H

#include "mpilora/base.h"

typedef struct vector_file vector_file;

/* An attribute of the HDF5 file; a NULL name ends a list. */
typedef struct vector_attribute {
    const char *name, *text; /* text NULL: the number */
    int64_t number;
} vector_attribute;

/* Whether a path ends as one of the two formats does. */
bool vector_file_is_known(const char *path);
/* *out is ended with vector_file_finish or vector_file_discard. ML_RESOURCE naming the path. */
ml_status vector_file_create(vector_file **out, const char *path, int64_t rows, int64_t cols,
                             const vector_attribute *attributes) ML_NODISCARD;
ml_status vector_file_put(vector_file *file, int64_t first, int64_t rows,
                          const float *values) ML_NODISCARD;
/* Syncs and renames; takes `file` also where it fails. */
ml_status vector_file_finish(vector_file *file) ML_NODISCARD;
void vector_file_discard(vector_file *file); /* NULL is fine */

#endif
