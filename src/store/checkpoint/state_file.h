/* state_file: the trainable tensors of a run in HDF5 files. An internal module; state_file.c
 * and state_shards.c write, load.c reads.
 *
 * A state file has three groups, value, moment1 and moment2 (the kinds), and in them rectangles of
 * tensors under global names: KIND/NAME, or KIND/NAME@ROW where the file has another rectangle of
 * the tensor already. A dataset's attributes first_row and rows, first_col and cols say which part
 * of how many rows and columns it is; without the last two it has whole rows. So any process grid
 * reads what any other wrote. Tensors pass in blocks of rows, so that no rank holds a second whole
 * one.
 */
#ifndef MPILORA_STORE_CHECKPOINT_STATE_FILE_H
#define MPILORA_STORE_CHECKPOINT_STATE_FILE_H

#include "io/image.h"
#include "store/checkpoint/run_directory.h"

/* ---- kinds and blocks ---------------------------------------------------------------------- */

enum { ML_STATE_KINDS = 3 };
extern const char *const ml_state_kind[ML_STATE_KINDS]; /* names of the groups */
float *ml_state_buffer(const ml_parameters *p, int kind);

/* At most this many rows of a tensor are in flight at once. */
int64_t ml_state_block_rows(int64_t rows, int64_t cols);
/* Floats of the largest block of any tensor. */
int64_t ml_state_block_floats(const ml_parameters *p);

/* ---- writing ------------------------------------------------------------------------------- */

/* Room of an image beside its tensors. */
enum { ML_STATE_OVERHEAD = 64 << 10 };

/* A new image with the groups and what each file says of its run; `bytes`: how large the tensors'
 * part is going to be. Local. */
ml_status ml_state_file_create(ml_image **out, const ml_checkpoint_state *state,
                               int64_t bytes) ML_NODISCARD;

/* Whether the state is one file, gathered: an adapter's, where it fits. */
bool ml_state_is_gathered(const ml_parameters *p, bool full);

/* The whole state in one image on world rank 0 (*out, owned by the caller; NULL elsewhere), the
 * same bytes from any grid. Collective over the world. */
ml_status ml_state_file_gather(const ml_grid *grid, const ml_parameters *p,
                               const ml_checkpoint_state *state, ml_image **out) ML_NODISCARD;

/* Each tp rank of dp replica 0 writes the files of its own shards into the step's directory, which
 * is there. `files` gets the list of all on world rank 0. Collective over the world. */
ml_status ml_state_files_write(const ml_run_directory *run, const ml_grid *grid,
                               const ml_parameters *p, const ml_checkpoint_state *state,
                               ml_file_list *files) ML_NODISCARD;
/* The most that one tp rank has in memory for that. Local. */
int64_t ml_state_shards_memory(const ml_parameters *p, int tp, int tp_rank);

/* ---- reading ------------------------------------------------------------------------------- */

typedef struct ml_state_extent {
    int64_t tensor, kind; /* indices: of the list of parameters; of ml_state_kind */
    int64_t first_row, rows, first_col, cols;
} ml_state_extent;

/* A dataset's place from its attributes and shape: rows and cols of the extent; those of the whole
 * tensor in all[2]. ML_INPUT where it does not lie inside. Local. */
ml_status ml_state_extent_read(hid_t dataset, int64_t rows, int64_t cols, ml_state_extent *extent,
                               int64_t all[2]) ML_NODISCARD;
/* Cuts a dataset's name behind the tensor's. Local. */
void ml_state_cut_name(char *name);

#endif
