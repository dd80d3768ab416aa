/* safetensors: reading one file. Local; an internal module.
 *
 * Everything is checked when the file is opened: header length, JSON without duplicate keys, kinds
 * of its values, shapes without overflow, data without gaps that ends where the file ends. Types
 * that are not known may lie there, unread. ML_INPUT naming file and tensor.
 */
#ifndef MPILORA_STORE_FORMATS_SAFETENSORS_SAFETENSORS_H
#define MPILORA_STORE_FORMATS_SAFETENSORS_SAFETENSORS_H

#include "mpilora/base.h"

enum { ML_SAFETENSORS_DIMS = 8 };

typedef struct ml_safetensors_entry {
    const char *name;  /* owned by the file */
    const char *dtype; /* "F32", "F16", "BF16", … */
    int dims;
    int64_t shape[ML_SAFETENSORS_DIMS];
    int64_t count;         /* elements */
    int64_t offset, bytes; /* in the file */
} ml_safetensors_entry;

typedef struct ml_safetensors ml_safetensors;

ml_status ml_safetensors_open(ml_safetensors **out, const char *path) ML_NODISCARD;
void ml_safetensors_close(ml_safetensors *file); /* NULL is fine */
int64_t ml_safetensors_count(const ml_safetensors *file);
/* In the order of the data. */
const ml_safetensors_entry *ml_safetensors_at(const ml_safetensors *file, int64_t index);
const ml_safetensors_entry *ml_safetensors_find(const ml_safetensors *file,
                                                const char *name); /* NULL: not there */
/* A shape in messages: "2, 3"; returns `text`. */
enum { ML_SAFETENSORS_SHAPE = 22 * ML_SAFETENSORS_DIMS };
const char *ml_safetensors_shape(int dims, const int64_t *shape, char text[ML_SAFETENSORS_SHAPE]);
/* Whether it has a type that is read: F32, F16, BF16, F64. */
bool ml_safetensors_is_real(const ml_safetensors_entry *entry);
/* Elements [first, first + count) as fp32, F64 rounded. ML_INPUT where the type is another or the
 * file cannot be read. */
ml_status ml_safetensors_read(const ml_safetensors *file, const ml_safetensors_entry *entry,
                              int64_t first, int64_t count, float *out) ML_NODISCARD;
/* Bytes [first, first + count) of it, whatever its type. ML_INPUT where it has fewer or the file
 * cannot be read. */
ml_status ml_safetensors_read_bytes(const ml_safetensors *file, const ml_safetensors_entry *entry,
                                    int64_t first, int64_t count, void *out) ML_NODISCARD;

#endif
