/* export_directory: a directory that an export writes. Local; an internal module. */
#ifndef MPILORA_STORE_FORMATS_HUGGINGFACE_EXPORT_DIRECTORY_H
#define MPILORA_STORE_FORMATS_HUGGINGFACE_EXPORT_DIRECTORY_H

#include "mpilora/base.h"

/* ML_USAGE where `directory` exists and holds another file than `names` (NULL-ended), or such files
 * without weights that were written here: only an earlier export is written over, not the model or
 * adapter that was imported. */
ml_status export_directory_check(const char *directory, const char *const *names) ML_NODISCARD;
/* The directory with its parents; *made: it was not there before, and until export_directory_end a
 * signal that ends the process takes it away with those of `names` that are in it. */
ml_status export_directory_make(const char *directory, const char *const *names,
                                bool *made) ML_NODISCARD;
/* Of a directory that was made: that the export is whole (ML_OK); else what it may have left there
 * is taken away, and the directory. Returns `st`. */
ml_status export_directory_end(ml_status st, const char *directory,
                               const char *const *names) ML_NODISCARD;
/* `directory`/`name`, whole or not at all. */
ml_status export_directory_put(const char *directory, const char *name,
                               const ml_text *content) ML_NODISCARD;

#endif
