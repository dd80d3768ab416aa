/* Both formats are a header and, behind it, the rows as they are in memory (little-endian): HDF5
 * lays its data set out at once, so that only the place of the first row differs. */
#include "io/vector_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <unistd.h>

#include "io/durable.h"
#include "io/hdf5_file.h"
#include "io/hdf5_work.h"
#include "io/image.h"

struct vector_file {
    char path[ML_DURABLE_PATH], temporary[ML_DURABLE_PATH];
    int fd; /* −1: not open */
    int64_t cols, offset;
};

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n > m && !strcmp(text + n - m, end);
}

bool vector_file_is_known(const char *path)
{
    return ends_with(path, ".npy") || ends_with(path, ".h5");
}

static ml_status failed(const vector_file *f, const char *what)
{
    return ml_fail(ML_RESOURCE, "%s: %s: %s", f->path, what, strerror(errno));
}

/* ---- NumPy's header ------------------------------------------------------------------------ */

static ml_status open_file(vector_file *f, int flags)
{
    f->fd = open(f->temporary, flags | O_RDWR | O_CLOEXEC, 0666);
    return f->fd < 0 ? failed(f, "cannot be written") : ML_OK;
}

/* Format 1.0: the magic, the length of what follows in two bytes, a Python dictionary padded to a
 * multiple of 64 bytes. */
static ml_status start_npy(vector_file *f, int64_t rows)
{
    enum { HEADER = 128, PREAMBLE = 10 };
    char header[HEADER + 1];
    memset(header, ' ', sizeof header);
    memcpy(header, "\x93NUMPY\x01\x00", 8);
    header[8] = HEADER - PREAMBLE;
    header[9] = 0;
    int length =
        snprintf(header + PREAMBLE, HEADER - PREAMBLE,
                 "{'descr': '<f4', 'fortran_order': False, 'shape': (%" PRId64 ", %" PRId64 "), }",
                 rows, f->cols);
    header[PREAMBLE + length] = ' ';
    header[HEADER - 1] = '\n';
    f->offset = HEADER;
    ml_status st = open_file(f, O_CREAT | O_EXCL);
    return st == ML_OK ? ml_file_write(f->fd, f->path, header, HEADER, 0) : st;
}

/* ---- HDF5 ---------------------------------------------------------------------------------- */

static bool put_matrix(vector_file *f, hid_t file, int64_t rows)
{
    const hsize_t dims[2] = {(hsize_t)rows, (hsize_t)f->cols};
    hid_t space = H5Screate_simple(2, dims, NULL), list = H5Pcreate(H5P_DATASET_CREATE), set = -1;
    bool good = space >= 0 && list >= 0 && H5Pset_layout(list, H5D_CONTIGUOUS) >= 0 &&
                H5Pset_alloc_time(list, H5D_ALLOC_TIME_EARLY) >= 0 &&
                H5Pset_fill_time(list, H5D_FILL_TIME_NEVER) >= 0 &&
                H5Pset_obj_track_times(list, false) >= 0;
    if (good)
        set = H5Dcreate2(file, "embeddings", H5T_IEEE_F32LE, space, H5P_DEFAULT, list, H5P_DEFAULT);
    haddr_t offset = set >= 0 ? H5Dget_offset(set) : HADDR_UNDEF;
    f->offset = (int64_t)offset;
    if (set >= 0) H5Dclose(set);
    if (list >= 0) H5Pclose(list);
    if (space >= 0) H5Sclose(space);
    return offset != HADDR_UNDEF;
}

static ml_status put_attributes(hid_t file, const vector_attribute *attribute)
{
    ml_status st = ML_OK;
    for (; attribute->name && st == ML_OK; attribute++)
        st = attribute->text ? ml_image_put_text(file, attribute->name, attribute->text)
                             : ml_image_put_int(file, attribute->name, attribute->number);
    return st;
}

static ml_status start_hdf5(vector_file *f, int64_t rows, const vector_attribute *attributes)
{
    ml_hdf5_begin(f->temporary);
    hid_t file = H5Fcreate(f->temporary, H5F_ACC_EXCL, H5P_DEFAULT, H5P_DEFAULT);
    bool good = file >= 0 && put_matrix(f, file, rows);
    ml_status st = good ? put_attributes(file, attributes) : ML_OK;
    if (file >= 0 && H5Fclose(file) < 0) good = false;
    if (!good && st == ML_OK)
        st = ml_fail(ML_RESOURCE, "%s: cannot be written: HDF5 failed", f->path);
    st = ml_hdf5_end(st, f->path);
    return st == ML_OK ? open_file(f, 0) : st;
}

/* ---- both ---------------------------------------------------------------------------------- */

ml_status vector_file_create(vector_file **out, const char *path, int64_t rows, int64_t cols,
                             const vector_attribute *attributes)
{
    ml_status st = ML_OK;
    vector_file *f = NULL;
    ML_NEW(f, 1, ML_MEM_OTHER, "a file of vectors");
    f->fd = -1;
    f->cols = cols;
    ML_TRY(ml_check_replaceable(path));
    ML_TRY(ml_durable_path(f->path, "%s", path));
    ML_TRY(ml_durable_temporary(f->temporary, path));
    (void)unlink(f->temporary); /* left by a killed process that had this number */
    ML_TRY(ends_with(path, ".npy") ? start_npy(f, rows) : start_hdf5(f, rows, attributes));
    *out = f;
    f = NULL;
done:
    vector_file_discard(f);
    return st;
}

ml_status vector_file_put(vector_file *f, int64_t first, int64_t rows, const float *values)
{
    int64_t row = f->cols * (int64_t)sizeof *values;
    return ml_file_write(f->fd, f->path, values, rows * row, f->offset + first * row);
}

ml_status vector_file_finish(vector_file *f)
{
    ml_status st = fsync(f->fd) ? failed(f, "fsync") : ML_OK;
    if (close(f->fd) && st == ML_OK) st = failed(f, "close");
    f->fd = -1;
    if (st == ML_OK) st = ml_durable_rename(f->temporary, f->path);
    if (st == ML_OK) *f->temporary = '\0';
    vector_file_discard(f);
    return st;
}

void vector_file_discard(vector_file *f)
{
    if (!f) return;
    if (f->fd >= 0) close(f->fd);
    ml_durable_drop(f->temporary);
    ml_memory_free(f);
}
