/* Many continuations by continuous batching: requests wait in the order of their prompts, prompts
 * that begin alike go through the model together, then every request's rows take one token a pass.
 * Where a search ends, its place is taken by a waiting request. */
#include <inttypes.h>
#include <stdlib.h>

#include "mpilora/cache.h"
#include "mpilora/generate.h"
#include "serve/search.h"

/* A request under way; its rows' slots are place·beams …. */
typedef struct running {
    search search;
    ml_request *request;
    int64_t place;
    int64_t *slot; /* [beams] of each row */
} running;

typedef struct generator {
    ml_model *model;
    const ml_generation *options;
    const ml_router *router;
    int64_t beams, V, places;
    ml_request **waiting; /* [count] in the order in which they begin */
    ml_request *first;    /* of the caller's array */
    int64_t count, next;
    ml_cache *cache;
    running **under_way; /* [places] in the order in which they began */
    int64_t running;
    bool *taken;      /* [places] */
    float *logits;    /* [places · beams, V] */
    candidate *order; /* of a search */
    int64_t *slot, *adapter, *start, *shared, *row;
    int32_t *token; /* of a pass */
} generator;

/* ---- before and after ---------------------------------------------------------------------- */

/* Prompts of one adapter that begin alike next to each other, equal requests as they came. */
static int by_prompt(const void *left, const void *right)
{
    const ml_request *a = *(const ml_request *const *)left, *b = *(const ml_request *const *)right;
    if (a->adapter != b->adapter) return a->adapter < b->adapter ? -1 : 1;
    for (int64_t i = 0; i < ml_min(a->length, b->length); i++)
        if (a->prompt[i] != b->prompt[i]) return a->prompt[i] < b->prompt[i] ? -1 : 1;
    if (a->length != b->length) return a->length < b->length ? -1 : 1;
    return a < b ? -1 : a > b;
}

static int64_t longest_prompt(int64_t count, const ml_request *requests)
{
    int64_t longest = 0;
    for (int64_t i = 0; i < count; i++) longest = ml_max(longest, requests[i].length);
    return longest;
}

int64_t ml_generation_tokens(const ml_generation *o, int64_t count, const ml_request *requests,
                             int64_t together)
{
    enum { A_PASS = 256 }; /* products of so many rows are about as fast as they get */
    int64_t all = 0;
    for (int64_t i = 0; i < count; i++) all += requests[i].length;
    return ml_max(ml_min(A_PASS, all), ml_max(longest_prompt(count, requests) + o->max_new,
                                              ml_min(count, together) * o->beams));
}

static void destroy(generator *g)
{
    for (int64_t i = 0; g->under_way && i < g->running; i++) {
        search_destroy(&g->under_way[i]->search);
        ml_memory_free(g->under_way[i]->slot);
        ml_memory_free(g->under_way[i]);
    }
    ml_cache_destroy(g->cache);
    void *const all[] = {g->waiting, g->under_way, g->taken,  g->logits, g->order, g->slot,
                         g->adapter, g->start,     g->shared, g->row,    g->token};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) ml_memory_free(all[i]);
}

static ml_status create(generator *g)
{
    ml_status st = ML_OK;
    int64_t rows = g->places * g->beams, longest = longest_prompt(g->count, g->first),
            new_tokens = g->options->max_new;
    ML_TRY(ml_cache_create(&g->cache, g->model, rows, longest + new_tokens,
                           g->places * (longest + g->beams * new_tokens)));
    ML_NEW(g->waiting, g->count, ML_MEM_OTHER, "requests");
    ML_NEW(g->under_way, g->places, ML_MEM_OTHER, "requests");
    ML_NEW(g->taken, g->places, ML_MEM_OTHER, "requests");
    ML_NEW(g->logits, rows * g->V, ML_MEM_WORKSPACE, "logits");
    ML_NEW(g->order, search_candidates(g->options, g->V), ML_MEM_WORKSPACE, "candidates");
    ML_NEW(g->slot, rows, ML_MEM_OTHER, "a pass");
    ML_NEW(g->adapter, rows, ML_MEM_OTHER, "a pass");
    ML_NEW(g->start, g->places + 1, ML_MEM_OTHER, "a pass");
    ML_NEW(g->shared, g->places, ML_MEM_OTHER, "a pass");
    ML_NEW(g->row, g->places, ML_MEM_OTHER, "a pass");
    ML_NEW(g->token, ml_max(ml_model_reserved_tokens(g->model), rows), ML_MEM_OTHER, "a pass");
    for (int64_t i = 0; i < g->count; i++) g->waiting[i] = &g->first[i];
    qsort(g->waiting, (size_t)g->count, sizeof *g->waiting, by_prompt);
done:
    return st;
}

