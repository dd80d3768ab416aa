/* One stage of a normalizer: from one aligned text to the next. Local, like all of this. */
#ifndef MPILORA_DATA_TOKENIZER_NORMALIZER_STAGES_H
#define MPILORA_DATA_TOKENIZER_NORMALIZER_STAGES_H

#include "data/tokenizer/charsmap.h"
#include "data/tokenizer/normalizer.h"
#include "data/tokenizer/pattern.h"
#include "data/tokenizer/unicode.h"

typedef struct normalizer_stage normalizer_stage;
struct normalizer_stage {
    ml_status (*run)(const normalizer_stage *s, const ml_aligned *in, ml_aligned *out);
    ml_normal_form form;
    bool clean, chinese;                             /* of BERT */
    bool left, right;                                /* of Strip */
    bool dummy_prefix, remove_extra, escape, suffix; /* of SentencePiece */
    char *text;                                      /* what is put or prepended */
    ml_pattern *pattern;                             /* what is replaced */
    ml_charsmap *map;
    const ml_trie *frozen; /* borrowed */
};

/* Appends bytes that came from a character of the input whose place is `from`. */
ml_status normalizer_put(ml_aligned *out, const ml_aligned *in, int64_t from, const char *bytes,
                         int64_t length) ML_NODISCARD;

ml_status normalizer_form(const normalizer_stage *s, const ml_aligned *in,
                          ml_aligned *out) ML_NODISCARD;
ml_status normalizer_lowercase(const normalizer_stage *s, const ml_aligned *in,
                               ml_aligned *out) ML_NODISCARD;
ml_status normalizer_strip_marks(const normalizer_stage *s, const ml_aligned *in,
                                 ml_aligned *out) ML_NODISCARD;
ml_status normalizer_strip_accents(const normalizer_stage *s, const ml_aligned *in,
                                   ml_aligned *out) ML_NODISCARD;
ml_status normalizer_clean(const normalizer_stage *s, const ml_aligned *in,
                           ml_aligned *out) ML_NODISCARD;
ml_status normalizer_nmt(const normalizer_stage *s, const ml_aligned *in,
                         ml_aligned *out) ML_NODISCARD;
ml_status normalizer_strip(const normalizer_stage *s, const ml_aligned *in,
                           ml_aligned *out) ML_NODISCARD;
ml_status normalizer_replace(const normalizer_stage *s, const ml_aligned *in,
                             ml_aligned *out) ML_NODISCARD;
ml_status normalizer_prepend(const normalizer_stage *s, const ml_aligned *in,
                             ml_aligned *out) ML_NODISCARD;
ml_status normalizer_append(const normalizer_stage *s, const ml_aligned *in,
                            ml_aligned *out) ML_NODISCARD;
ml_status normalizer_bytes(const normalizer_stage *s, const ml_aligned *in,
                           ml_aligned *out) ML_NODISCARD;
ml_status normalizer_precompiled(const normalizer_stage *s, const ml_aligned *in,
                                 ml_aligned *out) ML_NODISCARD;
ml_status normalizer_sentencepiece(const normalizer_stage *s, const ml_aligned *in,
                                   ml_aligned *out) ML_NODISCARD;

#endif
