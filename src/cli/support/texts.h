/* The texts of a file: a line each, or JSON lines {"text": …}. */
#ifndef MPILORA_CLI_SUPPORT_TEXTS_H
#define MPILORA_CLI_SUPPORT_TEXTS_H

#include <jansson.h>

#include "mpilora/base.h"

/* Start from {0}; end with texts_destroy. */
typedef struct texts {
    int64_t count, capacity, lines;
    char **text;    /* [count] */
    int64_t *line;  /* [count] where each stands, from 1 */
    json_t *unread; /* names of other members of JSON lines; owned */
} texts;

/* A path that ends in .jsonl or .json is of JSON lines, whose other members are named in a warning
 * and whose blank lines count for nothing; any other has a text a line, and an
 * empty line is an empty text. ML_INPUT naming file and line where one is empty or no text, or the
 * file has none. Collective over the world: rank 0 reads the file. */
ml_status texts_read(texts *t, const char *path) ML_NODISCARD;
void texts_destroy(texts *t);

#endif
