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

/* SHA-256 of what `path` holds, without what it says of the run that wrote it: of a checkpoint (of
 * a run's directory the newest whole one) names, shapes and values of what trains, both moments,
 * step and cursor; of adapter.h5 names, shapes and values; of a base or data set the hash of its
 * contents. Appends {"path", "kind", "sha256"}, of a checkpoint with "step" and "cursor".
 * Shapes: `hex` of ML_SHA256_HEX bytes.
 * Ownership: `json` is the caller's.
 * Local.
 * Errors: ML_INPUT where it is none of these, or damaged; ML_RESOURCE. */
ml_status ml_digest(const char *path, ml_text *json, char hex[ML_SHA256_HEX]) ML_NODISCARD;

/* Two run directories beside each other: the first step of metrics.jsonl that differs in anything
 * but what was measured; where both have trace.jsonl the first step, tensor and rank there; the
 * first tensor that differs in the newest checkpoint of which both have the step. What one has
 * alone (later steps, a cut trace's lines, a newer checkpoint) is a difference: "more" is its
 * directory, "step" and "last" are what it has more. Appends {"same", "runs": [a, b], "compared":
 * [{"what", "same", "text", "step", "key" | "tensor", "rank", "sum" | "more", "last"}]}, where
 * "same" is null of what could not be compared.
 * Shapes: none.
 * Ownership: `json` is the caller's.
 * Local.
 * Errors: ML_INPUT where one is no run's directory, or damaged; ML_RESOURCE. */
ml_status ml_same(const char *a, const char *b, ml_text *json, bool *same) ML_NODISCARD;

ML_END_DECLS

#endif
