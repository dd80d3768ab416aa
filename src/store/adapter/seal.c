/* The first block of adapter.h5: the hash of what lies behind it, by which a file is known and
 * checked, in pieces, before HDF5 sees a byte of it. */
#include "io/hdf5_file.h"
#include "store/adapter/adapter.h"

static const char first_line[] = "mpilora adapter 1\nsha256 ";

void ml_adapter_seal_make(char block[ML_ADAPTER_BLOCK], const char *hash)
{
    snprintf(block, ML_ADAPTER_BLOCK, "%s%s\n", first_line, hash);
}

/* Hashes an open file of so many bytes in pieces: all of it, and what lies behind its first block,
 * which it gives as well. */
static ml_status hash_file(int fd, const char *path, int64_t count, char first[ML_ADAPTER_BLOCK],
                           char whole[ML_SHA256_HEX], char behind[ML_SHA256_HEX])
{
    ml_status st = ML_OK;
    ml_sha256 *of[2] = {NULL, NULL};
    char *piece = NULL;
    ML_TRY(ml_file_read(fd, path, first, ML_ADAPTER_BLOCK, 0));
    ML_NEW(piece, ML_SHA256_PIECE, ML_MEM_OTHER, "a read buffer");
    for (int i = 0; i < 2; i++) ML_TRY(ml_sha256_create(&of[i]));
    ml_sha256_add(of[0], first, ML_ADAPTER_BLOCK);
    for (int64_t at = ML_ADAPTER_BLOCK, n; at < count; at += n) {
        n = ml_min(count - at, ML_SHA256_PIECE);
        ML_TRY(ml_file_read(fd, path, piece, n, at));
        for (int i = 0; i < 2; i++) ml_sha256_add(of[i], piece, (size_t)n);
    }
    ml_sha256_finish(of[0], whole);
    ml_sha256_finish(of[1], behind);
    of[0] = of[1] = NULL;
done:
    for (int i = 0; i < 2; i++) ml_sha256_destroy(of[i]);
    ml_memory_free(piece);
    return st;
}

ml_status ml_adapter_seal_check(int fd, const char *path, int64_t count, char whole[ML_SHA256_HEX])
{
    ml_status st = ML_OK;
    char hash[ML_SHA256_HEX], found[ML_ADAPTER_BLOCK] = {0}, wanted[ML_ADAPTER_BLOCK] = {0};
    size_t prefix = strlen(first_line);
    if (count <= ML_ADAPTER_BLOCK || !ml_file_holds(fd, 0, first_line))
        return ml_fail(ML_INPUT,
                       "%s: is not an adapter of mpilora (adapter.h5) and not a PEFT directory",
                       path);
    ML_TRY(hash_file(fd, path, count, found, whole, hash));
    if (memcmp(found + prefix, hash, ML_SHA256_HEX - 1) != 0)
        return ml_fail(ML_INPUT,
                       "%s: is damaged: its SHA-256 is %.12s…, its first block says %.12s…", path,
                       hash, found + prefix);
    ml_adapter_seal_make(wanted, hash);
    if (memcmp(found, wanted, ML_ADAPTER_BLOCK) != 0)
        st = ml_fail(ML_INPUT, "%s: is damaged: its first block is not as it was written", path);
done:
    return st;
}