static ml_status check(const ml_model *model, const ml_generation *o, int64_t count,
                       const ml_request *requests)
{
    const ml_model_spec *spec = ml_model_get_spec(model);
    int64_t context = spec->context;
    for (int64_t i = 0; i < count; i++) {
        int64_t length = requests[i].length;
        if (!ml_model_is_beyond(spec, length) && ml_model_is_beyond(spec, length + o->max_new))
            return ml_fail(ML_USAGE,
                           "generation: prompt %" PRId64 " has %" PRId64 " tokens, with %" PRId64
                           " new ones it passes longrope's original context of %" PRId64
                           ", where every position turns in another way; ask for fewer",
                           i + 1, length, o->max_new, spec->rope_scaling.original_context);
        if (length + o->max_new > context)
            return ml_fail(ML_USAGE,
                           "generation: prompt %" PRId64 " has %" PRId64 " tokens, with %" PRId64
                           " new ones more than the context of %" PRId64,
                           i + 1, length, o->max_new, context);
    }
    return ML_OK;
}

/* ---- requests that begin ------------------------------------------------------------------- */

static void route(const generator *g, int64_t count, const int64_t *adapter)
{
    if (g->router) g->router->route(g->router->self, count, adapter);
}

static bool may_begin(const generator *g, const ml_request *request)
{
    if (g->running == 0 || !g->router) return true;
    return g->router->may_meet(g->router->self, g->under_way[g->running - 1]->request->adapter,
                               request->adapter);
}

static int64_t common_beginning(const ml_model_spec *spec, const ml_request *a, const ml_request *b)
{
    int64_t least = ml_min(a->length, b->length), n = 0;
    if (ml_model_is_beyond(spec, a->length) != ml_model_is_beyond(spec, b->length)) return 0;
    while (n < least && a->prompt[n] == b->prompt[n]) n++;
    return n;
}

/* How many of those that wait go through the model in one pass from now on: of one adapter, as
 * many as there is room for. Their sequences are described. */
static int64_t pack_prompts(generator *g)
{
    int64_t n = 0, free_places = g->places - g->running, used = 0;
    while (n < free_places && g->next + n < g->count) {
        const ml_request *request = g->waiting[g->next + n],
                         *before = n ? g->waiting[g->next + n - 1] : NULL;
        if (before ? before->adapter != request->adapter : !may_begin(g, request)) break;
        int64_t shared =
                    before ? ml_min(common_beginning(ml_model_get_spec(g->model), before, request),
                                    request->length - 1)
                           : 0,
                own = request->length - shared;
        if (used + own > ml_model_reserved_tokens(g->model)) break;
        g->start[n] = used;
        g->shared[n] = shared;
        memcpy(g->token + used, request->prompt + shared, (size_t)own * sizeof *g->token);
        used += own;
        g->row[n++] = used - 1;
    }
    g->start[n] = used;
    return n;
}

static int64_t take_place(generator *g)
{
    int64_t place = 0;
    while (g->taken[place]) place++;
    g->taken[place] = true;
    return place;
}

static ml_status start_search(generator *g, ml_request *request)
{
    ml_status st = ML_OK;
    running *r;
    ML_NEW(r, 1, ML_MEM_OTHER, "a request");
    g->under_way[g->running++] = r;
    r->request = request;
    ML_NEW(r->slot, g->beams, ML_MEM_OTHER, "a request");
    r->place = take_place(g);
    for (int64_t i = 0; i < g->beams; i++) r->slot[i] = r->place * g->beams + i;
    ML_TRY(search_create(&r->search, g->options, g->V, request->prompt, request->length,
                         request->number));
done:
    return st;
}

/* Every row goes on from its parent: the first child takes the parent's slot, further ones share
 * what it holds in slots of rows that have none. */
