/* SHA-256, by OpenSSL. */
#include <errno.h>
#include <openssl/evp.h>

#include "mpilora/base.h"

struct ml_sha256 {
    EVP_MD_CTX *context;
};

ml_status ml_sha256_create(ml_sha256 **out)
{
    ml_status st = ML_OK;
    ml_sha256 *hash = NULL;
    ML_NEW(hash, 1, ML_MEM_OTHER, "a hash");
    hash->context = EVP_MD_CTX_new();
    if (!hash->context || EVP_DigestInit_ex(hash->context, EVP_sha256(), NULL) != 1) {
        ml_sha256_destroy(hash);
        return ml_fail(ML_INTERNAL, "SHA-256: OpenSSL does not offer it");
    }
    *out = hash;
done:
    return st;
}

void ml_sha256_add(ml_sha256 *hash, const void *data, size_t bytes) { EVP_DigestUpdate(hash->context, data, bytes); }

void ml_sha256_finish(ml_sha256 *hash, char hex[ML_SHA256_HEX])
{
    unsigned char digest[32] = {0};
    EVP_DigestFinal_ex(hash->context, digest, NULL);
    for (int i = 0; i < 32; i++) snprintf(hex + 2 * i, 3, "%02x", digest[i]);
    ml_sha256_destroy(hash);
}

void ml_sha256_destroy(ml_sha256 *hash)
{
    if (!hash) return;
    EVP_MD_CTX_free(hash->context);
    ml_memory_free(hash);
}

void ml_sha256_of(const void *data, size_t bytes, char hex[ML_SHA256_HEX])
{
    unsigned char digest[32] = {0};
    EVP_Digest(data, bytes, digest, NULL, EVP_sha256(), NULL);
    for (int i = 0; i < 32; i++) snprintf(hex + 2 * i, 3, "%02x", digest[i]);
}

ml_status ml_sha256_of_file(const char *path, char hex[ML_SHA256_HEX])
{
    ml_status st = ML_OK;
    char *piece = NULL;
    ml_sha256 *hash = NULL;
    FILE *file = fopen(path, "rb");
    if (!file) return ml_fail(ML_INPUT, "%s: cannot be opened for reading: %s", path, strerror(errno));
    ML_NEW(piece, ML_SHA256_PIECE, ML_MEM_OTHER, "a read buffer");
    ML_TRY(ml_sha256_create(&hash));
    size_t got;
    while ((got = fread(piece, 1, ML_SHA256_PIECE, file)) > 0) ml_sha256_add(hash, piece, got);
    if (ferror(file)) {
        st = ml_fail(ML_INPUT, "%s: read error: %s", path, strerror(errno));
        goto done;
    }
    ml_sha256_finish(hash, hex);
    hash = NULL;
done:
    ml_sha256_destroy(hash);
    ml_memory_free(piece);
    fclose(file);
    return st;
}
