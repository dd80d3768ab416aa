/* Labels as rows of a text file have them become those of a data set. Local; an internal module. */
#ifndef MPILORA_DATA_LABEL_READER_H
#define MPILORA_DATA_LABEL_READER_H

#include <jansson.h>

#include "mpilora/data.h"

/* Start from {0}; end with label_reader_destroy. */
typedef struct label_reader {
    const ml_label_names *known; /* borrowed */
    const char *const *usual;    /* two names in their order where neither --labels nor the base
                                    says another; NULL, or NULL first: the order of their bytes */
    ml_dataset_writer *writer;   /* borrowed */
    ml_label_kind kind;          /* NONE until the first label */
    bool named;                  /* the classes have names */
    int64_t count;               /* bits, or the names so far */
    int64_t largest;             /* class that came as a number; −1: none */
    unsigned char *met;          /* [ML_MOST_LABELS] 1: a number that came; NULL before the first */
    int64_t different;           /* how many of these */
    json_t *number_of;           /* {name: its number}, in the order of sight or as known */
    float *value;                /* [count] of bits, else [1] */
} label_reader;

ml_status label_reader_create(label_reader *reader, const ml_label_names *known,
                              ml_dataset_writer *writer) ML_NODISCARD;
void label_reader_destroy(label_reader *reader);

/* The label of the sequence that the writer got last: a text, a number, or a list of bits or of
 * names. ML_INPUT for what is none, is not of the kind of those before, or is not known. */
ml_status label_reader_take(label_reader *reader, const json_t *label) ML_NODISCARD;

/* The number of a token's class, by its name or, where the reader has no names, by its number. The
 * caller adds a sequence's classes to the writer. ML_INPUT. */
ml_status label_reader_class(label_reader *reader, const char *name, int64_t length,
                             int32_t *out) ML_NODISCARD;
ml_status label_reader_token(label_reader *reader, const json_t *label, int32_t *out) ML_NODISCARD;

/* After the last label: tells the writer how many classes there are, and their names in the order
 * of --labels, else of the base, else of their bytes. Nothing without labels. ML_INPUT where all
 * labels are one, or where numbers are hardly those of classes. */
ml_status label_reader_finish(label_reader *reader) ML_NODISCARD;

#endif
