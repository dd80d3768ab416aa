/* Accounted memory: a header before each block remembers its size and category. */
#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "base/shareable.h"

#if defined(MPILORA_CHECK_LEAKS) /* a build with sanitizers */
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(start, bytes) ((void)(start), (void)(bytes))
#endif

enum { ALIGNMENT = 64, HUGE_PAGE = 2 << 20 };
static const int64_t huge_from = 4 << 20, shared_from = 512 << 10;

typedef struct header {
    void *start; /* what free() takes; NULL: a memory file's pages */
    int64_t bytes;
    ml_category category;
    int fd; /* of the file */
} header;
_Static_assert(sizeof(header) <= ALIGNMENT, "the header fits before an aligned block");

static _Atomic int64_t current[ML_MEM_CATEGORIES], peak[ML_MEM_CATEGORIES], total, total_peak,
    allocations;

const char *ml_category_name(ml_category category)
{
    static const char *const names[ML_MEM_CATEGORIES] = {"frozen",        "trainable",  "gradient",
                                                         "optimizer",     "activation", "workspace",
                                                         "communication", "other"};
    return names[category];
}

static void raise_peak(_Atomic int64_t *maximum, int64_t value)
{
    int64_t seen = atomic_load(maximum);
    while (value > seen && !atomic_compare_exchange_weak(maximum, &seen, value)) {
    }
}

void ml_memory_account(ml_category category, int64_t bytes)
{
    raise_peak(&peak[category], atomic_fetch_add(&current[category], bytes) + bytes);
    raise_peak(&total_peak, atomic_fetch_add(&total, bytes) + bytes);
}

static header *header_of(void *pointer) { return (header *)(void *)((char *)pointer - ALIGNMENT); }

/* Zero pages of large blocks come from the kernel on first touch: nothing is written here. */
static void *zeroed(int64_t bytes, size_t alignment, void **start)
{
    size_t whole = (size_t)bytes + alignment + ALIGNMENT;
    char *raw = calloc(1, whole);
    if (!raw) return NULL;
    *start = raw;
    uintptr_t first = ((uintptr_t)raw + ALIGNMENT + alignment - 1) / alignment * alignment;
    char *block = raw + (first - (uintptr_t)raw);
    if (alignment == HUGE_PAGE)
        (void)madvise(block, (size_t)(bytes / HUGE_PAGE * HUGE_PAGE), MADV_HUGEPAGE);
    /* What is left behind the block is nobody's; AddressSanitizer takes it for part of it. */
    ASAN_POISON_MEMORY_REGION(block + bytes, whole - (size_t)(block - raw) - (size_t)bytes);
    return block;
}

static bool is_shared;

void ml_memory_share(bool yes) { is_shared = yes; }

static ml_status lack(const char *what, int64_t bytes, ml_category category)
{
    return ml_fail(ML_RESOURCE,
                   "out of memory: %s needs %" PRId64 " bytes (%s); in use so far: %" PRId64, what,
                   bytes, ml_category_name(category), atomic_load(&total));
}

static void *allocate(int64_t count, size_t size, ml_category category, const char *what,
                      bool shareable)
{
    int64_t bytes;
    if (!ml_multiply(count, (int64_t)size, &bytes) || bytes > INT64_MAX / 2) {
        (void)ml_fail(ML_RESOURCE, "%s: %" PRId64 " × %zu bytes is not a possible amount of memory",
                      what, count, size);
        return NULL;
    }
    void *start = NULL, *block = NULL;
    int fd = -1;
    if (shareable && bytes >= shared_from) block = shareable_map(bytes, &fd);
    if (!block) block = zeroed(bytes, bytes >= huge_from ? HUGE_PAGE : ALIGNMENT, &start);
    if (!block) {
        (void)lack(what, bytes, category);
        return NULL;
    }
    *header_of(block) = (header){start, bytes, category, fd};
    atomic_fetch_add(&allocations, 1);
    ml_memory_account(category, bytes);
    return block;
}

