/* What a tokenizer asks of Unicode: classes of characters, small letters, normal forms.
 *
 * utf8proc answers. The Rust crates behind Hugging Face's `tokenizers` have older tables for some
 * questions (marks and punctuation of Unicode 8 or 9); ids that are to be the same need the same
 * answers, so these functions know what those tables do not know. */
#ifndef MPILORA_DATA_TOKENIZER_UNICODE_H
#define MPILORA_DATA_TOKENIZER_UNICODE_H

#include "mpilora/base.h"

/* White_Space of Unicode. */
bool ml_char_is_space(int32_t c);
/* \w of Rust's regex crate: Alphabetic, marks, decimal digits, connectors, joiners. */
bool ml_char_is_word(int32_t c);
/* General category N. */
bool ml_char_is_number(int32_t c);
/* Punctuation of ASCII, or general category P as the crate unicode_categories has it. */
bool ml_char_is_punctuation(int32_t c);
/* Categories Cc, Cf and Co as unicode_categories has them. */
bool ml_char_is_control(int32_t c);
/* General category Mn of unicode_categories; M of unicode_normalization_alignments. */
bool ml_char_is_accent(int32_t c);
bool ml_char_is_mark(int32_t c);
/* Han as BERT means it. */
bool ml_char_is_chinese(int32_t c);

/* The small letter of `c` in UTF-8; how many bytes of out were written. */
size_t ml_char_lower(int32_t c, char out[8]);

typedef enum ml_normal_form { ML_NFC, ML_NFD, ML_NFKC, ML_NFKD } ml_normal_form;

/* Appends a normal form of valid UTF-8; O(n log n) whatever marks follow each other. ML_RESOURCE.
 */
ml_status ml_normal_form_add(ml_normal_form form, const char *text, int64_t length,
                             ml_text *out) ML_NODISCARD;

/* The end of the extended grapheme cluster that begins at `at` of valid UTF-8. */
int64_t ml_grapheme_end(const char *text, int64_t length, int64_t at);

#endif
