/* Opening a base file: the seal first, then HDF5 for names, shapes and places; from then on HDF5
 * has no part in it. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <unistd.h>

#include "io/hdf5_file.h"
#include "io/hdf5_work.h"
#include "store/base/base_private.h"

enum { ARCHITECTURE = 16384 }; /* bytes; the longest lists in it are two of a head's rotations */

/* A fixed-length text attribute of the root, at most size − 1 bytes. */
static ml_status get_text(hid_t file, const char *name, char *out, size_t size)
{
    hid_t attribute = H5Aopen(file, name, H5P_DEFAULT),
          type = attribute >= 0 ? H5Aget_type(attribute) : -1;
    bool good = type >= 0 && H5Tget_class(type) == H5T_STRING && !H5Tis_variable_str(type) &&
                H5Tget_size(type) <= size && H5Aread(attribute, type, out) >= 0;
    if (good) out[H5Tget_size(type) - 1] = '\0';
    if (type >= 0) H5Tclose(type);
    if (attribute >= 0) H5Aclose(attribute);
    return good ? ML_OK : ml_fail(ML_INPUT, "attribute \"%s\" is missing or not a text", name);
}

static ml_status get_attributes(ml_base *b, hid_t file)
{
    ml_status st = ML_OK;
    char dtype[16], architecture[ARCHITECTURE];
    ML_TRY(get_text(file, "architecture", architecture, sizeof architecture));
    ML_TRY(base_spec_from_json(architecture, &b->spec));
    b->architecture = ml_memory_string(architecture);
    if (!b->architecture) return ML_RESOURCE;
    ML_TRY(get_text(file, "dtype", dtype, sizeof dtype));
    if (strcmp(dtype, "fp32") != 0 && strcmp(dtype, "bf16") != 0)
        return ml_fail(ML_INPUT, "dtype \"%s\" is not known", dtype);
    b->dtype = strcmp(dtype, "bf16") == 0 ? ML_BF16 : ML_FP32;
    ML_TRY(get_text(file, "content_sha256", b->content, sizeof b->content));
    ML_TRY(get_text(file, "source_sha256", b->source, sizeof b->source));
    ML_TRY(get_text(file, "tokenizer_sha256", b->tokenizer_hash, sizeof b->tokenizer_hash));
done:
    return st;
}

/* `dtype`: blocks of a row are counted in the place of its columns. */
static bool has_shape(hid_t set, const ml_model_tensor *t, ml_dtype dtype)
{
    int64_t weights = ml_block_format_of(dtype)->weights;
    hid_t space = H5Dget_space(set);
    hsize_t dims[2] = {0, 1};
    int rank = space >= 0 ? H5Sget_simple_extent_ndims(space) : -1;
    bool good = rank == (t->vector ? 1 : 2) &&
                H5Sget_simple_extent_dims(space, dims, NULL) == rank &&
                (int64_t)dims[0] == t->rows && t->cols % weights == 0 &&
                (int64_t)dims[1] == t->cols / weights;
    if (space >= 0) H5Sclose(space);
    return good;
}

/* Whether it is contiguous numbers or blocks, and of which dtype. */
static bool find_type(hid_t set, ml_dtype *out)
{
    hid_t found = H5Dget_type(set), list = H5Dget_create_plist(set);
    bool good = found >= 0 && list >= 0 && base_dtype_of(found, out) &&
                H5Pget_layout(list) == H5D_CONTIGUOUS && H5Pget_external_count(list) == 0;
    if (list >= 0) H5Pclose(list);
    if (found >= 0) H5Tclose(found);
    return good;
}

/* Keeps that a tensor is in blocks. */
static ml_status note_format(ml_base *b, const ml_model_tensor *t, ml_dtype format)
{
    ml_status st = ML_OK;
    if (!b->formats)
        ML_NEW(b->formats, ml_model_formats(&b->spec), ML_MEM_OTHER, "formats of tensors");
    b->formats[ml_model_format_place(&b->spec, t)] = format;
    b->spec.formats = b->formats;
done:
    return st;
}

static bool is_extent(const extent *contents, int64_t n, int64_t offset, int64_t bytes)
{
    int64_t low = 0, high = n;
    while (low < high) {
        int64_t middle = (low + high) / 2;
        if (contents[middle].offset < offset)
            low = middle + 1;
        else
            high = middle;
    }
    return low < n && contents[low].offset == offset && contents[low].bytes == bytes;
}

static ml_status locate(ml_base *b, hid_t group, int64_t i, const extent *contents, int64_t n)
{
    ml_model_tensor t;
    ml_model_tensor_at(&b->spec, i, &t);
    ml_dtype dtype = t.norm_or_bias ? ML_FP32 : b->dtype, found = dtype;
    H5L_info_t link;
    if (H5Lget_info(group, t.name, &link, H5P_DEFAULT) < 0 || link.type != H5L_TYPE_HARD)
        return ml_fail(ML_INPUT, "tensor %s is missing", t.name);
    hid_t set = H5Dopen2(group, t.name, H5P_DEFAULT);
    if (set < 0) return ml_fail(ML_INPUT, "tensor %s cannot be opened", t.name);
    bool type = find_type(set, &found),
         blocks = type && ml_dtype_is_block(found) && !t.norm_or_bias && !t.vector;
    if (blocks) dtype = found;
    bool shape = has_shape(set, &t, dtype);
    type = type && found == dtype;
    b->offset[i] = (int64_t)H5Dget_offset(set);
    H5Dclose(set);
    if (!shape)
        return ml_fail(ML_INPUT,
                       "tensor %s has another shape than the expected %" PRId64 " x %" PRId64,
                       t.name, t.rows, t.cols);
    if (!type)
        return ml_fail(ML_INPUT, "tensor %s is not stored as contiguous %s", t.name,
                       ml_dtype_name(dtype));
    if (!is_extent(contents, n, b->offset[i], ml_dtype_bytes(dtype, t.rows * t.cols)))
        return ml_fail(ML_INPUT, "tensor %s does not lie where the file says", t.name);
    return blocks ? note_format(b, &t, dtype) : ML_OK;
}

