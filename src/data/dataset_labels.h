/* Labels and token types of an opened data set: where they lie in its file. Local. */
#ifndef MPILORA_DATA_DATASET_LABELS_H
#define MPILORA_DATA_DATASET_LABELS_H

#include <hdf5.h>

#include "mpilora/data.h"

typedef struct dataset_labels {
    ml_label_kind kind;
    int64_t count, type_count;
    int64_t at, types_at; /* bytes in the file; types_at −1: all types are 0 */
    char *names;          /* owned; NULL: none */
} dataset_labels;

/* What dataset_labels_load has to know of the file. */
typedef struct dataset_labels_file {
    hid_t file;
    int fd;
    const char *path;
    int64_t bytes, sequences, tokens;
    bool pairs;
    const uint64_t *targets; /* the mask, a bit a token */
} dataset_labels_file;

/* Reads the attributes, and checks every label and type against them and the mask. ML_INPUT naming
 * file and place. Ended by dataset_labels_destroy, also after a failure. */
ml_status dataset_labels_load(dataset_labels *labels, const dataset_labels_file *from) ML_NODISCARD;
void dataset_labels_destroy(dataset_labels *labels);

/* The whole of one integer attribute. ML_INPUT. */
ml_status dataset_read_integer(hid_t file, const char *path, const char *name,
                               int64_t *out) ML_NODISCARD;

#endif
