/* A data set that is being written. Local. */
#ifndef MPILORA_DATA_DATASET_WRITE_H
#define MPILORA_DATA_DATASET_WRITE_H

#include "data/dataset_private.h"
#include "io/durable.h"
#include "mpilora/data.h"

enum { PIECE = 1 << 16, /* tokens */ METADATA_BYTES = 1 << 17 };

typedef struct extent {
    int64_t at, bytes;
} extent;

/* The last two of labelled data sets, and where a token type is not 0. */
enum { TOKENS, OFFSETS, MASK, LABELS, TYPES, PARTS };

/* dataset_write_labels.c: labels and types lie in spools of their own, in the file's order. */
typedef struct label_spools {
    ml_label_kind kind;
    int64_t count;   /* 0: not settled yet */
    int64_t labels;  /* sequences, or tokens, that have theirs */
    int64_t largest; /* class */
    int fd, type_fd; /* −1: none is needed so far */
    char *names;     /* owned; NULL: none */
    int32_t *number; /* [count] owned: the class that a written number stands for; NULL: itself */
} label_spools;

struct ml_dataset_writer {
    char *path, temporary[ML_DURABLE_PATH]; /* dropped at the end, whatever is there */
    int64_t vocab, max_len, tokens, sequences;
    int64_t last; /* tokens of the sequence added last */
    char tokenizer_hash[ML_SHA256_HEX], content_hash[ML_SHA256_HEX];
    char date[ML_SHA256_HEX]; /* "": none */
    int spool, offset_spool;
    int32_t *piece; /* [PIECE] being filled for the spool, later read back */
    int64_t filled;
    int64_t *offsets; /* [PIECE] likewise */
    int64_t filled_offsets;
    bool pairs;
    int64_t related; /* 0: no row of several texts */
    label_spools labels;
    int out;         /* the temporary file; −1 before it is made */
    ml_sha256 *hash; /* of the content */
    int64_t written; /* where the next piece of `out` goes */
    extent part[PARTS];
};

/* Takes the next bytes of a part. */
typedef ml_status (*part_sink)(ml_dataset_writer *w, const void *data, int64_t bytes);

/* A file without a name in the folder of `path`; −1 on failure. */
int ml_dataset_open_spool(const char *path);

/* dataset_write_labels.c. Before the file is made: that every sequence has its label; the sizes of
 * LABELS and TYPES. ML_INPUT, ML_INTERNAL, ML_RESOURCE. */
ml_status ml_dataset_settle_labels(ml_dataset_writer *w) ML_NODISCARD;
/* Passes LABELS or TYPES to `sink`. */
ml_status ml_dataset_stream_labels(ml_dataset_writer *w, int part, part_sink sink) ML_NODISCARD;
/* What the content's hash begins with, behind the rest: "" without labels. */
ml_status ml_dataset_describe_labels(const ml_dataset_writer *w, ml_text *out) ML_NODISCARD;
void ml_dataset_end_labels(label_spools *labels);

#endif
