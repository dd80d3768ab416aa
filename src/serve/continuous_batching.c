/* Many continuations by continuous batching: requests wait in the order of their prompts, prompts
 * that begin alike go through the model together, then every request's rows take one token a pass.
 * Where a search ends, its place is taken by a waiting request.
 *
 * On the stages of a pipeline there are as many groups of requests, each with a pass of its own:
 * while one is in one stage the others are in the others. A stage takes the groups in turn: it
 * looks at the logits of the group's last pass, which the last stage has told meanwhile, and begins
 * the next. All stages go through the same turns and decide the same. A turn waits for what earlier
 * turns send alone, the stream of the stage before excepted, which comes in the same turn from a
 * stage that does not wait for this one: so none waits in a circle. */
#include <inttypes.h>
#include <stdlib.h>

#include "mpilora/cache.h"
#include "mpilora/generate.h"
#include "mpilora/stages.h"
#include "serve/search.h"

/* A request under way; its rows' slots are place·beams …. */
typedef struct running {
    search search;
    ml_request *request;
    int64_t place;
    int64_t *slot; /* [beams] of each row */
} running;

typedef enum pass_kind { PASS_NONE, PASS_PROMPTS, PASS_TOKENS } pass_kind;

/* Requests whose rows take a pass together. */
typedef struct group {
    int number;
    int64_t places;      /* of the generator's, at most */
    running **under_way; /* [places] in the order in which they began */
    int64_t running;
    pass_kind pass;      /* whose logits were not looked at yet */
    int64_t first, rows; /* of it: the first prompt's place in under_way; rows of logits */
    float *logits;       /* [places · beams, V] */
} group;

typedef struct generator {
    ml_model *model;
    const ml_generation *options;
    const ml_router *router;
    int64_t beams, V, places;
    ml_request **waiting; /* [count] in the order in which they begin */
    ml_request *first;    /* of the caller's array */
    int64_t count, next;
    ml_cache *cache;
    int groups;
    group *group;
    bool *taken;      /* [places] */
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

static void end_request(running *r)
{
    search_destroy(&r->search);
    ml_memory_free(r->slot);
    ml_memory_free(r);
}

/* What was told to a stage has to be taken, also where it is of no use any more. */
static void take_logits(const generator *g, group *own)
{
    if (own->pass != PASS_NONE) ml_model_take_logits(g->model, own->number, own->logits, own->rows);
}

static void destroy_group(const generator *g, group *own)
{
    take_logits(g, own);
    for (int64_t i = 0; own->under_way && i < own->running; i++) end_request(own->under_way[i]);
    ml_memory_free(own->under_way);
    ml_memory_free(own->logits);
}

static void destroy(generator *g)
{
    for (int k = 0; g->group && k < g->groups; k++) destroy_group(g, &g->group[k]);
    ml_cache_destroy(g->cache);
    void *const all[] = {g->waiting, g->group, g->taken,  g->order, g->slot,
                         g->adapter, g->start, g->shared, g->row,   g->token};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) ml_memory_free(all[i]);
}

static ml_status create_group(const generator *g, int number)
{
    ml_status st = ML_OK;
    group *own = &g->group[number];
    *own = (group){.number = number, .places = ml_part_count(g->places, g->groups, number)};
    ML_NEW(own->under_way, own->places, ML_MEM_OTHER, "requests");
    ML_NEW(own->logits, own->places * g->beams * g->V, ML_MEM_WORKSPACE, "logits");
done:
    return st;
}

