/* Unicode's classes that split patterns speak of, a byte a character; PCRE2's tables are asked,
 * 256 characters at a time, when a character of such a page is met for the first time. */
#ifndef MPILORA_DATA_CHARACTER_CLASS_H
#define MPILORA_DATA_CHARACTER_CLASS_H

#include "mpilora/base.h"

typedef enum ml_character_class {
    ML_CLASS_OTHER = 1,
    ML_CLASS_LETTER,
    ML_CLASS_NUMBER,
    ML_CLASS_SPACE
} ml_character_class;

typedef struct ml_class_table ml_class_table;
ml_status ml_class_table_create(ml_class_table **out) ML_NODISCARD;
void ml_class_table_destroy(ml_class_table *table);
ml_character_class ml_class_of(ml_class_table *table, int32_t character);

#endif
