/* Formats of blocks on a command line: their words, and the options of what is made in them. */
#ifndef MPILORA_CLI_SUPPORT_BLOCK_OPTIONS_H
#define MPILORA_CLI_SUPPORT_BLOCK_OPTIONS_H

#include "cli/support/options.h"
#include "mpilora/import.h"

/* The formats that numbers can be rounded to and that products take, as --help and messages have
 * them. */
#define BLOCK_FORMATS "q8_0|q4_0|q4_1|q5_0|q5_1|q4_k|q5_k|q6_k|iq4_nl|mxfp4"
#define BLOCK_FORMATS_LIST "q8_0, q4_0, q4_1, q5_0, q5_1, q4_k, q5_k, q6_k, iq4_nl, mxfp4"

typedef struct block_options {
    const char *quantise, *head; /* words; NULL: not given */
} block_options;

/* What the head becomes where --head-dtype does not say it. */
#define BLOCK_HEAD_CHOICE                                                                        \
    "Else llama.cpp's choice: q8_0 beside q8_0 and mxfp4 and where rows do not fit the format, " \
    "else q6_k"

/* The format of a word. ML_USAGE naming `option`, whose other words are `others` ("bf16, "). */
ml_status block_options_format(const char *option, const char *word, const char *others,
                               const ml_block_format **out) ML_NODISCARD;

/* out->quantise and out->head, which may also be the word of out->dtype: in no blocks. ML_USAGE. */
ml_status block_options_read(const block_options *given, ml_import_options *out,
                             const char *usage) ML_NODISCARD;

/* The model of a description with the formats that `import --init random` would give it, which it
 * says as import does. The caller frees *formats, which the model borrows. Collective over the
 * world. ML_USAGE where `path` is no description. */
ml_status block_options_describe(const block_options *given, const char *path, const char *usage,
                                 ml_model_spec *model, ml_dtype **formats) ML_NODISCARD;

#endif
