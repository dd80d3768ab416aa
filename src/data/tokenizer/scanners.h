/* Split patterns that many models have, cut by scanners written by hand, many times as fast as a
 * regular expression. A scanner's pattern matches at every place, so that its pieces cover the
 * text. Text must be valid UTF-8. */
#ifndef MPILORA_DATA_TOKENIZER_SCANNERS_H
#define MPILORA_DATA_TOKENIZER_SCANNERS_H

#include "data/tokenizer/split.h"

#define ML_PATTERN_GPT2 \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
#define ML_PATTERN_LLAMA3                                                      \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| " \
    "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define ML_PATTERN_QWEN2                                                  \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| " \
    "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define ML_PATTERN_DIGIT "\\p{N}"

typedef struct ml_scanner ml_scanner;

/* *out NULL (and ML_OK) where there is no scanner for the pattern. Local, as all of these. */
ml_status ml_scanner_create(ml_scanner **out, const char *pattern) ML_NODISCARD;
/* The same for another thread: a scanner learns what characters are while it runs. */
ml_status ml_scanner_share(ml_scanner **out, const ml_scanner *of) ML_NODISCARD;
void ml_scanner_destroy(ml_scanner *scanner);

/* Hands the pieces on; what the sink returns other than ML_OK ends it. */
ml_status ml_scanner_cut(const ml_scanner *scanner, const ml_piece *piece, ml_piece_sink sink,
                         void *context) ML_NODISCARD;

#endif
