/* A base file in the place of memory: its pages are laid over those of a block where they hold what
 * the block is to hold, and read.c leaves these out but for taking them. A file that is then cut or
 * written to would change numbers in silence, so whoever computes asks before a result leaves. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "store/base/base_private.h"

#ifndef MADV_POPULATE_READ /* newer than some C libraries; an older kernel answers EINVAL */
#define MADV_POPULATE_READ 22
#endif

enum { NUMBER = 8 }; /* what numbers of all types are aligned to */

/* ---- where it may be ----------------------------------------------------------------------- */

/* Kept by this machine's kernel alone: what other machines write does not come to be seen here as
 * SIGBUS or otherwise, and pages come as fast by a touch as by a read. */
static bool is_local(int fd)
{
    static const unsigned long kinds[] = {
        0xEF53,     /* ext2 to ext4 */
        0x58465342, /* XFS */
        0x9123683E, /* Btrfs */
        0xF2F52010, /* F2FS */
        0x01021994  /* tmpfs */
    };
    struct statfs about;
    if (fstatfs(fd, &about)) return false;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if ((unsigned long)about.f_type == kinds[i]) return true;
    return false;
}

/* The pages of a file stay in the memory domain of whoever read it first. */
static bool has_one_domain(void)
{
    char domains[64] = "";
    FILE *file = fopen("/sys/devices/system/node/online", "r");
    if (!file) return true;
    bool known = fgets(domains, sizeof domains, file) != NULL;
    fclose(file);
    return known && domains[strcspn(domains, ",-")] == '\0';
}

bool ml_base_maps_well(const ml_base *b)
{
    return b->fd >= 0 && is_local(b->fd) && has_one_domain();
}

/* ---- what lies right ----------------------------------------------------------------------- */

void ml_base_find_places(const ml_base *b, const ml_base_request *requests, int64_t count,
                         int64_t *place)
{
    int64_t near = 0;
    for (int64_t i = 0; i < count; i++) {
        base_slice s;
        int64_t offset = 0;
        if (requests[i].name && base_slice_find(b, &requests[i], &near, &s) == ML_OK)
            offset = base_slice_place(&s);
        place[i] = offset % NUMBER == 0 ? offset : 0;
    }
}

int64_t ml_base_map_bytes(int64_t count) { return count * (int64_t)sizeof(base_span); }

/* Pieces of the block that lie in the file as they do there, one behind the other. */
typedef struct layout {
    ml_base *base;
    char *block;
    int64_t bytes, capacity;
    bool open; /* the last span may grow */
} layout;

static ml_status add_piece(layout *l, char *start, int64_t bytes, int64_t offset)
{
    enum { NEAR = 64 }; /* what stands between tensors, and belongs to none */
    ml_status st = ML_OK;
    ml_base *b = l->base;
    base_span *last = b->nspans > 0 ? &b->spans[b->nspans - 1] : NULL;
    int64_t gap = l->open ? start - (last->start + last->bytes) : -1;
    if (gap >= 0 && gap < NEAR && offset - last->offset == start - last->start) {
        last->bytes += gap + bytes;
        return ML_OK;
    }
    ML_GROW(b->spans, b->nspans, l->capacity, ML_MEM_OTHER, "what is laid over memory");
    b->spans[b->nspans++] = (base_span){start, bytes, offset};
    l->open = true;
done:
    return st;
}

static ml_status add_request(layout *l, const ml_base_request *r, int64_t *near)
{
    base_slice s;
    char *out = r->out;
    bool inside = out >= l->block && out < l->block + l->bytes;
    if (!r->name || !inside) {
        l->open = l->open && !inside;
        return ML_OK;
    }
    ml_status st = base_slice_find(l->base, r, near, &s);
    if (st != ML_OK) return st;
    if (base_slice_place(&s) == 0) {
        l->open = false;
        return ML_OK;
    }
    const ml_shard whole = {.dim = ML_SHARD_ROWS, .nparts = 1, .part = {{0, s.rows}}};
    const ml_shard *shard = s.shard->dim == ML_SHARD_WHOLE ? &whole : s.shard;
    int64_t row = ml_dtype_bytes(s.stored, s.cols);
    for (int i = 0; st == ML_OK && i < shard->nparts; i++) {
        int64_t bytes = shard->part[i].count * row;
        if (bytes > 0) st = add_piece(l, out, bytes, s.offset + shard->part[i].start * row);
        out += bytes;
    }
    return st;
}

/* The whole pages of a piece, where they are pages of the file: else none. */
static base_span inner_pages(const base_span *s)
{
    int64_t page = ml_memory_page(),
            ahead = (page - (int64_t)((uintptr_t)s->start % (uintptr_t)page)) % page;
    int64_t bytes = ml_max(0, s->bytes - ahead) / page * page;
    bool even = (s->offset + ahead) % page == 0;
    return (base_span){s->start + ahead, even ? bytes : 0, s->offset + ahead};
}

/* Spans become the pages that are there from now on. */
static ml_status lay(ml_base *b, int64_t least)
{
    int64_t kept = 0;
    for (int64_t i = 0; i < b->nspans; i++) {
        const base_span s = inner_pages(&b->spans[i]);
        if (s.bytes < ml_max(1, least)) continue;
        if (mmap(s.start, (size_t)s.bytes, PROT_READ, MAP_SHARED | MAP_FIXED, b->fd, s.offset) !=
            (void *)s.start)
            return ml_fail(ML_INPUT,
                           "%s: %" PRId64
                           " bytes of it cannot be mapped: %s; memory.load: read takes them "
                           "otherwise",
                           b->path, s.bytes, strerror(errno));
        b->spans[kept++] = s;
    }
    b->nspans = kept;
    return ML_OK;
}

