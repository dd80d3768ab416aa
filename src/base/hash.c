/* SHA-256, by OpenSSL's older functions: unlike EVP's they ask for no memory and cannot fail, so
 * that a hash is never a wrong one. */
#define OPENSSL_SUPPRESS_DEPRECATED
#include <errno.h>
#include <fcntl.h>
#include <openssl/sha.h>
#include <unistd.h>

#include "mpilora/base.h"

struct ml_sha256 {
    SHA256_CTX context;
};

ml_status ml_sha256_create(ml_sha256 **out)
{
    ml_status st = ML_OK;
    ml_sha256 *hash = NULL;
    ML_NEW(hash, 1, ML_MEM_OTHER, "a hash");
    SHA256_Init(&hash->context);
    *out = hash;
done:
    return st;
}

void ml_sha256_add(ml_sha256 *hash, const void *data, size_t bytes)
{
    SHA256_Update(&hash->context, data, bytes);
}

static void finish(SHA256_CTX *context, char hex[ML_SHA256_HEX])
{
    unsigned char digest[SHA256_DIGEST_LENGTH];
    SHA256_Final(digest, context);
    for (int i = 0; i < SHA256_DIGEST_LENGTH; i++) snprintf(hex + 2 * i, 3, "%02x", digest[i]);
}

void ml_sha256_finish(ml_sha256 *hash, char hex[ML_SHA256_HEX])
{
    finish(&hash->context, hex);
    ml_sha256_destroy(hash);
}

void ml_sha256_destroy(ml_sha256 *hash) { ml_memory_free(hash); }

void ml_sha256_of(const void *data, size_t bytes, char hex[ML_SHA256_HEX])
{
    SHA256_CTX context;
    SHA256_Init(&context);
    SHA256_Update(&context, data, bytes);
    finish(&context, hex);
}

ml_status ml_sha256_of_file(const char *path, char hex[ML_SHA256_HEX])
{
    ml_status st = ML_OK;
    char *piece = NULL;
    ml_sha256 *hash = NULL;
    ssize_t got;
    int64_t bytes;
    int file = -1;
    ML_TRY(ml_open_regular(path, &file, &bytes));
    ML_NEW(piece, ML_SHA256_PIECE, ML_MEM_OTHER, "a read buffer");
    ML_TRY(ml_sha256_create(&hash));
    while ((got = read(file, piece, ML_SHA256_PIECE)) > 0 || (got < 0 && errno == EINTR))
        if (got > 0) ml_sha256_add(hash, piece, (size_t)got);
    if (got < 0) {
        st = ml_fail(ML_INPUT, "%s: read error: %s", path, strerror(errno));
        goto done;
    }
    ml_sha256_finish(hash, hex);
    hash = NULL;
done:
    ml_sha256_destroy(hash);
    ml_memory_free(piece);
    if (file >= 0) (void)close(file);
    return st;
}
