/* Vectors of texts. Each replica encodes its share of the texts and packs them without padding into
 * passes; the last hidden states of a text become one vector. The vectors of a page of texts of
 * each replica meet on rank 0, which writes them to their places in the file. */
#include "mpilora/embed.h"

#include <inttypes.h>
#include <math.h>

#include "io/durable.h"
#include "io/vector_file.h"
#include "session/sentence_encoder.h"
#include "session/session.h"

const char *const ml_pooling_words[] = {"mean", "cls", "last", NULL};

enum { PAGE = 512, PASS_TOKENS = 4096 };

typedef struct job {
    const ml_embed_options *options;
    session session;
    ml_adapter adapter;
    ml_tokenizer *tokenizer;
    const ml_template_part *part; /* of one text, borrowed from the tokenizer */
    int64_t parts;
    ml_text prompt;         /* what every text begins with; empty: nothing */
    ml_text whole;          /* a text behind it */
    int64_t first, count;   /* this replica's texts */
    ml_ids ids;             /* theirs, one behind the other */
    int64_t *start;         /* [count + 1] in ids */
    int64_t longest, page;  /* tokens of a text; texts that a replica has in a page */
    int64_t most_sequences; /* of a pass */
    ml_batch batch;
    int64_t *row, *sequence; /* [tokens], [texts of a pass + 1] */
    uint8_t *type;           /* [tokens]; NULL: all are 0 */
    float *hidden, *vectors; /* [tokens, d]; [dp, page, d] */
    vector_file *file;       /* on rank 0 */
    ml_embed_report *report;
} job;

/* ---- texts to tokens ----------------------------------------------------------------------- */

static int64_t added_tokens(const job *j)
{
    int64_t added = 0;
    for (int64_t i = 0; i < j->parts; i++) added += j->part[i].id >= 0;
    return added;
}

static ml_status choose_length(job *j)
{
    const ml_embed_options *o = j->options;
    const ml_base *base = j->session.base;
    int64_t context = ml_base_spec(base)->context, least = added_tokens(j) + 1;
    ml_status st = o->max_len > 0 ? ML_OK : sentence_encoder_length(base, &j->report->max_len);
    if (st != ML_OK) return st;
    if (o->max_len > 0) j->report->max_len = o->max_len;
    if (j->report->max_len > context)
        return ml_fail(ML_USAGE, "--max-len: %" PRId64 " is more than the context of %s, %" PRId64,
                       o->max_len, ml_base_path(base), context);
    if (j->report->max_len >= least) return ML_OK;
    return ml_fail(ML_USAGE,
                   "--max-len: %" PRId64 " leaves no token of a text beside the %" PRId64
                   " special ones; choose %" PRId64 " or more",
                   j->report->max_len, least - 1, least);
}

static ml_status open_tokenizer(job *j)
{
    int64_t length;
    const char *json = ml_base_tokenizer(j->session.base, &length);
    if (!length)
        return ml_fail(ML_INPUT,
                       "%s: the base has no tokenizer; import it from a source that has one",
                       ml_base_path(j->session.base));
    ml_status st = ml_tokenizer_create(&j->tokenizer, json, length);
    if (st == ML_OK) j->part = ml_tokenizer_template(j->tokenizer, false, &j->parts);
    return st == ML_OK ? choose_length(j) : st;
}

static ml_status add_id(ml_ids *ids, int32_t id)
{
    ml_status st = ML_OK;
    ML_GROW(ids->data, ids->count, ids->capacity, ML_MEM_OTHER, "tokens");
    ids->data[ids->count++] = id;
done:
    return st;
}

/* Text i within the special tokens of the template, its own tokens cut to what these leave. */
static ml_status encode(job *j, int64_t i, ml_ids *own)
{
    const ml_embed_options *o = j->options;
    int64_t room = j->report->max_len - added_tokens(j), vocab = j->session.spec->vocab;
    own->count = 0;
    j->whole.length = 0;
    ml_status st = ml_text_add(&j->whole, j->prompt.data, j->prompt.length);
    if (st == ML_OK) st = ml_text_add(&j->whole, o->texts[i], (int64_t)strlen(o->texts[i]));
    if (st == ML_OK)
        st = ml_tokenizer_encode(j->tokenizer, j->whole.data, j->whole.length, true, own);
    if (st == ML_OK && own->count == 0)
        st = ml_fail(ML_INPUT, "%s:%" PRId64 ": the text is empty: it has no tokens", o->file,
                     o->line[i]);
    j->report->cut += own->count > room;
    for (int64_t p = 0; p < j->parts && st == ML_OK; p++) {
        if (j->part[p].id >= 0) st = add_id(&j->ids, j->part[p].id);
        for (int64_t t = 0; j->part[p].id == ML_TEMPLATE_A && t < ml_min(room, own->count); t++)
            if (st == ML_OK) st = add_id(&j->ids, own->data[t]);
    }
    for (int64_t t = j->start[i - j->first]; t < j->ids.count && st == ML_OK; t++)
        if (j->ids.data[t] >= vocab)
            st = ml_fail(ML_INPUT,
                         "%s:%" PRId64 ": the tokenizer gives token %" PRId32
                         ", but the vocabulary of %s has %" PRId64,
                         o->file, o->line[i], j->ids.data[t], ml_base_path(j->session.base), vocab);
    return st;
}

