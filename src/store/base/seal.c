/* The seal of a base file is the SHA-256 of all bytes that HDF5 will parse, that is, all but the
 * tensors' contents. It stands in the user block with the places of the contents and is checked
 * before HDF5 sees the file, which a malformed one can crash. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "io/hdf5_file.h"
#include "store/base/base_private.h"

enum { HEADER = 256, LINE = 48, PIECE = 1 << 20, METADATA_LIMIT = 256 << 20 };

int64_t base_user_block(int64_t extents)
{
    int64_t size = 512;
    while (size < HEADER + extents * LINE) size *= 2;
    return size;
}

static ml_status add_range(ml_sha256 *hash, int fd, const char *path, char *piece, int64_t from,
                           int64_t to)
{
    for (; from < to; from += PIECE) {
        int64_t n = ml_min(PIECE, to - from);
        ml_status st = ml_file_read(fd, path, piece, n, from);
        if (st != ML_OK) return st;
        ml_sha256_add(hash, piece, (size_t)n);
    }
    return ML_OK;
}

ml_status base_seal_hash(int fd, const char *path, int64_t bytes, int64_t user_block,
                         const extent *contents, int64_t n, char hex[ML_SHA256_HEX])
{
    ml_status st = ML_OK;
    ml_sha256 *hash = NULL;
    char *piece = NULL;
    int64_t at = user_block;
    ML_NEW(piece, PIECE, ML_MEM_OTHER, "a read buffer");
    ML_TRY(ml_sha256_create(&hash));
    ml_sha256_add(hash, contents, (size_t)n * sizeof *contents);
    for (int64_t i = 0; i < n; i++) {
        ML_TRY(add_range(hash, fd, path, piece, at, contents[i].offset));
        at = contents[i].offset + contents[i].bytes;
    }
    ML_TRY(add_range(hash, fd, path, piece, at, bytes));
    ml_sha256_finish(hash, hex);
    hash = NULL;
done:
    ml_sha256_destroy(hash);
    ml_memory_free(piece);
    return st;
}

ml_status base_seal_write(int fd, const char *path, int version, int64_t bytes,
                          const extent *contents, int64_t n)
{
    ml_status st = ML_OK;
    char hex[ML_SHA256_HEX], *block = NULL;
    int64_t user_block = base_user_block(n);
    ML_TRY(base_seal_hash(fd, path, bytes, user_block, contents, n, hex));
    ML_NEW(block, user_block, ML_MEM_OTHER, "a user block");
    int used =
        snprintf(block, HEADER,
                 BASE_FORMAT " %d\nmetadata sha256 %s\nbytes %" PRId64 "\ncontents %" PRId64 "\n",
                 version, hex, bytes, n);
    char *line = block + used;
    for (int64_t i = 0; i < n; i++)
        line += snprintf(line, LINE, "%" PRId64 " %" PRId64 "\n", contents[i].offset,
                         contents[i].bytes);
    ML_TRY(ml_file_write(fd, path, block, user_block, 0));
done:
    ml_memory_free(block);
    return st;
}

/* The lines "offset bytes" of a block that ends in a zero byte; ascending, apart, inside the file;
 * then only zero bytes up to `last`. */
static bool parse_extents(const char *text, const char *last, int64_t user_block, int64_t bytes,
                          extent *contents, int64_t n)
{
    int64_t at = user_block, metadata = bytes - user_block;
    for (int64_t i = 0; i < n; i++) {
        char *end;
        contents[i].offset = strtoll(text, &end, 10);
        if (end == text || *end != ' ') return false;
        text = end + 1;
        contents[i].bytes = strtoll(text, &end, 10);
        if (end == text || *end != '\n') return false;
        text = end + 1;
        if (contents[i].offset < at || contents[i].bytes < 0 ||
            contents[i].bytes > bytes - contents[i].offset)
            return false;
        at = contents[i].offset + contents[i].bytes;
        metadata -= contents[i].bytes;
    }
    while (text < last && !*text) text++;
    return text == last && metadata <= METADATA_LIMIT;
}

ml_status base_seal_check(int fd, const char *path, int64_t size, extent **contents, int64_t *n)
{
    ml_status st = ML_OK;
    char header[HEADER + 1] = {0}, hex[ML_SHA256_HEX] = "", found[ML_SHA256_HEX], *block = NULL;
    int version = 0, used = 0;
    int64_t bytes = 0;
    if (size >= HEADER) ML_TRY(ml_file_read(fd, path, header, HEADER, 0));
    if (strncmp(header, BASE_FORMAT " ", strlen(BASE_FORMAT " ")) != 0)
        return ml_fail(ML_INPUT,
                       "%s: is not a base file (%" PRId64 " bytes); mpilora import makes one", path,
                       size);
    if (sscanf(header,
               BASE_FORMAT " %d\nmetadata sha256 %64[0-9a-f]\nbytes %" SCNd64 "\ncontents %" SCNd64
                           "\n%n",
               &version, hex, &bytes, n, &used) != 4 ||
        used == 0 || *n < 1 || *n > 1 << 20)
        return ml_fail(ML_INPUT, "%s: its first lines are damaged; import it again", path);
    if (version < 1 || version > BASE_VERSION)
        return ml_fail(ML_INPUT, "%s: base file version %d; this program reads versions 1 to %d",
                       path, version, (int)BASE_VERSION);
    if (bytes != size)
        return ml_fail(ML_INPUT,
                       "%s: %" PRId64 " bytes, expected %" PRId64
                       ": truncated or damaged; import it again",
                       path, size, bytes);
    int64_t user_block = base_user_block(*n);
    if (user_block > bytes)
        return ml_fail(ML_INPUT, "%s: truncated at %" PRId64 " bytes", path, bytes);
    ML_NEW(block, user_block + 1, ML_MEM_OTHER, "a user block");
    ML_NEW(*contents, *n, ML_MEM_OTHER, "places of tensors");
    ML_TRY(ml_file_read(fd, path, block, user_block, 0));
    bool whole = parse_extents(block + used, block + user_block, user_block, bytes, *contents, *n);
    if (whole) ML_TRY(base_seal_hash(fd, path, bytes, user_block, *contents, *n, found));
    if (!whole || strcmp(hex, found) != 0)
        st = ml_fail(ML_INPUT,
                     "%s: damaged: its description does not have the hash that it was written "
                     "with; import it again",
                     path);
done:
    ml_memory_free(block);
    if (st != ML_OK) {
        ml_memory_free(*contents);
        *contents = NULL;
    }
    return st;
}
