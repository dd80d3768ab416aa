/* Reading the contents of a base file: plain reads of exactly the part that a rank holds, straight
 * into place, or through a small piece that stays in the cache where the numbers are converted or
 * columns are cut out. Of many tensors the rows are cut into tasks of some MiB, which threads take
 * one by one in the file's order. What map.c has laid over its place is only made present. */
#include <inttypes.h>
#include <omp.h>
#include <stdatomic.h>

#include "io/hdf5_file.h"
#include "mpilora/family.h"
#include "store/base/base_private.h"

/* ---- one tensor ---------------------------------------------------------------------------- */

enum { DIRECT_COLUMNS = 4096 }; /* a row's range of at least so many bytes is read by itself */

/* `first`: the element of `from`, which begins with a whole block, that is the first to be
 * converted. Blocks become fp32, or bf16 by way of it. */
static void convert_blocks(const void *from, ml_dtype stored, int64_t first, int64_t count,
                           ml_dtype wanted, void *to)
{
    enum { PART = 1024 };
    float part[PART];
    if (wanted == ML_FP32) {
        ml_dtype_decode(stored, from, first, count, to);
        return;
    }
    for (int64_t at = 0; at < count; at += PART) {
        int64_t n = ml_min(PART, count - at);
        ml_dtype_decode(stored, from, first + at, n, part);
        for (int64_t i = 0; i < n; i++) ((uint16_t *)to)[at + i] = ml_bf16_from_float(part[i]);
    }
}

static void convert(const void *from, ml_dtype stored, int64_t count, ml_dtype wanted, void *to)
{
    if (stored == wanted) {
        memcpy(to, from, (size_t)ml_dtype_bytes(stored, count));
    } else if (ml_dtype_is_block(stored)) {
        convert_blocks(from, stored, 0, count, wanted, to);
    } else if (wanted == ML_FP32) {
        const uint16_t *x = from;
        float *y = to;
#pragma omp simd
        for (int64_t i = 0; i < count; i++) y[i] = ml_bf16_to_float(x[i]);
    } else {
        const float *x = from;
        uint16_t *y = to;
#pragma omp simd
        for (int64_t i = 0; i < count; i++) y[i] = ml_bf16_from_float(x[i]);
    }
}

/* Bytes from the file's place `at` on; of what shows the file already the pages alone are taken. */
static ml_status fetch(const ml_base *b, char *to, int64_t bytes, int64_t at)
{
    ml_status st = ML_OK;
    while (bytes > 0) {
        const base_span *s = base_span_behind(b, to);
        int64_t apart = s ? ml_min(bytes, ml_max(0, s->start - to)) : bytes,
                laid = s ? ml_min(bytes - apart, s->start + s->bytes - (to + apart)) : 0;
        ML_TRY(ml_file_read(b->fd, b->path, to, apart, at));
        if (laid > 0) ML_TRY(base_span_take(b, to + apart, laid, at + apart));
        to += apart + laid;
        at += apart + laid;
        bytes -= apart + laid;
    }
done:
    return st;
}

/* Bytes of the tensor from the file's place `at` on, of blocks whole ones. The contents are not
 * hashed at a start, so a damaged scale would be found only by what it makes of a loss. */
static ml_status read_bytes(const ml_base *b, const base_slice *s, void *to, int64_t bytes,
                            int64_t at)
{
    const ml_block_format *f = ml_block_format_of(s->stored);
    ml_model_tensor t;
    ml_status st = fetch(b, to, bytes, at);
    if (st != ML_OK || !ml_dtype_is_block(s->stored)) return st;
    int64_t bad = ml_block_find_bad(f, to, bytes / f->bytes), of_row = s->cols / f->weights;
    if (bad < 0) return ML_OK;
    bad += (at - s->offset) / f->bytes;
    ml_model_tensor_at(&b->spec, s->number, &t);
    return ml_fail(ML_INPUT,
                   "%s: %s: row %" PRId64 ", block %" PRId64
                   ": the scale of a %s block is not a finite number: the file is damaged; import "
                   "it again",
                   b->path, t.name, bad / of_row, bad % of_row, ml_dtype_name(s->stored));
}

