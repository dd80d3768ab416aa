/* same: the four comparisons of two runs. An internal module. */
#ifndef MPILORA_STORE_INSPECT_SAME_H
#define MPILORA_STORE_INSPECT_SAME_H

#include <jansson.h>

#include "mpilora/base.h"

/* Unknown: there was nothing to compare. */
typedef enum same_answer { SAME_NO, SAME_YES, SAME_UNKNOWN } same_answer;

/* One line: `what` was compared (metrics, evaluations, trace, checkpoint), whether it is the same,
 * and in words what was found; fields of `about` (taken) are added to it. ML_RESOURCE. */
ml_status same_add(json_t *list, const char *what, same_answer answer, json_t *about,
                   const char *format, ...) ML_PRINTF(5, 6) ML_NODISCARD;
/* The fields that say which run alone has steps, and which; the caller's, NULL without memory. */
json_t *same_about_more(const char *run, int64_t first, int64_t last);

/* A file of lines of JSON in memory, which end at *end: NULL where it is not there; the caller
 * frees it. */
ml_status same_read_lines(const char *run, const char *name, char **text,
                          const char **end) ML_NODISCARD;
/* The next line as an object, NULL at the end; the caller ends it with json_decref. ML_INPUT naming
 * run and file where it is none. */
ml_status same_next_line(const char *run, const char *name, const char **at, const char *end,
                         json_t **out) ML_NODISCARD;

/* same_trace.c: trace.jsonl of both; nothing where neither has one. */
ml_status same_traces(const char *a, const char *b, json_t *list) ML_NODISCARD;

#endif
