/* What the files of GGUF's import share. An internal module of the format. */
#ifndef MPILORA_STORE_FORMATS_GGUF_IMPORT_H
#define MPILORA_STORE_FORMATS_GGUF_IMPORT_H

#include "mpilora/family.h"
#include "store/base/import_private.h"
#include "store/formats/gguf/gguf.h"

typedef struct gguf_source {
    gguf_file file;
    const ml_model_spec *spec;
    const char *architecture; /* general.architecture */
} gguf_source;

/* import.c. The family whose files say this architecture; NULL: none. */
const ml_family *gguf_import_family(const char *architecture);
/* The value of the architecture's own key `name`; NULL: there is none. */
const gguf_value *gguf_find_own(const gguf_source *g, const char *name);
/* What the file's own metadata say of the model, but for a tied head. Local; ML_INPUT naming file
 * and key. */
ml_status gguf_import_describe(gguf_source *g, ml_model_spec *spec) ML_NODISCARD;

/* import_files.c. What the base has beside the weights: out->tokenizer and out->files, of the file
 * itself or as the options say. Local; ML_INPUT naming the file or directory. */
ml_status gguf_import_files(const gguf_source *g, const ml_import_options *options,
                            import_source *out) ML_NODISCARD;

/* unread.c. Keys of the architecture that spec was not read from: refused where they change what is
 * computed, else named in a warning. Local; ML_INPUT naming file and key. */
ml_status gguf_import_check_unread(const gguf_source *g) ML_NODISCARD;

/* import_tensors.c. Each is Local; ML_INPUT naming file and tensor. */
/* All that the model has, in its shapes, and nothing else. */
ml_status gguf_import_check_tensors(const gguf_source *g) ML_NODISCARD;
/* No head of its own, or one that is the embedding byte for byte. */
ml_status gguf_import_find_head(const gguf_source *g, bool *tied) ML_NODISCARD;
/* As import_source.share and find; self: a gguf_source. */
ml_status gguf_import_share(void *self, ml_window *window) ML_NODISCARD;
import_range gguf_import_find(void *self, const ml_model_tensor *t);
/* As import_source.read_rows. */
ml_status gguf_import_rows(void *self, const ml_model_tensor *t, int64_t first, int64_t count,
                           float *out) ML_NODISCARD;
/* As import_source.format_of and read_blocks. */
const ml_block_format *gguf_import_format(void *self, const ml_model_tensor *t);
ml_status gguf_import_blocks(void *self, const ml_model_tensor *t, int64_t first, int64_t count,
                             void *out) ML_NODISCARD;

#endif
