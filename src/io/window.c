/* A hash takes the bytes of a file in their order, while others take tensors of it in theirs. The
 * window is a ring of chunks over all files, one behind the other. Threads that do nothing else
 * fill it: past the page cache (O_DIRECT), whose pages cost more processor time than all that is
 * done with them, but for files that lie in the page cache already and file systems that know no
 * other way. Who takes parts of a file waits for the chunks that come next and copies from those
 * that are there; for all others he reads the file as if there were no window, so that the window
 * decides nothing but the speed. A chunk makes room once it is hashed and nobody will ask for it
 * (ml_window_release), or once somebody waits for one further on: nobody waits for ever. */
#include "io/window.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/thread.h"
#include "io/hdf5_file.h"

#ifndef O_DIRECT
#define O_DIRECT 0
#endif

enum {
    CHUNKS = 16,
    READERS = 2, /* a disk answers two requests at once sooner than one after the other */
    SECTOR = 4096,
    LARGEST_CHUNK = 4 << 20
};

typedef struct file {
    char *path;
    int fd;
    int64_t bytes, chunk; /* chunk: its first one's number */
    char *map;            /* only to ask which pages are in the page cache; NULL: not known */
} file;

/* A descriptor past the page cache of the file that a reader is in. It has no more of them than
 * that one: a model may have hundreds of files, which are open once already. */
typedef struct direct {
    const file *of; /* NULL: of none yet */
    int fd;         /* −1 where there is none */
} direct;

typedef struct chunk {
    char *data;
    int64_t number; /* −1: none */
    bool loaded;
    int pins; /* threads that copy from it */
} chunk;

struct ml_window {
    file *files;
    int64_t nfiles, nchunks, size; /* size: bytes of a chunk */
    char *memory;
    chunk ring[CHUNKS];
    pthread_t readers[READERS];
    int running;
    pthread_mutex_t mutex;
    pthread_cond_t moved;
    int64_t next, hashed; /* chunks */
    int64_t low;          /* the first chunk that somebody may still ask for */
    int64_t wanted;       /* the last chunk that somebody waits for */
    bool open;            /* chunks come; else nobody waits for them */
};

ml_status ml_window_create(ml_window **out, int64_t bytes)
{
    ml_status st = ML_OK;
    ml_window *w = NULL;
    ML_NEW(w, 1, ML_MEM_OTHER, "a window");
    w->wanted = -1;
    w->size = ml_max(bytes, ML_WINDOW_LEAST) / CHUNKS / SECTOR * SECTOR;
    w->size = ml_min(w->size, LARGEST_CHUNK);
    pthread_mutex_init(&w->mutex, NULL);
    pthread_cond_init(&w->moved, NULL);
    ML_NEW(w->memory, CHUNKS * w->size + SECTOR, ML_MEM_OTHER, "a window");
    char *first = w->memory + (SECTOR - (uintptr_t)w->memory % SECTOR) % SECTOR;
    for (int i = 0; i < CHUNKS; i++)
        w->ring[i] = (chunk){.data = first + i * w->size, .number = -1};
    *out = w;
    w = NULL;
done:
    ml_window_destroy(w);
    return st;
}

ml_status ml_window_add(ml_window *w, const char *path, int fd, int64_t bytes, int64_t *number)
{
    ml_status st = ML_OK;
    file *files = NULL;
    ML_NEW(files, w->nfiles + 1, ML_MEM_OTHER, "files of a window");
    if (w->nfiles) memcpy(files, w->files, (size_t)w->nfiles * sizeof *files);
    file *f = &files[w->nfiles];
    *f = (file){.path = ml_memory_string(path), .fd = fd, .bytes = bytes};
    if (!f->path) {
        st = ML_RESOURCE;
        goto done;
    }
    f->chunk = w->nchunks;
    void *map = bytes ? mmap(NULL, (size_t)bytes, PROT_READ, MAP_SHARED, fd, 0) : MAP_FAILED;
    f->map = map == MAP_FAILED ? NULL : map;
    (void)posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
    ml_memory_free(w->files);
    w->files = files;
    files = NULL;
    *number = w->nfiles++;
    w->nchunks += (bytes + w->size - 1) / w->size;
done:
    ml_memory_free(files);
    return st;
}

void ml_window_destroy(ml_window *w)
{
    if (!w) return;
    ml_window_stop(w);
    for (int i = 0; i < w->running; i++) pthread_join(w->readers[i], NULL);
    for (int64_t i = 0; i < w->nfiles; i++) {
        file *f = &w->files[i];
        if (f->map) (void)munmap(f->map, (size_t)f->bytes);
        ml_memory_free(f->path);
    }
    ml_memory_free(w->files);
    ml_memory_free(w->memory);
    pthread_cond_destroy(&w->moved);
    pthread_mutex_destroy(&w->mutex);
    ml_memory_free(w);
}

