/* A pattern of tokenizer.json: {"Regex": …} in Oniguruma's language, which PCRE2 is asked for after
 * a translation, or {"String": …}. What means something else in the two languages is refused. */
#ifndef MPILORA_DATA_TOKENIZER_PATTERN_H
#define MPILORA_DATA_TOKENIZER_PATTERN_H

#include <jansson.h>

#include "mpilora/base.h"

typedef struct ml_pattern ml_pattern;

/* ML_INPUT for a pattern that is not understood. Local, as all of these. */
ml_status ml_pattern_create(ml_pattern **out, const char *text) ML_NODISCARD;
/* From {"Regex": …}, {"String": …}, or a bare string, which is one. */
ml_status ml_pattern_read(ml_pattern **out, const json_t *json) ML_NODISCARD;
/* The same pattern for another thread: what it compiles to is borrowed from `of`, which outlives
 * it, what a search writes is its own. NULL of NULL. */
ml_status ml_pattern_share(ml_pattern **out, const ml_pattern *of) ML_NODISCARD;
void ml_pattern_destroy(ml_pattern *pattern);

/* Where matches are looked for, and the one found. Start with `from` 0 and `last` −1. */
typedef struct ml_match {
    int64_t from, last; /* next search; end of the match before */
    int64_t start, end;
} ml_match;

/* The next match in valid UTF-8, which may be empty, but not where the one before it ends: *found.
 * ML_RESOURCE where the search costs too much. */
ml_status ml_pattern_next(const ml_pattern *pattern, const char *text, int64_t length,
                          ml_match *match, bool *found) ML_NODISCARD;

#endif
