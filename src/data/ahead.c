/* Two batches of rows and the threads that work on them: the one in hand, and the one behind it. */
#include "data/ahead.h"

#include <omp.h>

#include "base/thread.h"
#include "data/rows.h"

/* Bounds of memory: rows of a batch, and threads, each of which has a table of words. */
enum { MOST_ROWS = 8192, MOST_RUN = 32, MOST_THREADS = 64 };

typedef struct batch {
    ml_text text; /* of all rows */
    ml_ahead_row *rows;
    int64_t count, line; /* `line`: where reading ended */
    bool open;           /* it has been handed to the threads */
    bool last;           /* nothing comes behind it, but what is wrong there */
    ml_status status;
    ml_text error;
} batch;

struct ml_ahead_worker {
    ml_ahead *ahead;
    ml_tokenizer *tokenizer;
    ml_ids ids[2]; /* of each batch */
    void *own;     /* the source's */
    pthread_t thread;
};

struct ml_ahead {
    ml_ahead_source source;
    bool specials;
    batch batches[2];
    int now;           /* the batch in hand */
    int64_t next;      /* row of it */
    ml_ahead_row *row; /* in hand, or NULL */
    ml_ahead_worker *workers;
    int64_t threads, started; /* the first one is the caller's */
    /* What the threads share, under `mutex`. */
    pthread_mutex_t mutex;
    pthread_cond_t work, done;
    int side;            /* of the batch in work */
    int64_t first, busy; /* row that nobody has taken yet; runs of rows that are not done */
    bool stop;
};

/* ---- the threads --------------------------------------------------------------------------- */

bool ml_ahead_parse(ml_ahead_row *row)
{
    int64_t line = row->line;
    if (ml_rows_parse(&row->json, row->text, row->length, &line) == ML_OK) return true;
    ml_error_clear(); /* who takes the row finds the same again */
    return false;
}

static void encode(ml_ahead_worker *worker, ml_ahead_row *row, const char *bytes, int64_t length,
                   bool specials)
{
    ml_tokenizer *t = worker->tokenizer;
    if (!t || row->count == ML_AHEAD_TEXTS) return;
    ml_ids *ids = &worker->ids[worker->ahead->side];
    int64_t first = ids->count, lost = ml_tokenizer_lost(t);
    if (ml_tokenizer_encode(t, bytes, length, specials, ids) != ML_OK) {
        ml_error_clear();
        ids->count = first;
        return;
    }
    row->found[row->count++] = (ml_ahead_text){bytes,
                                               length,
                                               first,
                                               ids->count - first,
                                               ml_tokenizer_spelled(t, bytes, length),
                                               ml_tokenizer_lost(t) - lost,
                                               worker};
}

void ml_ahead_encode(ml_ahead_worker *worker, ml_ahead_row *row, const char *bytes, int64_t length)
{
    encode(worker, row, bytes, length, worker->ahead->specials);
}

void ml_ahead_encode_special(ml_ahead_worker *worker, ml_ahead_row *row, const char *bytes,
                             int64_t length)
{
    encode(worker, row, bytes, length, true);
}

void **ml_ahead_own(ml_ahead_worker *worker) { return &worker->own; }
int64_t ml_ahead_threads(const ml_ahead_worker *worker) { return worker->ahead->threads; }

static void forget(ml_ahead_row *row)
{
    json_decref(row->json);
    json_decref(row->own);
    json_decref(row->rendered);
    row->json = row->own = row->rendered = NULL;
    row->count = 0;
}

/* Takes a run of rows, with the mutex held before and after; false where none is left. */
static bool take_run(ml_ahead *a, ml_ahead_worker *worker)
{
    const batch *b = &a->batches[a->side];
    int64_t first = a->first, left = b->count - first;
    if (left <= 0) return false;
    int64_t run = ml_min(left, ml_max(1, ml_min(MOST_RUN, b->count / (8 * a->threads))));
    a->first += run;
    a->busy++;
    pthread_mutex_unlock(&a->mutex);
    for (int64_t i = first; i < first + run; i++) {
        forget(&b->rows[i]); /* what stood there a batch ago */
        a->source.prepare(a->source.context, &b->rows[i], worker);
    }
    pthread_mutex_lock(&a->mutex);
    if (--a->busy == 0) pthread_cond_signal(&a->done);
    return true;
}

static void *work(void *of)
{
    ml_ahead_worker *worker = of;
    ml_ahead *a = worker->ahead;
    pthread_mutex_lock(&a->mutex);
    while (!a->stop)
        if (!take_run(a, worker)) pthread_cond_wait(&a->work, &a->mutex);
    pthread_mutex_unlock(&a->mutex);
    ml_error_clear();
    return NULL;
}

/* ---- batches ------------------------------------------------------------------------------- */

/* Reads rows until the batch is full. A row that is longer than a batch is alone in one. */
static ml_status fill(ml_ahead *a, batch *b, int side)
{
    ml_status st = ML_OK;
    bool more = true;
    b->count = b->text.length = 0;
    b->open = false;
    for (int64_t i = 0; i < a->threads; i++) a->workers[i].ids[side].count = 0;
    ML_TRY(ml_text_add(&b->text, "", 0)); /* so that it has an address */
    while (b->count < MOST_ROWS && b->text.length < a->source.most_bytes) {
        ml_ahead_row *row = &b->rows[b->count];
        row->at = b->text.length;
        row->begins = row->ends = false;
        st = a->source.find(a->source.context, &b->text, row, &more);
        b->line = row->line;
        b->last = st != ML_OK || !more;
        if (b->last) break;
        row->length = b->text.length - row->at;
        b->count++;
    }
    for (int64_t i = 0; i < b->count; i++) b->rows[i].text = b->text.data + b->rows[i].at;
    b->status = st;
    if (st == ML_OK) return ML_OK;
    st = ml_text_printf(&b->error, "%s", ml_error_text());
    if (st == ML_OK) ml_error_clear();
done:
    return st;
}

