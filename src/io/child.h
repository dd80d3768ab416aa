/* child: another program that answers questions, one at a time, in frames: four bytes of length,
 * big-endian, and so many bytes. It has one socket as its standard input, nothing else of ours, and
 * neither its crash nor its silence is ours. Local. */
#ifndef MPILORA_IO_CHILD_H
#define MPILORA_IO_CHILD_H

#include <sys/types.h>

#include "mpilora/base.h"

typedef struct ml_child {
    pid_t pid; /* 0: none */
    int socket;
    bool outgrown; /* its last answer was longer than allowed */
    bool exited;   /* in the place of an answer it has ended by itself */
} ml_child;

/* Starts argv[0], looked for in PATH, with no signal blocked and output and errors thrown away.
 * ML_USAGE where there is no such program; ML_RESOURCE. */
ml_status ml_child_start(ml_child *out, char *const *argv) ML_NODISCARD;
/* One frame there. A child that is gone is told of by the answer. ML_INPUT where it is too long. */
ml_status ml_child_send(const ml_child *child, const char *bytes, int64_t length) ML_NODISCARD;
/* Its answer, of at most `most` bytes, into *out. ML_INPUT saying how it ended where it did (by its
 * bound of processor time, another signal, a code), and where it is silent for `seconds`: it is
 * killed then. */
ml_status ml_child_receive(ml_child *child, ml_text *out, int64_t most, int seconds) ML_NODISCARD;
void ml_child_end(ml_child *child); /* one that is zero or has ended is fine */

#endif
