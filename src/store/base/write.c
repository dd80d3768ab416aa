/* Writing a base file: HDF5 lays out the file and closes it; the contents are written at their
 * places by plain calls, since HDF5 1.10 does not survive a full disk; then the hash, the seal,
 * fsync, rename. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/durable.h"
#include "io/hdf5_file.h"
#include "io/hdf5_work.h"
#include "store/base/writer.h"

static ml_status hdf5_failed(const ml_base_writer *w)
{
    return ml_fail(ML_RESOURCE, "%s: HDF5 cannot lay out the file", w->temporary);
}

/* ---- layout -------------------------------------------------------------------------------- */

static bool put_text(hid_t file, const char *name, const char *text)
{
    hid_t type = H5Tcopy(H5T_C_S1), space = H5Screate(H5S_SCALAR), attribute = -1;
    bool good = type >= 0 && space >= 0 && H5Tset_size(type, strlen(text) + 1) >= 0;
    if (good) attribute = H5Acreate2(file, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    good = attribute >= 0 && H5Awrite(attribute, type, text) >= 0;
    if (attribute >= 0) H5Aclose(attribute);
    if (space >= 0) H5Sclose(space);
    if (type >= 0) H5Tclose(type);
    return good;
}

static bool put_dataset(hid_t where, const char *name, hid_t type, int rank, const hsize_t *dims,
                        extent *place)
{
    hid_t space = H5Screate_simple(rank, dims, NULL), list = H5Pcreate(H5P_DATASET_CREATE),
          set = -1;
    bool good = space >= 0 && list >= 0 && H5Pset_layout(list, H5D_CONTIGUOUS) >= 0 &&
                H5Pset_alloc_time(list, H5D_ALLOC_TIME_EARLY) >= 0 &&
                H5Pset_fill_time(list, H5D_FILL_TIME_NEVER) >= 0 &&
                H5Pset_obj_track_times(list, false) >= 0;
    if (good) set = H5Dcreate2(where, name, type, space, H5P_DEFAULT, list, H5P_DEFAULT);
    haddr_t offset = set >= 0 ? H5Dget_offset(set) : HADDR_UNDEF;
    place->offset = (int64_t)offset;
    place->bytes = (int64_t)H5Tget_size(type);
    for (int i = 0; i < rank; i++) place->bytes *= (int64_t)dims[i];
    if (set >= 0) H5Dclose(set);
    if (list >= 0) H5Pclose(list);
    if (space >= 0) H5Sclose(space);
    return offset != HADDR_UNDEF;
}

static bool put_tensors(ml_base_writer *w, hid_t file)
{
    hid_t group = H5Gcreate2(file, "tensors", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    bool good = group >= 0;
    for (int64_t i = 0; good && i < w->ntensors; i++) {
        ml_model_tensor t;
        ml_model_tensor_at(&w->spec, i, &t);
        ml_dtype stored = base_stored(&w->spec, w->dtype, &t);
        hsize_t dims[2] = {(hsize_t)t.rows,
                           (hsize_t)(t.cols / ml_block_format_of(stored)->weights)};
        hid_t type = base_file_type(stored);
        good = type >= 0 && put_dataset(group, t.name, type, t.vector ? 1 : 2, dims, &w->place[i]);
        if (type >= 0) H5Tclose(type);
    }
    hsize_t length = (hsize_t)w->tokenizer_length;
    if (w->tokenizer_length)
        good = good &&
               put_dataset(file, "tokenizer", H5T_STD_U8LE, 1, &length, &w->place[w->ntensors]);
    if (group >= 0) H5Gclose(group);
    return good;
}

static bool put_files(ml_base_writer *w, hid_t file)
{
    return !w->files || base_files_lay_out(file, w->files, put_dataset, w->file_place);
}

static int version_of(const ml_base_writer *w) { return w->formats ? BASE_VERSION : 1; }

static bool put_attributes(const ml_base_writer *w, hid_t file, const char *architecture)
{
    char tokenizer[ML_SHA256_HEX] = "", version[16], unknown[ML_SHA256_HEX];
    if (w->tokenizer_length) ml_sha256_of(w->tokenizer, (size_t)w->tokenizer_length, tokenizer);
    snprintf(version, sizeof version, "%d", version_of(w));
    snprintf(unknown, sizeof unknown, "%064d", 0); /* filled in at the end */
    return put_text(file, "format", BASE_FORMAT) && put_text(file, "version", version) &&
           put_text(file, "architecture", architecture) &&
           put_text(file, "dtype", ml_dtype_name(w->dtype)) &&
           put_text(file, "source_sha256", unknown) &&
           put_text(file, "tokenizer_sha256", tokenizer) &&
           put_text(file, "content_sha256", unknown);
}

/* HDF5's own words about the datasets together before the contents, which then lie one behind the
 * other, each at a line of the processor's cache: so a reader can map them in one piece. */
static bool keep_contents_together(const ml_base_writer *w, hid_t access)
{
    enum { OF_DATASET = 640, OF_FILE = 4096, LINE = 64, LARGE = 4096 };
    hsize_t words = (hsize_t)w->nplaces * OF_DATASET + OF_FILE;
    return access >= 0 && H5Pset_meta_block_size(access, words) >= 0 &&
           H5Pset_small_data_block_size(access, 0) >= 0 &&
           H5Pset_alignment(access, LARGE, LINE) >= 0;
}

static ml_status lay_out(ml_base_writer *w, const char *architecture)
{
    ml_hdf5_begin(w->temporary);
    hid_t create = H5Pcreate(H5P_FILE_CREATE), access = H5Pcreate(H5P_FILE_ACCESS), file = -1;
    bool good = create >= 0 && keep_contents_together(w, access) &&
                H5Pset_userblock(create, (hsize_t)base_user_block(w->nplaces)) >= 0;
    if (good) file = H5Fcreate(w->temporary, H5F_ACC_EXCL, create, access);
    good = file >= 0 && put_tensors(w, file) && put_files(w, file) &&
           put_attributes(w, file, architecture);
    if (file >= 0 && H5Fclose(file) < 0) good = false;
    if (access >= 0) H5Pclose(access);
    if (create >= 0) H5Pclose(create);
    return ml_hdf5_end(good ? ML_OK : hdf5_failed(w), w->path);
}

/* ---- create -------------------------------------------------------------------------------- */

static ml_status open_contents(ml_base_writer *w)
{
    struct stat about;
    w->fd = open(w->temporary, O_RDWR | O_CLOEXEC);
    if (w->fd < 0 || fstat(w->fd, &about))
        return ml_fail(ML_RESOURCE, "%s: cannot be written: %s", w->temporary, strerror(errno));
    int error = posix_fallocate(w->fd, 0, about.st_size);
    if (error && error != EOPNOTSUPP && error != EINVAL)
        return ml_fail(ML_RESOURCE, "%s: no room for %" PRId64 " bytes: %s", w->temporary,
                       (int64_t)about.st_size, strerror(error));
    return ML_OK;
}

static ml_status copy_formats(ml_base_writer *w)
{
    ml_status st = ML_OK;
    if (!w->spec.formats) return ML_OK;
    int64_t count = ml_model_formats(&w->spec);
    ML_NEW(w->formats, count, ML_MEM_OTHER, "formats of tensors");
    memcpy(w->formats, w->spec.formats, (size_t)count * sizeof *w->formats);
    w->spec.formats = w->formats;
done:
    return st;
}

ml_status ml_base_writer_create(ml_base_writer **out, const char *path, const ml_model_spec *spec,
                                ml_dtype dtype, const char *tokenizer, int64_t tokenizer_length,
                                const char *source_hash, const ml_base_files *files)
{
    ml_status st = ML_OK;
    ml_base_writer *w = NULL;
    ml_text architecture = {0};
    ML_NEW(w, 1, ML_MEM_OTHER, "a base writer");
    w->fd = -1;
    w->spec = *spec; /* what was new is the base's from now on */
    w->spec.transform = spec->transform || spec->masked;
    w->spec.masked = false;
    w->dtype = dtype;
    if (source_hash) ml_base_writer_source(w, source_hash);
    ML_TRY(copy_formats(w));
    w->ntensors = ml_model_tensor_count(spec);
    w->tokenizer_length = tokenizer_length;
    w->files = files;
    w->nplaces = w->ntensors + (tokenizer_length > 0);
    if (snprintf(w->path, sizeof w->path, "%s", path) >= (int)sizeof w->path) {
        st = ml_fail(ML_USAGE, "%.64s…: the path is too long", path);
        goto done;
    }
    ML_TRY(ml_durable_may_write(path)); /* HDF5 would not say why it cannot */
    ML_TRY(ml_durable_temporary(w->temporary, path));
    (void)unlink(w->temporary); /* left by a killed process that had this number */
    ML_NEW(w->place, w->nplaces, ML_MEM_OTHER, "places of tensors");
    ML_NEW(w->tokenizer, tokenizer_length + 1, ML_MEM_OTHER, "a tokenizer");
    if (tokenizer_length) memcpy(w->tokenizer, tokenizer, (size_t)tokenizer_length);
    ML_TRY(base_spec_to_json(&w->spec, &architecture));
    ML_TRY(base_content_begin(&w->content, architecture.data));
    ML_TRY(lay_out(w, architecture.data));
    ML_TRY(open_contents(w));
    *out = w;
    w = NULL;
done:
    ml_text_destroy(&architecture);
    ml_base_writer_discard(w);
    return st;
}

void ml_base_writer_source(ml_base_writer *w, const char *hash)
{
    snprintf(w->source, sizeof w->source, "%s", hash);
}

void ml_base_writer_discard(ml_base_writer *w)
{
    if (!w) return;
    if (w->fd >= 0) close(w->fd);
    ml_durable_drop(w->temporary);
    ml_sha256_destroy(w->content);
    ml_memory_free(w->piece);
    ml_memory_free(w->tokenizer);
    ml_memory_free(w->place);
    ml_memory_free(w->formats);
    ml_memory_free(w);
}

/* ---- finish -------------------------------------------------------------------------------- */

static bool put_hash(hid_t file, const char *name, const char *hex)
{
    hid_t attribute = H5Aopen(file, name, H5P_DEFAULT);
    hid_t type = attribute >= 0 ? H5Aget_type(attribute) : -1;
    bool good = type >= 0 && H5Awrite(attribute, type, hex) >= 0;
    if (type >= 0) H5Tclose(type);
    if (attribute >= 0) H5Aclose(attribute);
    return good;
}

/* What is known only when everything has gone by. */
static ml_status put_hashes(const ml_base_writer *w, const char *content)
{
    ml_hdf5_begin(w->temporary);
    hid_t file = H5Fopen(w->temporary, H5F_ACC_RDWR, H5P_DEFAULT);
    bool good = file >= 0 && put_hash(file, "source_sha256", w->source) &&
                put_hash(file, "content_sha256", content);
    if (file >= 0 && H5Fclose(file) < 0) good = false;
    return ml_hdf5_end(good ? ML_OK : hdf5_failed(w), w->path);
}

static int by_offset(const void *a, const void *b)
{
    const extent *x = a, *y = b;
    return (x->offset > y->offset) - (x->offset < y->offset);
}

static ml_status seal_and_rename(ml_base_writer *w)
{
    ml_status st = ML_OK;
    struct stat about;
    char hex[ML_SHA256_HEX];
    base_content_finish(w->content, w->tokenizer, w->tokenizer_length, hex);
    w->content = NULL;
    if (w->tokenizer_length)
        ML_TRY(ml_file_write(w->fd, w->temporary, w->tokenizer, w->tokenizer_length,
                             w->place[w->ntensors].offset));
    if (w->files) ML_TRY(base_files_write(w->fd, w->temporary, w->files, w->file_place));
    ML_TRY(put_hashes(w, hex));
    if (fstat(w->fd, &about))
        return ml_fail(ML_RESOURCE, "%s: cannot be examined: %s", w->temporary, strerror(errno));
    qsort(w->place, (size_t)w->nplaces, sizeof *w->place, by_offset);
    ML_TRY(
        base_seal_write(w->fd, w->temporary, version_of(w), about.st_size, w->place, w->nplaces));
    if (fsync(w->fd)) return ml_fail(ML_RESOURCE, "%s: fsync: %s", w->temporary, strerror(errno));
    ML_TRY(ml_durable_rename(w->temporary, w->path));
done:
    return st;
}

ml_status ml_base_writer_finish(ml_base_writer *w)
{
    ml_status st = ML_OK;
    if (w->tensor < w->ntensors) {
        ml_model_tensor t;
        ml_model_tensor_at(&w->spec, w->tensor, &t);
        st = ml_fail(ML_INTERNAL, "%s: tensor %s was not written", w->path, t.name);
    } else {
        st = seal_and_rename(w);
    }
    ml_base_writer_discard(w);
    return st;
}