void *ml_memory_alloc(int64_t count, size_t size, ml_category category, const char *what)
{
    return allocate(count, size, category, what, false);
}

void *ml_memory_alloc_shareable(int64_t count, size_t size, ml_category category, const char *what)
{
    return allocate(count, size, category, what, is_shared);
}

void ml_memory_free(void *pointer)
{
    if (!pointer) return;
    header *h = header_of(pointer);
    ml_memory_account(h->category, -h->bytes);
    if (h->start)
        free(h->start);
    else
        shareable_unmap(pointer, h->bytes, h->fd);
}

void ml_memory_take_pages(void *pointer)
{
    enum { PAGE = 4096 };
    char *block = pointer;
    int64_t bytes = pointer ? header_of(pointer)->bytes : 0;
    if (pointer && !header_of(pointer)->start) shareable_take_pages(block, bytes);
#pragma omp parallel for schedule(static)
    for (int64_t page = 0; page < bytes; page += PAGE) *(volatile char *)(block + page) = 0;
}

ml_status ml_memory_reserve(ml_memory_block *out, int64_t bytes, int64_t counted,
                            ml_category category, const char *what)
{
    size_t size = (size_t)ml_round_up(bytes, ml_memory_page()), whole = size + HUGE_PAGE;
    char *range = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (range == MAP_FAILED) return lack(what, bytes, category);
    size_t ahead = (HUGE_PAGE - (size_t)((uintptr_t)range % HUGE_PAGE)) % HUGE_PAGE;
    if (ahead) munmap(range, ahead);
    munmap(range + ahead + size, HUGE_PAGE - ahead);
    if (bytes >= huge_from) (void)madvise(range + ahead, size, MADV_HUGEPAGE);
    *out = (ml_memory_block){range + ahead, (int64_t)size, counted, category};
    atomic_fetch_add(&allocations, 1);
    ml_memory_account(category, counted);
    return ML_OK;
}

void ml_memory_release(ml_memory_block *block)
{
    if (!block->start) return;
    munmap(block->start, (size_t)block->bytes);
    ml_memory_account(block->category, -block->counted);
    *block = (ml_memory_block){0};
}

void *ml_memory_resize(void *pointer, int64_t count, size_t size, const char *what)
{
    header *h = header_of(pointer);
    void *grown = ml_memory_alloc(count, size, h->category, what);
    if (!grown) return NULL;
    memcpy(grown, pointer, (size_t)ml_min(h->bytes, count * (int64_t)size));
    ml_memory_free(pointer);
    return grown;
}

void *ml_memory_grow(void *pointer, int64_t *capacity, size_t size, ml_category category,
                     const char *what)
{
    int64_t more = ml_max(8, 2 * *capacity);
    void *grown = pointer ? ml_memory_resize(pointer, more, size, what)
                          : ml_memory_alloc(more, size, category, what);
    if (grown) *capacity = more;
    return grown;
}

char *ml_memory_string(const char *text)
{
    size_t length = strlen(text) + 1;
    char *copy = ml_memory_alloc((int64_t)length, 1, ML_MEM_OTHER, "a string");
    if (copy) memcpy(copy, text, length);
    return copy;
}

int64_t ml_memory_current(ml_category category) { return atomic_load(&current[category]); }
int64_t ml_memory_peak(ml_category category) { return atomic_load(&peak[category]); }
int64_t ml_memory_peak_total(void) { return atomic_load(&total_peak); }
int64_t ml_memory_allocations(void) { return atomic_load(&allocations); }

static int64_t process_status(const char *key)
{
    FILE *file = fopen("/proc/self/status", "r");
    if (!file) return 0;
    char line[256];
    int64_t kib = 0;
    while (fgets(line, sizeof line, file))
        if (!strncmp(line, key, strlen(key))) kib = strtoll(line + strlen(key), NULL, 10);
    fclose(file);
    return kib * 1024;
}

int64_t ml_memory_process_peak(void) { return process_status("VmHWM:"); }
int64_t ml_memory_process_now(void) { return process_status("VmRSS:"); }
