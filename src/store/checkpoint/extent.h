/* extent: a rectangle of a trainable tensor as one dataset of a state file: global rows and
 * columns, so that any grid reads it. An internal module.
 *
 * The dataset is KIND/NAME, or KIND/NAME@ROW where the file has another one of the tensor already;
 * its attributes first_row and rows, first_col and cols say which part of how many it is. Without
 * the last two it has whole rows (files of earlier versions).
 */
#ifndef MPILORA_STORE_CHECKPOINT_EXTENT_H
#define MPILORA_STORE_CHECKPOINT_EXTENT_H

#include "io/image.h"
#include "store/checkpoint/run_directory.h"

typedef struct ml_extent {
    int64_t tensor, kind; /* indices: of the list of parameters; of ml_state_kind */
    int64_t first_row, rows, first_col, cols;
} ml_extent;

/* ---- what a rank writes of its own --------------------------------------------------------- */

/* Goes through the parts of the tensors that a rank holds, in the order of its files. */
typedef struct ml_extent_walk {
    const ml_parameters *p;
    bool replicated;                 /* with the tensors that every tp rank holds: on the first */
    int64_t limit, used;             /* bytes of the current file */
    int64_t tensor, kind, part, row; /* row: of the part */
    int64_t local;                   /* rows of the local tensor before the part */
} ml_extent_walk;

/* The next one, where it lies in the rank's buffer of its kind (in floats), and whether it begins
 * a file. False: no more. */
bool ml_extent_next(ml_extent_walk *walk, ml_extent *extent, int64_t *offset, bool *opens_file);
/* Bytes of the image of the file that begins with the next extent. */
int64_t ml_extent_file_bytes(ml_extent_walk walk);

/* Creates the dataset with its attributes; the caller closes it. */
ml_status ml_extent_make(const ml_image *image, const ml_parameters *p, const ml_extent *extent,
                         bool again, hid_t *dataset) ML_NODISCARD;

/* ---- reading ------------------------------------------------------------------------------- */

/* A dataset's place from its attributes and shape: rows and cols of the extent; those of the whole
 * tensor in all[2]. ML_INPUT where it does not lie inside. */
ml_status ml_extent_read(hid_t dataset, int64_t rows, int64_t cols, ml_extent *extent,
                         int64_t all[2]) ML_NODISCARD;
/* Cuts a dataset's name behind the tensor's. */
void ml_extent_cut_name(char *name);
/* Copies what a rank holds of the extent, whose rows × cols floats are `values`, into its buffer
 * of that kind. */
void ml_extent_take(const ml_extent *extent, const ml_parameters *p, const float *values);

#endif
