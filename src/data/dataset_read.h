/* An opened data set, or several joined to one. Local. */
#ifndef MPILORA_DATA_DATASET_READ_H
#define MPILORA_DATA_DATASET_READ_H

#include "data/dataset_labels.h"

struct ml_dataset {
    char *path;
    int64_t sharers; /* owners beside the first */
    int fd;
    int64_t parts;     /* of a joined one, which has nothing else but sums and hashes; else 0 */
    ml_dataset **part; /* [parts] owned */
    double *weight;    /* [parts] */
    int64_t *first;    /* [parts + 1] the sequences before each part */
    int64_t sequences, tokens, vocab, max_len;
    int64_t tokens_at; /* byte in the file */
    int64_t *offsets;  /* [sequences + 1] */
    uint64_t *targets; /* a bit a token */
    bool pairs;        /* chosen and rejected, one after the other */
    int64_t related;   /* sequences of a row of texts that belong together; 0: none do */
    dataset_labels labels;
    char hash[ML_SHA256_HEX], tokenizer_hash[ML_SHA256_HEX];
    char date[ML_SHA256_HEX]; /* "": none; on the rank that has read the file */
};

static inline int64_t ml_dataset_target_words(const ml_dataset *data)
{
    return data->tokens / 64 + 1;
}

#endif
