/* state_tensors: the tensors of a checkpoint, whole and in an order that no grid has a part in. An
 * internal module of digests and comparisons. */
#ifndef MPILORA_STORE_INSPECT_STATE_TENSORS_H
#define MPILORA_STORE_INSPECT_STATE_TENSORS_H

#include "store/checkpoint/state_file.h"

typedef struct state_tensor {
    char name[128];
    int kind;           /* index of ml_state_kind */
    int64_t rows, cols; /* global */
    int64_t covered;    /* values read so far */
    float *value;       /* [rows, cols], owned */
} state_tensor;

/* Starts from {0}. */
typedef struct state_tensors {
    int64_t step, cursor;
    int64_t count, capacity;
    state_tensor *item; /* by kind (values first), then by name; owned */
} state_tensors;

/* A state file in memory as HDF5 reads it, once its hash was found to be the manifest's. Local. The
 * caller destroys *image, and then frees *bytes, also after a failure. ML_INPUT naming the file. */
ml_status state_image_open(const char *path, const char *expected, char **bytes,
                           ml_image **image) ML_NODISCARD;

/* All tensors of a step's files, each file hashed before HDF5 sees it; as much memory as the
 * checkpoint has bytes, and its largest file. Local. ML_INPUT where it is not whole, naming the
 * file or tensor. */
ml_status state_tensors_read(const ml_run_directory *run, int64_t step,
                             state_tensors *out) ML_NODISCARD;
void state_tensors_destroy(state_tensors *tensors);

/* The same of a step-%08d directory, a state file in it, or a run's directory: its newest whole
 * checkpoint. Local. ML_INPUT. */
ml_status state_tensors_open(const char *path, state_tensors *out) ML_NODISCARD;

/* A run of which only its checkpoints are known, by its directory's path; the caller ends it with
 * state_run_close. ML_INPUT where it has no checkpoints/. */
ml_status state_run_open(const char *path, ml_run_directory **out) ML_NODISCARD;
void state_run_close(ml_run_directory *run);

#endif
