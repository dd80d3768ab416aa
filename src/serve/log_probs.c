/* Log-probabilities by a pass over the whole sequence, prompt and continuation, once it is there:
 * the search for it does not have to know of them. */
#include "serve/log_probs.h"

#include <math.h>

#include "serve/sample.h"

/* The sequence of a request, and which of its tokens are scored. */
typedef struct pass {
    log_probs *out;
    int32_t *token;    /* [length] */
    int64_t *row;      /* [rows] the token before each */
    const int32_t *at; /* [rows] */
    int64_t length, rows;
    float *value; /* of at[0] */
    int64_t V, stride;
    candidate *best; /* [top] */
} pass;

/* Virtual tokens, which are negative, are not scored, but stand before those that are. */
static bool is_scored(const log_probs *p, const ml_request *request, int64_t at)
{
    return at >= request->length || (p->echo && request->prompt[at] >= 0);
}

static ml_status lay_out(log_probs *p, const requests *r)
{
    ml_status st = ML_OK;
    ML_NEW(p->start, r->count + 1, ML_MEM_OTHER, "log-probabilities");
    for (int64_t i = 0; i < r->count; i++) {
        const ml_request *request = &r->request[i];
        p->start[i + 1] = p->start[i];
        for (int64_t t = 0; t < request->length + request->count; t++)
            p->start[i + 1] += is_scored(p, request, t);
    }
    ML_NEW(p->at, p->start[r->count], ML_MEM_OTHER, "log-probabilities");
    ML_NEW(p->value, p->start[r->count] * (1 + 2 * p->top), ML_MEM_OTHER, "log-probabilities");
    for (int64_t i = 0, n = 0; i < r->count; i++)
        for (int64_t t = 0; t < r->request[i].length + r->request[i].count; t++)
            if (is_scored(p, &r->request[i], t)) p->at[n++] = (int32_t)t;
done:
    return st;
}

static void take(void *self, int64_t first, int64_t count, const float *logits)
{
    pass *s = self;
    for (int64_t i = 0; i < count; i++) {
        const float *row = logits + i * s->V;
        double whole = log_sum_exp(row, s->V), none = 0.0;
        float *to = s->value + (first + i) * s->stride;
        to[0] = (float)((double)row[s->token[s->at[first + i]]] - whole);
        if (s->out->top > 0) best_candidates(row, 1, s->V, &none, s->out->top, s->best);
        for (int64_t n = 0; n < s->out->top; n++) {
            to[1 + 2 * n] = (float)s->best[n].token; /* exact below 2^24 */
            to[2 + 2 * n] = (float)(s->best[n].score - whole);
        }
    }
}

static void score_request(pass *s, const requests *r, int64_t i, ml_model *model, float *room,
                          const ml_router *router)
{
    const ml_request *request = &r->request[i];
    const log_probs *p = s->out;
    int64_t first = p->start[i], start[2] = {0, request->length + request->count - 1};
    memcpy(s->token, request->prompt, (size_t)request->length * sizeof *s->token);
    memcpy(s->token + request->length, request->out, (size_t)request->count * sizeof *s->token);
    if (first < p->start[i + 1] && p->at[first] == 0) first++; /* nothing stands before it */
    s->at = p->at + first;
    s->value = p->value + first * s->stride;
    s->rows = p->start[i + 1] - first;
    if (s->rows == 0) return;
    for (int64_t n = 0; n < s->rows; n++) s->row[n] = s->at[n] - 1;
    const ml_batch batch = {.tokens = start[1],
                            .token = s->token,
                            .sequences = {.count = 1, .start = start},
                            .rows = s->rows,
                            .row = s->row};
    const ml_logits_reader reader = {take, s, room};
    if (router) router->route(router->self, 1, &request->adapter);
    ml_model_logits(model, &batch, &reader);
}

ml_status log_probs_find(log_probs *p, const requests *r, const ml_grid *grid, ml_model *model,
                         const ml_router *router)
{
    ml_status st = ML_OK;
    int64_t dp = ml_grid_dp(grid), place = ml_grid_dp_rank(grid), longest = 1,
            mine = ml_part_start(r->count, dp, place),
            end = mine + ml_part_count(r->count, dp, place);
    float *room = NULL;
    pass s = {.out = p, .V = ml_model_get_spec(model)->vocab, .stride = 1 + 2 * p->top};
    for (int64_t i = 0; i < r->count; i++)
        longest = ml_max(longest, r->request[i].length + r->request[i].count);
    ML_TRY(lay_out(p, r));
    ML_NEW(s.token, longest, ML_MEM_OTHER, "log-probabilities");
    ML_NEW(s.best, ml_max(1, p->top), ML_MEM_OTHER, "log-probabilities");
    ML_NEW(room, ml_model_logits_rows(model) * s.V, ML_MEM_WORKSPACE, "logits");
    ML_NEW(s.row, longest, ML_MEM_OTHER, "log-probabilities");
done:
    st = ml_grid_agree(grid, st);
    for (int64_t i = mine; i < end && st == ML_OK; i++)
        score_request(&s, r, i, model, room, router);
    if (st == ML_OK) { /* each replica knows its own, and of its stages the last */
        ml_grid_sum_float(grid, ML_GROUP_DP, p->value, p->start[r->count] * s.stride);
        ml_grid_sum_float(grid, ML_GROUP_PIPE, p->value, p->start[r->count] * s.stride);
    }
    ml_memory_free(room);
    ml_memory_free(s.token);
    ml_memory_free(s.row);
    ml_memory_free(s.best);
    return st;
}

void log_probs_destroy(log_probs *p)
{
    ml_memory_free(p->start);
    ml_memory_free(p->at);
    ml_memory_free(p->value);
    p->start = NULL;
    p->at = NULL;
    p->value = NULL;
}

int64_t log_probs_count(const log_probs *p, int64_t i) { return p->start[i + 1] - p->start[i]; }

scored_token log_probs_at(const log_probs *p, const requests *r, int64_t i, int64_t j)
{
    const ml_request *request = &r->request[i];
    int64_t at = p->at[p->start[i] + j];
    const float *value = p->value + (p->start[i] + j) * (1 + 2 * p->top);
    return (scored_token){.token = at < request->length ? request->prompt[at]
                                                        : request->out[at - request->length],
                          .known = at > 0,
                          .log_p = value[0],
                          .top = value + 1};
}
