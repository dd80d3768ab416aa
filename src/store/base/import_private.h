/* What importers share. An internal module. */
#ifndef MPILORA_STORE_BASE_IMPORT_PRIVATE_H
#define MPILORA_STORE_BASE_IMPORT_PRIVATE_H

#include <stdatomic.h>

#include "io/window.h"
#include "mpilora/blocks.h"
#include "mpilora/import.h"
#include "mpilora/store.h"

/* Places of a window: from the first row's to the last one's end; 0 bytes: every row needs all. */
typedef struct import_range {
    int64_t from, bytes;
} import_range;

/* A source of weights: what it is and rows [first, first + count) of each of its tensors, as
 * mpilora lays them out (out × in), in fp32. Several threads read at once. */
typedef struct import_source {
    void *self;
    ml_model_spec spec;
    ml_text tokenizer;   /* canonical JSON; empty: none. Owned */
    ml_base_files files; /* owned */
    /* The SHA-256 of what was read. Ends early, as it likes, once *stop is set. */
    ml_status (*hash)(void *self, atomic_bool *stop, char hex[ML_SHA256_HEX]);
    ml_status (*read_rows)(void *self, const ml_model_tensor *tensor, int64_t first, int64_t count,
                           float *out);
    /* What the source has a matrix in, and rows of it as they are there; NULL: no blocks. */
    const ml_block_format *(*format_of)(void *self, const ml_model_tensor *tensor);
    ml_status (*read_blocks)(void *self, const ml_model_tensor *tensor, int64_t first,
                             int64_t count, void *out);
    /* Adds the files of the weights to a window, in the order in which `hash` takes them, which
     * goes through it from now on, as all reading does. NULL: there are none. */
    ml_status (*share)(void *self, ml_window *window);
    /* Where a tensor lies in the window, or nearly. */
    import_range (*find)(void *self, const ml_model_tensor *tensor);
    void (*close)(void *self);
} import_source;

ml_status import_open_huggingface(import_source *out, const char *directory) ML_NODISCARD;
/* options->hf_config: a config.json that says what the model is, in the place of the file's own
 * metadata, which must not contradict it; NULL: the metadata, and a warning of what they cannot
 * say. options->tokenizer: a directory whose tokenizer is taken in the place of the file's. */
ml_status import_open_gguf(import_source *out, const char *path,
                           const ml_import_options *options) ML_NODISCARD;
/* A file as it is, behind what `out` has. ML_INPUT naming it. */
ml_status import_keep_file(const char *path, ml_text *out) ML_NODISCARD;
/* The files of a Hugging Face directory that a base keeps. */
ml_status import_keep_files(const char *directory, ml_base_files *files) ML_NODISCARD;
/* Those of them that say nothing of the model that a tokenizer was made for. */
ml_status import_keep_tokenizer(const char *directory, ml_base_files *files) ML_NODISCARD;
/* Those of these without the vocabulary, which the base has converted: chat template, names of
 * special tokens, ends of an answer. */
ml_status import_keep_settings(const char *directory, ml_base_files *files) ML_NODISCARD;
/* The tokenizer of a directory that must have one. ML_INPUT. */
ml_status import_directory_tokenizer(const char *directory, ml_text *json) ML_NODISCARD;

/* Says what rounding to blocks has lost, where matrices were. */
void import_say_error(const ml_base_writer *w, const ml_import_options *options);

/* What became of reading a source's tokenizer: one that cannot be read leaves the base without one,
 * with a warning, instead of refusing the weights. */
ml_status import_read_tokenizer(ml_status st, ml_text *json) ML_NODISCARD;
/* ML_INPUT where the tokenizer has more tokens than the model's vocabulary. */
ml_status import_check_tokenizer(const ml_text *json, const ml_model_spec *spec) ML_NODISCARD;

/* import_tokens.c: the source of a model whose vocabulary has the tokens of the file, too. `from`
 * gives its tokenizer and files away and must outlive *out, which the caller closes first.
 * ML_USAGE where it has no tokenizer; ML_INPUT of the file. */
ml_status import_add_tokens(import_source *out, import_source *from, const char *path) ML_NODISCARD;
/* Whether a tensor has a row for each token. */
bool import_is_by_token(const ml_model_tensor *tensor);

#endif
