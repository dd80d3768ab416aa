/* Seals, whole reads and writes, and the place of a contiguous dataset in its file. */
#include <errno.h>
#include <inttypes.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/hdf5_file.h"

enum { PIECE = 1 << 20 };

ml_status ml_file_read(int fd, const char *path, void *out, int64_t bytes, int64_t offset)
{
    char *to = out;
    while (bytes > 0) {
        ssize_t got = pread(fd, to, (size_t)ml_min(bytes, 1 << 30), offset);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0)
            return ml_fail(ML_INPUT, "%s: read error at byte %" PRId64 ": %s", path, offset,
                           strerror(errno));
        if (got == 0)
            return ml_fail(ML_INPUT,
                           "%s: the file ends at byte %" PRId64 ", %" PRId64 " bytes too early",
                           path, offset, bytes);
        to += got;
        offset += got;
        bytes -= got;
    }
    return ML_OK;
}

ml_status ml_file_write(int fd, const char *path, const void *data, int64_t bytes, int64_t offset)
{
    const char *from = data;
    while (bytes > 0) {
        ssize_t put = pwrite(fd, from, (size_t)ml_min(bytes, 1 << 30), offset);
        if (put < 0 && errno == EINTR) continue;
        if (put <= 0)
            return ml_fail(ML_RESOURCE, "%s: write error at byte %" PRId64 ": %s", path, offset,
                           strerror(errno));
        from += put;
        offset += put;
        bytes -= put;
    }
    return ML_OK;
}

void ml_seal_make(char block[ML_SEAL_BYTES], const char *kind, const char *hex)
{
    memset(block, 0, ML_SEAL_BYTES);
    snprintf(block, ML_SEAL_BYTES, "%s 1\nsha256 %s\nan HDF5 file follows after %d bytes\n", kind,
             hex, ML_SEAL_BYTES);
}

ml_status ml_file_hash(int fd, const char *path, int64_t offset, int64_t bytes,
                       ml_seal_reader reader, void *context, char hex[ML_SHA256_HEX])
{
    ml_status st = ML_OK;
    char *piece = NULL;
    ml_sha256 *hash = NULL;
    ML_NEW(piece, PIECE, ML_MEM_OTHER, "a read buffer");
    ML_TRY(ml_sha256_create(&hash));
    for (; offset < bytes; offset += PIECE) {
        int64_t n = ml_min(PIECE, bytes - offset);
        ML_TRY(ml_file_read(fd, path, piece, n, offset));
        ml_sha256_add(hash, piece, (size_t)n);
        if (reader) ML_TRY(reader(context, offset, piece, n));
    }
    ml_sha256_finish(hash, hex);
    hash = NULL;
done:
    ml_sha256_destroy(hash);
    ml_memory_free(piece);
    return st;
}

ml_status ml_seal_check(int fd, const char *path, const char *kind, int64_t bytes,
                        ml_seal_reader reader, void *context)
{
    char found[ML_SEAL_BYTES] = {0}, wanted[ML_SEAL_BYTES], hex[ML_SHA256_HEX];
    if (bytes >= ML_SEAL_BYTES) {
        ml_status st = ml_file_read(fd, path, found, ML_SEAL_BYTES, 0);
        if (st != ML_OK) return st;
    }
    size_t name = strlen(kind);
    if (strncmp(found, kind, name) != 0 || found[name] != ' ')
        return ml_fail(ML_INPUT,
                       "%s: is not a file of the kind %s (%" PRId64
                       " bytes); mpilora tokenize makes data sets",
                       path, kind, bytes);
    if (strncmp(found + name, " 1\n", 3) != 0)
        return ml_fail(ML_INPUT, "%s: is a %s of another version; this program reads version 1",
                       path, kind);
    ml_status st = ml_file_hash(fd, path, ML_SEAL_BYTES, bytes, reader, context, hex);
    if (st != ML_OK) return st;
    ml_seal_make(wanted, kind, hex);
    if (memcmp(found, wanted, ML_SEAL_BYTES) != 0)
        return ml_fail(ML_INPUT,
                       "%s: is damaged: its %" PRId64
                       " bytes have the SHA-256 %s, but it was written with %.64s; make it again",
                       path, bytes - ML_SEAL_BYTES, hex, found + name + strlen(" 1\nsha256 "));
    return ML_OK;
}

/* What is wrong with an open dataset, or NULL. */
static const char *dataset_fault(hid_t set, hid_t type, hid_t *space, hsize_t *count,
                                 hid_t *found_type, hid_t *plist)
{
    *space = H5Dget_space(set);
    *found_type = H5Dget_type(set);
    *plist = H5Dget_create_plist(set);
    if (*space < 0 || *found_type < 0 || *plist < 0) return "cannot be examined";
    if (H5Tequal(*found_type, type) <= 0) return "has another element type";
    if (H5Sget_simple_extent_ndims(*space) != 1) return "is not one-dimensional";
    if (H5Sget_simple_extent_dims(*space, count, NULL) != 1) return "has no extent";
    if (H5Pget_layout(*plist) != H5D_CONTIGUOUS || H5Pget_external_count(*plist) != 0)
        return "is not stored contiguously in the file";
    return NULL;
}

ml_status ml_hdf5_locate(hid_t file, const char *path, const char *name, hid_t type, int64_t bytes,
                         int64_t *count, int64_t *offset)
{
    hid_t set = -1, space = -1, found_type = -1, plist = -1;
    hsize_t n = 0;
    const char *fault = "is missing";
    H5L_info_t link;
    if (H5Lget_info(file, name, &link, H5P_DEFAULT) >= 0 && link.type == H5L_TYPE_HARD)
        set = H5Dopen2(file, name, H5P_DEFAULT);
    if (set >= 0) fault = dataset_fault(set, type, &space, &n, &found_type, &plist);
    int64_t size;
    haddr_t place = set >= 0 ? H5Dget_offset(set) : HADDR_UNDEF;
    if (!fault && (n > INT64_MAX || !ml_multiply((int64_t)n, (int64_t)H5Tget_size(type), &size) ||
                   place == HADDR_UNDEF || place > (haddr_t)bytes || size > bytes - (int64_t)place))
        fault = "does not lie inside the file";
    if (plist >= 0) H5Pclose(plist);
    if (found_type >= 0) H5Tclose(found_type);
    if (space >= 0) H5Sclose(space);
    if (set >= 0) H5Dclose(set);
    if (fault) return ml_fail(ML_INPUT, "%s: dataset \"%s\" %s", path, name, fault);
    *count = (int64_t)n;
    *offset = (int64_t)place;
    return ML_OK;
}

void ml_hdf5_library(ml_library *out)
{
    unsigned major = 0, minor = 0, patch = 0;
    ml_library_find(out, "HDF5", "H5get_libversion");
    if (H5get_libversion(&major, &minor, &patch) >= 0)
        snprintf(out->version, sizeof out->version, "%u.%u.%u", major, minor, patch);
}
