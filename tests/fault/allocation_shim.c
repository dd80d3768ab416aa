/* allocation shim: preloaded into mpilora, it counts what asks for memory, by the library that
 * asks, or makes one request fail.
 *
 * Counting, between two steps of `mpilora train`:
 *   ALLOCATIONS_FILE  gets, when the process ends, a line "CALLS LIBRARY +OFFSET" for each place
 *                     that asked (addr2line -e LIBRARY OFFSET names it), and a last line "steps N":
 *                     the ends of a step that were seen
 *   ALLOCATIONS_TO    the step at whose end counting stops; it begins at the end of the first
 * A step ends where the program flushes its line of metrics.jsonl: rank 0 does, so only rank 0
 * counts and writes.
 *
 * Striking, in any command: only requests of the program and of the libraries that it has handed
 * its own work to (ours below), directly or through the C library, on one rank:
 *   STRIKE_RANK   the rank; without it nothing is struck or counted here
 *   STRIKE_AT     which of its requests fails, from 1; 0: none
 *   STRIKE_FILE   gets a line "N" when the process ends: its requests
 *
 * The C library's own functions stay in charge under their second names, so that nothing here needs
 * memory.
 */
#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <unwind.h>

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

/* ---- striking ------------------------------------------------------------------------------ */

/* The program itself has no name in the list of what is loaded. */
static const char *const ours[] = {"libhdf5", "libjansson", "libyaml", "libcrypto", "libpcre2"};
static const char *const between[] = {"libc.so", "ld-linux", "allocation_shim"};
enum { OURS = sizeof ours / sizeof *ours, BETWEEN = sizeof between / sizeof *between, RANGES = 32 };

typedef struct range {
    uintptr_t first, end;
    bool ours; /* else between: who called it is asked */
} range;

static range ranges[RANGES];
static int nranges;
static _Atomic long requests;
static long strike_at = -1; /* −1: this process is not the one */

static bool names_one(const char *path, const char *const *names, int count)
{
    for (int i = 0; i < count; i++)
        if (strstr(path, names[i])) return true;
    return false;
}

static int add_ranges(struct dl_phdr_info *info, size_t size, void *context)
{
    (void)size;
    (void)context;
    bool is_ours = !*info->dlpi_name || names_one(info->dlpi_name, ours, OURS);
    if (!is_ours && !names_one(info->dlpi_name, between, BETWEEN)) return 0;
    for (int i = 0; i < info->dlpi_phnum && nranges < RANGES; i++) {
        const ElfW(Phdr) *part = &info->dlpi_phdr[i];
        uintptr_t first = info->dlpi_addr + part->p_vaddr;
        if (part->p_type == PT_LOAD && part->p_flags & PF_X)
            ranges[nranges++] = (range){first, first + part->p_memsz, is_ours};
    }
    return 0;
}

static const range *range_of(uintptr_t address)
{
    for (int i = 0; i < nranges; i++)
        if (address >= ranges[i].first && address < ranges[i].end) return &ranges[i];
    return NULL;
}

static _Unwind_Reason_Code look(struct _Unwind_Context *frame, void *found)
{
    const range *r = range_of(_Unwind_GetIP(frame));
    if (r && !r->ours) return _URC_NO_REASON;
    *(bool *)found = r != NULL;
    return _URC_END_OF_STACK;
}

static bool is_asked_by_us(uintptr_t caller)
{
    const range *r = range_of(caller);
    bool found = r && r->ours;
    if (r && !r->ours) _Unwind_Backtrace(look, &found);
    return found;
}

static bool strikes(void *caller)
{
    if (strike_at < 0 || !is_asked_by_us((uintptr_t)caller)) return false;
    bool struck = atomic_fetch_add(&requests, 1) + 1 == strike_at;
    if (struck) errno = ENOMEM;
    return struck;
}

__attribute__((constructor)) static void prepare(void)
{
    const char *rank = getenv("STRIKE_RANK"), *at = getenv("STRIKE_AT"),
               *mine = getenv("OMPI_COMM_WORLD_RANK");
    if (!rank || !at || strcmp(rank, mine ? mine : "0") != 0) return;
    dl_iterate_phdr(add_ranges, NULL);
    strike_at = atol(at);
}

__attribute__((destructor)) static void report_requests(void)
{
    const char *path = getenv("STRIKE_FILE");
    long count = atomic_load(&requests);
    FILE *to = path && strike_at >= 0 ? fopen(path, "w") : NULL;
    strike_at = -1;
    if (!to) return;
    fprintf(to, "%ld\n", count);
    fclose(to);
}

/* ---- counting ------------------------------------------------------------------------------ */

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

/* Counts, and true where the request must fail. */
static bool is_refused(void *caller)
{
    count(caller);
    return strikes(caller);
}

/* The C library's function in its place, or nothing. */
#define REQUEST(call) (is_refused(__builtin_return_address(0)) ? NULL : (call))

void *malloc(size_t bytes) { return REQUEST(__libc_malloc(bytes)); }
void *calloc(size_t number, size_t size) { return REQUEST(__libc_calloc(number, size)); }
void *realloc(void *old, size_t bytes) { return REQUEST(__libc_realloc(old, bytes)); }
void *memalign(size_t alignment, size_t bytes)
{
    return REQUEST(__libc_memalign(alignment, bytes));
}
void *aligned_alloc(size_t alignment, size_t bytes)
{
    return REQUEST(__libc_memalign(alignment, bytes));
}

int posix_memalign(void **out, size_t alignment, size_t bytes)
{
    *out = REQUEST(__libc_memalign(alignment, bytes));
    return *out ? 0 : ENOMEM;
}

void *mmap(void *at, size_t bytes, int protection, int flags, int fd, off_t offset)
{
    /* Another rank's vectors, mapped to be read, are memory that is there. */
    bool is_there = (flags & MAP_SHARED) && fd >= 0 && !(protection & PROT_WRITE);
    void *caller = __builtin_return_address(0);
    if (is_there ? strikes(caller) : is_refused(caller)) return MAP_FAILED; /* NOLINT */
    return (void *)syscall(SYS_mmap, at, bytes, protection, flags, fd, offset);
}

/* Beside it a step's end is flushed to other files, too. */
static bool is_metrics(FILE *file)
{
    static const char name[] = "/metrics.jsonl";
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fileno(file));
    ssize_t n = readlink(link, path, sizeof path);
    size_t length = sizeof name - 1;
    return n > (ssize_t)length && !memcmp(path + n - length, name, length);
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
    if (file && last && is_metrics(file)) {
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
