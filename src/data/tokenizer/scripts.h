/* The scripts of characters, as the pre-tokenizer UnicodeScripts tells them apart. */
#ifndef MPILORA_DATA_TOKENIZER_SCRIPTS_H
#define MPILORA_DATA_TOKENIZER_SCRIPTS_H

#include "mpilora/base.h"

enum { ML_SCRIPT_ANY = 0 };

typedef struct ml_scripts ml_scripts;

/* ML_INPUT where PCRE2 is too old to know scripts by "sc:". Local, as all of these. */
ml_status ml_scripts_create(ml_scripts **out) ML_NODISCARD;
void ml_scripts_destroy(ml_scripts *scripts);
/* A number for the script of `c`, the same for Han, Hiragana and Katakana; ML_SCRIPT_ANY for the
 * blank and what no script has. */
int ml_script_of(ml_scripts *scripts, int32_t c);

#endif
