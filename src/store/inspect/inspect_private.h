/* inspect: one function a kind of file, each adding its fields to a JSON object. An internal
 * module. */
#ifndef MPILORA_STORE_INSPECT_INSPECT_PRIVATE_H
#define MPILORA_STORE_INSPECT_INSPECT_PRIVATE_H

#include <jansson.h>

#include "mpilora/base.h"
#include "store/checkpoint/run_directory.h"

ml_status inspect_base(const char *path, json_t *out) ML_NODISCARD;
ml_status inspect_dataset(const char *path, json_t *out) ML_NODISCARD;
ml_status inspect_adapter(const char *path, json_t *out) ML_NODISCARD;
/* A directory step-%08d, or a state file in it; a run's directory, or its
 * checkpoints/. */
ml_status inspect_checkpoint(const char *path, json_t *out) ML_NODISCARD;
ml_status inspect_run(const char *path, json_t *out) ML_NODISCARD;

/* Which checkpoint a directory step-%08d, or a state file in it, is: its step, and a run of which
 * only its `checkpoints` are known, for the functions on steps. The caller frees *out with
 * ml_memory_free, and its `verified` before. ML_INPUT. */
ml_status inspect_open_step(const char *path, ml_run_directory **out, int64_t *step) ML_NODISCARD;

/* *name: base, dataset, adapter, checkpoint, run or peft (a PEFT directory). ML_INPUT where it is
 * none of these. */
ml_status inspect_find_kind(const char *path, const char **name) ML_NODISCARD;

/* One element of "tensors". */
void inspect_add_tensor(json_t *list, const char *name, int64_t rows, int64_t cols,
                        const char *dtype);

#endif