static ml_status encode_share(job *j)
{
    ml_status st = ML_OK;
    ml_ids own = {0};
    const ml_grid *grid = j->session.grid;
    int64_t dp = ml_grid_dp(grid), mine = ml_grid_dp_rank(grid);
    ML_TRY(open_tokenizer(j));
    j->first = ml_part_start(j->options->count, dp, mine);
    j->count = ml_part_count(j->options->count, dp, mine);
    ML_NEW(j->start, j->count + 1, ML_MEM_OTHER, "texts");
    for (int64_t i = 0; i < j->count; i++) {
        ML_TRY(encode(j, j->first + i, &own));
        j->start[i + 1] = j->ids.count;
        j->longest = ml_max(j->longest, j->start[i + 1] - j->start[i]);
    }
done:
    ml_ids_destroy(&own);
    return st;
}

/* ---- passes -------------------------------------------------------------------------------- */

static bool has_types(const job *j)
{
    bool any = false;
    for (int64_t p = 0; p < j->parts; p++) any = any || j->part[p].type > 0;
    return any && j->session.spec->token_types > 0;
}

static ml_status allocate(job *j)
{
    ml_status st = ML_OK;
    const session *s = &j->session;
    int64_t d = ml_model_hidden_width(s->spec), dp = ml_grid_dp(s->grid);
    ML_NEW(j->row, s->tokens, ML_MEM_OTHER, "rows of a pass");
    ML_NEW(j->sequence, j->page + 1, ML_MEM_OTHER, "texts of a pass");
    if (has_types(j)) ML_NEW(j->type, s->tokens, ML_MEM_OTHER, "token types");
    ML_NEW(j->hidden, s->tokens * d, ML_MEM_WORKSPACE, "hidden states");
    ML_NEW(j->vectors, dp * j->page * d, ML_MEM_COMMUNICATION, "vectors of a page");
done:
    return st;
}

/* The types of a text's tokens, as the template has them. */
static void place_types(const job *j, int64_t text_tokens, uint8_t *type)
{
    for (int64_t p = 0; p < j->parts; p++) {
        int64_t n = j->part[p].id >= 0 ? 1 : j->part[p].id == ML_TEMPLATE_A ? text_tokens : 0;
        memset(type, (int)ml_min(j->part[p].type, j->session.spec->token_types - 1), (size_t)n);
        type += n;
    }
}

/* Texts from `text` on, as many as go into a pass and end before `end`; returns the next one. */
static int64_t pack(job *j, int64_t text, int64_t end)
{
    ml_batch *b = &j->batch;
    int64_t from = j->start[text], next = text;
    bool mean = j->report->pooling == ML_POOLING_MEAN, cls = j->report->pooling == ML_POOLING_CLS;
    *b = (ml_batch){.token = j->ids.data + from,
                    .sequences = {.start = j->sequence},
                    .row = j->row,
                    .type = j->type};
    while (next < end && j->start[next + 1] - from <= j->session.tokens) {
        int64_t first = j->start[next] - from, last = j->start[next + 1] - from - 1;
        j->sequence[b->sequences.count++] = first;
        for (int64_t t = cls || mean ? first : last; t <= (cls ? first : last); t++)
            j->row[b->rows++] = t;
        if (j->type) place_types(j, last + 1 - first - added_tokens(j), j->type + first);
        next++;
    }
    b->tokens = j->sequence[b->sequences.count] = j->start[next] - from;
    return next;
}

static void pool(const job *j, int64_t rows, const float *hidden, float *out)
{
    int64_t d = ml_model_hidden_width(j->session.spec);
    double square = 0.0;
    for (int64_t c = 0; c < d; c++) {
        double sum = 0.0;
        for (int64_t r = 0; r < rows; r++) sum += (double)hidden[r * d + c];
        sum /= (double)rows;
        square += sum * sum;
        out[c] = (float)sum;
    }
    if (!j->report->normalised) return;
    double factor = 1.0 / fmax(sqrt(square), 1e-12);
    for (int64_t c = 0; c < d; c++) out[c] = (float)((double)out[c] * factor);
}

