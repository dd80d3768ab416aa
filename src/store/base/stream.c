/* The tensors of a source on their way into a base file. They are taken as they lie in the source's
 * files, which so are read once, from end to end, by the hash and by everybody else (io/window.h).
 * Tensors are cut into pieces of whole rows. Every thread takes the next piece, reads and decodes
 * it, rounds it, and puts it at its place in the file; while one waits for the disk the others
 * work. A piece that is done waits in its slot until all before it have passed. A piece's slot is
 * its number modulo their count, so a thread that is far ahead waits for the others. The hash of
 * the contents has the order of the model: a piece that is due is hashed as it passes; what came
 * before its turn is read back when it is due, mostly out of the page cache. The file, the error of
 * rounding, and the failure that is told, the first in the order of the model, do not depend on the
 * number of threads. */
#include "store/base/stream.h"

#include <inttypes.h>
#include <omp.h>
#include <pthread.h>
#include <stdlib.h>

enum {
    PIECE = 1 << 19, /* values: 2 MiB in fp32 */
    SLOTS_OF_A_THREAD = 2,
    BACK = 2,              /* MiB that are read back for a piece that passes */
    BESIDE = 8 << 20,      /* bytes that the writer, the hash and the libraries take */
    BYTES_OF_A_VALUE = 16, /* of a thread: 4 in fp32, twice up to 4 as it is written, and what
                              readers take for packed codes and scales */
    WINDOW = 16 << 20,     /* bytes, or as much for each thread as its pieces and those to come: */
    WINDOW_OF_A_THREAD = 2 << 20,
    LARGEST_WINDOW = 64 << 20
};

typedef struct slot {
    base_rows rows;
    ml_block_error error;
    char *stored;
    int64_t place;      /* in the window */
    bool reading, done; /* done: or failed */
} slot;

/* A tensor of the model, and one in the order of the source. */
typedef struct passage {
    import_range range;
    int64_t passed; /* rows */
    ml_block_error error;
} passage;
typedef struct turn {
    int64_t from, tensor;
} turn;

typedef struct stream {
    const import_source *source;
    ml_window *window;
    const ml_model_spec *spec;
    ml_base_writer *writer;
    bool kept;
    int64_t values; /* of a piece */
    int64_t nslots;
    slot *slots;
    passage *tensors;
    turn *order;
    char *back; /* [ML_SHA256_PIECE] */
    pthread_mutex_t mutex;
    pthread_cond_t moved;
    ml_model_tensor tensor; /* of the next piece, its turn, its first row */
    int64_t at, row;
    int64_t next;   /* number of the next piece */
    int64_t passed; /* pieces */
    bool passing;   /* by a thread, outside the mutex */
    ml_status status;
    int64_t failed_tensor, failed_row; /* the first piece of the model that failed */
    char text[2048];
} stream;

/* ---- room ---------------------------------------------------------------------------------- */

/* Values of a row of any tensor, at most. */
static int64_t widest_row(const ml_model_spec *spec)
{
    int64_t widest = ml_max(spec->width, ml_max(spec->mlp_width, spec->heads * spec->head_dim));
    return ml_max(widest, spec->embed_width);
}

ml_status import_find_room(const ml_model_spec *spec, int64_t bytes, import_room *out)
{
    int64_t widest = widest_row(spec), taken = ml_memory_process_now() + BESIDE,
            left = bytes - taken, threads = omp_get_max_threads();
    int64_t window = ml_min(ml_max(WINDOW, threads * WINDOW_OF_A_THREAD), LARGEST_WINDOW);
    *out = (import_room){(int)threads, ml_max(PIECE, widest), window};
    if (bytes == 0) return ML_OK;
    if (left / BYTES_OF_A_VALUE < widest)
        return ml_fail(ML_USAGE,
                       "--memory: %" PRId64 " bytes are less than the %" PRId64
                       " that a row of this model needs beside the program",
                       bytes, taken + widest * BYTES_OF_A_VALUE);
    out->window = ml_min(window, ml_min(left / 4, left - widest * BYTES_OF_A_VALUE));
    int64_t fit = (left - out->window) / BYTES_OF_A_VALUE;
    out->threads = (int)ml_min(threads, fit / widest);
    out->values = ml_min(out->values, fit / out->threads);
    return ML_OK;
}

/* ---- pieces -------------------------------------------------------------------------------- */

