/* Continuations of a prompt: greedy, sampling, beam search. */
#include <inttypes.h>
#include <math.h>

#include "model/sample.h"

/* Everything one continuation needs; `beams` rows. */
typedef struct generator {
    ml_model *model;
    const ml_generation *options;
    int64_t beams, V, prompt;
    ml_cache *cache;
    float *logits;     /* [beams, V] */
    candidate *order;  /* [max(V, 2·beams)] */
    int64_t *slot;     /* [beams] cache slot of each beam */
    int32_t *token;    /* [beams] the newest of each */
    double *score;     /* [beams] Σ log p */
    double *base;      /* [beams] score, less the logits' normaliser */
    int32_t *sequence; /* [prompt + max_new] the prompt, then the continuation that is looked at */
    int32_t *text;     /* [beams, max_new] continuation of each */
    int32_t *new_text; /* the same, of the next step */
    int64_t finished;  /* hypotheses that ended, best first, ≤ beams */
    double *finished_score;
    int64_t *finished_length;
    int32_t *finished_text; /* [beams, max_new] */
} generator;

static void destroy(generator *g)
{
    ml_cache_destroy(g->cache);
    void *const all[] = {g->base, g->sequence, g->logits,         g->order,           g->slot,         g->token, g->score,
                         g->text, g->new_text, g->finished_score, g->finished_length, g->finished_text};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) ml_memory_free(all[i]);
}

static ml_status create(generator *g, ml_model *model, const int32_t *text, int64_t prompt, const ml_generation *o)
{
    ml_status st = ML_OK;
    int64_t B = o->beams, room = B * ml_max(1, o->max_new);
    *g = (generator){.model = model, .options = o, .beams = B, .V = ml_model_get_spec(model)->vocab, .prompt = prompt};
    ML_TRY(ml_cache_create(&g->cache, model, B, prompt + o->max_new));
    ML_NEW(g->logits, B * g->V, ML_MEM_WORKSPACE, "logits");
    ML_NEW(g->order, ml_max(g->V, 2 * B), ML_MEM_WORKSPACE, "candidates");
    ML_NEW(g->slot, B, ML_MEM_OTHER, "beams");
    ML_NEW(g->token, B, ML_MEM_OTHER, "beams");
    ML_NEW(g->score, B, ML_MEM_OTHER, "beams");
    ML_NEW(g->base, B, ML_MEM_OTHER, "beams");
    ML_NEW(g->sequence, prompt + o->max_new, ML_MEM_OTHER, "a sequence");
    memcpy(g->sequence, text, (size_t)prompt * sizeof *text);
    ML_NEW(g->text, room, ML_MEM_OTHER, "beams");
    ML_NEW(g->new_text, room, ML_MEM_OTHER, "beams");
    ML_NEW(g->finished_score, B, ML_MEM_OTHER, "beams");
    ML_NEW(g->finished_length, B, ML_MEM_OTHER, "beams");
    ML_NEW(g->finished_text, room, ML_MEM_OTHER, "beams");
done:
    return st;
}

static ml_status check_logits(const generator *g, int64_t rows)
{
    for (int64_t i = 0; i < rows * g->V; i++)
        if (!isfinite(g->logits[i]))
            return ml_fail(ML_NUMERIC, "generation: a logit is not finite; the base or the adapter holds NaN or Inf");
    return ML_OK;
}

/* What would repeat too much after prompt and continuation. */
static void forbid(generator *g, int64_t row, const int32_t *text, int64_t length)
{
    if (g->options->no_repeat_ngram == 0) return;
    memcpy(g->sequence + g->prompt, text, (size_t)length * sizeof *text);
    forbid_repeats(g->logits + row * g->V, g->sequence, g->prompt + length, g->options->no_repeat_ngram);
}

/* ---- one sequence ---- */

static ml_status generate_one(generator *g, int32_t *out, int64_t *count)
{
    const ml_generation *o = g->options;
    const int64_t slot = 0;
    *count = 0;
    while (*count < o->max_new) {
        ml_status st = check_logits(g, 1);
        if (st != ML_OK) return st;
        forbid(g, 0, out, *count);
        int32_t token = o->temperature > 0.0 ? sample_token(g->logits, g->V, o, *count, g->order) : greedy_token(g->logits, g->V);
        if (token == o->end) break;
        out[(*count)++] = token;
        if (*count < o->max_new) ml_model_decode(g->model, g->cache, 1, &slot, &token, g->logits);
    }
    return ML_OK;
}

/* ---- beam search, as Hugging Face's with early_stopping False ---- */

static double penalised(const generator *g, double sum, int64_t length) { return sum / pow((double)length, g->options->length_penalty); }

