/* Rows of a JSON text: its objects, one after the other. Local; an internal module. */
#ifndef MPILORA_DATA_ROWS_H
#define MPILORA_DATA_ROWS_H

#include <jansson.h>

#include "io/line_reader.h"

typedef enum ml_rows_layout {
    ML_ROWS_UNKNOWN, /* no row has been seen */
    ML_ROWS_LINES,   /* an object a line */
    ML_ROWS_ARRAY,   /* one array of objects, over lines or not */
    ML_ROWS_OBJECTS  /* objects over several lines each */
} ml_rows_layout;

/* Start from {.reader = …}, a reader at the beginning of the text; end with ml_rows_destroy. */
typedef struct ml_rows {
    ml_line_reader *reader; /* borrowed */
    ml_rows_layout layout;
    int64_t line; /* where the one in hand begins, from 1; after an error, where that is */
    bool again;   /* the next row is the one in hand once more */
    bool between; /* array: an element has been read, a comma or the end follows */
    bool closed;  /* array: its end has been read */
    int64_t at;   /* of the reader's line: what stands before it has been taken */
    ml_text text; /* of the row in hand */
} ml_rows;

/* The text of the next object into rows->text; *more false at the end. Blank lines count for
 * nothing. The text is read as a stream. ML_INPUT for what has no place between objects, with its
 * column but not its line. */
ml_status ml_rows_find(ml_rows *rows, bool *more) ML_NODISCARD;
/* The object that a text is, without null columns; the caller ends it with json_decref. `line`:
 * where the text begins, moved to where it is wrong. ML_INPUT for what is not JSON or another value
 * than an object, with its column, and for an object in which everything is null. */
ml_status ml_rows_parse(json_t **out, const char *text, int64_t length, int64_t *line) ML_NODISCARD;
void ml_rows_destroy(ml_rows *rows);

/* row_nulls.c: takes the columns of a row, and the members of its messages, that are null away. A
 * null stays where the row would be one of another kind without it; its reader refuses it. */
void ml_row_drop_nulls(json_t *row);

#endif