/* `count` neighbouring elements from the file's place on. */
static ml_status read_run(const ml_base *b, const base_slice *s, int64_t offset, int64_t count,
                          char *to, char *piece)
{
    const ml_block_format *f = ml_block_format_of(s->stored);
    int64_t step = BASE_PIECE / f->bytes * f->weights;
    if (s->stored == s->wanted)
        return read_bytes(b, s, to, ml_dtype_bytes(s->stored, count), offset);
    for (int64_t at = 0; at < count; at += step) {
        int64_t n = ml_min(step, count - at);
        ml_status st = read_bytes(b, s, piece, ml_dtype_bytes(s->stored, n),
                                  offset + ml_dtype_bytes(s->stored, at));
        if (st != ML_OK) return st;
        convert(piece, s->stored, n, s->wanted, to + at * (int64_t)ml_dtype_size(s->wanted));
    }
    return ML_OK;
}

/* Columns that begin or end inside a block, which only fp32 or bf16 copies can: the rows' blocks
 * are read one row after the other. */
static ml_status read_inside_blocks(const ml_base *b, const base_slice *s, int64_t offset,
                                    int64_t rows, char *to)
{
    ml_status st = ML_OK;
    int64_t row = ml_dtype_bytes(s->stored, s->cols), count = s->shard->part[0].count;
    char *blocks = NULL;
    if (s->wanted == s->stored)
        return ml_fail(ML_INTERNAL, "%s: columns of a shard cut a block", b->path);
    ML_NEW(blocks, row, ML_MEM_OTHER, "a row of blocks");
    for (int64_t i = 0; i < rows; i++) {
        ML_TRY(read_bytes(b, s, blocks, row, offset + i * row));
        convert_blocks(blocks, s->stored, s->shard->part[0].start, count, s->wanted,
                       to + i * count * (int64_t)ml_dtype_size(s->wanted));
    }
done:
    ml_memory_free(blocks);
    return st;
}

/* A range of columns of `rows` rows: whole rows that fit a piece are read together and cut; where
 * the range is wide, it alone is read. */
static ml_status read_columns(const ml_base *b, const base_slice *s, int64_t offset, int64_t rows,
                              char *to, char *piece)
{
    const ml_block_format *f = ml_block_format_of(s->stored);
    int64_t start = s->shard->part[0].start, count = s->shard->part[0].count;
    if (start % f->weights || count % f->weights) return read_inside_blocks(b, s, offset, rows, to);
    int64_t row = ml_dtype_bytes(s->stored, s->cols), first = ml_dtype_bytes(s->stored, start),
            out_row = ml_dtype_bytes(s->wanted, count);
    bool direct = ml_dtype_bytes(s->stored, count) >= DIRECT_COLUMNS || row > BASE_PIECE;
    int64_t step = direct ? 1 : BASE_PIECE / row;
    for (int64_t i = 0; i < rows; i += step) {
        int64_t n = ml_min(step, rows - i), place = offset + i * row;
        ml_status st = direct ? read_run(b, s, place + first, count, to + i * out_row, piece)
                              : read_bytes(b, s, piece, n * row, place);
        if (st != ML_OK) return st;
        for (int64_t j = 0; !direct && j < n; j++)
            convert(piece + j * row + first, s->stored, count, s->wanted, to + (i + j) * out_row);
    }
    return ML_OK;
}

/* The local rows are those of the shard's ranges one after the other. */
static ml_status read_row_ranges(const ml_base *b, const base_slice *s, int64_t first, int64_t rows,
                                 char *to, char *piece)
{
    const ml_shard whole = {.dim = ML_SHARD_ROWS, .nparts = 1, .part = {{0, s->rows}}};
    const ml_shard *shard = s->shard->dim == ML_SHARD_WHOLE ? &whole : s->shard;
    int64_t row = ml_dtype_bytes(s->stored, s->cols), out_row = ml_dtype_bytes(s->wanted, s->cols),
            before = 0;
    for (int i = 0; i < shard->nparts; before += shard->part[i++].count) {
        int64_t from = ml_max(first, before),
                end = ml_min(first + rows, before + shard->part[i].count);
        if (from >= end) continue;
        int64_t offset = s->offset + (shard->part[i].start + from - before) * row;
        ml_status st =
            read_run(b, s, offset, (end - from) * s->cols, to + (from - first) * out_row, piece);
        if (st != ML_OK) return st;
    }
    return ML_OK;
}

