/* What a model predicts of each label of data.valid, kept while it is evaluated, and the figures of
 * it. Local but where it says otherwise. */
#ifndef MPILORA_SESSION_PREDICTIONS_H
#define MPILORA_SESSION_PREDICTIONS_H

#include "mpilora/data.h"
#include "mpilora/grid.h"
#include "mpilora/score.h"

/* Start from {0}; end with predictions_destroy. A value a row: the class, or the number; of bits
 * one for each; of tokens a class for each that has a label. */
typedef struct predictions {
    const ml_dataset *data; /* borrowed, as is the sampler */
    ml_sampler *sampler;    /* its order is the file's */
    int64_t max_len, rows, values;
    int64_t *first; /* [rows + 1] the values before each row */
    float *value;   /* [values] 0 where another replica has it, until they are gathered */
} predictions;

/* Room for all rows of a labelled data set whose sequences are cut to max_len. ML_RESOURCE. */
ml_status predictions_create(predictions *p, const ml_dataset *data, ml_sampler *sampler,
                             int64_t max_len) ML_NODISCARD;
void predictions_destroy(predictions *p);

/* Notes what the head's `labels` scores say of the row at a position of the sampler or, of tokens,
 * of the how-manieth of its tokens that has a label (`place`, else 0). The first of equal scores
 * is the class. */
void predictions_take(predictions *p, int64_t position, int64_t place, const float *score,
                      int64_t labels);

/* All rows on every replica. Collective over dp. */
void predictions_gather(predictions *p, const ml_grid *grid);

/* accuracy, f1 (of two classes: of the class 1), f1_micro, f1_macro and matthews of classes,
 * accuracy, f1_micro and f1_macro of bits and of tokens, pearson and spearman of numbers.
 * ML_INPUT where the data set cannot be read; ML_RESOURCE. */
ml_status predictions_judge(const predictions *p, ml_figures *out) ML_NODISCARD;

/* A line {"prediction": …, "label": …} for each row in the file's order, classes by their names
 * where they have some: what `score --task` reads. ML_RESOURCE naming `path`. */
ml_status predictions_write(const predictions *p, const char *path) ML_NODISCARD;

#endif
