/* All tensors of a source, through all threads, into a base that is written. An internal module. */
#ifndef MPILORA_STORE_BASE_STREAM_H
#define MPILORA_STORE_BASE_STREAM_H

#include "store/base/import_private.h"
#include "store/base/writer.h"

/* How an import divides what it may have in memory. */
typedef struct import_room {
    int threads;
    int64_t values; /* of a piece, or a row where that is longer */
    int64_t window; /* bytes of the source that are held */
} import_room;

/* As many threads as OpenMP has, and pieces that fit beside what the process has already; bytes 0:
 * pieces of the usual size. ML_USAGE where not one row fits. */
ml_status import_find_room(const ml_model_spec *spec, int64_t bytes, import_room *out) ML_NODISCARD;

/* Reads, rounds, writes and hashes; the file is the same for any room. `window`: of the source's
 * files; NULL: it has none. `kept`: matrices of a format go over in their blocks. */
ml_status import_stream(const import_source *source, ml_window *window, ml_base_writer *w,
                        const ml_model_spec *spec, bool kept, const import_room *room) ML_NODISCARD;

/* ---- source_hash.c: a source is hashed by a thread of its own while it goes by -------------- */

typedef struct import_hashing import_hashing;

/* `window`: through which the source's files go, borrowed until the hash is finished. */
ml_status import_hash_begin(import_hashing **out, const import_source *source,
                            ml_window *window) ML_NODISCARD;
/* Waits for it. Takes `hashing`. */
ml_status import_hash_finish(import_hashing *hashing, char hex[ML_SHA256_HEX]) ML_NODISCARD;
void import_hash_discard(import_hashing *hashing); /* stops it; NULL is fine */

#endif
