/* HDF5 images in memory: what is written into one, and how exactly that, and nothing else, is read
 * again, from memory or from a file. */
#include "io/image.h"

#include <inttypes.h>

#include "io/hdf5_work.h"
#include "io/image_memory.h"

struct ml_image {
    hid_t file;
    ml_image_memory memory;
    int64_t user_block;
    bool at_work; /* HDF5 is, since ml_hdf5_begin */
};

/* ---- images -------------------------------------------------------------------------------- */

static void is_done(ml_image *image)
{
    if (image->at_work) ml_hdf5_end(ML_OK, "");
    image->at_work = false;
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
    ml_hdf5_begin(NULL);
    image->at_work = true;
    creation = H5Pcreate(H5P_FILE_CREATE);
    access = ml_image_memory_access(&image->memory, ml_image_room(expected));
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

/* Of a file on disk, which nobody writes any more: no lock, which some network file systems do not
 * know. */
static hid_t file_access(void)
{
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
#if H5_VERSION_GE(1, 12, 1) || (H5_VERSION_GE(1, 10, 7) && !H5_VERSION_GE(1, 12, 0))
    if (access >= 0) (void)H5Pset_file_locking(access, false, true);
#endif
    return access;
}

static ml_status open_image(ml_image **out, const char *name, const char *file,
                            ml_image_memory memory, bool in_memory)
{
    ml_status st = ML_OK;
    ml_image *image = NULL;
    hid_t access = -1;
    ML_NEW(image, 1, ML_MEM_OTHER, "an HDF5 image");
    ml_hdf5_begin(NULL);
    *image = (ml_image){.file = -1, .memory = memory, .at_work = true};
    access = in_memory ? ml_image_memory_access(&image->memory, ML_IMAGE_STEP) : file_access();
    if (access >= 0) image->file = H5Fopen(file, H5F_ACC_RDONLY, access);
    if (image->file < 0) {
        st = ml_hdf5_ran_out() ? no_image("open a file")
                               : ml_fail(ML_INPUT, "%s: is not an HDF5 file", name);
        goto done;
    }
    *out = image;
    image = NULL;
done:
    H5Pclose(access);
    ml_image_destroy(image);
    return st;
}

ml_status ml_image_open(ml_image **out, const char *name, const char *bytes, int64_t count)
{
    return open_image(out, name, "image", (ml_image_memory){(char *)(uintptr_t)bytes, count, true},
                      true);
}

ml_status ml_image_open_file(ml_image **out, const char *name, int fd)
{
    char file[32];
    snprintf(file, sizeof file, "/proc/self/fd/%d", fd);
    return open_image(out, name, file, (ml_image_memory){.borrowed = true}, false);
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
    *bytes = image->memory.bytes;
    *count = image->memory.count = (int64_t)size + image->user_block;
    return ML_OK;
}

void ml_image_destroy(ml_image *image)
{
    if (!image) return;
    if (image->file >= 0) H5Fclose(image->file);
    if (!image->memory.bytes) (void)H5garbage_collect(); /* what HDF5 would keep for other files */
    is_done(image);
    if (!image->memory.borrowed) ml_memory_free(image->memory.bytes);
    ml_memory_free(image);
}

/* ---- writing ------------------------------------------------------------------------------- */

static ml_status cannot_put(const char *name)
{
    return ml_fail(ML_RESOURCE, "%s: HDF5 cannot write it to memory: out of memory?", name);
}

ml_status ml_image_make_group(hid_t where, const char *name)
{
    hid_t group = H5Gcreate2(where, name, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    if (group < 0) return cannot_put(name);
    H5Gclose(group);
    return ML_OK;
}

static ml_status put_attribute(hid_t where, const char *name, hid_t stored, hid_t given,
                               const void *value)
{
    hid_t space = H5Screate(H5S_SCALAR);
    hid_t attribute = H5Acreate2(where, name, stored, space, H5P_DEFAULT, H5P_DEFAULT);
    ml_status st =
        attribute >= 0 && H5Awrite(attribute, given, value) >= 0 ? ML_OK : cannot_put(name);
    H5Aclose(attribute);
    H5Sclose(space);
    return st;
}

static hid_t text_type(const char *value)
{
    hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, strlen(value) + 1);
    H5Tset_cset(type, H5T_CSET_UTF8);
    return type;
}

ml_status ml_image_put_text(hid_t where, const char *name, const char *value)
{
    hid_t type = text_type(value);
    ml_status st = put_attribute(where, name, type, type, value);
    H5Tclose(type);
    return st;
}

ml_status ml_image_put_int(hid_t where, const char *name, int64_t value)
{
    return put_attribute(where, name, H5T_STD_I64LE, H5T_NATIVE_INT64, &value);
}

ml_status ml_image_put_double(hid_t where, const char *name, double value)
{
    return put_attribute(where, name, H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, &value);
}

static hid_t make_dataset(hid_t where, const char *name, hid_t type, hid_t space)
{
    hid_t list = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_layout(list, H5D_CONTIGUOUS);
    H5Pset_obj_track_times(list, false);
    hid_t dataset = H5Dcreate2(where, name, type, space, H5P_DEFAULT, list, H5P_DEFAULT);
    H5Pclose(list);
    return dataset;
}

ml_status ml_image_put_long_text(hid_t where, const char *name, const char *value)
{
    hid_t type = text_type(value), space = H5Screate(H5S_SCALAR);
    hid_t dataset = make_dataset(where, name, type, space);
    ml_status st =
        dataset >= 0 && H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, value) >= 0
            ? ML_OK
            : cannot_put(name);
    H5Dclose(dataset);
    H5Sclose(space);
    H5Tclose(type);
    return st;
}

