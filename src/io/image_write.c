/* Writing into HDF5 images. */
#include "io/image.h"

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
