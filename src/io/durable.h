/* durable: files that are there whole or not at all, and whole files in memory. Local; an internal
 * module.
 *
 * Every failure to write is ML_RESOURCE, every failure to read ML_INPUT; both name the path.
 */
#ifndef MPILORA_IO_DURABLE_H
#define MPILORA_IO_DURABLE_H

#include <dirent.h>

#include "mpilora/base.h"

enum { ML_DURABLE_PATH = 4096 };

/* Writes `path` (over an older one): temporary file beside it, fallocate, write, fsync, close,
 * read back and compare hashes, rename, fsync of the directory. On failure the older file is as it
 * was and the temporary one is gone. `sha256` may be NULL; else it gets the content's hash. */
ml_status ml_durable_write(const char *path, const void *bytes, int64_t count,
                           char *sha256) ML_NODISCARD;

/* Whether a file of this name can be written where it is to go, before the work whose result it
 * holds is done: ML_RESOURCE naming the path where the directory is not there or refuses, or where
 * something else than a file has the name. No more
 * than a guess: the disk may fill up. */
ml_status ml_durable_may_write(const char *path) ML_NODISCARD;

/* That what has this name inside a directory of ours is nothing yet, or a file (folder: a
 * directory) to be written there. ML_USAGE for a link, which would lead out of that directory; else
 * ML_RESOURCE, of a directory ML_USAGE. Names the path. */
ml_status ml_durable_check_own(const char *path, bool folder) ML_NODISCARD;

/* The whole file, followed by a zero byte; owned by the caller (ml_memory_free). Refuses files
 * above `limit` bytes. */
ml_status ml_durable_read(const char *path, int64_t limit, char **bytes,
                          int64_t *count) ML_NODISCARD;

/* What errno says of a read of `path` that failed, as `status`: a directory can be opened, too, and
 * is called one; everything else is an error of the reading itself. */
ml_status ml_durable_read_failed(ml_status status, const char *path) ML_NODISCARD;

/* The size of a file; −1 where there is no regular file of this name (nothing, a link, a
 * directory). ML_INPUT where that cannot be told. */
ml_status ml_durable_measure(const char *path, int64_t *bytes) ML_NODISCARD;
ml_status ml_durable_sync_directory(const char *path) ML_NODISCARD;
/* The name under which what is to become `path` is made: it is renamed in the end, or dropped, and
 * a signal that ends the process before drops it (unfinished.h). ML_USAGE where it is too long. */
ml_status ml_durable_temporary(char out[ML_DURABLE_PATH], const char *path) ML_NODISCARD;
void ml_durable_drop(const char *temporary); /* one that is not there, or "", is fine */
/* Renames and syncs the directories of both. */
ml_status ml_durable_rename(const char *from, const char *to) ML_NODISCARD;
/* Creates a directory, which may be there; its parent has to be. */
ml_status ml_durable_make_directory(const char *path) ML_NODISCARD;
/* And the parents that are missing. */
ml_status ml_durable_make_directories(const char *path) ML_NODISCARD;
/* Whether a file name is one of ml_durable_write's temporary names. */
bool ml_durable_is_temporary(const char *name);
/* Removes temporary files that a killed process left in a directory; a directory that is not there
 * is fine. */
ml_status ml_durable_clean(const char *directory) ML_NODISCARD;
/* Formats a path into `out`; ML_USAGE where it is too long. */
ml_status ml_durable_path(char out[ML_DURABLE_PATH], const char *format, ...)
    ML_PRINTF(2, 3) ML_NODISCARD;
/* Whether anything is there under this name (no link is followed). ML_INPUT where that cannot be
 * told: a failing disk is not an empty one. */
ml_status ml_durable_find(const char *path, bool *there) ML_NODISCARD;
/* The same for messages and hints: what cannot be told is not there. */
bool ml_durable_exists(const char *path);
/* Whether two names are of one file that is there (links are followed). */
bool ml_durable_is_same(const char *one, const char *other);
/* That `out`, which is going to be written, is none of the `count` files that are read before; a
 * name may be NULL. ML_USAGE naming both. */
ml_status ml_durable_check_apart(const char *out, const char *const *inputs,
                                 int64_t count) ML_NODISCARD;
/* opendir, once more where a signal came in between; NULL with errno. */
DIR *ml_durable_list(const char *path);
/* The next entry of a directory, `.` and `..` left out; *entry NULL: no more. ML_INPUT naming
 * `path` where it cannot be read to its end. */
ml_status ml_durable_next(DIR *dir, const char *path, const struct dirent **entry) ML_NODISCARD;
/* Removes a file, a link or a directory with all that is in it; no link is followed. Nothing there
 * is fine. */
ml_status ml_durable_remove(const char *path) ML_NODISCARD;

#endif
