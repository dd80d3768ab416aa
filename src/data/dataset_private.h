/* What reader and writer of data sets agree on.
 *
 * A data set is a sealed HDF5 file with tokens [T] int32, offsets [n + 1] int64 and mask [T] uint8
 * (1: a target), all contiguous, and the attributes format, version, vocab_size, max_len,
 * tokenizer_sha256 and content_sha256; `chat_date` is what a
 * chat template wrote for today, where it did; `pairs` is 1 where sequences 2k and 2k + 1 are a
 * chosen and a rejected answer, and absent else; `related` is how many sequences, one behind the
 * other, are a row of an anchor, its positive and negatives, and absent else. Labels (labels.h) are
 * the attributes label_kind, label_count and label_names with labels [n] or [n·count] int32
 * (float32 of numbers) or token_labels [T] int32; types [T] uint8 are there where one is not 0. The
 * content hash is over vocabulary, tokenizer hash, tokens, offsets, mask, labels and types: the
 * same content has the same hash whatever file it lies in. */
#ifndef MPILORA_DATA_DATASET_PRIVATE_H
#define MPILORA_DATA_DATASET_PRIVATE_H

#include "io/hdf5_file.h"

#define ML_DATASET_KIND "mpilora-dataset"

/* An attribute of HDF5 has 64 KiB at most. */
enum { ML_LABEL_NAMES_BYTES = 60000 };

/* The HDF5 type of a hash attribute (64 digits and a zero); the caller closes it; negative on
 * failure. */
static inline hid_t ml_dataset_hash_type(void)
{
    hid_t type = H5Tcopy(H5T_C_S1);
    if (type >= 0 && H5Tset_size(type, ML_SHA256_HEX) < 0) {
        H5Tclose(type);
        return -1;
    }
    return type;
}

#endif