ml_status ml_image_make_matrix(hid_t where, const char *name, int64_t rows, int64_t cols,
                               hid_t *dataset)
{
    hid_t space = H5Screate_simple(2, (hsize_t[]){(hsize_t)rows, (hsize_t)cols}, NULL);
    *dataset = make_dataset(where, name, H5T_IEEE_F32LE, space);
    H5Sclose(space);
    return *dataset >= 0 ? ML_OK : cannot_put(name);
}

ml_status ml_image_put_rows(hid_t dataset, int64_t first, int64_t rows, int64_t cols,
                            const float *values)
{
    const hsize_t start[] = {(hsize_t)first, 0}, count[] = {(hsize_t)rows, (hsize_t)cols};
    hid_t file = H5Dget_space(dataset), memory = H5Screate_simple(2, count, NULL);
    ml_status st =
        H5Sselect_hyperslab(file, H5S_SELECT_SET, start, NULL, count, NULL) >= 0 &&
                H5Dwrite(dataset, H5T_NATIVE_FLOAT, memory, file, H5P_DEFAULT, values) >= 0
            ? ML_OK
            : cannot_put("a matrix");
    H5Sclose(memory);
    H5Sclose(file);
    return st;
}

ml_status ml_image_put_matrix(hid_t where, const char *name, int64_t rows, int64_t cols,
                              const float *values)
{
    hid_t dataset;
    ml_status st = ml_image_make_matrix(where, name, rows, cols, &dataset);
    if (st != ML_OK) return st;
    st = ml_image_put_rows(dataset, 0, rows, cols, values);
    H5Dclose(dataset);
    return st;
}

ml_status ml_image_put_doubles(hid_t where, const char *name, int64_t rows, int64_t cols,
                               const double *values)
{
    hid_t space =
        H5Screate_simple(cols > 0 ? 2 : 1, (hsize_t[]){(hsize_t)rows, (hsize_t)cols}, NULL);
    hid_t dataset = make_dataset(where, name, H5T_IEEE_F64LE, space);
    ml_status st = dataset >= 0 && H5Dwrite(dataset, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL,
                                            H5P_DEFAULT, values) >= 0
                       ? ML_OK
                       : cannot_put(name);
    H5Dclose(dataset);
    H5Sclose(space);
    return st;
}

/* ---- reading ------------------------------------------------------------------------------- */

/* What cannot be read is bad input, unless memory was lacking. */
static ml_status unreadable(ml_status st)
{
    return ml_hdf5_ran_out() ? ml_fail(ML_RESOURCE, "out of memory: HDF5 cannot read it") : st;
}

static ml_status not_there(const char *name, const char *expected)
{
    ml_status st = ml_fail(ML_INPUT, "is missing or is not %s", expected);
    return ml_fail_within(unreadable(st), "%s", name);
}

static bool is_scalar(hid_t attribute)
{
    hid_t space = H5Aget_space(attribute);
    bool scalar = H5Sget_simple_extent_type(space) == H5S_SCALAR;
    H5Sclose(space);
    return scalar;
}

/* A scalar attribute of the class; −1 where there is none. */
static hid_t open_attribute(hid_t where, const char *name, H5T_class_t class, size_t size,
                            hid_t *type)
{
    *type = -1;
    if (H5Aexists(where, name) <= 0) return -1;
    hid_t attribute = H5Aopen(where, name, H5P_DEFAULT);
    if (attribute < 0) return -1;
    *type = H5Aget_type(attribute);
    bool fits = is_scalar(attribute) && H5Tget_class(*type) == class &&
                H5Tis_variable_str(*type) <= 0 && H5Tget_size(*type) <= size;
    if (fits) return attribute;
    H5Tclose(*type);
    H5Aclose(attribute);
    return -1;
}

static ml_status read_attribute(hid_t where, const char *name, H5T_class_t class, hid_t wanted,
                                const char *expected, void *value)
{
    hid_t type, attribute = open_attribute(where, name, class, sizeof(int64_t), &type);
    if (attribute < 0) return not_there(name, expected);
    ml_status st = H5Aread(attribute, wanted, value) >= 0 ? ML_OK : not_there(name, expected);
    H5Tclose(type);
    H5Aclose(attribute);
    return st;
}

ml_status ml_image_get_int(hid_t where, const char *name, int64_t *value)
{
    return read_attribute(where, name, H5T_INTEGER, H5T_NATIVE_INT64, "an integer attribute",
                          value);
}