int64_t base_slice_place(const base_slice *s)
{
    bool whole = s->shard->dim == ML_SHARD_WHOLE;
    if (s->stored != s->wanted || s->shard->dim == ML_SHARD_COLS) return 0;
    return s->offset + (whole ? 0 : s->shard->part[0].start * ml_dtype_bytes(s->stored, s->cols));
}

int64_t base_slice_rows(const base_slice *s) { return ml_shard_rows(s->shard, s->rows); }
int64_t base_slice_row(const base_slice *s) { return ml_shard_cols(s->shard, s->cols); }

ml_status base_slice_read(const ml_base *b, const base_slice *s, int64_t first, int64_t rows,
                          void *to, char *piece)
{
    if (s->shard->dim != ML_SHARD_COLS) return read_row_ranges(b, s, first, rows, to, piece);
    return read_columns(b, s, s->offset + first * ml_dtype_bytes(s->stored, s->cols), rows, to,
                        piece);
}

/* A tied model's head is its embedding. */
static const ml_family_tensor *row_of_name(const ml_base *b, const char *name)
{
    const ml_family *family = b->spec.family;
    const ml_family_tensor *head = ml_family_end(family, ML_ROLE_HEAD);
    size_t n = strlen(head->module);
    bool is_head = !strncmp(name, head->module, n) && !strcmp(name + n, ".weight");
    return is_head && b->spec.tied_head ? ml_family_end(family, ML_ROLE_EMBED) : NULL;
}

/* All columns are no part of them: one rank alone holds them so. */
static const ml_shard *shard_of(const ml_shard *shard, int64_t cols)
{
    static const ml_shard all = {.dim = ML_SHARD_WHOLE};
    return shard->dim == ML_SHARD_COLS && shard->part[0].count == cols ? &all : shard;
}

ml_status base_slice_find(const ml_base *b, const ml_base_request *r, int64_t *near,
                          base_slice *out)
{
    ml_model_tensor t;
    const ml_family_tensor *row = row_of_name(b, r->name);
    for (int64_t tried = 0; tried < b->ntensors; tried++, *near = (*near + 1) % b->ntensors) {
        ml_model_tensor_at(&b->spec, *near, &t);
        if (row ? t.row != row : strcmp(t.name, r->name) != 0) continue;
        *out = (base_slice){.number = *near,
                            .offset = b->offset[*near],
                            .rows = t.rows,
                            .cols = t.cols,
                            .stored = base_stored(&b->spec, b->dtype, &t),
                            .wanted = r->dtype,
                            .shard = shard_of(r->shard, t.cols)};
        return ML_OK;
    }
    return ml_fail(ML_INPUT, "%s: tensor %s is missing", b->path, r->name);
}

ml_status ml_base_read(ml_base *b, const char *name, const ml_shard *shard, ml_dtype dtype,
                       void *out)
{
    ml_status st = ML_OK;
    base_slice s;
    int64_t near = 0;
    char *piece = NULL;
    ML_TRY(base_slice_find(b, &(ml_base_request){name, shard, dtype, out}, &near, &s));
    ML_NEW(piece, BASE_PIECE, ML_MEM_OTHER, "a read buffer");
    ML_TRY(base_slice_read(b, &s, 0, base_slice_rows(&s), out, piece));
done:
    ml_memory_free(piece);
    return st;
}

/* ---- many tensors at once ------------------------------------------------------------------ */

/* Several ranks that fill one block together take runs of tasks. */

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
    const ml_block_format *f = ml_block_format_of(s->stored);
    return ml_dtype_bytes(s->stored, ml_round_up(base_slice_row(s), f->weights));
}
static int64_t wanted_row(const base_slice *s)
{
    return ml_dtype_bytes(s->wanted, base_slice_row(s));
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
