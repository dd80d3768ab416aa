/* GGUF, versions 2 and 3: metadata, tensor table, contents dequantised to fp32. An internal module.
 *
 * Everything is checked when the file is opened: every count and length against the bytes that are
 * left before anything is allocated, keys unique and not empty, no nested arrays, alignment a
 * power of two, shapes without overflow, rows of whole blocks, data inside the file, each tensor's
 * behind that of the one before. ML_INPUT naming file and key or tensor.
 */
#ifndef MPILORA_STORE_FORMATS_GGUF_GGUF_H
#define MPILORA_STORE_FORMATS_GGUF_GGUF_H

#include "io/window.h"
#include "mpilora/blocks.h"

typedef enum gguf_kind {
    GGUF_NUMBER,
    GGUF_TEXT,
    GGUF_TEXTS,
    GGUF_NUMBERS,
    GGUF_FLAG /* 0 or 1, in `integer` and `real` */
} gguf_kind;

/* A key that readers look at and the kind that it must have; a name that begins with a dot is the
 * end of a key. */
typedef struct gguf_key {
    const char *key;
    gguf_kind kind;
    bool whole; /* of numbers and arrays of them: integers alone */
} gguf_key;
extern const gguf_key gguf_keys[]; /* ended by NULL */

/* One metadata entry. Numbers are kept as double, and as int64_t where they are whole. */
typedef struct gguf_value {
    char *key;
    gguf_kind kind;
    bool whole;
    int64_t integer;
    double real;
    char *text;
    int64_t count; /* of an array */
    char **texts;
    double *reals;
} gguf_value;

typedef struct gguf_tensor {
    char *name;
    const ml_block_format *type;
    int64_t rows, cols; /* a vector: 1 row */
    int dims;
    int64_t offset, bytes; /* in the file */
} gguf_tensor;

typedef struct gguf_file {
    char *path;
    int fd;
    int64_t bytes;
    int64_t nvalues, ntensors;
    gguf_value *values;
    gguf_tensor *tensors;
    ml_window *window; /* through which contents are read; borrowed; NULL: none */
    int64_t number;    /* there */
} gguf_file;

/* Local. Close with gguf_close, also after a failure. */
ml_status gguf_open(gguf_file *out, const char *path) ML_NODISCARD;
void gguf_close(gguf_file *file);
/* Local. ML_INPUT naming file, key, kind found and kind expected; `whole` as in gguf_key. */
ml_status gguf_check_kind(const gguf_file *file, const gguf_value *value, gguf_kind kind,
                          bool whole) ML_NODISCARD;
const gguf_value *gguf_find(const gguf_file *file, const char *key);          /* NULL: not there */
const gguf_tensor *gguf_find_tensor(const gguf_file *file, const char *name); /* NULL: not there */
/* Rows [first, first + count) as fp32. */
ml_status gguf_read_rows(const gguf_file *file, const gguf_tensor *tensor, int64_t first,
                         int64_t count, float *out) ML_NODISCARD;

/* The canonical text of the tokenizer inside; empty where there is none, with a warning. ML_INPUT
 * where it cannot be read. */
ml_status gguf_read_tokenizer(const gguf_file *file, ml_text *json) ML_NODISCARD;
/* The texts of the special tokens that the file names, as special_tokens_map.json has them; nothing
 * where it names none. Chat templates write them, whether or not a text begins with one. */
ml_status gguf_read_specials(const gguf_file *file, ml_text *map) ML_NODISCARD;

/* Rows [first, first + count) as they are stored; their scales are finite. */
ml_status gguf_read_blocks(const gguf_file *file, const gguf_tensor *tensor, int64_t first,
                           int64_t count, void *out) ML_NODISCARD;

/* types.c: of any type, read here or not; "unknown" where GGUF has none of the number. */
const char *gguf_type_name(int64_t number);

#endif
