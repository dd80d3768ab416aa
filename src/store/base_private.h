/* The layout of a base file, shared by its writer and its reader.
 *
 *   user block      magic, seal, and one line "offset bytes" for every tensor (and the tokenizer): where contents lie in the file
 *   HDF5            /tensors/<name> contiguous, /tokenizer (canonical JSON, bytes); attributes of the root: format, version, architecture (JSON), dtype,
 *                   source_sha256, content_sha256, tokenizer_sha256
 *
 * A malformed file can crash the HDF5 library. The contents are too large to be hashed at each start, so the seal is the SHA-256 of everything else: the
 * user block's lines and all bytes outside the contents. It is checked before HDF5 sees the file.
 */
#ifndef MPILORA_STORE_BASE_PRIVATE_H
#define MPILORA_STORE_BASE_PRIVATE_H

#include <hdf5.h>

#include "mpilora/store.h"

#define BASE_FORMAT "mpilora-base"
enum { BASE_VERSION = 1, BASE_PATH = 4096 };

typedef struct extent {
    int64_t offset, bytes;
} extent;

/* spec_json.c */
ml_status base_spec_to_json(const ml_model_spec *spec, ml_text *out) ML_NODISCARD;
ml_status base_spec_from_json(const char *json, ml_model_spec *out) ML_NODISCARD;

/* base_seal.c */
int64_t base_user_block(int64_t extents); /* its size: a power of two ≥ 512 */
/* The seal's hash of an open file of `bytes` bytes; extents ascend and do not overlap. */
ml_status base_seal_hash(int fd, const char *path, int64_t bytes, int64_t user_block, const extent *contents, int64_t n,
                         char hex[ML_SHA256_HEX]) ML_NODISCARD;
ml_status base_seal_write(int fd, const char *path, int64_t bytes, const extent *contents, int64_t n) ML_NODISCARD;
/* Checks an open file; *contents (owned by the caller) and *n as written. ML_INPUT naming `path`. */
ml_status base_seal_check(int fd, const char *path, extent **contents, int64_t *n) ML_NODISCARD;

/* base_type.c: the file's type of a dtype; closed by the caller. */
hid_t base_file_type(ml_dtype dtype);

#endif
