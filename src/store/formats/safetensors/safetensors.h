/* safetensors: reading one file. Local; an internal module.
 *
 * Everything is checked when the file is opened: header length, JSON without duplicate keys, kinds
 * of its values, shapes without overflow, data without gaps that ends where the file ends. Types
 * that are not known may lie there, unread. ML_INPUT naming file and tensor.
 */
#ifndef MPILORA_STORE_FORMATS_SAFETENSORS_SAFETENSORS_H
#define MPILORA_STORE_FORMATS_SAFETENSORS_SAFETENSORS_H

#include "io/window.h"

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
/* Adds the file to a window, through which it is read from now on. */
ml_status ml_safetensors_share(ml_safetensors *file, ml_window *window) ML_NODISCARD;
/* The place of a tensor there, and the SHA-256 of the file, as ml_window_hash. */
int64_t ml_safetensors_place(const ml_safetensors *file, const ml_safetensors_entry *entry);
ml_status ml_safetensors_hash(const ml_safetensors *file, atomic_bool *stop,
                              char hex[ML_SHA256_HEX]) ML_NODISCARD;
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