static void follow_parents(generator *g, running *r)
{
    int64_t rows = r->search.rows, *slot = r->slot, B = g->beams;
    const int64_t *parent = r->search.parent;
    int64_t next[B];
    bool inherited[B];
    if (B == 1) return;
    memset(inherited, 0, sizeof inherited);
    for (int64_t i = 0; i < rows; i++) {
        next[i] = inherited[parent[i]] ? -1 : slot[parent[i]];
        inherited[parent[i]] = true;
    }
    int64_t spare = 0;
    for (int64_t i = 0; i < rows; i++) {
        if (next[i] >= 0) continue;
        while (inherited[spare]) spare++;
        next[i] = slot[spare++];
        ml_cache_share(g->cache, slot[parent[i]], next[i],
                       ml_cache_length(g->cache, slot[parent[i]]));
    }
    memcpy(slot, next, (size_t)rows * sizeof *slot);
}

static ml_status advance(generator *g, running *r, float *logits)
{
    ml_status st = search_advance(&r->search, logits, g->order);
    if (st == ML_OK && r->search.rows > 0) follow_parents(g, r);
    return st;
}

/* Prompts of one pass. *began: how many. */
static ml_status begin_some(generator *g, int64_t *began)
{
    ml_status st = ML_OK;
    int64_t n = pack_prompts(g), first = g->running;
    *began = n;
    if (n == 0) return ML_OK;
    for (int64_t i = 0; i < n; i++) {
        ML_TRY(start_search(g, g->waiting[g->next + i]));
        g->slot[i] = g->under_way[first + i]->slot[0];
    }
    const ml_batch batch = {.tokens = g->start[n],
                            .token = g->token,
                            .sequences = {n, g->start, g->shared},
                            .rows = n,
                            .row = g->row};
    route(g, 1, &g->waiting[g->next]->adapter);
    ml_model_prefill(g->model, g->cache, g->slot, &batch, g->logits);
    for (int64_t i = 0; i < n; i++)
        ML_TRY(advance(g, g->under_way[first + i], g->logits + i * g->V));
    g->next += n;
done:
    return st;
}

/* ---- requests that go on and end ----------------------------------------------------------- */

static void end_finished(generator *g)
{
    int64_t saved = 0;
    for (int64_t i = 0; i < g->running; i++) {
        running *r = g->under_way[i];
        if (r->search.rows > 0) {
            g->under_way[saved++] = r;
            continue;
        }
        r->request->count = search_result(&r->search, r->request->out);
        for (int64_t b = 0; b < g->beams; b++) ml_cache_clear(g->cache, r->place * g->beams + b);
        g->taken[r->place] = false;
        search_destroy(&r->search);
        ml_memory_free(r->slot);
        ml_memory_free(r);
    }
    g->running = saved;
}

/* Few places at a time are not worth a pass of their own. */
static ml_status begin(generator *g)
{
    int64_t began = 1;
    while (began > 0 && g->next < g->count &&
           (g->running == 0 || g->places - g->running >= (g->places + 3) / 4)) {
        ml_status st = begin_some(g, &began);
        if (st != ML_OK) return st;
        end_finished(g);
    }
    return ML_OK;
}

static ml_status one_token(generator *g)
{
    int64_t rows = 0;
    for (int64_t i = 0; i < g->running; i++) {
        const running *r = g->under_way[i];
        for (int64_t b = 0; b < r->search.rows; b++, rows++) {
            g->slot[rows] = r->slot[b];
            g->token[rows] = r->search.token[b];
            g->adapter[rows] = r->request->adapter;
        }
    }
    route(g, rows, g->adapter);
    ml_model_decode(g->model, g->cache, rows, g->slot, g->token, g->logits);
    float *logits = g->logits;
    for (int64_t i = 0; i < g->running; i++) {
        int64_t taken = g->under_way[i]->search.rows;
        ml_status st = advance(g, g->under_way[i], logits);
        if (st != ML_OK) return st;
        logits += taken * g->V;
    }
    end_finished(g);
    return ML_OK;
}

ml_status ml_generate_tokens(ml_model *model, const ml_generation *options, int64_t count,
                             ml_request *requests, int64_t together, const ml_router *router)
{
    ml_status st = ML_OK;
    generator g = {.model = model,
                   .options = options,
                   .router = router,
                   .beams = options->beams,
                   .V = ml_model_get_spec(model)->vocab,
                   .places = ml_min(count, together),
                   .first = requests,
                   .count = count};
    for (int64_t i = 0; i < count; i++) requests[i].count = 0;
    if (count == 0 || options->max_new == 0) return ML_OK;
    ML_TRY(check(model, options, count, requests));
    ML_TRY(create(&g));
    while (g.next < count || g.running > 0) {
        ML_TRY(begin(&g));
        if (g.running > 0) ML_TRY(one_token(&g));
    }
done:
    destroy(&g);
    return st;
}
