/* Memory that ranks of a node hold together, its replicas above all: which way it is made, its
 * pages, its end. */
#include <errno.h>
#include <inttypes.h>
#include <omp.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "grid/share_private.h"

#ifndef MADV_POPULATE_READ /* newer than some C libraries; an older kernel answers EINVAL */
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

ml_status share_check(void)
{
    const char *way = getenv("MPILORA_SHARED_MEMORY");
    if (!way || !*way || !strcmp(way, "auto") || !strcmp(way, "file") || !strcmp(way, "window"))
        return ML_OK;
    return ml_fail(ML_USAGE,
                   "the variable MPILORA_SHARED_MEMORY: '%s', expected auto (a memory file, else "
                   "MPI's window), file or window",
                   way);
}

/* Both ways in turn. Every rank takes the first rank's word for which are allowed. */
static ml_status make_block(ml_shared *shared, const ml_grid *grid)
{
    const char *way = getenv("MPILORA_SHARED_MEMORY");
    int allowed[2] = {!way || strcmp(way, "window") != 0, !way || strcmp(way, "file") != 0};
    char reason[512];
    ml_grid_broadcast(grid, shared->of, 0, allowed, (int64_t)sizeof allowed);
    ml_status st = allowed[0] ? share_memory_file(shared, grid) : ML_RESOURCE;
    if (st == ML_OK || !allowed[1]) return st;
    snprintf(reason, sizeof reason, "%s",
             allowed[0] ? ml_error_text() : "no memory file was asked for");
    shared->mapped = 0;
    st = share_window(shared, grid);
    return st == ML_OK ? ML_OK : ml_fail(st, "%s; %s", reason, ml_error_text());
}

ml_status share_block(ml_shared **out, const ml_grid *grid, ml_group group, int64_t bytes)
{
    ml_status st = ML_OK;
    ml_shared *shared = ml_memory_alloc(1, sizeof *shared, ML_MEM_COMMUNICATION, "a shared block");
    ML_TRY(ml_grid_agree_in(grid, group, shared ? ML_OK : ML_RESOURCE));
    shared->bytes = bytes;
    shared->window = MPI_WIN_NULL;
    shared->of = group;
    shared->group = grid->group[group];
    shared->group_size = grid->group_size[group];
    shared->group_rank = grid->group_rank[group];
    ML_TRY(make_block(shared, grid));
    *out = shared;
    shared = NULL;
done:
    ml_memory_free(shared);
    return st;
}

static ml_status describe_failure(const ml_grid *grid, int64_t bytes, const char *what,
                                  ml_status st)
{
    char node[128] = "";
    (void)gethostname(node, sizeof node - 1);
    return ml_fail_within(st, "%s: %" PRId64 " bytes that %d ranks of node %s would share", what,
                          bytes, grid->group_size[ML_GROUP_REPLICA], node);
}

ml_status ml_grid_share(ml_shared **out, const ml_grid *grid, int64_t bytes, int64_t counted,
                        ml_category category, const char *what)
{
    ml_shared *shared;
    ml_status st = share_block(&shared, grid, ML_GROUP_REPLICA, bytes);
    if (st != ML_OK) return describe_failure(grid, bytes, what, st);
    shared->category = category;
    shared->counted = shared->group_rank == 0 ? counted : 0;
    ml_memory_account(category, shared->counted);
    *out = shared;
    return ML_OK;
}

void *ml_shared_data(const ml_shared *shared) { return shared->data; }
bool ml_shared_is_own(const ml_shared *shared) { return shared->mapped > 0; }

/* Huge pages instead of small ones, whatever the system does by itself: far fewer faults, and as
 * fast to read later as private memory. The kernel wants one page of each to be there. One call
 * for all of them: it waits for every processor once. */
static void take_huge_pages(const ml_shared *shared, int64_t first, int64_t end)
{
    size_t page = (size_t)ml_memory_page();
    first = ml_round_up(first, SHARE_UNIT);
    end = ml_min(end, shared->bytes) / SHARE_UNIT * SHARE_UNIT;
    for (int64_t unit = first; unit < end; unit += SHARE_UNIT)
        if (madvise(shared->data + unit, page, MADV_POPULATE_WRITE)) return;
    if (first < end) (void)madvise(shared->data + first, (size_t)(end - first), MADV_COLLAPSE);
}

