/* run_directory: what the checkpoint's files share about a run's directory. An internal module.
 *
 *   run_directory.c   the directory, and the checkpoints in it as directories
 *   run_lock.c        who may write in it
 *   manifest.c        what makes a checkpoint one: made, read, checked
 *   identity.c        which run it is of
 *   save.c            the states of a save; state_file.c: its tensors
 *   find.c, load.c    the way back
 */
#ifndef MPILORA_STORE_CHECKPOINT_RUN_DIRECTORY_H
#define MPILORA_STORE_CHECKPOINT_RUN_DIRECTORY_H

#include <jansson.h>

#include "io/durable.h"
#include "mpilora/checkpoint.h"

typedef struct ml_save ml_save; /* save.c */

struct ml_run_directory {
    char path[ML_DURABLE_PATH];
    char checkpoints[ML_DURABLE_PATH];
    int lock;                            /* world rank 0's file descriptor; −1 elsewhere */
    struct ml_lock_heartbeat *heartbeat; /* keeps the lock; world rank 0 */
    int64_t *verified;                   /* steps whose files this process has hashed */
    int64_t nverified, capacity;
    json_t *chosen; /* manifest that ml_checkpoint_find took; world rank 0; owned */
    ml_save *save;  /* begun and not waited for, on every rank; owned; NULL: none */
};

static const char ml_manifest_name[] = "MANIFEST.json";
static const char ml_manifest_changes_key[] = "allowed_changes";

ml_status ml_lock_take(ml_run_directory *run) ML_NODISCARD;
/* ML_USAGE naming who has taken the lock over, as he may where this process stood still for a
 * minute: before anything is committed. */
ml_status ml_lock_check(const ml_run_directory *run) ML_NODISCARD;
void ml_lock_release(ml_run_directory *run);

/* Waits for a save that is under way and warns where it failed: the run itself has failed. Local.
 */
void ml_save_abandon(ml_run_directory *run);

/* ---- checkpoints of a run: local, on world rank 0 ------------------------------------------ */

/* Steps named step-%08d, ascending, owned by the caller; `committed`: those with a manifest (and
 * what is no directory, to be judged), else those without. */
ml_status ml_steps_list(const ml_run_directory *run, bool committed, int64_t **steps,
                        int64_t *count) ML_NODISCARD;
ml_status ml_step_path(const ml_run_directory *run, int64_t step, const char *file,
                       char out[ML_DURABLE_PATH]) ML_NODISCARD;
/* Deletes a checkpoint, manifest first. */
ml_status ml_step_remove(const ml_run_directory *run, int64_t step) ML_NODISCARD;
/* Moves it to set-aside/ as KIND ("bad", "old"), where the newest two of the kind are kept. */
ml_status ml_step_set_aside(const ml_run_directory *run, int64_t step,
                            const char *kind) ML_NODISCARD;
/* Whether set-aside/ holds any of the kind. */
ml_status ml_step_has_set_aside(const ml_run_directory *run, const char *kind,
                                bool *any) ML_NODISCARD;
/* What a fresh start does: everything becomes "old". */
ml_status ml_steps_start_over(const ml_run_directory *run) ML_NODISCARD;

/* Deletes the oldest checkpoints beyond `keep` (at least two) but never that of `keep_step` (0:
 * none); those that stay and count are verified first. Faults are only warned of: the new
 * checkpoint is safe. */
void ml_steps_retain(ml_run_directory *run, int64_t keep, int64_t keep_step);

bool ml_step_is_verified(const ml_run_directory *run, int64_t step);
ml_status ml_step_remember(ml_run_directory *run, int64_t step) ML_NODISCARD;

/* ---- manifests ----------------------------------------------------------------------------- */

typedef struct ml_manifest_file {
    char name[32], sha256[ML_SHA256_HEX];
    int64_t bytes;
} ml_manifest_file;

/* A growing list of them; starts from {0}. */
typedef struct ml_file_list {
    ml_manifest_file *file; /* owned */
    int64_t count, capacity;
} ml_file_list;
ml_status ml_file_list_add(ml_file_list *list, const ml_manifest_file *file) ML_NODISCARD;
void ml_file_list_destroy(ml_file_list *list);

/* The text of a manifest; `previous` is a step or −1. */
ml_status ml_manifest_make(const ml_checkpoint_state *state, int64_t previous,
                           const ml_file_list *files, ml_text *out) ML_NODISCARD;
/* Reads a step's manifest and checks its own hash, schema, step and file list: ML_INPUT with the
 * reason. Owned by the caller (json_decref). *bad (may be NULL): the checkpoint itself is at
 * fault; else a failure says nothing about it, for it could not be read. */
ml_status ml_manifest_read(const ml_run_directory *run, int64_t step, json_t **out,
                           bool *bad) ML_NODISCARD;
int64_t ml_manifest_files(const json_t *manifest);
ml_manifest_file ml_manifest_file_at(const json_t *manifest, int64_t index);
/* Sizes and SHA-256 of all files: ML_INPUT with the reason, *bad as above. Remembers the step as
 * verified. */
ml_status ml_manifest_verify(ml_run_directory *run, int64_t step, const json_t *manifest,
                             bool *bad) ML_NODISCARD;
/* Both; `manifest` may be NULL. What looks bad is looked at a second time before *bad says so: the
 * verdict moves it away for good. */
ml_status ml_step_check(ml_run_directory *run, int64_t step, json_t **manifest,
                        bool *bad) ML_NODISCARD;
void ml_manifest_progress(const json_t *manifest, ml_checkpoint_progress *progress);

/* ---- identity ------------------------------------------------------------------------------ */

/* ML_USAGE naming the key and both values where the identity differs in a key that state->allow
 * does not name. */
ml_status ml_manifest_compare(const json_t *manifest,
                              const ml_checkpoint_state *state) ML_NODISCARD;
/* Whether the identity differs in a key that this run has changed before. */
bool ml_manifest_has_changed(const json_t *manifest, const ml_checkpoint_state *state);
/* The changes that the manifest names, and those from its identity to the state's. */
ml_status ml_manifest_changes(const json_t *manifest, const ml_checkpoint_state *state,
                              ml_checkpoint_changes *out) ML_NODISCARD;

#endif
