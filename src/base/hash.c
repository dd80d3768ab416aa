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

/* The rounds of one block after the other leave a processor nothing else to look ahead for: bytes
 * that lie in no cache are asked for in good time, which makes two thirds more of them a second. */
static void add(SHA256_CTX *context, const char *data, size_t bytes)
{
    enum { STEP = 1 << 10, AHEAD = 8 << 10, LINE = 64 };
    for (size_t at = 0, n; at < bytes; at += n) {
        n = bytes - at < STEP ? bytes - at : STEP;
        if (bytes - at >= AHEAD + STEP)
            for (int i = 0; i < STEP; i += LINE) __builtin_prefetch(data + at + AHEAD + i);
        SHA256_Update(context, data + at, n);
    }
}

void ml_sha256_add(ml_sha256 *hash, const void *data, size_t bytes)
{
    add(&hash->context, data, bytes);
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
    add(&context, data, bytes);
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