static void fail(stream *s, int64_t tensor, int64_t row, ml_status status)
{
    if (tensor > s->failed_tensor || (tensor == s->failed_tensor && row >= s->failed_row)) return;
    s->failed_tensor = tensor;
    s->failed_row = row;
    s->status = status;
    snprintf(s->text, sizeof s->text, "%s", ml_error_text());
}

static int64_t place_of(const stream *s, int64_t tensor, const ml_model_tensor *t, int64_t row)
{
    const import_range *r = &s->tensors[tensor].range;
    return r->from + r->bytes / t->rows * row;
}

/* Goes over what need not be done, since something that stands before it has failed; false: nothing
 * is left. */
static bool find_next(stream *s)
{
    for (; s->at < s->writer->ntensors; s->at++, s->row = 0) {
        int64_t tensor = s->order[s->at].tensor;
        if (s->row == 0) ml_model_tensor_at(s->spec, tensor, &s->tensor);
        if (tensor < s->failed_tensor || (tensor == s->failed_tensor && s->row < s->failed_row))
            return true;
    }
    return false;
}

/* Tells the window what nobody reads any more. */
static void release(stream *s)
{
    int64_t low = INT64_MAX;
    if (!s->window) return;
    if (find_next(s)) low = place_of(s, s->order[s->at].tensor, &s->tensor, s->row);
    for (int64_t i = 0; i < s->nslots; i++)
        if (s->slots[i].reading) low = ml_min(low, s->slots[i].place);
    ml_window_release(s->window, low);
}

/* The next piece, once its slot is free; NULL: there is none. */
static slot *take(stream *s)
{
    bool more;
    while ((more = find_next(s)) && s->next - s->passed >= s->nslots)
        pthread_cond_wait(&s->moved, &s->mutex);
    if (!more) return NULL;
    slot *p = &s->slots[s->next++ % s->nslots];
    int64_t tensor = s->order[s->at].tensor, rows = ml_max(1, s->values / s->tensor.cols),
            count = ml_min(rows, s->tensor.rows - s->row);
    p->rows = base_writer_at(s->writer, &s->tensor, tensor, s->row, count);
    p->place = place_of(s, tensor, &s->tensor, s->row);
    p->reading = true;
    s->row += count;
    if (s->row < s->tensor.rows) return p;
    s->row = 0;
    s->at++;
    return p;
}

static void end_reading(stream *s, slot *p)
{
    pthread_mutex_lock(&s->mutex);
    p->reading = false;
    release(s);
    pthread_mutex_unlock(&s->mutex);
}

static ml_status work_on(stream *s, slot *p, float *values)
{
    const base_rows *r = &p->rows;
    void *self = s->source->self;
    bool blocks = s->kept && ml_dtype_is_block(r->stored);
    p->error = (ml_block_error){0};
    ml_status st = blocks ? s->source->read_blocks(self, &r->tensor, r->first, r->count, p->stored)
                          : s->source->read_rows(self, &r->tensor, r->first, r->count, values);
    end_reading(s, p);
    if (st == ML_OK && !blocks) st = base_writer_encode(r, values, p->stored, &p->error);
    return st == ML_OK ? base_writer_put(s->writer, r, p->stored) : st;
}

/* ---- the hash of the contents -------------------------------------------------------------- */

/* Whether what is due has been put before. */
static bool is_behind(const stream *s)
{
    const ml_base_writer *w = s->writer;
    return w->tensor < w->ntensors && s->tensors[w->tensor].passed > w->row;
}

static ml_status pass_back(stream *s)
{
    return base_writer_pass_back(s->writer, s->tensors[s->writer->tensor].passed, s->back);
}

static ml_status pass(stream *s, const slot *p)
{
    ml_status st = ML_OK;
    const ml_base_writer *w = s->writer;
    passage *t = &s->tensors[p->rows.index];
    t->error.lost += p->error.lost;
    t->error.whole += p->error.whole;
    t->passed = p->rows.first + p->rows.count;
    if (w->tensor == p->rows.index && w->row == p->rows.first)
        base_writer_pass(s->writer, &p->rows, p->stored);
    for (int i = 0; st == ML_OK && i < BACK && is_behind(s); i++) st = pass_back(s);
    return st;
}

