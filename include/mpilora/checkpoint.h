/* checkpoint: run directories and durable checkpoints of a training run.
 *
 *   RUN/lock                                  who runs here: host, pid, job
 *   RUN/checkpoints/step-%08d/state.h5        trainable tensors and moments (method full:
 *     state-0000.h5, …)
 *   RUN/checkpoints/step-%08d/MANIFEST.json   step, schema, identity, files with sizes and SHA-256;
 *     its rename is the commit
 *   RUN/checkpoints/latest                    a hint only
 *   RUN/checkpoints/set-aside/                bad ones (.bad-…), and the old ones after a fresh
 *     start (.old-…); the newest two of each
 *
 * State holds global tensors, or rectangles of them, under global names, so any process grid reads
 * what any other wrote. World rank 0 writes and reads an adapter's; a state beyond one file is
 * written by the tp ranks of dp replica 0 in each stage, each its own shards, and read by as many
 * ranks as tp has. World
 * rank 0 alone commits. All functions that take a grid are collective over the world and return
 * the same status on every rank.
 */
#ifndef MPILORA_CHECKPOINT_H
#define MPILORA_CHECKPOINT_H

#include "mpilora/base.h"
#include "mpilora/grid.h"
#include "mpilora/optim.h"

ML_BEGIN_DECLS

/* ---- the directory of a run ---------------------------------------------------------------- */

typedef struct ml_run_directory ml_run_directory;

/* Creates `path` and its parents where they are missing, and takes its lock. A lock that a dead
 * process left is taken over. With `fresh` the checkpoints that are there are set aside, to start
 * over. Removes temporary files that a killed process left.
 * Shapes: none.
 * Ownership: *out is the caller's, who ends it with ml_run_directory_close.
 * Collective over the world.
 * Errors: ML_USAGE naming host, pid and job where a live run is there; ML_RESOURCE where the
 * directory cannot be made or written. */
ml_status ml_run_directory_open(ml_run_directory **out, const char *path, bool fresh,
                                const ml_grid *grid) ML_NODISCARD;

/* Waits for a save that is under way and gives the lock back; NULL is fine.
 * Shapes: none.
 * Ownership: takes `run`.
 * Local.
 * Errors: none. */
void ml_run_directory_close(ml_run_directory *run);

/* The path as it was opened.
 * Shapes: none.
 * Ownership: borrowed from `run`.
 * Local.
 * Errors: none. */
const char *ml_run_directory_path(const ml_run_directory *run);

/* ---- what a checkpoint says beside the tensors --------------------------------------------- */

enum { ML_PATH_NAME = 32 };

/* How far the run has come. Plain data. A loss that is not known is NaN. */
typedef struct ml_checkpoint_progress {
    int64_t step;   /* done */
    int64_t cursor; /* sequences taken from the sampler */
    int64_t tokens; /* trained on */
    double loss_first, loss_last;
    double best_loss; /* of the evaluations so far */
    int64_t best_step;
    int64_t
        evaluated_step; /* of the newest evaluation; an older one than is due: it was interrupted */
    double stop_loss;   /* early stopping: the value at the last reset */
    int64_t stop_count; /* evaluations since then */
    bool finished;
    char backend[ML_PATH_NAME],
        vector_path[ML_PATH_NAME]; /* kernels of the run: a resumed run takes them again */
} ml_checkpoint_progress;

/* What must be the same when a run is resumed: "base" → its hash, "method.rank" → "8", …; `before`:
 * what an earlier version wrote for the same value, NULL: nothing else. Borrowed strings. */
typedef struct ml_checkpoint_identity {
    const char *key, *value, *before;
} ml_checkpoint_identity;

/* A key of the identity that a start changed, because it was asked to, after `step` steps. */
typedef struct ml_checkpoint_change {
    char key[32], from[128], to[128];
    int64_t step;
} ml_checkpoint_change;

/* Of a run since its first step, oldest first. Owned. */
typedef struct ml_checkpoint_changes {
    int64_t count;
    ml_checkpoint_change *items;
} ml_checkpoint_changes;

