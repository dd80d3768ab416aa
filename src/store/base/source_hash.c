/* The SHA-256 of a source while it is imported: a thread reads the source's files from their first
 * byte to their last, as fast as the disk gives them, so that the threads that read tensors mostly
 * find them in the page cache. */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include "io/hdf5_file.h"
#include "store/base/stream.h"

struct import_hashing {
    const import_source *source;
    pthread_t thread;
    bool running;
    atomic_bool stop;
    ml_status status;
    char hex[ML_SHA256_HEX], text[2048];
};

/* Of ml_file_hash: ends the reading. */
static ml_status look(void *stop, int64_t offset, const char *data, int64_t bytes)
{
    (void)offset, (void)data, (void)bytes;
    return atomic_load((atomic_bool *)stop) ? ml_fail(ML_INTERNAL, "stopped") : ML_OK;
}

ml_status import_hash_file(const char *path, atomic_bool *stop, char hex[ML_SHA256_HEX])
{
    int file = -1;
    int64_t bytes;
    ml_status st = ml_open_regular(path, &file, &bytes);
    if (st != ML_OK) return st;
    (void)posix_fadvise(file, 0, 0, POSIX_FADV_SEQUENTIAL);
    st = ml_file_hash(file, path, 0, bytes, look, stop, hex);
    (void)close(file);
    return st;
}

static void *hash(void *self)
{
    import_hashing *h = self;
    h->status = h->source->hash(h->source->self, &h->stop, h->hex);
    if (h->status != ML_OK) snprintf(h->text, sizeof h->text, "%s", ml_error_text());
    return NULL;
}

/* Signals are for the caller's thread. Without a thread the caller hashes when it waits. */
ml_status import_hash_begin(import_hashing **out, const import_source *source)
{
    ml_status st = ML_OK;
    sigset_t all, before;
    ML_NEW(*out, 1, ML_MEM_OTHER, "the hash of a source");
    (*out)->source = source;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    (*out)->running = pthread_create(&(*out)->thread, NULL, hash, *out) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
done:
    return st;
}

ml_status import_hash_finish(import_hashing *h, char hex[ML_SHA256_HEX])
{
    if (h->running)
        pthread_join(h->thread, NULL);
    else
        (void)hash(h);
    ml_status st = h->status == ML_OK ? ML_OK : ml_fail(h->status, "%s", h->text);
    memcpy(hex, h->hex, sizeof h->hex);
    ml_memory_free(h);
    return st;
}

void import_hash_discard(import_hashing *h)
{
    if (!h) return;
    atomic_store(&h->stop, true);
    if (h->running) pthread_join(h->thread, NULL);
    ml_memory_free(h);
}
