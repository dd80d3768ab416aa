/* state_file: how a checkpoint's tensors become images of files. An internal module. */
#ifndef MPILORA_STORE_CHECKPOINT_STATE_FILE_H
#define MPILORA_STORE_CHECKPOINT_STATE_FILE_H

#include "store/checkpoint/extent.h"
#include "store/checkpoint/writing.h"

/* A save in work, on one rank. */
typedef struct ml_save {
    ml_run_directory *run;
    const ml_grid *grid;
    const ml_parameters *p;
    const ml_checkpoint_state *state;
    ml_writing *writing; /* world rank 0 */
} ml_save;

/* A new image with the groups and what each file says of its run; `bytes`: how large the tensors'
 * part is going to be. Local. */
ml_status ml_state_file_create(ml_image **out, const ml_checkpoint_state *state,
                               int64_t bytes) ML_NODISCARD;

/* checkpoint_gather.c: the whole state gathered into one image, which s->writing holds.
 * Collective. */
ml_status ml_save_gathered(ml_save *s) ML_NODISCARD;
int64_t ml_save_gathered_memory(const ml_parameters *p);

/* checkpoint_parts.c: each tp rank of dp replica 0 writes the files of its own shards; s->writing
 * gets their list. Collective. */
ml_status ml_save_parts(ml_save *s) ML_NODISCARD;
int64_t ml_save_parts_memory(const ml_parameters *p, int tp, int tp_rank);
/* Bytes of tensors in one file of theirs: all writers of a node together hold at most 1 GiB of
 * images. */
int64_t ml_save_parts_limit(int tp);

#endif
