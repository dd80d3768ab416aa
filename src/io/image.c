/* HDF5 images in memory: the core driver without a file behind it, over one buffer that is never
 * copied. */
#include "io/image.h"

#include <H5FDcore.h>

struct ml_image {
    hid_t file;
    char *bytes; /* created: owned; opened: borrowed */
    int64_t count;
    int64_t user_block;
    bool borrowed;
    bool counted; /* among those in work */
};

/* ---- the core driver's memory: one accounted block, which outlives the file ---------------- */

static void *image_malloc(size_t size, H5FD_file_image_op_t operation, void *self)
{
    (void)size;
    (void)operation;
    return ((ml_image *)self)->bytes; /* opening: HDF5 looks at our bytes instead of at a copy */
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
    ml_image *image = self;
    if (image->borrowed) return NULL;
    void *grown = old ? ml_memory_resize(old, (int64_t)size, 1, "an HDF5 image")
                      : ml_memory_alloc((int64_t)size, 1, ML_MEM_OTHER, "an HDF5 image");
    if (grown) image->bytes = grown;
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

static hid_t access_list(ml_image *image, int64_t increment)
{
    H5FD_file_image_callbacks_t callbacks = {image_malloc, image_copy, image_grow, image_free,
                                             same_self,    keep_self,  image};
    hid_t list = H5Pcreate(H5P_FILE_ACCESS);
    if (list < 0) return list;
    if (H5Pset_fapl_core(list, (size_t)increment, false) >= 0 &&
        H5Pset_file_image_callbacks(list, &callbacks) >= 0 &&
        (!image->borrowed || H5Pset_file_image(list, image->bytes, (size_t)image->count) >= 0))
        return list;
    H5Pclose(list);
    return -1;
}

/* ---- images of this thread that HDF5 is at work on ----------------------------------------- */

static _Thread_local volatile int in_work;

bool ml_image_in_work(void) { return in_work > 0; }

static volatile bool has_failed;

bool ml_image_has_failed(void) { return has_failed; }

/* ---- images -------------------------------------------------------------------------------- */

static void is_done(ml_image *image)
{
    in_work -= image->counted;
    image->counted = false;
}

static ml_status no_image(const char *what)
{
    return ml_fail(ML_RESOURCE, "HDF5 cannot %s in memory: out of memory?", what);
}

ml_status ml_image_create(ml_image **out, int64_t expected, int64_t user_block)
{
    ml_status st = ML_OK;
    ml_image *image = NULL;
    hid_t creation = -1, access = -1;
    ML_NEW(image, 1, ML_MEM_OTHER, "an HDF5 image");
    image->file = -1;
    image->user_block = user_block;
    image->counted = true;
    in_work++;
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    creation = H5Pcreate(H5P_FILE_CREATE);
    access = access_list(image, ml_round_up(expected + 1, ML_IMAGE_STEP));
    if (creation < 0 || access < 0 || H5Pset_userblock(creation, (hsize_t)user_block) < 0) {
        st = no_image("prepare a file");
        goto done;
    }
    image->file = H5Fcreate("image", H5F_ACC_TRUNC, creation, access);
    if (image->file < 0) {
        st = no_image("create a file");
        goto done;
    }
    *out = image;
    image = NULL;
done:
    H5Pclose(creation);
    H5Pclose(access);
    ml_image_destroy(image);
    return st;
}

ml_status ml_image_open(ml_image **out, const char *name, const char *bytes, int64_t count)
{
    ml_status st = ML_OK;
    ml_image *image = NULL;
    hid_t access = -1;
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    ML_NEW(image, 1, ML_MEM_OTHER, "an HDF5 image");
    *image =
        (ml_image){.file = -1, .bytes = (char *)(uintptr_t)bytes, .count = count, .borrowed = true};
    access = access_list(image, ML_IMAGE_STEP);
    if (access >= 0) image->file = H5Fopen("image", H5F_ACC_RDONLY, access);
    if (image->file < 0) {
        st = ml_fail(ML_INPUT, "%s: is not an HDF5 file", name);
        goto done;
    }
    *out = image;
    image = NULL;
done:
    H5Pclose(access);
    ml_image_destroy(image);
    return st;
}

hid_t ml_image_file(const ml_image *image) { return image->file; }

ml_status ml_image_finish(ml_image *image, char **bytes, int64_t *count)
{
    if (H5Fflush(image->file, H5F_SCOPE_GLOBAL) < 0) return no_image("complete a file");
    ssize_t size = H5Fget_file_image(image->file, NULL, 0); /* without the user block */
    if (size <= 0) return no_image("measure a file");
    hid_t file = image->file;
    image->file = -1;
    if (H5Fclose(file) < 0) return no_image("close a file");
    is_done(image);
    *bytes = image->bytes;
    *count = image->count = (int64_t)size + image->user_block;
    return ML_OK;
}

void ml_image_destroy(ml_image *image)
{
    if (!image) return;
    if (image->counted) has_failed = true;
    if (image->file >= 0) H5Fclose(image->file);
    is_done(image);
    if (!image->borrowed) ml_memory_free(image->bytes);
    ml_memory_free(image);
}