/* The vectors of this replica's texts [from, end) into its part of the page. */
static void encode_page(job *j, int64_t from, int64_t end)
{
    int64_t d = ml_model_hidden_width(j->session.spec), dp = ml_grid_dp(j->session.grid);
    float *out = j->vectors + ml_grid_dp_rank(j->session.grid) * j->page * d;
    memset(j->vectors, 0, (size_t)(dp * j->page * d) * sizeof *out);
    while (from < end) {
        int64_t next = pack(j, from, end), row = 0;
        ml_model_hidden(j->session.model, &j->batch, j->hidden);
        for (; from < next; from++, out += d) {
            int64_t tokens = j->start[from + 1] - j->start[from],
                    rows = j->report->pooling == ML_POOLING_MEAN ? tokens : 1;
            pool(j, rows, j->hidden + row * d, out);
            row += rows;
        }
    }
}

static ml_status check_finite(const job *j, int64_t first, int64_t count, const float *vectors)
{
    int64_t d = ml_model_hidden_width(j->session.spec);
    for (int64_t i = 0; i < count * d; i++)
        if (!isfinite(vectors[i]))
            return ml_fail(ML_NUMERIC,
                           "%s:%" PRId64 ": the vector is not finite: the base or the adapter "
                           "holds numbers that are not",
                           j->options->file, j->options->line[first + i / d]);
    return ML_OK;
}

/* Of rank 0: the page that every replica has made, to its places. */
static ml_status write_page(const job *j, int64_t page)
{
    int64_t d = ml_model_hidden_width(j->session.spec), dp = ml_grid_dp(j->session.grid);
    for (int64_t r = 0; r < dp; r++) {
        int64_t start = ml_part_start(j->options->count, dp, r),
                count = ml_part_count(j->options->count, dp, r),
                here = ml_min(j->page, count - page * j->page);
        if (here <= 0) continue;
        const float *vectors = j->vectors + r * j->page * d;
        ml_status st = check_finite(j, start + page * j->page, here, vectors);
        if (st == ML_OK) st = vector_file_put(j->file, start + page * j->page, here, vectors);
        if (st != ML_OK) return st;
    }
    return ML_OK;
}

static ml_status embed(job *j)
{
    const ml_grid *grid = j->session.grid;
    int64_t d = ml_model_hidden_width(j->session.spec), dp = ml_grid_dp(grid);
    int64_t most = ml_part_count(j->options->count, dp, 0);
    for (int64_t page = 0; page * j->page < most; page++) {
        int64_t from = ml_min(page * j->page, j->count);
        encode_page(j, from, ml_min(from + j->page, j->count));
        ml_grid_sum_float(grid, ML_GROUP_DP, j->vectors, dp * j->page * d);
        ml_status st = ml_grid_rank(grid) == 0 ? write_page(j, page) : ML_OK;
        st = ml_session_agree(&j->session, st);
        if (st != ML_OK) return st;
    }
    return ML_OK;
}

/* ---- the job ------------------------------------------------------------------------------- */

static ml_status choose_pooling(job *j)
{
    ml_status st = ML_OK;
    const ml_embed_options *o = j->options;
    j->report->pooling = o->pooling;
    if (o->pooling == ML_POOLING_GIVEN && *j->adapter.pooling) {
        j->report->pooling =
            (ml_pooling)(ML_POOLING_MEAN + ml_find_word(j->adapter.pooling, ml_pooling_words));
        j->report->normalised = j->adapter.normalised;
    } else if (o->pooling == ML_POOLING_GIVEN) {
        st = sentence_encoder_pooling(j->session.base, &j->report->pooling, &j->report->normalised);
    }
    if (st == ML_OK && o->pooling == ML_POOLING_GIVEN && !*j->adapter.pooling)
        st = sentence_encoder_prompt(j->session.base, &j->prompt);
    j->report->normalised = j->report->normalised || o->normalise;
    return st;
}

static ml_status read_adapter(job *j)
{
    const char *path = j->options->adapter;
    ml_status st = path ? ml_adapter_read_for(&j->adapter, path, j->session.base) : ML_OK;
    if (st == ML_OK && path && ml_method_has_prefix(j->adapter.method))
        return ml_fail(ML_USAGE,
                       "--adapter: %s puts virtual tokens before a text, which have no place in a "
                       "vector; give an adapter of another method",
                       path);
    return st;
}

