/* The stages of a pre-tokenizer: each cuts a piece, or rewrites it, and hands on what it makes.
 * Their meanings are those of Hugging Face's `tokenizers`. */
#ifndef MPILORA_DATA_TOKENIZER_PRETOKENIZER_STAGES_H
#define MPILORA_DATA_TOKENIZER_PRETOKENIZER_STAGES_H

#include "data/tokenizer/pattern.h"
#include "data/tokenizer/scanners.h"
#include "data/tokenizer/scripts.h"
#include "data/tokenizer/split.h"

typedef enum ml_prepend_scheme {
    ML_PREPEND_ALWAYS,
    ML_PREPEND_FIRST,
    ML_PREPEND_NEVER
} ml_prepend_scheme;

typedef struct ml_cut_stage ml_cut_stage;
typedef ml_status (*ml_cut_run)(ml_cut_stage *s, const ml_piece *piece, ml_piece_sink sink,
                                void *context);
struct ml_cut_stage {
    ml_cut_run run;
    ml_split_behaviour behaviour;
    bool invert;
    bool (*is_match)(const ml_cut_stage *s, int32_t c); /* each character that is, is a match */
    int32_t delimiter;
    ml_pattern *pattern;
    ml_scanner *scanner;
    ml_scripts *scripts;
    int64_t size; /* of FixedLength */
    char mark[5]; /* of Metaspace: what stands for a blank */
    bool cuts;    /* Metaspace: at the marks */
    ml_prepend_scheme prepend;
    bool prefix, maps; /* ByteLevel: a blank before every piece; writes the alphabet */
    ml_text buffer;
};

/* Digits, Punctuation, blanks, delimiters; Whitespace; UnicodeScripts; FixedLength; Split by a
 * scanner or a pattern; Metaspace; ByteLevel. ML_RESOURCE, and what the sink returns. Local. */
ml_status ml_cut_at_characters(ml_cut_stage *s, const ml_piece *piece, ml_piece_sink sink,
                               void *context) ML_NODISCARD;
ml_status ml_cut_words(ml_cut_stage *s, const ml_piece *piece, ml_piece_sink sink,
                       void *context) ML_NODISCARD;
ml_status ml_cut_scripts(ml_cut_stage *s, const ml_piece *piece, ml_piece_sink sink,
                         void *context) ML_NODISCARD;
ml_status ml_cut_lengths(ml_cut_stage *s, const ml_piece *piece, ml_piece_sink sink,
                         void *context) ML_NODISCARD;
ml_status ml_cut_by_scanner(ml_cut_stage *s, const ml_piece *piece, ml_piece_sink sink,
                            void *context) ML_NODISCARD;
ml_status ml_cut_by_pattern(ml_cut_stage *s, const ml_piece *piece, ml_piece_sink sink,
                            void *context) ML_NODISCARD;
ml_status ml_cut_metaspace(ml_cut_stage *s, const ml_piece *piece, ml_piece_sink sink,
                           void *context) ML_NODISCARD;
ml_status ml_cut_byte_level(ml_cut_stage *s, const ml_piece *piece, ml_piece_sink sink,
                            void *context) ML_NODISCARD;

#endif
