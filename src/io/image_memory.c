/* Where an HDF5 image lies: the core driver without a file behind it, over one accounted buffer
 * that is never copied and outlives the HDF5 file. */
#include "io/image_memory.h"

#include <H5FDcore.h>

static void *image_malloc(size_t size, H5FD_file_image_op_t operation, void *self)
{
    (void)size;
    (void)operation;
    return ((ml_image_memory *)self)
        ->bytes; /* opening: HDF5 looks at our bytes instead of at a copy */
}

static void *image_copy(void *to, const void *from, size_t size, H5FD_file_image_op_t operation,
                        void *self)
{
    (void)from;
    (void)size;
    (void)operation;
    (void)self;
    return to;
}

static void *image_grow(void *old, size_t size, H5FD_file_image_op_t operation, void *self)
{
    (void)operation;
    ml_image_memory *memory = self;
    if (memory->borrowed) return NULL;
    void *grown = old ? ml_memory_resize(old, (int64_t)size, 1, "an HDF5 image")
                      : ml_memory_alloc((int64_t)size, 1, ML_MEM_OTHER, "an HDF5 image");
    if (grown) memory->bytes = grown;
    return grown;
}

static herr_t image_free(void *bytes, H5FD_file_image_op_t operation, void *self)
{
    (void)bytes;
    (void)operation;
    (void)self;
    return 0;
}

static void *same_self(void *self) { return self; }

static herr_t keep_self(void *self)
{
    (void)self;
    return 0;
}

hid_t ml_image_memory_access(ml_image_memory *memory, int64_t increment)
{
    H5FD_file_image_callbacks_t callbacks = {image_malloc, image_copy, image_grow, image_free,
                                             same_self,    keep_self,  memory};
    hid_t list = H5Pcreate(H5P_FILE_ACCESS);
    if (list < 0) return list;
    if (H5Pset_fapl_core(list, (size_t)increment, false) >= 0 &&
        H5Pset_file_image_callbacks(list, &callbacks) >= 0 &&
        (!memory->borrowed || H5Pset_file_image(list, memory->bytes, (size_t)memory->count) >= 0))
        return list;
    H5Pclose(list);
    return -1;
}