int64_t ml_window_place(const ml_window *w, int64_t number, int64_t offset)
{
    return w->files[number].chunk * w->size + offset;
}

/* ---- filling ------------------------------------------------------------------------------- */

static const file *file_of(const ml_window *w, int64_t number)
{
    int64_t i = w->nfiles - 1;
    while (w->files[i].chunk > number) i--;
    return &w->files[i];
}

/* Mostly, or nobody can tell. */
static bool is_cached(const file *f, int64_t offset, int64_t bytes)
{
    unsigned char there[LARGEST_CHUNK / SECTOR];
    int64_t page = sysconf(_SC_PAGESIZE), pages = (bytes + page - 1) / page, found = 0;
    if (!f->map || page < SECTOR || offset % page) return true;
    if (mincore(f->map + offset, (size_t)bytes, (void *)there)) return true;
    for (int64_t i = 0; i < pages; i++) found += there[i] & 1;
    return 2 * found > pages;
}

/* A second descriptor of the same file; the path may name another one by now. */
static int open_direct(const file *f)
{
    struct stat a, b;
    int fd = O_DIRECT ? open(f->path, O_RDONLY | O_CLOEXEC | O_DIRECT) : -1;
    if (fd < 0) return -1;
    if (fstat(fd, &a) == 0 && fstat(f->fd, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino)
        return fd;
    (void)close(fd);
    return -1;
}

static void close_direct(const direct *d)
{
    if (d->of && d->fd >= 0) (void)close(d->fd);
}

static int direct_of(direct *d, const file *f)
{
    if (d->of != f) {
        close_direct(d);
        *d = (direct){f, open_direct(f)};
    }
    return d->fd;
}

/* Past the page cache, where that can be. The last sector of a file may be a part of one. */
static bool read_direct(direct *own, const file *f, char *to, int64_t bytes, int64_t offset)
{
    int64_t whole = ml_round_up(bytes, SECTOR);
    if (is_cached(f, offset, bytes) || direct_of(own, f) < 0) return false;
    for (int64_t got, at = 0; at < bytes; at += got) {
        do got = pread(own->fd, to + at, (size_t)(whole - at), offset + at);
        while (got < 0 && errno == EINTR);
        if (got <= 0 || (got % SECTOR && at + got < bytes)) return false;
    }
    return true;
}

static bool load(const ml_window *w, direct *own, chunk *c)
{
    const file *f = file_of(w, c->number);
    int64_t offset = (c->number - f->chunk) * w->size, bytes = ml_min(w->size, f->bytes - offset);
    if (read_direct(own, f, c->data, bytes, offset)) return true;
    return ml_file_read(f->fd, f->path, c->data, bytes, offset) == ML_OK;
}

/* Whether the next chunk may take the place of an older one. */
static bool has_room(const ml_window *w)
{
    const chunk *c = &w->ring[w->next % CHUNKS];
    int64_t old = w->next - CHUNKS;
    return old < 0 ||
           (c->loaded && c->pins == 0 && w->hashed > old && (w->low > old || w->wanted >= w->next));
}

static void *fill(void *self)
{
    ml_window *w = self;
    direct own = {NULL, -1};
    pthread_mutex_lock(&w->mutex);
    while (w->open && w->next < w->nchunks) {
        if (!has_room(w)) {
            pthread_cond_wait(&w->moved, &w->mutex);
            continue;
        }
        chunk *c = &w->ring[w->next % CHUNKS];
        c->loaded = false;
        c->number = w->next++;
        pthread_mutex_unlock(&w->mutex);
        bool good = load(w, &own, c);
        pthread_mutex_lock(&w->mutex);
        c->loaded = good;
        w->open = w->open && good; /* who needs these bytes reads them himself, and says why not */
        pthread_cond_broadcast(&w->moved);
    }
    pthread_mutex_unlock(&w->mutex);
    close_direct(&own);
    return NULL;
}

void ml_window_begin(ml_window *w)
{
    w->open = true;
    while (w->running < READERS && thread_start(&w->readers[w->running], 0, fill, w) == 0)
        w->running++;
    if (w->running == 0) ml_window_stop(w);
}

void ml_window_stop(ml_window *w)
{
    pthread_mutex_lock(&w->mutex);
    w->open = false;
    pthread_cond_broadcast(&w->moved);
    pthread_mutex_unlock(&w->mutex);
}

/* ---- taking -------------------------------------------------------------------------------- */

void ml_window_release(ml_window *w, int64_t place)
{
    pthread_mutex_lock(&w->mutex);
    w->low = ml_max(w->low, place / w->size);
    pthread_cond_broadcast(&w->moved);
    pthread_mutex_unlock(&w->mutex);
}

/* The chunk, pinned, once it is there; NULL: it is not, and will not be soon. With the mutex. */
static chunk *take(ml_window *w, int64_t number)
{
    chunk *c = &w->ring[number % CHUNKS];
    while (w->open && number < w->next + CHUNKS && number >= w->next - CHUNKS &&
           !(c->number == number && c->loaded)) {
        if (number < w->next && c->number != number) return NULL;
        w->wanted = ml_max(w->wanted, number);
        pthread_cond_broadcast(&w->moved);
        pthread_cond_wait(&w->moved, &w->mutex);
    }
    if (c->number != number || !c->loaded) return NULL;
    c->pins++;
    return c;
}

const void *ml_window_take(ml_window *w, int64_t number, int64_t bytes, int64_t offset,
                           int64_t *got)
{
    const file *f = &w->files[number];
    if (offset >= f->bytes) return NULL;
    *got = ml_min(ml_min(bytes, f->bytes - offset), w->size - offset % w->size);
    pthread_mutex_lock(&w->mutex);
    const chunk *c = take(w, f->chunk + offset / w->size);
    pthread_mutex_unlock(&w->mutex);
    return c ? c->data + offset % w->size : NULL;
}

void ml_window_leave(ml_window *w, int64_t number, int64_t offset)
{
    chunk *c = &w->ring[(w->files[number].chunk + offset / w->size) % CHUNKS];
    pthread_mutex_lock(&w->mutex);
    c->pins--;
    if (c->pins == 0 && has_room(w)) pthread_cond_broadcast(&w->moved);
    pthread_mutex_unlock(&w->mutex);
}

int64_t ml_window_read(ml_window *w, int64_t number, void *out, int64_t bytes, int64_t offset)
{
    const void *there;
    int64_t done = 0, n;
    while (done < bytes &&
           (there = ml_window_take(w, number, bytes - done, offset + done, &n)) != NULL) {
        memcpy((char *)out + done, there, (size_t)n);
        ml_window_leave(w, number, offset + done);
        done += n;
    }
    return done;
}

/* The chunk that is due to be hashed; NULL: no chunks come any more. */
static chunk *take_due(ml_window *w)
{
    chunk *c = &w->ring[w->hashed % CHUNKS];
    pthread_mutex_lock(&w->mutex);
    while (w->open && !(c->number == w->hashed && c->loaded))
        pthread_cond_wait(&w->moved, &w->mutex);
    bool there = c->number == w->hashed && c->loaded;
    if (there) c->pins++;
    pthread_mutex_unlock(&w->mutex);
    return there ? c : NULL;
}

static ml_status add_chunk(ml_window *w, const file *f, ml_sha256 *hash, char **own)
{
    ml_status st = ML_OK;
    int64_t offset = (w->hashed - f->chunk) * w->size, bytes = ml_min(w->size, f->bytes - offset);
    chunk *c = take_due(w);
    if (!c && !*own) ML_NEW(*own, w->size, ML_MEM_OTHER, "a read buffer");
    if (!c) ML_TRY(ml_file_read(f->fd, f->path, *own, bytes, offset));
    ml_sha256_add(hash, c ? c->data : *own, (size_t)bytes);
    pthread_mutex_lock(&w->mutex);
    if (c) c->pins--;
    w->hashed++;
    pthread_cond_broadcast(&w->moved);
    pthread_mutex_unlock(&w->mutex);
done:
    return st;
}

ml_status ml_window_hash(ml_window *w, int64_t number, atomic_bool *stop, char hex[ML_SHA256_HEX])
{
    ml_status st = ML_OK;
    const file *f = &w->files[number];
    char *own = NULL;
    ml_sha256 *hash = NULL;
    ML_TRY(ml_sha256_create(&hash));
    while ((w->hashed - f->chunk) * w->size < f->bytes) {
        if (atomic_load(stop)) {
            st = ml_fail(ML_INTERNAL, "stopped");
            goto done;
        }
        ML_TRY(add_chunk(w, f, hash, &own));
    }
    ml_sha256_finish(hash, hex);
    hash = NULL;
done:
    if (st != ML_OK) ml_window_stop(w); /* nothing makes room any more */
    ml_sha256_destroy(hash);
    ml_memory_free(own);
    return st;
}
