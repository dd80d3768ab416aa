/* same: the three comparisons of two runs. An internal module. */
#ifndef MPILORA_STORE_INSPECT_SAME_H
#define MPILORA_STORE_INSPECT_SAME_H

#include <jansson.h>

#include "mpilora/base.h"

/* One line: `what` was compared (metrics, trace, checkpoint), whether it is the same, and in words
 * what was found; fields of `about` (taken) are added to it. ML_RESOURCE. */
ml_status same_add(json_t *list, const char *what, bool same, json_t *about, const char *format,
                   ...) ML_PRINTF(5, 6) ML_NODISCARD;

/* A file of lines of JSON in memory, which end at *end: NULL where it is not there; the caller
 * frees it. */
ml_status same_read_lines(const char *run, const char *name, char **text,
                          const char **end) ML_NODISCARD;
/* The next line as an object, NULL at the end; the caller ends it with json_decref. ML_INPUT naming
 * run and file where it is none. */
ml_status same_next_line(const char *run, const char *name, const char **at, const char *end,
                         json_t **out) ML_NODISCARD;

/* same_trace.c: trace.jsonl of both; nothing where one has none. */
ml_status same_traces(const char *a, const char *b, json_t *list) ML_NODISCARD;

#endif
