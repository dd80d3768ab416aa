/* export_directory: a directory that an export writes. Local; an internal module. */
#ifndef MPILORA_STORE_FORMATS_HUGGINGFACE_EXPORT_DIRECTORY_H
#define MPILORA_STORE_FORMATS_HUGGINGFACE_EXPORT_DIRECTORY_H

#include "mpilora/base.h"

/* ML_USAGE where `directory` exists and holds another file than `names` (NULL-ended): only an
 * earlier export is written over. */
ml_status export_directory_check(const char *directory, const char *const *names) ML_NODISCARD;
/* The directory with its parents; *made: it was not there before. */
ml_status export_directory_make(const char *directory, bool *made) ML_NODISCARD;
/* After a failure: takes away what an export of `names` may have left in a directory that it made,
 * and the directory. */
void export_directory_unmake(const char *directory, const char *const *names);
/* `directory`/`name`, whole or not at all. */
ml_status export_directory_put(const char *directory, const char *name,
                               const ml_text *content) ML_NODISCARD;

#endif
