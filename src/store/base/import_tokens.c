/* More tokens than the source has: its tokenizer learns them, and embedding, head and the head's
 * bias get a row for each, the mean of the rows of all tokens that were there before (as
 * transformers resizes a model, but for its noise of 1e-9). A vocabulary that is padded has room
 * for some, so that it need not grow. */
#include <inttypes.h>
#include <pthread.h>

#include "mpilora/data.h"
#include "mpilora/family.h"
#include "store/base/import_private.h"

enum { PIECE = 1 << 20 }; /* values */

typedef struct grown {
    const import_source *from;
    ml_tokens_added added;
    char tokenizer[ML_SHA256_HEX]; /* of the one that has learnt */
    const ml_family_tensor *row;   /* whose mean is known; NULL: none yet */
    float *mean;
    pthread_mutex_t mutex; /* of row and mean */
} grown;

static void grown_close(void *self)
{
    grown *g = self;
    ml_memory_free(g->mean);
    pthread_mutex_destroy(&g->mutex);
    ml_memory_free(g);
}

bool import_is_by_token(const ml_model_tensor *t) { return t->row->rows == ML_EXTENT_VOCAB; }

static ml_status find_mean(grown *g, const ml_model_tensor *t)
{
    ml_status st = ML_OK;
    double *sum = NULL;
    float *piece = NULL;
    int64_t rows = ml_min(g->added.before, t->rows), step = ml_max(1, PIECE / t->cols);
    ml_memory_free(g->mean);
    g->mean = NULL;
    ML_NEW(g->mean, t->cols, ML_MEM_OTHER, "the mean of rows");
    ML_NEW(sum, t->cols, ML_MEM_OTHER, "the mean of rows");
    ML_NEW(piece, step * t->cols, ML_MEM_OTHER, "rows of tokens");
    for (int64_t row = 0; row < rows; row += step) {
        int64_t n = ml_min(step, rows - row);
        ML_TRY(g->from->read_rows(g->from->self, t, row, n, piece));
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < t->cols; j++) sum[j] += (double)piece[i * t->cols + j];
    }
    for (int64_t j = 0; j < t->cols; j++) g->mean[j] = (float)(sum[j] / (double)rows);
    g->row = t->row;
done:
    ml_memory_free(sum);
    ml_memory_free(piece);
    return st;
}

/* The rows of new tokens among [first, first + count). */
static ml_status put_means(grown *g, const ml_model_tensor *t, int64_t first, int64_t count,
                           float *out)
{
    ml_status st = ML_OK;
    int64_t begin = ml_max(first, g->added.before), end = ml_min(first + count, g->added.after);
    if (begin >= end) return ML_OK;
    pthread_mutex_lock(&g->mutex);
    if (g->row != t->row) st = find_mean(g, t);
    for (int64_t i = begin; st == ML_OK && i < end; i++)
        memcpy(out + (i - first) * t->cols, g->mean, (size_t)t->cols * sizeof *out);
    pthread_mutex_unlock(&g->mutex);
    return st;
}

static ml_status grown_rows(void *self, const ml_model_tensor *tensor, int64_t first, int64_t count,
                            float *out)
{
    ml_status st = ML_OK;
    grown *g = self;
    ml_model_tensor t = *tensor;
    if (!import_is_by_token(&t)) return g->from->read_rows(g->from->self, &t, first, count, out);
    t.rows = g->from->spec.vocab;
    int64_t old = ml_min(first + count, t.rows) - first;
    if (old > 0) ML_TRY(g->from->read_rows(g->from->self, &t, first, old, out));
    ML_TRY(put_means(g, &t, first, count, out));
done:
    return st;
}

static const ml_block_format *grown_format(void *self, const ml_model_tensor *tensor)
{
    grown *g = self;
    return g->from->format_of(g->from->self, tensor);
}

static ml_status grown_blocks(void *self, const ml_model_tensor *tensor, int64_t first,
                              int64_t count, void *out)
{
    grown *g = self;
    return g->from->read_blocks(g->from->self, tensor, first, count, out);
}

