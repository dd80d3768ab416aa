/* A text line by line: a file, with bounded memory, or one that is in memory. */
#ifndef MPILORA_IO_LINE_READER_H
#define MPILORA_IO_LINE_READER_H

#include <sys/types.h>

#include "mpilora/base.h"

typedef struct ml_line_reader {
    const char *path; /* borrowed */
    FILE *file;
    pid_t program; /* what decompresses the file; 0: it is not compressed, or at its end */
    char *buffer;
    size_t filled, used;
    ml_text line;   /* the line in hand, without its line end (LF or CR LF) */
    int64_t number; /* its number, from 1 */
    bool again;     /* next gives the line in hand once more */
} ml_line_reader;

/* ML_INPUT naming `path`, also for a file that begins with the mark of UTF-16; that of UTF-8 is
 * skipped. A file that begins as gzip's and zstd's do is decompressed while it is read; ML_INPUT at
 * its end where it is damaged. */
ml_status ml_line_reader_open(ml_line_reader *reader, const char *path) ML_NODISCARD;
/* Of a text in memory, which stays borrowed; `name` is what messages call it. ML_RESOURCE. */
ml_status ml_line_reader_open_text(ml_line_reader *reader, const char *name,
                                   const ml_text *text) ML_NODISCARD;
void ml_line_reader_close(ml_line_reader *reader); /* one that is zero or failed to open is fine */
/* The next line into reader->line; *more false at the end. A line beyond 256 MiB is refused. */
ml_status ml_line_reader_next(ml_line_reader *reader, bool *more) ML_NODISCARD;

#endif