/* Passes what can pass, unless another thread does; called and left with the mutex. */
static void pass_on(stream *s)
{
    if (s->passing) return;
    s->passing = true;
    for (slot *p; (p = &s->slots[s->passed % s->nslots])->done;) {
        if (s->status == ML_OK) {
            pthread_mutex_unlock(&s->mutex);
            ml_status st = pass(s, p);
            pthread_mutex_lock(&s->mutex);
            if (st != ML_OK) fail(s, s->writer->tensor, s->writer->row, st);
        }
        p->done = false;
        s->passed++;
        pthread_cond_broadcast(&s->moved);
    }
    s->passing = false;
}

static void work(stream *s, float *values)
{
    pthread_mutex_lock(&s->mutex);
    for (slot *p; (p = take(s));) {
        pthread_mutex_unlock(&s->mutex);
        ml_status st = work_on(s, p, values);
        pthread_mutex_lock(&s->mutex);
        if (st != ML_OK) fail(s, p->rows.index, p->rows.first, st);
        p->done = true;
        pass_on(s);
    }
    pthread_mutex_unlock(&s->mutex);
}

/* ---- all tensors --------------------------------------------------------------------------- */

static int by_place(const void *a, const void *b)
{
    const turn *x = a, *y = b;
    if (x->from != y->from) return (x->from > y->from) - (x->from < y->from);
    return (x->tensor > y->tensor) - (x->tensor < y->tensor);
}

/* As they lie in the window; without one as they stand in the model. */
static void find_order(stream *s)
{
    for (int64_t i = 0; i < s->writer->ntensors; i++) {
        ml_model_tensor t;
        ml_model_tensor_at(s->spec, i, &t);
        if (s->window) s->tensors[i].range = s->source->find(s->source->self, &t);
        s->order[i] = (turn){s->tensors[i].range.from, i};
    }
    qsort(s->order, (size_t)s->writer->ntensors, sizeof *s->order, by_place);
}

/* What is still to be hashed, and what rounding has lost, in the order of the model. */
static ml_status finish(stream *s)
{
    ml_status st = ML_OK;
    if (s->status != ML_OK) return ml_fail(s->status, "%s", s->text);
    while (st == ML_OK && is_behind(s)) st = pass_back(s);
    for (int64_t i = 0; i < s->writer->ntensors; i++)
        base_writer_lost(s->writer, &s->tensors[i].error);
    return st;
}

ml_status import_stream(const import_source *source, ml_window *window, ml_base_writer *w,
                        const ml_model_spec *spec, bool kept, const import_room *room)
{
    ml_status st = ML_OK;
    float *values = NULL;
    char *stored = NULL;
    const int64_t piece = ml_max(room->values, widest_row(spec));
    stream s = {.source = source,
                .window = window,
                .spec = spec,
                .writer = w,
                .kept = kept,
                .values = room->values,
                .nslots = room->threads * SLOTS_OF_A_THREAD,
                .failed_tensor = INT64_MAX};
    pthread_mutex_init(&s.mutex, NULL);
    pthread_cond_init(&s.moved, NULL);
    ML_NEW(s.slots, s.nslots, ML_MEM_OTHER, "pieces of an import");
    ML_NEW(s.tensors, w->ntensors, ML_MEM_OTHER, "tensors of an import");
    ML_NEW(s.order, w->ntensors, ML_MEM_OTHER, "tensors of an import");
    ML_NEW(s.back, ML_SHA256_PIECE, ML_MEM_OTHER, "a read buffer");
    ML_NEW(values, room->threads * piece, ML_MEM_OTHER, "rows of an import");
    ML_NEW(stored, s.nslots * piece * (int64_t)sizeof *values, ML_MEM_OTHER, "rows of an import");
    for (int64_t i = 0; i < s.nslots; i++)
        s.slots[i].stored = stored + i * piece * (int64_t)sizeof *values;
    find_order(&s);
#pragma omp parallel num_threads(room->threads)
    work(&s, values + omp_get_thread_num() * piece);
    ML_TRY(finish(&s));
done:
    if (window) ml_window_release(window, INT64_MAX); /* the hash goes on alone */
    ml_memory_free(stored);
    ml_memory_free(values);
    ml_memory_free(s.back);
    ml_memory_free(s.order);
    ml_memory_free(s.tensors);
    ml_memory_free(s.slots);
    pthread_cond_destroy(&s.moved);
    pthread_mutex_destroy(&s.mutex);
    return st;
}
