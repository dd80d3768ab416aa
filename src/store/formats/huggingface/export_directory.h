/* export_directory: a directory that an export writes. Local; an internal module. */
#ifndef MPILORA_STORE_FORMATS_HUGGINGFACE_EXPORT_DIRECTORY_H
#define MPILORA_STORE_FORMATS_HUGGINGFACE_EXPORT_DIRECTORY_H

#include "mpilora/base.h"

/* ML_USAGE where `directory` exists and holds another file than `names` (NULL-ended): only an
 * earlier export is written over. */
ml_status export_directory_check(const char *directory, const char *const *names) ML_NODISCARD;
/* `directory`/`name`, whole or not at all. */
ml_status export_directory_put(const char *directory, const char *name,
                               const ml_text *content) ML_NODISCARD;

#endif