static void keep_finished(generator *g, double sum, int64_t length, const int32_t *text, int64_t tokens)
{
    double score = penalised(g, sum, length);
    int64_t at = g->finished, width = g->options->max_new;
    if (at == g->beams && score <= g->finished_score[at - 1]) return;
    if (at == g->beams) at--;
    for (; at > 0 && score > g->finished_score[at - 1]; at--) {
        g->finished_score[at] = g->finished_score[at - 1];
        g->finished_length[at] = g->finished_length[at - 1];
        memcpy(g->finished_text + at * width, g->finished_text + (at - 1) * width, (size_t)width * sizeof *text);
    }
    g->finished_score[at] = score;
    g->finished_length[at] = tokens;
    memcpy(g->finished_text + at * width, text, (size_t)tokens * sizeof *text);
    if (g->finished < g->beams) g->finished++;
}

/* The beams' next caches: a beam's first child inherits its slot, further children copy it into slots of beams that have none. */
static void move_slots(generator *g, const int64_t *parent)
{
    int64_t B = g->beams, *slot = g->slot;
    int64_t next[B];
    bool inherited[B];
    memset(inherited, 0, sizeof inherited);
    for (int64_t i = 0; i < B; i++) {
        next[i] = inherited[parent[i]] ? -1 : slot[parent[i]];
        inherited[parent[i]] = true;
    }
    int64_t free_beam = 0;
    for (int64_t i = 0; i < B; i++) {
        if (next[i] >= 0) continue;
        while (inherited[free_beam]) free_beam++;
        next[i] = slot[free_beam++];
        ml_cache_copy(g->cache, slot[parent[i]], next[i]);
    }
    memcpy(slot, next, sizeof next);
}

/* Chooses the next beams from 2B candidates after `length` new tokens; candidates that end go to the finished ones where they are among the first B. */
static void choose_beams(generator *g, int64_t length)
{
    int64_t B = g->beams, width = g->options->max_new, chosen = 0;
    int64_t parent[B];
    double score[B];
    bool last = length + 1 == width;
    for (int64_t c = 0; c < 2 * B && chosen < B; c++) {
        const candidate *from = &g->order[c];
        const int32_t *text = g->text + from->row * width;
        if (from->token == g->options->end) {
            if (c < B) keep_finished(g, from->score, length + 1, text, length);
            continue;
        }
        int32_t *to = g->new_text + chosen * width;
        memcpy(to, text, (size_t)length * sizeof *to);
        to[length] = g->token[chosen] = from->token;
        if (last && c < B) keep_finished(g, from->score, length + 1, to, length + 1);
        parent[chosen] = from->row;
        score[chosen++] = from->score;
    }
    memcpy(g->score, score, sizeof score);
    int32_t *swap = g->text;
    g->text = g->new_text;
    g->new_text = swap;
    move_slots(g, parent);
}

/* No running beam can still beat the worst finished one. */
static bool is_settled(const generator *g, int64_t length)
{
    return g->finished == g->beams && g->finished_score[g->beams - 1] >= penalised(g, g->score[0], length);
}

static ml_status generate_beams(generator *g, int32_t *out, int64_t *count)
{
    int64_t B = g->beams;
    for (int64_t i = 0; i < B; i++) g->slot[i] = i;
    for (int64_t length = 0; length < g->options->max_new; length++) {
        int64_t rows = length == 0 ? 1 : B; /* the first step has one beam: the prompt */
        ml_status st = check_logits(g, rows);
        if (st != ML_OK) return st;
        for (int64_t row = 0; row < rows; row++) {
            g->base[row] = g->score[row] - log_sum_exp(g->logits + row * g->V, g->V);
            forbid(g, row, g->text + row * g->options->max_new, length);
        }
        best_candidates(g->logits, rows, g->V, g->base, 2 * B, g->order);
        choose_beams(g, length);
        if (is_settled(g, length + 1) || length + 1 == g->options->max_new) break;
        ml_model_decode(g->model, g->cache, B, g->slot, g->token, g->logits);
    }
    *count = g->finished ? g->finished_length[0] : 0;
    memcpy(out, g->finished_text, (size_t)*count * sizeof *out);
    return ML_OK;
}

ml_status ml_model_generate(ml_model *model, const int32_t *prompt, int64_t n, const ml_generation *options, int32_t *out, int64_t *count)
{
    ml_status st = ML_OK;
    generator g = {0};
    int64_t context = ml_model_get_spec(model)->context;
    if (n + options->max_new > context)
        return ml_fail(ML_USAGE, "generation: a prompt of %" PRId64 " tokens and %" PRId64 " new ones exceed the context of %" PRId64, n,
                       options->max_new, context);
    *count = 0;
    if (options->max_new == 0) return ML_OK;
    ML_TRY(create(&g, model, prompt, n, options));
    ml_model_prefill(model, g.cache, 0, prompt, n, g.logits);
    st = options->beams > 1 ? generate_beams(&g, out, count) : generate_one(&g, out, count);
done:
    destroy(&g);
    return st;
}
