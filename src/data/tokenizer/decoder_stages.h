/* The stages of a decoder: each makes of a list of texts, at first those of the tokens, another
 * list. Their meanings are those of Hugging Face's `tokenizers`; that of SentencePiece, which goes
 * from ids to one text, is its own library's. */
#ifndef MPILORA_DATA_TOKENIZER_DECODER_STAGES_H
#define MPILORA_DATA_TOKENIZER_DECODER_STAGES_H

#include "data/tokenizer/pattern.h"
#include "data/tokenizer/vocabulary.h"

/* Texts one after the other. Start from {0}; end with ml_decode_texts_destroy. */
typedef struct ml_decode_texts {
    ml_text bytes;
    int64_t *ends;
    int64_t count, capacity;
} ml_decode_texts;

void ml_decode_texts_destroy(ml_decode_texts *t);
const char *ml_decode_text_at(const ml_decode_texts *t, int64_t i, int64_t *length);
/* Ends the text whose bytes were appended last. Local, as all of these. ML_RESOURCE. */
ml_status ml_decode_text_end(ml_decode_texts *t) ML_NODISCARD;

typedef struct ml_decode_stage ml_decode_stage;
typedef ml_status (*ml_decode_run)(const ml_decode_stage *s, const ml_decode_texts *in,
                                   ml_decode_texts *out);
struct ml_decode_stage {
    ml_decode_run run;
    char *text, *other; /* prefix, suffix, content, padding; delimiter, replacement */
    bool cleanup, keep_first;
    int64_t start, stop; /* of Strip */
    ml_pattern *pattern;
    bool drop_blank, drop_all; /* of SentencePiece: the first blank, all leading ones */
    const char *unknown;
};

/* Each by its type in tokenizer.json ("BPEDecoder": suffix). ML_RESOURCE. */
ml_status ml_decode_byte_level(const ml_decode_stage *s, const ml_decode_texts *in,
                               ml_decode_texts *out) ML_NODISCARD;
ml_status ml_decode_wordpiece(const ml_decode_stage *s, const ml_decode_texts *in,
                              ml_decode_texts *out) ML_NODISCARD;
ml_status ml_decode_metaspace(const ml_decode_stage *s, const ml_decode_texts *in,
                              ml_decode_texts *out) ML_NODISCARD;
ml_status ml_decode_suffix(const ml_decode_stage *s, const ml_decode_texts *in,
                           ml_decode_texts *out) ML_NODISCARD;
ml_status ml_decode_ctc(const ml_decode_stage *s, const ml_decode_texts *in,
                        ml_decode_texts *out) ML_NODISCARD;
ml_status ml_decode_byte_fallback(const ml_decode_stage *s, const ml_decode_texts *in,
                                  ml_decode_texts *out) ML_NODISCARD;
ml_status ml_decode_fuse(const ml_decode_stage *s, const ml_decode_texts *in,
                         ml_decode_texts *out) ML_NODISCARD;
ml_status ml_decode_strip(const ml_decode_stage *s, const ml_decode_texts *in,
                          ml_decode_texts *out) ML_NODISCARD;
ml_status ml_decode_replace(const ml_decode_stage *s, const ml_decode_texts *in,
                            ml_decode_texts *out) ML_NODISCARD;

/* Appends the text of ids. */
ml_status ml_decode_sentencepiece(const ml_decode_stage *s, const ml_vocabulary *v,
                                  const int32_t *ids, int64_t count, ml_text *out) ML_NODISCARD;

#endif