static ml_status get_tokenizer(ml_base *b, hid_t file, int64_t bytes)
{
    ml_status st = ML_OK;
    int64_t offset;
    char hex[ML_SHA256_HEX] = "";
    if (!*b->tokenizer_hash) {
        ML_NEW(b->tokenizer, 1, ML_MEM_OTHER, "no tokenizer");
        return ML_OK;
    }
    ML_TRY(ml_hdf5_locate(file, b->path, "tokenizer", H5T_STD_U8LE, bytes, &b->tokenizer_length,
                          &offset));
    ML_NEW(b->tokenizer, b->tokenizer_length + 1, ML_MEM_OTHER, "a tokenizer");
    ML_TRY(ml_file_read(b->fd, b->path, b->tokenizer, b->tokenizer_length, offset));
    ml_sha256_of(b->tokenizer, (size_t)b->tokenizer_length, hex);
    if (strcmp(hex, b->tokenizer_hash) != 0)
        st = ml_fail(ML_INPUT, "the tokenizer does not have the hash that it was written with");
done:
    return st;
}

static ml_status examine(ml_base *b, const extent *contents, int64_t n, int64_t bytes)
{
    ml_status st = ML_OK;
    ml_hdf5_begin(NULL);
    hid_t file = H5Fopen(b->path, H5F_ACC_RDONLY, H5P_DEFAULT),
          group = file >= 0 ? H5Gopen2(file, "tensors", H5P_DEFAULT) : -1;
    if (group < 0) {
        st = ml_fail(
            ML_INPUT,
            "HDF5 cannot open it (on a network file system HDF5_USE_FILE_LOCKING=FALSE may help)");
        goto done;
    }
    ML_TRY(get_attributes(b, file));
    b->ntensors = ml_model_tensor_count(&b->spec);
    int64_t found = n - (*b->tokenizer_hash != '\0');
    if (b->ntensors != found) {
        st = ml_fail(ML_INPUT, "%" PRId64 " tensors, expected %" PRId64 " of its architecture",
                     found, b->ntensors);
        goto done;
    }
    ML_NEW(b->offset, b->ntensors, ML_MEM_OTHER, "places of tensors");
    for (int64_t i = 0; i < b->ntensors; i++) ML_TRY(locate(b, group, i, contents, n));
    ML_TRY(get_tokenizer(b, file, contents[n - 1].offset + contents[n - 1].bytes));
    ML_TRY(base_files_locate(b, file, bytes));
done:
    if (group >= 0) H5Gclose(group);
    if (file >= 0) H5Fclose(file);
    if (st != ML_OK) st = ml_fail_within(st, "%s", b->path);
    return ml_hdf5_end(st, b->path);
}

static ml_status note_opened(ml_base *b)
{
    struct stat about;
    if (fstat(b->fd, &about))
        return ml_fail(ML_INPUT, "%s: cannot be looked at: %s", b->path, strerror(errno));
    base_note_opened(b, &about);
    return ML_OK;
}

ml_status ml_base_open(ml_base **out, const char *path)
{
    ml_status st = ML_OK;
    ml_base *b = NULL;
    extent *contents = NULL;
    int64_t n, bytes;
    ML_NEW(b, 1, ML_MEM_OTHER, "a base");
    b->fd = -1;
    b->path = ml_memory_string(path);
    if (!b->path) {
        st = ML_RESOURCE;
        goto done;
    }
    ML_TRY(ml_open_regular(path, &b->fd, &bytes));
    ML_TRY(note_opened(b));
    ML_TRY(base_seal_check(b->fd, path, bytes, &contents, &n));
    ML_TRY(examine(b, contents, n, bytes));
    *out = b;
    b = NULL;
done:
    ml_memory_free(contents);
    ml_base_close(b);
    return st;
}

void ml_base_close(ml_base *b)
{
    if (!b) return;
    ml_base_unmap(b);
    if (b->fd >= 0) close(b->fd);
    ml_memory_free(b->architecture);
    ml_memory_free(b->offset);
    ml_memory_free(b->formats);
    ml_memory_free(b->tokenizer);
    ml_memory_free(b->path);
    ml_memory_free(b);
}

const ml_model_spec *ml_base_spec(const ml_base *b) { return &b->spec; }
const char *ml_base_path(const ml_base *b) { return b->path; }
const char *ml_base_content_hash(const ml_base *b) { return b->content; }
const char *ml_base_source_hash(const ml_base *b) { return b->source; }
ml_dtype ml_base_dtype(const ml_base *b) { return b->dtype; }
ml_dtype ml_base_tensor_dtype(const ml_base *b, const ml_model_tensor *tensor)
{
    return base_stored(&b->spec, b->dtype, tensor);
}
const char *ml_base_tokenizer_hash(const ml_base *b) { return b->tokenizer_hash; }
const char *ml_base_tokenizer(const ml_base *b, int64_t *length)
{
    *length = b->tokenizer_length;
    return b->tokenizer;
}
