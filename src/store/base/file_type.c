/* Types of weights in HDF5: IEEE fp32, bf16 as a floating type of 1-8-7 bits, and blocks as opaque
 * bytes whose tag names the format. */
#include "store/base/base_private.h"

static hid_t bf16_type(void)
{
    hid_t type = H5Tcopy(H5T_IEEE_F32LE);
    /* One sign, eight exponent, seven fraction bits. */
    if (type >= 0 && (H5Tset_fields(type, 15, 7, 8, 0, 7) < 0 || H5Tset_precision(type, 16) < 0 ||
                      H5Tset_size(type, 2) < 0 || H5Tset_ebias(type, 127) < 0)) {
        H5Tclose(type);
        return -1;
    }
    return type;
}

static hid_t block_type(ml_dtype dtype)
{
    hid_t type = H5Tcreate(H5T_OPAQUE, (size_t)ml_block_format_of(dtype)->bytes);
    if (type >= 0 && H5Tset_tag(type, ml_dtype_name(dtype)) < 0) {
        H5Tclose(type);
        return -1;
    }
    return type;
}

hid_t base_file_type(ml_dtype dtype)
{
    if (dtype == ML_FP32) return H5Tcopy(H5T_IEEE_F32LE);
    return dtype == ML_BF16 ? bf16_type() : block_type(dtype);
}

bool base_dtype_of(hid_t type, ml_dtype *out)
{
    for (int d = 0; d < ML_DTYPES; d++) {
        hid_t own = base_file_type((ml_dtype)d);
        bool same = own >= 0 && H5Tequal(type, own) > 0;
        if (own >= 0) H5Tclose(own);
        *out = (ml_dtype)d;
        if (same) return true;
    }
    return false;
}
