/* Cutting text into the pieces inside which BPE merges.
 *
 * A splitter is a list of patterns, as `tokenizers` has it (Sequence of Split, behaviour
 * isolated): the first cuts the text into its matches and what lies between them, the next one
 * cuts each of these again, and so on. The known patterns have scanners written by hand; any other
 * is PCRE2's work. Text must be valid UTF-8.
 */
#ifndef MPILORA_DATA_PRETOKENIZE_H
#define MPILORA_DATA_PRETOKENIZE_H

#include "mpilora/base.h"

#define ML_PATTERN_GPT2 \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
#define ML_PATTERN_LLAMA3                                                      \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| " \
    "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define ML_PATTERN_DIGIT "\\p{N}"

typedef struct ml_splitter ml_splitter;

/* `scanners` false: PCRE2 for every pattern (the reference that the scanners are tested against).
 * ML_INPUT for a bad pattern. */
ml_status ml_splitter_create(ml_splitter **out, const char *const *patterns, int64_t count,
                             bool scanners) ML_NODISCARD;
void ml_splitter_destroy(ml_splitter *splitter);

/* Calls `piece` for each piece of text[0 … length) in order; ends early with its status where that
 * is not ML_OK. */
typedef ml_status (*ml_piece_sink)(void *context, const char *piece, int64_t length);
ml_status ml_splitter_run(ml_splitter *splitter, const char *text, int64_t length,
                          ml_piece_sink piece, void *context) ML_NODISCARD;

#endif
