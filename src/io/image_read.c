/* Reading HDF5 images: only what image_write.c makes is accepted. */
#include <inttypes.h>

#include "io/image.h"

static ml_status not_there(const char *name, const char *expected)
{
    return ml_fail(ML_INPUT, "%s: is missing or is not %s", name, expected);
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

ml_status ml_image_get_rows(hid_t dataset, int64_t first, int64_t rows, int64_t cols, float *values)
{
    const hsize_t start[] = {(hsize_t)first, 0}, count[] = {(hsize_t)rows, (hsize_t)cols};
    hid_t file = H5Dget_space(dataset), memory = H5Screate_simple(2, count, NULL);
    bool read = H5Sselect_hyperslab(file, H5S_SELECT_SET, start, NULL, count, NULL) >= 0 &&
                H5Dread(dataset, H5T_NATIVE_FLOAT, memory, file, H5P_DEFAULT, values) >= 0;
    H5Sclose(memory);
    H5Sclose(file);
    return read ? ML_OK
                : ml_fail(ML_INPUT, "rows %" PRId64 " … %" PRId64 " of a matrix cannot be read",
                          first, first + rows - 1);
}

ml_status ml_image_links(hid_t group, int64_t *count)
{
    H5G_info_t info;
    if (H5Gget_info(group, &info) < 0) return ml_fail(ML_INPUT, "a group cannot be listed");
    *count = (int64_t)info.nlinks;
    return ML_OK;
}

ml_status ml_image_link(hid_t group, int64_t index, char *name, size_t size)
{
    ssize_t n = H5Lget_name_by_idx(group, ".", H5_INDEX_NAME, H5_ITER_INC, (hsize_t)index, name,
                                   size, H5P_DEFAULT);
    if (n > 0 && (size_t)n < size) return ML_OK;
    return ml_fail(ML_INPUT, "link %" PRId64 " of a group has no usable name", index);
}
