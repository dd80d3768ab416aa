/* writing: world rank 0's part of a save, from an image in memory to a committed checkpoint.
 * Local; an internal module.
 *
 * It calls neither MPI nor HDF5, so that it can be the work of a thread while training goes on.
 * One at a time in a run's directory; nobody else touches the checkpoints until it is over.
 */
#ifndef MPILORA_STORE_CHECKPOINT_WRITING_H
#define MPILORA_STORE_CHECKPOINT_WRITING_H

#include "io/image.h"
#include "store/checkpoint/run_directory.h"

/* Prepares a save: `configuration` of the state is copied, all else that it points to stays
 * borrowed until ml_writing_end. */
ml_status ml_writing_create(ml_writing **out, ml_run_directory *run,
                            const ml_checkpoint_state *state, int64_t keep) ML_NODISCARD;

/* A whole checkpoint of this step is there: only its manifest will be written again. A bad one was
 * set aside. */
bool ml_writing_is_committed(const ml_writing *writing);

ml_status ml_writing_make_directory(const ml_writing *writing) ML_NODISCARD; /* the checkpoint's */
/* Adds a file that is written already to those that the manifest will name. */
ml_status ml_writing_add(ml_writing *writing, const ml_manifest_file *file) ML_NODISCARD;
/* Keeps a file for ml_writing_start: the image, finished, becomes the writing's own, whatever the
 * result. */
ml_status ml_writing_hold(ml_writing *writing, const char *name, ml_image *image) ML_NODISCARD;

/* Writes what is held, then the manifest, then deletes old checkpoints; with `beside` in a thread
 * of its own, where one can be had. A save that fails leaves no trace of itself. */
void ml_writing_start(ml_writing *writing, bool beside);
bool ml_writing_has_ended(const ml_writing *writing);
/* Waits for its end, gives its result and destroys it. `report` may be NULL. Without
 * ml_writing_start before: gives the save up, with `given_up` as the result (and the text of that
 * failure). */
ml_status ml_writing_end(ml_writing *writing, ml_status given_up,
                         ml_checkpoint_report *report) ML_NODISCARD;

#endif
