/* A sealed HDF5 file: HDF5 behind a user block of 512 bytes that holds the SHA-256 of everything
 * after it.
 *
 * A malformed file can crash the HDF5 library itself, so the seal is checked before the library
 * sees the file. Other readers skip the user block by themselves.
 */
#ifndef MPILORA_IO_HDF5_FILE_H
#define MPILORA_IO_HDF5_FILE_H

#include <hdf5.h>

#include "mpilora/version.h"

enum { ML_SEAL_BYTES = 512 };

/* The HDF5 library that runs. */
void ml_hdf5_library(ml_library *out);

/* Sees the bytes of a file as they are read for the seal, from ML_SEAL_BYTES on: pieces of a MiB,
 * the last one shorter, each with its offset. A failure ends the reading. */
typedef ml_status (*ml_seal_reader)(void *context, int64_t offset, const char *data, int64_t bytes);

/* Checks the seal of the open file `fd` of `bytes` bytes, which must be of `kind`
 * ("mpilora-dataset"), by reading it once; `reader` sees every byte. ML_INPUT naming `path`. */
ml_status ml_seal_check(int fd, const char *path, const char *kind, int64_t bytes,
                        ml_seal_reader reader, void *context) ML_NODISCARD;
/* Fills `block` for a file of `kind` whose bytes after the block have the hash `hex`. */
void ml_seal_make(char block[ML_SEAL_BYTES], const char *kind, const char *hex);

/* Whole reads and writes at an offset; ML_INPUT and ML_RESOURCE naming `path`. */
ml_status ml_file_read(int fd, const char *path, void *out, int64_t bytes,
                       int64_t offset) ML_NODISCARD;
ml_status ml_file_write(int fd, const char *path, const void *data, int64_t bytes,
                        int64_t offset) ML_NODISCARD;

/* SHA-256 of the bytes from `offset` to `end`; `reader` (or NULL) sees them, too. */
ml_status ml_file_hash(int fd, const char *path, int64_t offset, int64_t end, ml_seal_reader reader,
                       void *context, char hex[ML_SHA256_HEX]) ML_NODISCARD;

/* A contiguous one-dimensional dataset of exactly `type`, inside a file of `bytes`: its count and
 * its place in the file. ML_INPUT. */
ml_status ml_hdf5_locate(hid_t file, const char *path, const char *name, hid_t type, int64_t bytes,
                         int64_t *count, int64_t *offset) ML_NODISCARD;

#endif
