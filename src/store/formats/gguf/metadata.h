/* The head of a GGUF file, value by value. An internal module of the format. */
#ifndef MPILORA_STORE_FORMATS_GGUF_METADATA_H
#define MPILORA_STORE_FORMATS_GGUF_METADATA_H

#include "store/formats/gguf/gguf.h"

enum { GGUF_WINDOW = 1 << 16 };

typedef struct gguf_cursor {
    gguf_file *file;
    int64_t at;           /* next byte */
    int64_t window, held; /* the buffered range */
    uint8_t *buffer;      /* [GGUF_WINDOW] */
} gguf_cursor;

/* Each is Local, moves the cursor on, and ends with ML_INPUT naming the file where it is too short
 * or says what cannot be. */
ml_status gguf_take(gguf_cursor *c, void *out, int64_t n) ML_NODISCARD;
ml_status gguf_take_u32(gguf_cursor *c, int64_t *out) ML_NODISCARD;
/* A length or count of things of at least `size` bytes each. */
ml_status gguf_take_count(gguf_cursor *c, int64_t size, const char *what,
                          int64_t *out) ML_NODISCARD;
ml_status gguf_take_text(gguf_cursor *c, const char *what, char **out) ML_NODISCARD;
/* A key and its value; what it holds is released by gguf_close, also after a failure. */
ml_status gguf_take_value(gguf_cursor *c, gguf_value *v) ML_NODISCARD;
/* Every key that readers look at has the kind of the table gguf_keys. */
ml_status gguf_check_kinds(const gguf_file *file) ML_NODISCARD;

#endif
