/* The buffer of an HDF5 image. An internal module of image.c. */
#ifndef MPILORA_IO_IMAGE_MEMORY_H
#define MPILORA_IO_IMAGE_MEMORY_H

#include <hdf5.h>

#include "mpilora/base.h"

typedef struct ml_image_memory {
    char *bytes; /* of a created image: owned, and HDF5 makes it grow; of an opened one: borrowed */
    int64_t count;
    bool borrowed;
} ml_image_memory;

/* The access property list of a file in this memory, which grows by `increment` bytes; negative
 * where HDF5 has no memory for it. The caller closes it. Local. */
hid_t ml_image_memory_access(ml_image_memory *memory, int64_t increment);

#endif