static bool take_small_pages(const ml_shared *shared, int64_t first, int64_t end)
{
    uintptr_t page = (uintptr_t)ml_memory_page();
    char *start = shared->data + first, *last = shared->data + ml_min(end, shared->bytes);
    start -= (uintptr_t)start % page;
    return !madvise(start, (size_t)(last - start), MADV_POPULATE_WRITE) ||
           errno == EINVAL; /* EINVAL: an older kernel; then when it is written */
}

/* Bytes [first, end) of the block, in this thread's domain. */
static bool take_pages(const ml_shared *shared, int64_t first, int64_t end)
{
    if (first >= end) return true;
    if (shared->mapped) take_huge_pages(shared, first, end);
    return take_small_pages(shared, first, end);
}

/* Of these what lies between pieces over which a file was laid. */
static bool take_between(const ml_shared *shared, int64_t first, int64_t end,
                         const ml_memory_span *laid, int64_t count)
{
    bool good = true;
    for (int64_t i = 0; i < count && good && first < end; i++) {
        int64_t start = (const char *)laid[i].data - shared->data;
        good = take_pages(shared, first, ml_min(end, start));
        first = ml_max(first, start + laid[i].bytes);
    }
    return good && take_pages(shared, first, end);
}

static ml_status lack_pages(const ml_shared *shared)
{
    return ml_fail(ML_RESOURCE,
                   "out of memory: no pages for this rank's part of %" PRId64
                   " bytes that %d ranks share",
                   shared->bytes, shared->group_size);
}

ml_status share_take_pages(const ml_shared *shared, int64_t first, int64_t end)
{
    return take_small_pages(shared, first, end) ? ML_OK : lack_pages(shared);
}

ml_status ml_shared_take_pages(ml_shared *shared, const ml_memory_span *laid, int64_t count)
{
    int64_t units = ml_round_up(shared->bytes, SHARE_UNIT) / SHARE_UNIT, failed = 0;
    int64_t start = ml_part_start(units, shared->group_size, shared->group_rank),
            own = ml_part_count(units, shared->group_size, shared->group_rank);
#pragma omp parallel reduction(+ : failed)
    {
        int64_t threads = omp_get_num_threads(), thread = omp_get_thread_num(),
                first = start + ml_part_start(own, threads, thread);
        if (!take_between(shared, first * SHARE_UNIT,
                          (first + ml_part_count(own, threads, thread)) * SHARE_UNIT, laid, count))
            failed = 1;
    }
    return failed ? lack_pages(shared) : ML_OK;
}

/* The block's whole pages: a window's neighbours are MPI's. */
static char *inner_pages(const ml_shared *shared, size_t *bytes)
{
    uintptr_t page = (uintptr_t)ml_memory_page(), data = (uintptr_t)shared->data;
    uintptr_t first = (data + page - 1) / page * page,
              end = (data + (uintptr_t)(shared->mapped ? shared->mapped : shared->bytes)) / page *
                    page;
    *bytes = end > first ? end - first : 0;
    return shared->data + (first - data);
}

/* What others wrote or took, mapped now and not in the first step. */
static void map_all(char *pages, int64_t bytes)
{
    enum { PIECE = 2 * SHARE_UNIT };
#pragma omp parallel for schedule(static)
    for (int64_t at = 0; at < bytes; at += PIECE)
        (void)madvise(pages + at, (size_t)ml_min(PIECE, bytes - at), MADV_POPULATE_READ);
}

void ml_shared_seal(ml_shared *shared)
{
    size_t bytes;
    char *pages = inner_pages(shared, &bytes);
    MPI_Barrier(shared->group);
    if (bytes == 0) return;
    map_all(pages, (int64_t)bytes);
    (void)mprotect(pages, bytes, PROT_READ);
}

static void free_window(ml_shared *shared)
{
    size_t bytes;
    char *pages = inner_pages(shared, &bytes);
    if (bytes) (void)mprotect(pages, bytes, PROT_READ | PROT_WRITE); /* as MPI gave it */
    MPI_Win_free(&shared->window);
}

void ml_shared_destroy(ml_shared *shared)
{
    if (!shared) return;
    if (shared->mapped) munmap(shared->data, (size_t)shared->mapped);
    if (shared->window != MPI_WIN_NULL) free_window(shared);
    ml_memory_account(shared->category, -shared->counted);
    ml_memory_free(shared);
}
