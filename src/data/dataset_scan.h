/* One pass over the file of a data set.
 *
 * The seal must be checked before HDF5 may look at the file, and only HDF5 knows where tokens and
 * mask lie in it; to check these would be to read everything a second time. So the pass that hashes
 * the file also notes, block by block, what the checks will ask for wherever the arrays begin: the
 * largest word, and where no byte is above 1 a bit for each byte. */
#ifndef MPILORA_DATA_DATASET_SCAN_H
#define MPILORA_DATA_DATASET_SCAN_H

#include "mpilora/base.h"

typedef struct dataset_scan {
    int fd;           /* borrowed, as is path */
    const char *path; /* for messages */
    int64_t blocks;
    uint32_t *largest; /* [blocks] of the block's little-endian words of 4 bytes */
    uint64_t **bits;   /* [blocks] a bit a byte, owned; NULL where a byte is above 1 */
} dataset_scan;

/* Reads the file of `bytes` bytes once and checks its seal. ML_INPUT naming the path. Local; ended
 * by dataset_scan_destroy, also after a failure. */
ml_status dataset_scan_create(dataset_scan *scan, int fd, const char *path,
                              int64_t bytes) ML_NODISCARD;
void dataset_scan_destroy(dataset_scan *scan);

/* That each of the `count` tokens from byte `at` on is in [0, vocab). ML_INPUT naming the first
 * that is not. */
ml_status dataset_scan_check_tokens(const dataset_scan *scan, int64_t at, int64_t count,
                                    int64_t vocab) ML_NODISCARD;
/* The `count` bytes of the mask from byte `at` on as bits of `targets`, which is zero. ML_INPUT
 * naming the first that is neither 0 nor 1. */
ml_status dataset_scan_take_mask(const dataset_scan *scan, int64_t at, int64_t count,
                                 uint64_t *targets) ML_NODISCARD;

#endif
