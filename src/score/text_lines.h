/* A text file's lines, the whole file in memory. */
#ifndef MPILORA_SCORE_TEXT_LINES_H
#define MPILORA_SCORE_TEXT_LINES_H

#include "mpilora/base.h"

typedef struct text_lines {
    ml_text bytes;
    int64_t next, number; /* where the next line begins; the number of the line in hand, from 1 */
} text_lines;

/* ML_INPUT naming the file: not there, not readable, empty, larger than 1 GiB. A byte order mark
 * is passed over. */
ml_status text_lines_open(text_lines *file, const char *path) ML_NODISCARD;
void text_lines_close(text_lines *file); /* a zero one is fine */
/* The next line without its end (LF or CR LF) or false; borrowed from the file. */
bool text_lines_next(text_lines *file, const char **line, int64_t *length);

#endif
