/* Reading ahead: while one thread goes through the rows of a text in their order, others find the
 * ids of the texts in those that come next.
 *
 * Rows lie in two batches of bounded size. The caller's thread reads the next batch while the
 * others encode the one that was read before, helps them, and then takes its rows one by one. What
 * a row means, and what is wrong with it, is the caller's to find, in the file's order: the others
 * only parse and encode what they expect him to ask for, and keep what they find. What he asks for
 * and they have not found, he finds by himself. So neither ids nor errors depend on the number of
 * threads. Local; an internal module. */
#ifndef MPILORA_DATA_AHEAD_H
#define MPILORA_DATA_AHEAD_H

#include <jansson.h>

#include "mpilora/data.h"

typedef struct ml_ahead ml_ahead;
typedef struct ml_ahead_worker ml_ahead_worker;

/* The ids of a text that was met ahead. */
typedef struct ml_ahead_text {
    const char *bytes;
    int64_t length, first, count, spelled, lost; /* ids [first, first + count) of the worker's */
    const ml_ahead_worker *worker;
} ml_ahead_text;

enum { ML_AHEAD_TEXTS = 3 /* of a row */ };

/* A line, a row of JSON, or a part of a document. */
typedef struct ml_ahead_row {
    const char *text; /* [length], in the batch */
    int64_t length, line, at;
    json_t *json, *own; /* a row's object, once it is parsed, and a copy that texts are taken of */
    json_t *rendered;   /* what `prepare` has made of it besides; NULL: nothing */
    bool begins, ends;  /* whether this part begins a document, and ends it */
    int count;
    ml_ahead_text found[ML_AHEAD_TEXTS];
} ml_ahead_row;

/* What rows are. */
typedef struct ml_ahead_source {
    /* Appends the next row's text to *to, and says at which line it, or what is wrong, is; *more
     * false at the end. On the caller's thread, in order. */
    ml_status (*find)(void *context, ml_text *to, ml_ahead_row *row, bool *more);
    /* Passes on what will be asked for (ml_ahead_parse, ml_ahead_encode). On any thread: it only
     * reads `context`. What is wrong is left to the caller. */
    void (*prepare)(const void *context, ml_ahead_row *row, ml_ahead_worker *worker);
    void *context;
    int64_t most_bytes; /* of a batch */
    /* Ends what a thread has kept (ml_ahead_own); NULL: nothing is kept. */
    void (*release)(void *own);
} ml_ahead_source;

/* `tokenizer` NULL: nothing is encoded. The number of threads is OpenMP's. ML_RESOURCE. */
ml_status ml_ahead_create(ml_ahead **out, const ml_ahead_source *source,
                          const ml_tokenizer *tokenizer, bool specials) ML_NODISCARD;
void ml_ahead_destroy(ml_ahead *ahead);

/* For `prepare`: the row's object into row->json; false where the text is none. */
bool ml_ahead_parse(ml_ahead_row *row);
/* For `prepare`: encodes a text that stays where it is as long as the row does. */
void ml_ahead_encode(ml_ahead_worker *worker, ml_ahead_row *row, const char *bytes, int64_t length);
/* The same with the special tokens that the text spells, whatever ml_ahead_create was told. */
void ml_ahead_encode_special(ml_ahead_worker *worker, ml_ahead_row *row, const char *bytes,
                             int64_t length);
/* For `prepare`: where the thread keeps something from row to row; NULL at first. */
void **ml_ahead_own(ml_ahead_worker *worker);
int64_t ml_ahead_threads(const ml_ahead_worker *worker);

/* The next row, which lives until the next call; NULL behind the last one. `line`: where it, or
 * what is wrong, is. Errors of the source, behind all rows before them. */
ml_status ml_ahead_next(ml_ahead *ahead, ml_ahead_row **row, int64_t *line) ML_NODISCARD;

/* The ids of a text of the row in hand, or NULL where it was not met ahead. */
const ml_ahead_text *ml_ahead_find(const ml_ahead *ahead, const char *bytes, int64_t length);
/* What `prepare` has made of the row in hand, or NULL. */
const json_t *ml_ahead_rendered(const ml_ahead *ahead);
const int32_t *ml_ahead_ids(const ml_ahead *ahead, const ml_ahead_text *text);

#endif
