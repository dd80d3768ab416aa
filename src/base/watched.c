/* Memory that shows a file, when the file is cut or cannot be read any more: the kernel answers the
 * next touch of such a page by SIGBUS, in the middle of a product. The page and all behind it in
 * its block become zeros in its place, so that the computation goes on to where its ranks agree on
 * an error, and none waits for one that died. A fault elsewhere is none of this file's business. */
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <unistd.h>

#include "mpilora/base.h"

enum { WATCHED_MOST = 16 };

typedef struct watched {
    _Atomic(char *) start; /* NULL: free */
    char *end;
    atomic_bool lost;
} watched;

static watched blocks[WATCHED_MOST];
static struct sigaction before;
static int64_t page_bytes;

int64_t ml_memory_page(void) { return (int64_t)sysconf(_SC_PAGESIZE); }

static watched *find(const char *at)
{
    for (int i = 0; i < WATCHED_MOST; i++) {
        char *start = atomic_load(&blocks[i].start);
        if (start && at >= start && at < blocks[i].end) return &blocks[i];
    }
    return NULL;
}

/* Only what a signal handler may do: for Linux mmap is a plain call of the kernel. */
static bool become_zeros(watched *block, char *at)
{
    char *page = at - (int64_t)((uintptr_t)at % (uintptr_t)page_bytes);
    atomic_store(&block->lost, true);
    return mmap(page, (size_t)(block->end - page), PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) == (void *)page;
}

/* Elsewhere it is as if this had never been here: the instruction is executed again, or what
 * somebody sent is sent again. */
static void on_bus_error(int number, siginfo_t *info, void *context)
{
    (void)context;
    int error = errno;
    bool sent = info->si_code <= 0;
    watched *block = sent ? NULL : find(info->si_addr);
    if (!block || !become_zeros(block, info->si_addr)) {
        (void)sigaction(number, &before, NULL);
        if (sent) (void)raise(number);
    }
    errno = error;
}

static bool prepare(void)
{
    struct sigaction action = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO | SA_ONSTACK},
                     present;
    page_bytes = ml_memory_page();
    if (sigaction(SIGBUS, NULL, &present)) return false;
    if (present.sa_flags & SA_SIGINFO && present.sa_sigaction == on_bus_error) return true;
    sigemptyset(&action.sa_mask);
    before = present;
    return !sigaction(SIGBUS, &action, NULL);
}

int ml_memory_watch(void *block, int64_t bytes)
{
    if (!prepare()) return -1;
    for (int i = 0; i < WATCHED_MOST; i++) {
        if (atomic_load(&blocks[i].start)) continue;
        blocks[i].end = (char *)block + bytes;
        atomic_store(&blocks[i].lost, false);
        atomic_store(&blocks[i].start, (char *)block);
        return i;
    }
    return -1;
}

bool ml_memory_has_lost(int watch) { return atomic_load(&blocks[watch].lost); }

void ml_memory_forget(int watch) { atomic_store(&blocks[watch].start, NULL); }
