/* inspect: what a file of mpilora holds, and whether it is whole. Local. */
#ifndef MPILORA_INSPECT_H
#define MPILORA_INSPECT_H

#include "mpilora/base.h"

ML_BEGIN_DECLS

/* Appends one JSON object that describes `path`: a base file, a data set, adapter.h5, a checkpoint
 * (its directory or state file) or a run's directory. Its "kind" is base, dataset, adapter,
 * checkpoint or run. Hashes are checked on the way. A run's checkpoints are listed with step,
 * bytes, age_s, whole and, where they are not, fault.
 * Shapes: none.
 * Ownership: `json` is the caller's.
 * Local.
 * Errors: ML_INPUT where it is none of these, or damaged; ML_RESOURCE. */
ml_status ml_inspect(const char *path, ml_text *json) ML_NODISCARD;

/* Checks all that can be checked of `path`, the contents' hashes with it, and appends one JSON
 * object: {"path", "kind", "ok", "checked": [{"path", "ok", "what"}]}. A run's directory: every
 * checkpoint and every file beside them; a PEFT directory: its two files. "what" says what was
 * found where it is right, and what is wrong where not. *whole: all is right.
 * Shapes: none.
 * Ownership: `json` is the caller's.
 * Local.
 * Errors: ML_RESOURCE without memory; what is missing or bad is a line, not a failure. */
ml_status ml_verify(const char *path, ml_text *json, bool *whole) ML_NODISCARD;

ML_END_DECLS

#endif