static ml_status grown_share(void *self, ml_window *window)
{
    const grown *g = self;
    return g->from->share(g->from->self, window);
}

static import_range grown_find(void *self, const ml_model_tensor *tensor)
{
    const grown *g = self;
    return g->from->find(g->from->self, tensor);
}

/* tokenizer.json in the place of all files that had the old tokens; tokenizer_config.json and the
 * others say nothing of them. */
static ml_status renew_files(import_source *s)
{
    static const char *const old[] = {"tokenizer.json",     "added_tokens.json",
                                      "vocab.json",         "merges.txt",
                                      "vocab.txt",          "encoder.json",
                                      "vocab.bpe",          "tokenizer.model",
                                      "spiece.model",       "sentencepiece.bpe.model",
                                      "sentencepiece.model"};
    ml_status st = ML_OK;
    ml_text settings = {0};
    bool any = false;
    for (int i = 0; ml_base_file_names[i]; i++)
        for (size_t j = 0; j < sizeof old / sizeof *old; j++) {
            if (strcmp(ml_base_file_names[i], old[j]) != 0) continue;
            any = any || s->files.content[i].length > 0;
            ml_text_destroy(&s->files.content[i]);
        }
    for (int i = 0; any && ml_base_file_names[i]; i++)
        if (!strcmp(ml_base_file_names[i], "tokenizer.json"))
            ML_TRY(ml_tokenizer_to_huggingface(s->tokenizer.data, s->tokenizer.length,
                                               &s->files.content[i], &settings));
done:
    ml_text_destroy(&settings);
    return st;
}

static ml_status grown_hash(void *self, atomic_bool *stop, char hex[ML_SHA256_HEX])
{
    const grown *g = self;
    ml_text text = {0};
    ml_status st = g->from->hash(g->from->self, stop, hex);
    if (st == ML_OK) st = ml_text_printf(&text, "add-tokens %s %s", hex, g->tokenizer);
    if (st == ML_OK) ml_sha256_of(text.data, (size_t)text.length, hex);
    ml_text_destroy(&text);
    return st;
}

static void say(const grown *g, const char *path, int64_t old_vocab, int64_t vocab)
{
    const ml_tokens_added *a = &g->added;
    if (a->known > 0)
        ml_warn("%s: %" PRId64 " of its tokens are added tokens of the tokenizer already and stay "
                "as they are",
                path, a->known);
    if (a->after > a->before)
        ml_log("%" PRId64 " new tokens, ids %" PRId64 " to %" PRId64 "; vocabulary %" PRId64
               " → %" PRId64 "; their rows are the mean of the %" PRId64 " before",
               a->after - a->before, a->before, a->after - 1, old_vocab, vocab, a->before);
}

ml_status import_add_tokens(import_source *out, import_source *from, const char *path)
{
    ml_status st = ML_OK;
    grown *g = NULL;
    if (!from->tokenizer.length)
        return ml_fail(ML_USAGE,
                       "--add-tokens %s: the model has no tokenizer that can be read, "
                       "which would learn them",
                       path);
    ML_NEW(g, 1, ML_MEM_OTHER, "a source with more tokens");
    pthread_mutex_init(&g->mutex, NULL);
    *out = *from;
    out->tokenizer = (ml_text){0};
    from->files = (ml_base_files){0};
    out->self = g;
    out->close = grown_close;
    out->hash = grown_hash;
    out->read_rows = grown_rows;
    out->format_of = from->format_of ? grown_format : NULL;
    out->read_blocks = from->read_blocks ? grown_blocks : NULL;
    out->share = grown_share;
    out->find = grown_find;
    g->from = from;
    ML_TRY(ml_tokenizer_grow(from->tokenizer.data, from->tokenizer.length, path, &out->tokenizer,
                             &g->added));
    out->spec.vocab = ml_max(from->spec.vocab, g->added.after);
    ML_TRY(renew_files(out));
    ml_sha256_of(out->tokenizer.data, (size_t)out->tokenizer.length, g->tokenizer);
    say(g, path, from->spec.vocab, out->spec.vocab);
done:
    return st;
}
