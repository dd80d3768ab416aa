/* The search for one continuation: greedy and sampling have one row, a beam search has as many
 * rows as beams and keeps the finished hypotheses sorted by their length-normalised scores, as
 * Hugging Face's BeamSearchScorer does. */
#include "serve/search.h"

#include <math.h>

void search_destroy(search *s)
{
    void *const all[] = {s->token,           s->parent,       s->score,    s->base,
                         s->sequence,        s->text,         s->new_text, s->finished_score,
                         s->finished_length, s->finished_text};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) ml_memory_free(all[i]);
    *s = (search){0};
}

ml_status search_create(search *s, const ml_generation *o, int64_t V, const int32_t *prompt,
                        int64_t length, int64_t number)
{
    ml_status st = ML_OK;
    int64_t B = o->beams, room = B * ml_max(1, o->max_new);
    *s = (search){
        .options = o, .V = V, .number = number, .prompt = length, .rows = o->max_new > 0 ? 1 : 0};
    ML_NEW(s->token, B, ML_MEM_OTHER, "beams");
    ML_NEW(s->parent, B, ML_MEM_OTHER, "beams");
    ML_NEW(s->score, B, ML_MEM_OTHER, "beams");
    ML_NEW(s->base, B, ML_MEM_OTHER, "beams");
    ML_NEW(s->sequence, length + o->max_new, ML_MEM_OTHER, "a sequence");
    memcpy(s->sequence, prompt, (size_t)length * sizeof *prompt);
    ML_NEW(s->text, room, ML_MEM_OTHER, "beams");
    ML_NEW(s->new_text, room, ML_MEM_OTHER, "beams");
    ML_NEW(s->finished_score, B, ML_MEM_OTHER, "beams");
    ML_NEW(s->finished_length, B, ML_MEM_OTHER, "beams");
    ML_NEW(s->finished_text, room, ML_MEM_OTHER, "beams");
done:
    return st;
}

/* So many candidates have as many among them as there are beams that do not end. */
static int64_t beam_candidates(const ml_generation *o) { return ml_max(2, 1 + o->ends) * o->beams; }

int64_t search_candidates(const ml_generation *o, int64_t V)
{
    return ml_max(V, beam_candidates(o));
}

static bool ends(const ml_generation *o, int32_t token)
{
    for (int64_t i = 0; i < o->ends; i++)
        if (o->end[i] == token) return true;
    return false;
}

static ml_status check_logits(const search *s, const float *logits)
{
    for (int64_t i = 0; i < s->rows * s->V; i++)
        if (!isfinite(logits[i]))
            return ml_fail(
                ML_NUMERIC,
                "generation: a logit is not finite; the base or the adapter holds NaN or Inf");
    return ML_OK;
}

/* What would repeat too much after the prompt and row `row`'s continuation. */
static void forbid(search *s, int64_t row, float *logits)
{
    if (s->options->no_repeat_ngram == 0) return;
    memcpy(s->sequence + s->prompt, s->text + row * s->options->max_new,
           (size_t)s->length * sizeof *s->text);
    forbid_repeats(logits + row * s->V, s->sequence, s->prompt + s->length,
                   s->options->no_repeat_ngram);
}

/* ---- one row ------------------------------------------------------------------------------- */

static void advance_one(search *s, float *logits, candidate *order)
{
    const ml_generation *o = s->options;
    forbid(s, 0, logits);
    int32_t token = o->temperature > 0.0
                        ? sample_token(logits, s->V, o, s->number, s->length, order)
                        : greedy_token(logits, s->V);
    if (ends(o, token)) {
        s->rows = 0;
        return;
    }
    s->text[s->length++] = s->token[0] = token;
    if (s->length == o->max_new) s->rows = 0;
}

/* ---- beams --------------------------------------------------------------------------------- */

static double penalised(const search *s, double sum, int64_t length)
{
    return sum / pow((double)length, s->options->length_penalty);
}

static void keep_finished(search *s, double sum, int64_t length, const int32_t *text,
                          int64_t tokens)
{
    double score = penalised(s, sum, length);
    int64_t at = s->finished, width = s->options->max_new, B = s->options->beams;
    if (at == B && score <= s->finished_score[at - 1]) return;
    if (at == B) at--;
    for (; at > 0 && score > s->finished_score[at - 1]; at--) {
        s->finished_score[at] = s->finished_score[at - 1];
        s->finished_length[at] = s->finished_length[at - 1];
        memcpy(s->finished_text + at * width, s->finished_text + (at - 1) * width,
               (size_t)width * sizeof *text);
    }
    s->finished_score[at] = score;
    s->finished_length[at] = tokens;
    memcpy(s->finished_text + at * width, text, (size_t)tokens * sizeof *text);
    if (s->finished < B) s->finished++;
}

/* The next beams from the best candidates; those that end go to the finished ones where they are
 * among the first B. */
static void choose_beams(search *s, const candidate *order)
{
    int64_t B = s->options->beams, width = s->options->max_new, length = s->length, chosen = 0;
    double score[B];
    bool last = length + 1 == width;
    for (int64_t c = 0; c < beam_candidates(s->options) && chosen < B; c++) {
        const candidate *from = &order[c];
        const int32_t *text = s->text + from->row * width;
        if (ends(s->options, from->token)) {
            if (c < B) keep_finished(s, from->score, length + 1, text, length);
            continue;
        }
        int32_t *to = s->new_text + chosen * width;
        memcpy(to, text, (size_t)length * sizeof *to);
        to[length] = s->token[chosen] = from->token;
        if (last && c < B) keep_finished(s, from->score, length + 1, to, length + 1);
        s->parent[chosen] = from->row;
        score[chosen++] = from->score;
    }
    memcpy(s->score, score, sizeof score);
    int32_t *swap = s->text;
    s->text = s->new_text;
    s->new_text = swap;
}

/* No running beam can still beat the worst finished one. */
static bool is_settled(const search *s)
{
    int64_t B = s->options->beams;
    return s->finished == B && s->finished_score[B - 1] >= penalised(s, s->score[0], s->length);
}

static void advance_beams(search *s, float *logits, candidate *order)
{
    int64_t B = s->options->beams;
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < s->rows; row++)
        s->base[row] = s->score[row] - log_sum_exp(logits + row * s->V, s->V);
    for (int64_t row = 0; row < s->rows; row++) forbid(s, row, logits);
    best_candidates(logits, s->rows, s->V, s->base, beam_candidates(s->options), order);
    choose_beams(s, order);
    s->length++;
    s->rows = is_settled(s) || s->length == s->options->max_new ? 0 : B;
}

/* ---- both ---------------------------------------------------------------------------------- */

ml_status search_advance(search *s, float *logits, candidate *order)
{
    ml_status st = check_logits(s, logits);
    if (st != ML_OK) return st;
    if (s->options->beams > 1)
        advance_beams(s, logits, order);
    else
        advance_one(s, logits, order);
    return ML_OK;
}

int64_t search_result(const search *s, int32_t *out)
{
    bool beams = s->options->beams > 1;
    int64_t count = !beams ? s->length : s->finished ? s->finished_length[0] : 0;
    memcpy(out, beams ? s->finished_text : s->text, (size_t)count * sizeof *out);
    return count;
}
