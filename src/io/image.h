/* image: HDF5 files that are made in memory, and read there or where they lie. Local; an internal
 * module.
 *
 * HDF5 never writes to the disk through this module: what it builds is written by durable.c, what
 * it reads was hashed before. Matrices are contiguous little-endian fp32 datasets [rows, cols];
 * texts are fixed-length strings; nothing carries a time stamp, so equal content is equal bytes.
 */
#ifndef MPILORA_IO_IMAGE_H
#define MPILORA_IO_IMAGE_H

#include <hdf5.h>

#include "mpilora/base.h"

typedef struct ml_image ml_image;

enum { ML_IMAGE_STEP = 1 << 20 }; /* bytes: images grow by multiples of it */

/* The bytes that an image takes of which so many are expected. */
static inline int64_t ml_image_room(int64_t expected)
{
    return ml_round_up(expected + 1, ML_IMAGE_STEP);
}

/* A new, empty image; `expected` bytes are set aside for it at once; `user_block` bytes (0, or a
 * power of two from 512) stay free at its start. */
ml_status ml_image_create(ml_image **out, int64_t expected, int64_t user_block) ML_NODISCARD;
/* An image over bytes that stay borrowed and unchanged until the image is destroyed. ML_INPUT
 * naming `name` where it is no HDF5 file. */
ml_status ml_image_open(ml_image **out, const char *name, const char *bytes,
                        int64_t count) ML_NODISCARD;
/* The same over an open regular file, of which HDF5 reads only what it is asked for: the caller has
 * checked its hash, and closes `fd` when he likes. */
ml_status ml_image_open_file(ml_image **out, const char *name, int fd) ML_NODISCARD;
hid_t ml_image_file(const ml_image *image);
/* Closes a created image and gives its bytes: owned by `image` until it is destroyed; the user
 * block may be written by the caller. */
ml_status ml_image_finish(ml_image *image, char **bytes, int64_t *count) ML_NODISCARD;
void ml_image_destroy(ml_image *image); /* NULL is fine */

/* ---- writing ------------------------------------------------------------------------------- */

ml_status ml_image_make_group(hid_t where, const char *name) ML_NODISCARD;
ml_status ml_image_put_text(hid_t where, const char *name,
                            const char *value) ML_NODISCARD; /* attributes */
ml_status ml_image_put_int(hid_t where, const char *name, int64_t value) ML_NODISCARD;
ml_status ml_image_put_double(hid_t where, const char *name, double value) ML_NODISCARD;
ml_status ml_image_put_long_text(hid_t where, const char *name,
                                 const char *value) ML_NODISCARD; /* a dataset */
/* Creates a matrix; *dataset is closed by the caller with H5Dclose. Then row blocks of it. */
ml_status ml_image_make_matrix(hid_t where, const char *name, int64_t rows, int64_t cols,
                               hid_t *dataset) ML_NODISCARD;
ml_status ml_image_put_rows(hid_t dataset, int64_t first, int64_t rows, int64_t cols,
                            const float *values) ML_NODISCARD;
ml_status ml_image_put_matrix(hid_t where, const char *name, int64_t rows, int64_t cols,
                              const float *values) ML_NODISCARD;
/* Numbers in double precision: [rows, cols], or a vector where cols is 0. */
ml_status ml_image_put_doubles(hid_t where, const char *name, int64_t rows, int64_t cols,
                               const double *values) ML_NODISCARD;

/* ---- reading: anything but exactly what the functions above write is ML_INPUT naming it ---- */

ml_status ml_image_get_text(hid_t where, const char *name, char *value, size_t size) ML_NODISCARD;
ml_status ml_image_get_int(hid_t where, const char *name, int64_t *value) ML_NODISCARD;
ml_status ml_image_get_double(hid_t where, const char *name, double *value) ML_NODISCARD;
/* Opens a group; the caller closes it with H5Gclose. */
ml_status ml_image_get_group(hid_t where, const char *name, hid_t *group) ML_NODISCARD;
/* Opens a matrix and tells its shape; the caller closes it. */
ml_status ml_image_get_matrix(hid_t where, const char *name, int64_t *rows, int64_t *cols,
                              hid_t *dataset) ML_NODISCARD;
/* Where its numbers begin in a file of so many bytes: they lie in one piece. */
ml_status ml_image_get_place(hid_t dataset, int64_t bytes, int64_t *offset) ML_NODISCARD;
ml_status ml_image_get_rows(hid_t dataset, int64_t first, int64_t rows, int64_t cols,
                            float *values) ML_NODISCARD;
/* Names of a group's links, by index in name order. */
ml_status ml_image_links(hid_t group, int64_t *count) ML_NODISCARD;
ml_status ml_image_link(hid_t group, int64_t index, char *name, size_t size) ML_NODISCARD;

#endif