static ml_status create(generator *g)
{
    ml_status st = ML_OK;
    int64_t rows = g->places * g->beams, longest = longest_prompt(g->count, g->first),
            new_tokens = g->options->max_new;
    ML_TRY(ml_cache_create(&g->cache, g->model, rows, longest + new_tokens,
                           g->places * (longest + g->beams * new_tokens)));
    ML_NEW(g->waiting, g->count, ML_MEM_OTHER, "requests");
    ML_NEW(g->taken, g->places, ML_MEM_OTHER, "requests");
    ML_NEW(g->group, g->groups, ML_MEM_OTHER, "requests");
    for (int k = 0; k < g->groups; k++) ML_TRY(create_group(g, k));
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

static bool may_begin(const generator *g, const group *own, const ml_request *request)
{
    if (own->running == 0 || !g->router) return true;
    return g->router->may_meet(g->router->self, own->under_way[own->running - 1]->request->adapter,
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
static int64_t pack_prompts(generator *g, const group *own)
{
    int64_t n = 0, free_places = own->places - own->running, used = 0;
    while (n < free_places && g->next + n < g->count) {
        const ml_request *request = g->waiting[g->next + n],
                         *before = n ? g->waiting[g->next + n - 1] : NULL;
        if (before ? before->adapter != request->adapter : !may_begin(g, own, request)) break;
        int64_t shared =
                    before ? ml_min(common_beginning(ml_model_get_spec(g->model), before, request),
                                    request->length - 1)
                           : 0,
                rest = request->length - shared;
        if (used + rest > ml_model_reserved_tokens(g->model)) break;
        g->start[n] = used;
        g->shared[n] = shared;
        memcpy(g->token + used, request->prompt + shared, (size_t)rest * sizeof *g->token);
        used += rest;
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

static ml_status start_search(generator *g, group *own, ml_request *request)
{
    ml_status st = ML_OK;
    running *r;
    ML_NEW(r, 1, ML_MEM_OTHER, "a request");
    own->under_way[own->running++] = r;
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

/* A pass of prompts; none where no request can begin. Few places at a time are not worth one. */
static ml_status begin_prompts(generator *g, group *own)
{
    ml_status st = ML_OK;
    int64_t first = own->running, spare = own->places - own->running;
    if (g->next == g->count || (own->running > 0 && spare < (own->places + 3) / 4)) return ML_OK;
    int64_t n = pack_prompts(g, own);
    if (n == 0) return ML_OK;
    for (int64_t i = 0; i < n; i++) {
        ML_TRY(start_search(g, own, g->waiting[g->next + i]));
        g->slot[i] = own->under_way[first + i]->slot[0];
    }
    const ml_batch batch = {.tokens = g->start[n],
                            .token = g->token,
                            .sequences = {.count = n, .start = g->start, .shared = g->shared},
                            .rows = n,
                            .row = g->row};
    route(g, 1, &g->waiting[g->next]->adapter);
    ml_model_prefill(g->model, g->cache, g->slot, &batch, own->logits);
    g->next += n;
    own->pass = PASS_PROMPTS;
    own->first = first;
    own->rows = n;
done:
    return st;
}

/* ---- requests that go on and end ----------------------------------------------------------- */

/* A pass of one token of each row. */
static void begin_tokens(const generator *g, group *own)
{
    int64_t rows = 0;
    for (int64_t i = 0; i < own->running; i++) {
        const running *r = own->under_way[i];
        for (int64_t b = 0; b < r->search.rows; b++, rows++) {
            g->slot[rows] = r->slot[b];
            g->token[rows] = r->search.token[b];
            g->adapter[rows] = r->request->adapter;
        }
    }
    route(g, rows, g->adapter);
    ml_model_decode(g->model, g->cache, rows, g->slot, g->token, own->logits);
    own->pass = PASS_TOKENS;
    own->first = 0;
    own->rows = rows;
}

static void end_finished(const generator *g, group *own)
{
    int64_t saved = 0;
    for (int64_t i = 0; i < own->running; i++) {
        running *r = own->under_way[i];
        if (r->search.rows > 0) {
            own->under_way[saved++] = r;
            continue;
        }
        r->request->count = search_result(&r->search, r->request->out);
        for (int64_t b = 0; b < g->beams; b++) ml_cache_clear(g->cache, r->place * g->beams + b);
        g->taken[r->place] = false;
        end_request(r);
    }
    own->running = saved;
}

/* Each search gets its rows of the last pass's logits. */
static ml_status look_at_logits(generator *g, group *own)
{
    ml_status st = ML_OK;
    float *logits = own->logits;
    if (own->pass == PASS_NONE) return ML_OK;
    take_logits(g, own);
    own->pass = PASS_NONE;
    for (int64_t i = own->first; i < own->running; i++) {
        int64_t taken = own->under_way[i]->search.rows;
        ML_TRY(advance(g, own->under_way[i], logits));
        logits += taken * g->V;
    }
    end_finished(g, own);
done:
    return st;
}

static ml_status take_turn(generator *g, group *own)
{
    const ml_generation *o = g->options;
    ml_status st = o->may_go_on ? o->may_go_on(o->self) : ML_OK;
    if (st != ML_OK) return st;
    ML_TRY(look_at_logits(g, own));
    ML_TRY(begin_prompts(g, own));
    if (own->pass == PASS_NONE && own->running > 0) begin_tokens(g, own);
    if (own->pass != PASS_NONE) ml_model_tell_logits(g->model, own->number, own->logits, own->rows);
done:
    return st;
}

/* Until no group has a pass under way: then no request waits either, since a group with nothing
 * under way begins some. */
static ml_status take_turns(generator *g)
{
    bool busy = true;
    while (busy) {
        busy = false;
        for (int k = 0; k < g->groups; k++) {
            ml_status st = take_turn(g, &g->group[k]);
            if (st != ML_OK) return st;
            busy = busy || g->group[k].pass != PASS_NONE;
        }
    }
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
    g.groups = (int)ml_min(ml_model_stages(model), g.places);
    for (int64_t i = 0; i < count; i++) requests[i].count = 0;
    if (count == 0 || options->max_new == 0) return ML_OK;
    ML_TRY(check(model, options, count, requests));
    ML_TRY(create(&g));
    ML_TRY(take_turns(&g));
done:
    destroy(&g);
    return st;
}
