/* HDF5 types of weights. */
#include "store/base/base_private.h"

hid_t base_file_type(ml_dtype dtype)
{
    hid_t type = H5Tcopy(H5T_IEEE_F32LE);
    if (type < 0 || dtype == ML_FP32) return type;
    /* bf16: one sign, eight exponent, seven fraction bits. */
    if (H5Tset_fields(type, 15, 7, 8, 0, 7) < 0 || H5Tset_precision(type, 16) < 0 ||
        H5Tset_size(type, 2) < 0 || H5Tset_ebias(type, 127) < 0) {
        H5Tclose(type);
        return -1;
    }
    return type;
}
