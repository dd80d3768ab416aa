/* inspect: what a file of mpilora holds. Local. */
#ifndef MPILORA_INSPECT_H
#define MPILORA_INSPECT_H

#include "mpilora/base.h"

/* Appends one JSON object that describes `path`: a base file, a data set, adapter.h5, a checkpoint (its directory or state file) or a run's directory. Its
 * "kind" is base, dataset, adapter, checkpoint or run. Hashes are checked on the way. ML_INPUT where it is none of these, or damaged. */
ml_status ml_inspect(const char *path, ml_text *json) ML_NODISCARD;

#endif
