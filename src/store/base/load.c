/* Many tensors at once: their rows are cut into tasks of some MiB, which threads take one by one
 * in the file's order. Several ranks that fill one block together take runs of tasks. */
#include <omp.h>
#include <stdatomic.h>

#include "store/base/base_private.h"

static const int64_t task_bytes = 4 << 20;

/* One request with its tasks: numbers first_task … of all. */
typedef struct job {
    base_slice slice;
    char *out;
    int64_t rows_a_task, first_task, first_byte; /* bytes in the file */
} job;

typedef struct load {
    const ml_base *base;
    const ml_base_division *division;
    int64_t count, tasks, bytes; /* of all requests */
    job *jobs;
    char *pieces;      /* one a thread */
    atomic_int status; /* ml_status of the first failure */
    char text[2048];   /* its text, from the thread that failed */
} load;

static int64_t stored_row(const base_slice *s)
{
    return base_slice_row(s) * (int64_t)ml_dtype_size(s->stored);
}
static int64_t wanted_row(const base_slice *s)
{
    return base_slice_row(s) * (int64_t)ml_dtype_size(s->wanted);
}

static ml_status make_jobs(load *l, const ml_base_request *requests)
{
    int64_t near = 0;
    for (int64_t i = 0; i < l->count; i++) {
        job *j = &l->jobs[i];
        ml_status st = base_slice_find(l->base, &requests[i], &near, &j->slice);
        if (st != ML_OK) return st;
        int64_t rows = base_slice_rows(&j->slice);
        j->out = requests[i].out;
        j->rows_a_task = ml_max(1, task_bytes / ml_max(1, wanted_row(&j->slice)));
        j->first_task = l->tasks;
        j->first_byte = l->bytes;
        l->tasks += (rows + j->rows_a_task - 1) / j->rows_a_task;
        l->bytes += rows * stored_row(&j->slice);
    }
    return ML_OK;
}

/* The request that task `task` belongs to; empty ones have none. */
static const job *job_of(const load *l, int64_t task)
{
    int64_t low = 0,
            high = l->count; /* first_task of `low` is at most `task`, that of `high` more */
    while (high - low > 1) {
        int64_t middle = (low + high) / 2;
        if (l->jobs[middle].first_task <= task)
            low = middle;
        else
            high = middle;
    }
    return &l->jobs[low];
}

/* Whether the task begins within this rank's share of the bytes. */
static bool is_mine(const load *l, const job *j, int64_t first_row)
{
    const ml_base_division *d = l->division;
    if (!d) return true;
    int64_t at = j->first_byte + first_row * stored_row(&j->slice),
            start = ml_part_start(l->bytes, d->parts, d->part);
    return at >= start && at < start + ml_part_count(l->bytes, d->parts, d->part);
}

static ml_status do_task(const load *l, int64_t task, char *piece, int64_t *bytes)
{
    const job *j = job_of(l, task);
    int64_t first = (task - j->first_task) * j->rows_a_task,
            rows = ml_min(j->rows_a_task, base_slice_rows(&j->slice) - first);
    char *to = j->out + first * wanted_row(&j->slice);
    if (!is_mine(l, j, first)) return ML_OK;
    *bytes += rows * stored_row(&j->slice);
    return base_slice_read(l->base, &j->slice, first, rows, to, piece);
}

static void note_failure(load *l, ml_status st)
{
    int none = ML_OK;
    if (atomic_compare_exchange_strong(&l->status, &none, (int)st))
        snprintf(l->text, sizeof l->text, "%s", ml_error_text());
}

static int64_t do_tasks(load *l)
{
    int64_t bytes = 0;
#pragma omp parallel for schedule(dynamic) reduction(+ : bytes)
    for (int64_t task = 0; task < l->tasks; task++) {
        if (atomic_load(&l->status) != ML_OK) continue;
        ml_status st =
            do_task(l, task, l->pieces + omp_get_thread_num() * (int64_t)BASE_PIECE, &bytes);
        if (st != ML_OK) note_failure(l, st);
    }
    return bytes;
}

int64_t ml_base_load_bytes(int64_t count, int threads)
{
    return (int64_t)threads * BASE_PIECE + count * (int64_t)(sizeof(job) + sizeof(ml_base_request));
}

ml_status ml_base_load(ml_base *b, const ml_base_request *requests, int64_t count,
                       const ml_base_division *division, int64_t *bytes)
{
    ml_status st = ML_OK;
    load l = {.base = b, .division = division, .count = count};
    *bytes = 0;
    ML_NEW(l.jobs, count, ML_MEM_OTHER, "what to read");
    ML_NEW(l.pieces, (int64_t)omp_get_max_threads() * BASE_PIECE, ML_MEM_OTHER, "read buffers");
    ML_TRY(make_jobs(&l, requests));
    *bytes = do_tasks(&l);
    if (atomic_load(&l.status) != ML_OK)
        st = ml_fail((ml_status)atomic_load(&l.status), "%s", l.text);
done:
    ml_memory_free(l.jobs);
    ml_memory_free(l.pieces);
    return st;
}