static ml_status prepare(job *j)
{
    ml_status st = ML_OK;
    bool first = ml_grid_rank(j->session.grid) == 0;
    if (first) ML_TRY(ml_durable_may_write(j->options->out));
    ML_TRY(read_adapter(j));
    ML_TRY(choose_pooling(j));
    ML_TRY(encode_share(j));
done:
    return st;
}

/* Alike on all ranks, since passes over tp must be: the longest text, and about PASS_TOKENS. */
static void agree_on_sizes(job *j)
{
    const ml_grid *grid = j->session.grid;
    int64_t sizes[] = {j->longest, j->ids.count};
    ml_grid_max_int64(grid, ML_GROUP_WORLD, sizes, 2);
    j->session.tokens = ml_max(sizes[0], ml_min(sizes[1], PASS_TOKENS));
    j->page = ml_min(PAGE, ml_part_count(j->options->count, ml_grid_dp(grid), 0));
    double sums[] = {(double)j->ids.count, (double)j->report->cut};
    ml_grid_sum_double(grid, ML_GROUP_DP, sums, 2);
    j->report->tokens = (int64_t)sums[0];
    j->report->cut = (int64_t)sums[1];
    j->report->width = ml_model_hidden_width(j->session.spec);
}

static ml_status open_file(job *j)
{
    const ml_embed_options *o = j->options;
    const vector_attribute attributes[] = {
        {"format", "mpilora-embeddings", 0},
        {"base_sha256", ml_base_content_hash(j->session.base), 0},
        {"adapter_sha256", o->adapter ? j->adapter.hash : "", 0},
        {"pooling", ml_pooling_words[j->report->pooling - ML_POOLING_MEAN], 0},
        {"normalised", NULL, j->report->normalised},
        {"max_len", NULL, j->report->max_len},
        {NULL, NULL, 0}};
    if (ml_grid_rank(j->session.grid) != 0) return ML_OK;
    return vector_file_create(&j->file, o->out, o->count, j->report->width, attributes);
}

static ml_status build(job *j)
{
    ml_status st = ML_OK;
    session *s = &j->session;
    bool adapted = j->options->adapter != NULL;
    if (adapted) ML_TRY(ml_grid_agree_on_file("the adapter", j->options->adapter, j->adapter.hash));
    ML_TRY(ml_session_attach_adapter(s, adapted ? &j->adapter : NULL));
    ML_TRY(ml_session_build(s, false, NULL, NULL));
    if (adapted) {
        ML_TRY(ml_grid_agree(s->grid, ml_peft_load(s->peft, &j->adapter)));
        ml_peft_after_update(s->peft);
    }
    ML_TRY(ml_grid_agree(s->grid, allocate(j)));
done:
    return st;
}

static ml_status finish(job *j)
{
    ml_status st = j->file ? vector_file_finish(j->file) : ML_OK;
    j->file = NULL;
    return ml_grid_agree(j->session.grid, st);
}

ml_status ml_embed_run(const ml_embed_options *o, ml_embed_report *report)
{
    ml_status st = ML_OK;
    job j = {.options = o, .report = report};
    session *s = &j.session;
    ml_run_config config = {.base = (char *)(uintptr_t)o->base,
                            .batch = {1, 1},
                            .parallel = {o->tp, 1, 1},
                            .precision = o->precision};
    *report = (ml_embed_report){0};
    if (ml_grid_world_size() % (int)o->tp != 0)
        return ml_fail(ML_USAGE, "--tp: %" PRId64 " does not divide the %d ranks", o->tp,
                       ml_grid_world_size());
    ML_TRY(ml_session_open(s, &config, false));
    ML_TRY(ml_grid_agree(s->grid, prepare(&j)));
    if (j.prompt.length && ml_grid_rank(s->grid) == 0)
        ml_log("every text begins with the prompt of the base's directory, \"%s\"", j.prompt.data);
    agree_on_sizes(&j);
    ML_TRY(build(&j));
    ML_TRY(ml_grid_agree(s->grid, open_file(&j)));
    double start = ml_seconds();
    ML_TRY(embed(&j));
    report->seconds = ml_seconds() - start;
    ml_grid_max_double(s->grid, ML_GROUP_WORLD, &report->seconds, 1);
    ML_TRY(finish(&j));
done:
    vector_file_discard(j.file);
    ml_memory_free(j.vectors);
    ml_memory_free(j.hidden);
    ml_memory_free(j.type);
    ml_memory_free(j.sequence);
    ml_memory_free(j.row);
    ml_memory_free(j.start);
    ml_ids_destroy(&j.ids);
    ml_text_destroy(&j.prompt);
    ml_text_destroy(&j.whole);
    ml_tokenizer_destroy(j.tokenizer);
    ml_adapter_destroy(&j.adapter);
    ml_session_close(s);
    return st;
}