ml_status ml_image_get_double(hid_t where, const char *name, double *value)
{
    return read_attribute(where, name, H5T_FLOAT, H5T_NATIVE_DOUBLE, "a number attribute", value);
}

ml_status ml_image_get_text(hid_t where, const char *name, char *value, size_t size)
{
    hid_t type, attribute = open_attribute(where, name, H5T_STRING, size, &type);
    if (attribute < 0) return not_there(name, "a short text attribute");
    memset(value, 0, size);
    ml_status st =
        H5Aread(attribute, type, value) >= 0 ? ML_OK : not_there(name, "a short text attribute");
    value[size - 1] = '\0'; /* the stored text ends with a zero, unless somebody else wrote it */
    H5Tclose(type);
    H5Aclose(attribute);
    return st;
}

static bool is_plain_matrix(hid_t dataset, hsize_t size[2])
{
    hid_t type = H5Dget_type(dataset), space = H5Dget_space(dataset),
          list = H5Dget_create_plist(dataset);
    bool plain = H5Tequal(type, H5T_IEEE_F32LE) > 0 && H5Sget_simple_extent_ndims(space) == 2 &&
                 H5Sget_simple_extent_dims(space, size, NULL) == 2 &&
                 H5Pget_layout(list) == H5D_CONTIGUOUS && H5Pget_external_count(list) == 0 &&
                 size[0] > 0 && size[1] > 0 && size[0] < INT32_MAX && size[1] < INT32_MAX &&
                 H5Dget_storage_size(dataset) == size[0] * size[1] * sizeof(float);
    H5Pclose(list);
    H5Sclose(space);
    H5Tclose(type);
    return plain;
}

/* Links that lead elsewhere, out of the file even, are never followed. */
static bool is_hard_link(hid_t where, const char *name)
{
    H5L_info_t link;
    return H5Lexists(where, name, H5P_DEFAULT) > 0 &&
           H5Lget_info(where, name, &link, H5P_DEFAULT) >= 0 && link.type == H5L_TYPE_HARD;
}

ml_status ml_image_get_group(hid_t where, const char *name, hid_t *group)
{
    if (!is_hard_link(where, name)) return not_there(name, "a group");
    *group = H5Gopen2(where, name, H5P_DEFAULT);
    return *group >= 0 ? ML_OK : not_there(name, "a group");
}

ml_status ml_image_get_matrix(hid_t where, const char *name, int64_t *rows, int64_t *cols,
                              hid_t *dataset)
{
    static const char expected[] = "a contiguous fp32 matrix";
    hsize_t size[2];
    if (!is_hard_link(where, name)) return not_there(name, expected);
    *dataset = H5Dopen2(where, name, H5P_DEFAULT);
    if (*dataset < 0) return not_there(name, expected);
    if (!is_plain_matrix(*dataset, size)) {
        H5Dclose(*dataset);
        return not_there(name, expected);
    }
    *rows = (int64_t)size[0];
    *cols = (int64_t)size[1];
    return ML_OK;
}

ml_status ml_image_get_place(hid_t dataset, int64_t bytes, int64_t *offset)
{
    const haddr_t place = H5Dget_offset(dataset);
    const hsize_t size = H5Dget_storage_size(dataset);
    if (place == HADDR_UNDEF || size > (hsize_t)bytes || place > (haddr_t)bytes - size)
        return unreadable(ml_fail(ML_INPUT, "a matrix does not lie inside the file"));
    *offset = (int64_t)place;
    return ML_OK;
}

ml_status ml_image_get_rows(hid_t dataset, int64_t first, int64_t rows, int64_t cols, float *values)
{
    const hsize_t start[] = {(hsize_t)first, 0}, count[] = {(hsize_t)rows, (hsize_t)cols};
    hid_t file = H5Dget_space(dataset), memory = H5Screate_simple(2, count, NULL);
    bool read = H5Sselect_hyperslab(file, H5S_SELECT_SET, start, NULL, count, NULL) >= 0 &&
                H5Dread(dataset, H5T_NATIVE_FLOAT, memory, file, H5P_DEFAULT, values) >= 0;
    H5Sclose(memory);
    H5Sclose(file);
    return read ? ML_OK
                : unreadable(ml_fail(ML_INPUT,
                                     "rows %" PRId64 " … %" PRId64 " of a matrix cannot be read",
                                     first, first + rows - 1));
}

ml_status ml_image_links(hid_t group, int64_t *count)
{
    H5G_info_t info;
    if (H5Gget_info(group, &info) < 0)
        return unreadable(ml_fail(ML_INPUT, "a group cannot be listed"));
    *count = (int64_t)info.nlinks;
    return ML_OK;
}

ml_status ml_image_link(hid_t group, int64_t index, char *name, size_t size)
{
    ssize_t n = H5Lget_name_by_idx(group, ".", H5_INDEX_NAME, H5_ITER_INC, (hsize_t)index, name,
                                   size, H5P_DEFAULT);
    if (n > 0 && (size_t)n < size) return ML_OK;
    return unreadable(ml_fail(ML_INPUT, "link %" PRId64 " of a group has no usable name", index));
}
