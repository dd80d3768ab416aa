/* allocation shim: preloaded into `mpilora train`, it counts what asks for memory between two
 * steps, by the library that asks.
 *
 *   ALLOCATIONS_FILE  gets, when the process ends, a line "CALLS LIBRARY +OFFSET" for each place
 *     that asked (addr2line -e LIBRARY OFFSET names
 *                     it), and a last line "steps N": the ends of a step that were seen
 *   ALLOCATIONS_TO    the step at whose end counting stops; it begins at the end of the first
 *
 * A step ends where the program flushes its line of metrics.jsonl: rank 0 does, so only rank 0
 * counts and writes. The C library's own functions stay in charge under their second names, so
 * that nothing here needs memory.
 */
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

extern void *__libc_malloc(size_t bytes);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *old, size_t bytes);
extern void *__libc_memalign(size_t alignment, size_t bytes);

enum { PLACES = 1024 };
typedef struct place {
    _Atomic uintptr_t caller;
    _Atomic long calls;
} place;

static place places[PLACES];
static _Atomic bool counting;
static long steps;

/* A caller has its own slot, or the next free one; where all are taken, the last one's count says
 * that there was more. */
static void count(void *caller)
{
    uintptr_t address = (uintptr_t)caller;
    if (!atomic_load(&counting)) return;
    for (int i = 0; i < PLACES; i++) {
        uintptr_t none = 0;
        if (atomic_compare_exchange_strong(&places[i].caller, &none, address) || none == address ||
            i == PLACES - 1) {
            atomic_fetch_add(&places[i].calls, 1);
            return;
        }
    }
}

void *malloc(size_t bytes)
{
    count(__builtin_return_address(0));
    return __libc_malloc(bytes);
}

void *calloc(size_t number, size_t size)
{
    count(__builtin_return_address(0));
    return __libc_calloc(number, size);
}

void *realloc(void *old, size_t bytes)
{
    count(__builtin_return_address(0));
    return __libc_realloc(old, bytes);
}

void *memalign(size_t alignment, size_t bytes)
{
    count(__builtin_return_address(0));
    return __libc_memalign(alignment, bytes);
}

void *aligned_alloc(size_t alignment, size_t bytes)
{
    count(__builtin_return_address(0));
    return __libc_memalign(alignment, bytes);
}

int posix_memalign(void **out, size_t alignment, size_t bytes)
{
    count(__builtin_return_address(0));
    *out = __libc_memalign(alignment, bytes);
    return *out ? 0 : ENOMEM;
}

void *mmap(void *at, size_t bytes, int protection, int flags, int fd, off_t offset)
{
    count(__builtin_return_address(0));
    return (void *)syscall(SYS_mmap, at, bytes, protection, flags, fd, offset);
}

int fflush(FILE *file)
{
    static int (*real)(FILE *);
    const char *last = getenv("ALLOCATIONS_TO");
    if (!real) {
        void *found = dlsym(RTLD_NEXT, "fflush");
        memcpy(&real, &found, sizeof found);
    }
    int failed = real(file);
    if (file && file != stdout && file != stderr && last) {
        steps++;
        atomic_store(&counting, steps < atol(last));
    }
    return failed;
}

__attribute__((destructor)) static void report(void)
{
    const char *path = getenv("ALLOCATIONS_FILE");
    atomic_store(&counting, false);
    if (!path || steps == 0) return;
    FILE *to = fopen(path, "w");
    if (!to) return;
    for (int i = 0; i < PLACES && places[i].caller; i++) {
        Dl_info about = {.dli_fname = "unknown"};
        uintptr_t caller = places[i].caller;
        (void)dladdr((void *)caller, &about); /* NOLINT */
        fprintf(to, "%ld %s +0x%lx\n", places[i].calls, about.dli_fname,
                (unsigned long)(caller - (uintptr_t)about.dli_fbase));
    }
    fprintf(to, "steps %ld\n", steps);
    fclose(to);
}
