/* The SHA-256 of a source while it is imported: a thread of its own hashes the source's files from
 * their first byte to their last as they go by in a window, out of which others read tensors. */
#include "base/thread.h"
#include "store/base/stream.h"

struct import_hashing {
    const import_source *source;
    ml_window *window;
    pthread_t thread;
    bool running;
    atomic_bool stop;
    ml_status status;
    char hex[ML_SHA256_HEX], text[2048];
};

static void *hash(void *self)
{
    import_hashing *h = self;
    h->status = h->source->hash(h->source->self, &h->stop, h->hex);
    if (h->status != ML_OK) {
        snprintf(h->text, sizeof h->text, "%s", ml_error_text());
        ml_window_stop(h->window); /* it goes no further without the hash */
    }
    return NULL;
}

/* Signals are for the caller's thread. Without a thread the caller hashes when it waits, and there
 * is nothing in the window. */
ml_status import_hash_begin(import_hashing **out, const import_source *source, ml_window *window)
{
    ml_status st = ML_OK;
    ML_NEW(*out, 1, ML_MEM_OTHER, "the hash of a source");
    (*out)->source = source;
    (*out)->window = window;
    ml_window_begin(window);
    (*out)->running = thread_start(&(*out)->thread, 0, hash, *out) == 0;
    if (!(*out)->running) ml_window_stop(window);
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
    ml_window_stop(h->window);
    if (h->running) pthread_join(h->thread, NULL);
    ml_memory_free(h);
}
