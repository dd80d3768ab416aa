/* The tensors of a source on their way into a base file. They are cut into pieces of whole rows,
 * numbered in the order of the model. Every thread takes the next piece, reads and decodes it,
 * rounds it, and puts it at its place in the file; while one waits for the disk the others work.
 * Only the hash of the contents has an order: a piece that is done waits in its slot until all
 * before it are hashed, and whoever finishes the one that is due hashes on as far as there are any.
 * A piece's slot is its number modulo their count, so a thread that is far ahead waits for the
 * others. The file, the error of rounding, and the failure that is told, the first by number, do
 * not depend on the number of threads. */
#include "store/base/stream.h"

#include <inttypes.h>
#include <omp.h>
#include <pthread.h>

enum {
    PIECE = 1 << 19, /* values: 2 MiB in fp32 */
    SLOTS_OF_A_THREAD = 2,
    BESIDE = 8 << 20,     /* bytes that the writer, the hash and the libraries take */
    BYTES_OF_A_VALUE = 16 /* of a thread: 4 in fp32, twice up to 4 as it is written, and what
                             readers take for packed codes and scales */
};

typedef struct slot {
    base_rows rows;
    ml_block_error error;
    char *stored;
    bool done;
} slot;

typedef struct stream {
    const import_source *source;
    const ml_model_spec *spec;
    ml_base_writer *writer;
    bool kept;
    int64_t values; /* of a piece */
    int64_t nslots;
    slot *slots;
    pthread_mutex_t mutex;
    pthread_cond_t moved;
    ml_model_tensor tensor; /* of the next piece, its number, its first row */
    int64_t index, row;
    int64_t next;   /* number of the next piece */
    int64_t hashed; /* pieces */
    bool hashing;   /* by a thread, outside the mutex */
    ml_status status;
    int64_t failed; /* the first piece that failed; INT64_MAX: none */
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
            fit = (bytes - taken) / BYTES_OF_A_VALUE;
    *out = (import_room){omp_get_max_threads(), ml_max(PIECE, widest)};
    if (bytes == 0) return ML_OK;
    if (bytes < taken || fit < widest)
        return ml_fail(ML_USAGE,
                       "--memory: %" PRId64 " bytes are less than the %" PRId64
                       " that a row of this model needs beside the program",
                       bytes, taken + widest * BYTES_OF_A_VALUE);
    out->threads = (int)ml_min(out->threads, fit / widest);
    out->values = ml_min(out->values, fit / out->threads);
    return ML_OK;
}

/* ---- pieces -------------------------------------------------------------------------------- */

static void fail(stream *s, int64_t number, ml_status status)
{
    if (number >= s->failed) return;
    s->failed = number;
    s->status = status;
    snprintf(s->text, sizeof s->text, "%s", ml_error_text());
}

/* The next piece, once its slot is free; NULL: there is none, or one has failed. */
static slot *take(stream *s, int64_t *number)
{
    if (s->index == s->writer->ntensors || s->failed < INT64_MAX) return NULL;
    if (s->row == 0) ml_model_tensor_at(s->spec, s->index, &s->tensor);
    int64_t rows = ml_max(1, s->values / s->tensor.cols),
            count = ml_min(rows, s->tensor.rows - s->row);
    base_rows piece = base_writer_at(s->writer, &s->tensor, s->index, s->row, count);
    *number = s->next++;
    s->row += count;
    if (s->row == s->tensor.rows) {
        s->row = 0;
        s->index++;
    }
    while (*number - s->hashed >= s->nslots && s->failed == INT64_MAX)
        pthread_cond_wait(&s->moved, &s->mutex);
    if (*number - s->hashed >= s->nslots) return NULL;
    slot *free_one = &s->slots[*number % s->nslots];
    free_one->rows = piece;
    return free_one;
}

static ml_status work_on(const stream *s, slot *p, float *values)
{
    ml_status st = ML_OK;
    const base_rows *r = &p->rows;
    void *self = s->source->self;
    p->error = (ml_block_error){0};
    if (s->kept && ml_dtype_is_block(r->stored)) {
        ML_TRY(s->source->read_blocks(self, &r->tensor, r->first, r->count, p->stored));
    } else {
        ML_TRY(s->source->read_rows(self, &r->tensor, r->first, r->count, values));
        ML_TRY(base_writer_encode(r, values, p->stored, &p->error));
    }
    ML_TRY(base_writer_put(s->writer, r, p->stored));
done:
    return st;
}

/* Hashes what is due, unless another thread does; called and left with the mutex. */
static void hash_on(stream *s)
{
    if (s->hashing) return;
    s->hashing = true;
    for (slot *due; (due = &s->slots[s->hashed % s->nslots])->done && s->hashed < s->failed;) {
        pthread_mutex_unlock(&s->mutex);
        base_writer_pass(s->writer, &due->rows, due->stored, &due->error);
        pthread_mutex_lock(&s->mutex);
        due->done = false;
        s->hashed++;
        pthread_cond_broadcast(&s->moved);
    }
    s->hashing = false;
}

static void work(stream *s, float *values)
{
    int64_t number;
    pthread_mutex_lock(&s->mutex);
    for (slot *p; (p = take(s, &number));) {
        pthread_mutex_unlock(&s->mutex);
        ml_status st = work_on(s, p, values);
        pthread_mutex_lock(&s->mutex);
        p->done = st == ML_OK;
        if (st != ML_OK) {
            fail(s, number, st);
            pthread_cond_broadcast(&s->moved);
        }
        hash_on(s);
    }
    pthread_mutex_unlock(&s->mutex);
}

ml_status import_stream(const import_source *source, ml_base_writer *w, const ml_model_spec *spec,
                        bool kept, const import_room *room)
{
    ml_status st = ML_OK;
    float *values = NULL;
    char *stored = NULL;
    const int64_t piece = ml_max(room->values, widest_row(spec));
    stream s = {.source = source,
                .spec = spec,
                .writer = w,
                .kept = kept,
                .values = room->values,
                .nslots = room->threads * SLOTS_OF_A_THREAD,
                .failed = INT64_MAX};
    pthread_mutex_init(&s.mutex, NULL);
    pthread_cond_init(&s.moved, NULL);
    ML_NEW(s.slots, s.nslots, ML_MEM_OTHER, "pieces of an import");
    ML_NEW(values, room->threads * piece, ML_MEM_OTHER, "rows of an import");
    ML_NEW(stored, s.nslots * piece * (int64_t)sizeof *values, ML_MEM_OTHER, "rows of an import");
    for (int64_t i = 0; i < s.nslots; i++)
        s.slots[i].stored = stored + i * piece * (int64_t)sizeof *values;
#pragma omp parallel num_threads(room->threads)
    work(&s, values + omp_get_thread_num() * piece);
    if (s.failed < INT64_MAX) st = ml_fail(s.status, "%s", s.text);
done:
    ml_memory_free(stored);
    ml_memory_free(values);
    ml_memory_free(s.slots);
    pthread_cond_destroy(&s.moved);
    pthread_mutex_destroy(&s.mutex);
    return st;
}