/* Ends a list of changes; {0} is fine.
 * Shapes: none.
 * Ownership: takes what `changes` owns.
 * Local.
 * Errors: none. */
void ml_checkpoint_changes_destroy(ml_checkpoint_changes *changes);

typedef struct ml_checkpoint_state {
    ml_checkpoint_progress progress;
    bool full;          /* method full: numbered state files */
    int64_t file_bytes; /* of tensors in one of several files at most; 0: 1 GiB for all writers
                           together, and a small part of what one writes. An adapter of 1000 MiB
                          and less is one file */
    const char *configuration; /* resolved, as YAML; borrowed; written only */
    int64_t identities;
    const ml_checkpoint_identity *identity; /* borrowed; written by save, compared by find */
    int64_t allowed;
    const char *const *allow;       /* [allowed] keys that find lets differ; borrowed */
    ml_checkpoint_changes *changes; /* filled by find on world rank 0: what the checkpoint names,
                                       and what was let differ; written by save; borrowed. NULL:
                                       none */
    ml_status (*before_commit)(
        void *of); /* on world rank 0, maybe in another thread: syncs what must be on disk before
                      the manifest is. NULL: nothing */
    void *before_commit_of;
    int64_t keep_step; /* a checkpoint that stays beside the newest ones: that of the best
                          validation loss; 0: none */
} ml_checkpoint_state;

/* ---- save, find, load ---------------------------------------------------------------------- */

typedef struct ml_checkpoint_report {
    int64_t step, bytes;    /* bytes: of all files of the checkpoint */
    bool again;             /* the step was committed already: only its manifest was written */
    double seconds, waited; /* from its begin to its end; what of it world rank 0's caller waited */
} ml_checkpoint_report;

/* Writes the checkpoint of state->progress.step: tensors and moments of dp replica 0; each file
 * whole in memory, hashed, written to a temporary file, synced, read back, renamed; the manifest
 * last. Then deletes the oldest beyond `keep`, never below two verified ones. Where that step is
 * committed already, only its manifest is written again.
 * Shapes: bytes and seconds in `report`, which may be NULL.
 * Ownership: all borrowed.
 * Collective over the world.
 * Errors: ML_RESOURCE: nothing changed and older checkpoints are untouched. */
ml_status ml_checkpoint_save(ml_run_directory *run, const ml_grid *grid,
                             const ml_parameters *parameters, const ml_checkpoint_state *state,
                             int64_t keep, ml_checkpoint_report *report) ML_NODISCARD;

/* The same in two halves, so that training goes on between them. Begin returns when the state is
 * gathered; with `beside` a thread of world rank 0 hashes, writes, reads back and commits it then.
 * A state of more than one file, a manifest alone, and without `beside` everything: done when
 * begin returns.
 * Shapes: none.
 * Ownership: `state->identity` and before_commit_of stay borrowed until the wait.
 * Collective over the world.
 * Errors: ML_RESOURCE; a save that runs beside training fails in the wait. */
ml_status ml_checkpoint_begin(ml_run_directory *run, const ml_grid *grid,
                              const ml_parameters *parameters, const ml_checkpoint_state *state,
                              int64_t keep, bool beside) ML_NODISCARD;

/* Whether a wait would return at once; false where none was begun, and on ranks other than world
 * rank 0.
 * Shapes: none.
 * Ownership: borrows `run`.
 * Local.
 * Errors: none. */
bool ml_checkpoint_has_ended(const ml_run_directory *run);

/* The result of the save that was begun, on every rank; where none was begun it does nothing and
 * *report is zero.
 * Shapes: bytes, seconds.
 * Ownership: borrows all.
 * Collective over the world.
 * Errors: the save's own. */
ml_status ml_checkpoint_wait(ml_run_directory *run, const ml_grid *grid,
                             ml_checkpoint_report *report) ML_NODISCARD;