static void hand_out(ml_ahead *a, int side)
{
    pthread_mutex_lock(&a->mutex);
    a->batches[side].open = true;
    a->side = side;
    a->first = 0;
    pthread_cond_broadcast(&a->work);
    pthread_mutex_unlock(&a->mutex);
}

static void help_to_the_end(ml_ahead *a)
{
    pthread_mutex_lock(&a->mutex);
    while (take_run(a, &a->workers[0])) {
    }
    while (a->busy) pthread_cond_wait(&a->done, &a->mutex);
    pthread_mutex_unlock(&a->mutex);
}

/* From one batch to the one behind it, which was handed out before; the one behind that is read and
 * handed out in the place of the old one. */
static ml_status turn(ml_ahead *a)
{
    ml_status st = ML_OK;
    int behind = 1 - a->now;
    if (!a->batches[behind].open) { /* the first one */
        ML_TRY(fill(a, &a->batches[behind], behind));
        hand_out(a, behind);
    }
    bool more = !a->batches[behind].last;
    if (more) ML_TRY(fill(a, &a->batches[a->now], a->now));
    help_to_the_end(a);
    if (more) hand_out(a, a->now);
    a->now = behind;
    a->next = 0;
done:
    return st;
}

ml_status ml_ahead_next(ml_ahead *a, ml_ahead_row **row, int64_t *line)
{
    ml_status st = ML_OK;
    *row = a->row = NULL;
    while (a->next == a->batches[a->now].count) {
        const batch *b = &a->batches[a->now];
        if (b->last) {
            *line = b->line;
            return b->status == ML_OK ? ML_OK : ml_fail(b->status, "%s", b->error.data);
        }
        ML_TRY(turn(a));
    }
    a->row = *row = &a->batches[a->now].rows[a->next++];
    *line = a->row->line;
done:
    return st;
}

/* ---- what was found ------------------------------------------------------------------------ */

const ml_ahead_text *ml_ahead_find(const ml_ahead *a, const char *bytes, int64_t length)
{
    for (int i = 0; a->row && i < a->row->count; i++) {
        const ml_ahead_text *t = &a->row->found[i];
        if (t->length == length && (t->bytes == bytes || !memcmp(t->bytes, bytes, (size_t)length)))
            return t;
    }
    return NULL;
}

const json_t *ml_ahead_rendered(const ml_ahead *a) { return a->row ? a->row->rendered : NULL; }

const int32_t *ml_ahead_ids(const ml_ahead *a, const ml_ahead_text *text)
{
    return text->worker->ids[a->now].data + text->first;
}

/* ---- the whole ----------------------------------------------------------------------------- */

/* A thread that cannot be started is done without. */
static void start(ml_ahead *a)
{
    for (a->started = 1; a->started < a->threads; a->started++) {
        ml_ahead_worker *worker = &a->workers[a->started];
        if (thread_start(&worker->thread, 0, work, worker)) break;
    }
}

ml_status ml_ahead_create(ml_ahead **out, const ml_ahead_source *source,
                          const ml_tokenizer *tokenizer, bool specials)
{
    ml_status st = ML_OK;
    ml_ahead *a = NULL;
    ML_NEW(a, 1, ML_MEM_OTHER, "reading ahead");
    a->source = *source;
    a->specials = specials;
    pthread_mutex_init(&a->mutex, NULL);
    pthread_cond_init(&a->work, NULL);
    pthread_cond_init(&a->done, NULL);
    a->threads = ml_min(MOST_THREADS, ml_max(1, omp_get_max_threads()));
    ML_NEW(a->workers, a->threads, ML_MEM_OTHER, "threads that read ahead");
    for (int i = 0; i < 2; i++) ML_NEW(a->batches[i].rows, MOST_ROWS, ML_MEM_OTHER, "rows ahead");
    for (int64_t i = 0; i < a->threads; i++) {
        a->workers[i].ahead = a;
        if (tokenizer) ML_TRY(ml_tokenizer_share(&a->workers[i].tokenizer, tokenizer));
    }
    start(a);
    *out = a;
    a = NULL;
done:
    ml_ahead_destroy(a);
    return st;
}

void ml_ahead_destroy(ml_ahead *a)
{
    if (!a) return;
    pthread_mutex_lock(&a->mutex);
    a->stop = true;
    a->first = INT64_MAX; /* what is left of a batch is not wanted any more */
    pthread_cond_broadcast(&a->work);
    pthread_mutex_unlock(&a->mutex);
    for (int64_t i = 1; i < a->started; i++) pthread_join(a->workers[i].thread, NULL);
    for (int64_t i = 0; a->workers && i < a->threads; i++) {
        if (a->workers[i].own) a->source.release(a->workers[i].own);
        ml_tokenizer_destroy(a->workers[i].tokenizer);
        for (int k = 0; k < 2; k++) ml_ids_destroy(&a->workers[i].ids[k]);
    }
    for (int i = 0; i < 2; i++) {
        batch *b = &a->batches[i];
        for (int64_t k = 0; b->rows && k < MOST_ROWS; k++) forget(&b->rows[k]);
        ml_memory_free(b->rows);
        ml_text_destroy(&b->text);
        ml_text_destroy(&b->error);
    }
    pthread_cond_destroy(&a->done);
    pthread_cond_destroy(&a->work);
    pthread_mutex_destroy(&a->mutex);
    ml_memory_free(a->workers);
    ml_memory_free(a);
}