/* The list stays as long as the mapping does. */
static ml_status trim(ml_base *b)
{
    if (b->nspans == 0) return ML_OK;
    base_span *kept =
        ml_memory_resize(b->spans, b->nspans, sizeof *kept, "what is laid over memory");
    if (!kept) return ML_RESOURCE;
    b->spans = kept;
    return ML_OK;
}

ml_status ml_base_map(ml_base *b, void *block, int64_t bytes, int64_t least,
                      const ml_base_request *requests, int64_t count)
{
    ml_status st = ML_OK;
    layout l = {.base = b, .block = block, .bytes = bytes};
    int64_t near = 0;
    ml_base_unmap(b);
    for (int64_t i = 0; i < count; i++) ML_TRY(add_request(&l, &requests[i], &near));
    if (b->nspans == 0) goto done; /* nothing to watch, and nobody who would forget it */
    b->watch = ml_memory_watch(block, ml_round_up(bytes, ml_memory_page()));
    if (b->watch < 0) b->nspans = 0; /* nobody would catch the signal */
    ML_TRY(lay(b, least));
    ML_TRY(trim(b));
done:
    return st;
}

void ml_base_unmap(ml_base *b)
{
    if (b->spans && b->watch >= 0) ml_memory_forget(b->watch);
    ml_memory_free(b->spans);
    b->spans = NULL;
    b->nspans = 0;
}

int64_t ml_base_mapped(const ml_base *b, int64_t index, ml_memory_span *out)
{
    if (index < b->nspans) *out = (ml_memory_span){b->spans[index].start, b->spans[index].bytes};
    return b->nspans;
}

const base_span *base_span_behind(const ml_base *b, const char *at)
{
    int64_t low = 0, high = b->nspans;
    while (low < high) {
        int64_t middle = (low + high) / 2;
        if (b->spans[middle].start + b->spans[middle].bytes <= at)
            low = middle + 1;
        else
            high = middle;
    }
    return low < b->nspans ? &b->spans[low] : NULL;
}

/* ---- errors ------------------------------------------------------------------------------- */

static const char advice[] =
    "mpilora verify says whether it is whole now; memory.load: read makes a run independent of it "
    "once its weights are there";

static ml_status look(const ml_base *b, struct stat *now)
{
    if (fstat(b->fd, now))
        return ml_fail(ML_INPUT, "%s: cannot be looked at: %s", b->path, strerror(errno));
    if (now->st_size == b->opened.bytes) return ML_OK;
    return ml_fail(ML_INPUT,
                   "%s: the file ends at byte %" PRId64 ", it ended at %" PRId64
                   " when it was opened: it was cut or written to while in use; %s",
                   b->path, (int64_t)now->st_size, b->opened.bytes, advice);
}

/* ---- its pages ----------------------------------------------------------------------------- */

/* By touching each, where the kernel knows no other way. */
static void touch(const char *at, int64_t bytes)
{
    int64_t page = ml_memory_page();
    for (int64_t i = 0; i < bytes; i += page) (void)*(const volatile char *)(at + i);
}

ml_status base_span_take(const ml_base *b, char *at, int64_t bytes, int64_t offset)
{
    int64_t page = ml_memory_page(), before = (int64_t)((uintptr_t)at % (uintptr_t)page);
    int64_t whole = ml_round_up(before + bytes, page);
    if (!madvise(at - before, (size_t)whole, MADV_POPULATE_READ)) return ML_OK;
    if (errno == EINVAL || errno == EINTR) {
        touch(at - before, whole);
        return ML_OK;
    }
    int error = errno;
    struct stat now;
    ml_status st = look(b, &now);
    return st != ML_OK ? st
                       : ml_fail(ML_INPUT, "%s: read error at byte %" PRId64 ": %s", b->path,
                                 offset, strerror(error));
}

/* ---- whether it is as it was --------------------------------------------------------------- */

static bool is_as_opened(const ml_base *b, const struct stat *now)
{
    return now->st_size == b->opened.bytes && now->st_mtim.tv_sec == b->opened.seconds &&
           now->st_mtim.tv_nsec == b->opened.nanoseconds;
}

void base_note_opened(ml_base *b, const struct stat *about)
{
    b->opened.bytes = (int64_t)about->st_size;
    b->opened.seconds = (int64_t)about->st_mtim.tv_sec;
    b->opened.nanoseconds = (int64_t)about->st_mtim.tv_nsec;
}

/* Somebody has written to it, or has only set its time. */
static ml_status compare_contents(ml_base *b, const struct stat *now)
{
    char hex[ML_SHA256_HEX];
    ml_status st = base_content_hash(b, hex);
    if (st != ML_OK) return st;
    if (strcmp(hex, b->content) != 0)
        return ml_fail(ML_INPUT,
                       "%s: was written to while in use: its contents have the SHA-256 %s, they "
                       "had %s; %s",
                       b->path, hex, b->content, advice);
    base_note_opened(b, now);
    ml_warn("%s: its time was set while in use; its contents are the same", b->path);
    return ML_OK;
}

ml_status ml_base_check(ml_base *b)
{
    struct stat now;
    if (b->nspans == 0) return ML_OK;
    ml_status st = look(b, &now);
    if (st != ML_OK) return st;
    if (ml_memory_has_lost(b->watch))
        return ml_fail(ML_INPUT,
                       "%s: a part of it could not be read while in use: a read error, or the file "
                       "was cut for a while; %s",
                       b->path, advice);
    return is_as_opened(b, &now) ? ML_OK : compare_contents(b, &now);
}