/* Finds the newest checkpoint that is whole (manifest's own hash, sizes, SHA-256 of every file)
 * and fills state->progress from it. Bad ones on the way are set aside with a warning that says
 * why. Where a whole one has another identity: an older one with the right identity is taken and
 * the other set aside. *found false: no checkpoint was ever committed here.
 * Shapes: none.
 * Ownership: borrows all; state->changes is filled.
 * Collective over the world.
 * Errors: ML_USAGE naming key and both values where the identity is another, or only a key differs
 * that the run itself has changed, and nothing is moved; ML_INPUT where there are only bad ones,
 * now or at an earlier start. */
ml_status ml_checkpoint_find(ml_run_directory *run, const ml_grid *grid, ml_checkpoint_state *state,
                             bool *found) ML_NODISCARD;

/* Reads the checkpoint that ml_checkpoint_find chose into value, moment1 and moment2 of every rank
 * (moments where allocated), a block of rows at a time. Each file was hashed before HDF5 sees it,
 * and is hashed again as it is read: where that fails the values are not to be used.
 * Shapes: [local] floats, moments [held].
 * Ownership: `parameters` keeps its buffers.
 * Collective over the world.
 * Errors: ML_INPUT naming the tensor where names or shapes are not those of `parameters`, or the
 * file where it has changed since; ML_RESOURCE. */
ml_status ml_checkpoint_load(ml_run_directory *run, const ml_grid *grid,
                             ml_parameters *parameters) ML_NODISCARD;

/* Makes the checkpoint of a step the one that ml_checkpoint_load reads.
 * Shapes: none.
 * Ownership: borrows all.
 * Collective over the world.
 * Errors: ML_INPUT with the reason where it is not there or not whole. */
ml_status ml_checkpoint_choose(ml_run_directory *run, const ml_grid *grid,
                               int64_t step) ML_NODISCARD;

/* Sets the committed checkpoint of a step aside as a bad one, so that no start goes on from it.
 * Shapes: none.
 * Ownership: borrows all.
 * Collective over the world.
 * Errors: ML_INPUT or ML_RESOURCE where it cannot be moved. */
ml_status ml_checkpoint_reject(ml_run_directory *run, const ml_grid *grid,
                               int64_t step) ML_NODISCARD;

/* ---- sizes --------------------------------------------------------------------------------- */

/* Bytes of a checkpoint's state on disk for `global` trainable parameters: 12 each.
 * Shapes: bytes.
 * Ownership: none.
 * Local.
 * Errors: none. */
int64_t ml_checkpoint_bytes(int64_t global);

/* Accounted bytes (category other) of an open run's directory and its lock on world rank 0.
 * Shapes: bytes.
 * Ownership: none.
 * Local.
 * Errors: none. */
int64_t ml_run_directory_bytes(void);

/* How many ranks write a checkpoint: world rank 0 alone, or for a state beyond one file each of so
 * many that hold a part of the model (tp · pp), in dp replica 0.
 * Shapes: none.
 * Ownership: borrows `parameters`.
 * Local.
 * Errors: none. */
int ml_checkpoint_writers(const ml_parameters *parameters, bool full, int parts);

/* Accounted bytes (category other) that a writer, number `part` = stage · tp + tp rank of tp · pp
 * parts, holds while it saves, beside training or not; other ranks hold none. At most 1 GiB and
 * some overhead for all writers of a stage's state beyond one file together.
 * Shapes: bytes.
 * Ownership: borrows `parameters`.
 * Local.
 * Errors: none. */
int64_t ml_checkpoint_memory(const ml_parameters *parameters, bool full, int parts, int part);

/* Accounted bytes (category other) that a rank holds while a checkpoint is loaded: a block of the
 * largest tensor, of 4 MiB at most unless a row has more. `reader`: world rank 0.
 * Shapes: bytes.
 * Ownership: borrows `parameters`.
 * Local.
 * Errors: none. */
int64_t ml_checkpoint_load_memory(const ml_parameters *parameters, bool reader);

ML_END_DECLS

#endif
