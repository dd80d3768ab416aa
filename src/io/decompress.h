/* decompress: a compressed file as a stream of what is in it, by gzip or zstd of the system in a
 * process of its own. Local. */
#ifndef MPILORA_IO_DECOMPRESS_H
#define MPILORA_IO_DECOMPRESS_H

#include <sys/types.h>

#include "mpilora/base.h"

/* The program for a file that begins with these bytes; NULL: it is not compressed. */
const char *ml_decompress_program(const char *bytes, size_t count);
/* The contents of a regular file. The caller ends *pid and closes *out. ML_INPUT where `path` is
 * none (the beginning of a pipe is gone when it is known), ML_USAGE where there is no such program;
 * ML_RESOURCE. */
ml_status ml_decompress_open(FILE **out, pid_t *pid, const char *path,
                             const char *program) ML_NODISCARD;
/* After the stream's end: ML_INPUT where the file is damaged or cut short. *pid is 0 then. */
ml_status ml_decompress_check(pid_t *pid, const char *path) ML_NODISCARD;
void ml_decompress_end(pid_t *pid); /* before it; 0 is fine */

#endif
