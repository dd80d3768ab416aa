/* A layer's exchange cuts a pass into the parts of its tenants, and calls each one's hook with its
 * part. What hooks keep from forward to backward lies where the part begins, with the distance of
 * the tenant that keeps most: a pass is cut alike both ways. Where a hook gives another dy back
 * (one that scales the output, or goes behind it), those of all parts are put together at the
 * beginning of the scratch; hooks have what is behind that. */
#include "peft/exchange.h"

/* The hook of one linear layer. */
typedef struct place {
    const ml_exchange *exchange;
    ml_linear *layer;
    ml_linear_hook *hook; /* [tenants] */
    int64_t dy;           /* of the scratch, what a row of another dy takes; 0: there is none */
} place;

struct ml_exchange {
    ml_model *model;
    int64_t tenants, places;
    place *place;
    ml_linear_hook *hooks;            /* of all places */
    const int64_t *token, *predicted; /* NULL: all rows are `all`'s */
    int64_t all;
};

/* ---- rows on their way --------------------------------------------------------------------- */

/* Rows of a pass that have one owner; start with count 0. */
typedef struct part {
    int64_t first, count, owner;
} part;

static bool next_part(const ml_exchange *e, const ml_pass *pass, part *p)
{
    p->first += p->count;
    if (p->first == pass->tokens) return false;
    if (!e->token) {
        *p = (part){0, pass->tokens, e->all};
        return true;
    }
    const int64_t *owner = (pass->predicted ? e->predicted : e->token) + pass->first;
    p->owner = owner[p->first];
    for (p->count = 1;
         p->first + p->count < pass->tokens && owner[p->first + p->count] == p->owner;)
        p->count++;
    return true;
}

/* The pass as the part's owner sees it. */
static ml_pass pass_of(const place *at, const ml_pass *pass, const part *p)
{
    ml_pass own = *pass;
    own.tokens = p->count;
    own.first += p->first;
    if (own.scratch) own.scratch += pass->tokens * at->dy;
    if (own.token) own.token += p->first;
    if (own.starts) own.starts += p->first;
    if (own.key_sequence) own.key_sequence += p->first;
    if (own.key_position) own.key_position += p->first;
    if (own.saved) own.saved += p->first * at->layer->hook.saved_per_token;
    return own;
}

static const ml_linear_hook *hook_of(const place *at, const part *p)
{
    return p->owner < 0 ? NULL : &at->hook[p->owner];
}

static void forward(void *self, const ml_pass *pass, const float *x, float *y)
{
    const place *at = self;
    for (part p = {0}; next_part(at->exchange, pass, &p);) {
        const ml_linear_hook *hook = hook_of(at, &p);
        const ml_pass own = pass_of(at, pass, &p);
        if (hook && hook->forward)
            hook->forward(hook->self, &own, x ? x + p.first * at->layer->in : NULL,
                          y + p.first * at->layer->out);
    }
}

static void backward(void *self, const ml_pass *pass, const float *x, const float *dy, float *dx)
{
    const place *at = self;
    int64_t in = at->layer->in;
    for (part p = {0}; next_part(at->exchange, pass, &p);) {
        const ml_linear_hook *hook = hook_of(at, &p);
        const ml_pass own = pass_of(at, pass, &p);
        if (hook && hook->backward)
            hook->backward(hook->self, &own, x ? x + p.first * in : NULL,
                           dy + p.first * at->layer->out, dx ? dx + p.first * in : NULL);
    }
}

static void after_forward(void *self, const ml_pass *pass, float *y)
{
    const place *at = self;
    for (part p = {0}; next_part(at->exchange, pass, &p);) {
        const ml_linear_hook *hook = hook_of(at, &p);
        const ml_pass own = pass_of(at, pass, &p);
        if (hook && hook->after_forward)
            hook->after_forward(hook->self, &own, y + p.first * at->layer->out);
    }
}

/* dy of all parts behind one another; those of hooks that have no such function as they are. */
static const float *give_back(const place *at, const ml_pass *pass, const float *dy, bool scaled)
{
    const int64_t out = at->layer->out;
    float *all = pass->scratch;
    for (part p = {0}; next_part(at->exchange, pass, &p);) {
        const ml_linear_hook *hook = hook_of(at, &p);
        const ml_pass own = pass_of(at, pass, &p);
        const float *(*run)(void *, const ml_pass *, const float *) = !hook ? NULL
                                                                      : scaled
                                                                          ? hook->scale_backward
                                                                          : hook->after_backward;
        const float *given = dy + p.first * out;
        float *to = all + p.first * out;
        if (run) given = run(hook->self, &own, given);
        if (given != to) memcpy(to, given, (size_t)(p.count * out) * sizeof *to);
    }
    return all;
}

static const float *scale_backward(void *self, const ml_pass *pass, const float *dy)
{
    return give_back(self, pass, dy, true);
}

static const float *after_backward(void *self, const ml_pass *pass, const float *dy)
{
    return give_back(self, pass, dy, false);
}

void ml_exchange_route(ml_exchange *e, const int64_t *token, const int64_t *predicted)
{
    e->token = token;
    e->predicted = predicted;
}

void ml_exchange_route_all(ml_exchange *e, int64_t tenant)
{
    e->token = e->predicted = NULL;
    e->all = tenant;
}

/* ---- making -------------------------------------------------------------------------------- */

ml_status ml_exchange_create(ml_exchange **out, ml_model *model, int64_t tenants)
{
    ml_status st = ML_OK;
    ml_exchange *e = NULL;
    ML_NEW(e, 1, ML_MEM_OTHER, "adapters");
    *e = (ml_exchange){
        .model = model, .tenants = tenants, .places = ml_model_linears(model), .all = -1};
    ML_NEW(e->place, e->places, ML_MEM_OTHER, "adapters");
    ML_NEW(e->hooks, tenants * e->places, ML_MEM_OTHER, "adapters");
    for (int64_t i = 0; i < e->places; i++)
        e->place[i] = (place){e, ml_model_linear(model, i), e->hooks + i * tenants, 0};
    *out = e;
    e = NULL;
done:
    ml_exchange_destroy(e);
    return st;
}

void ml_exchange_destroy(ml_exchange *e)
{
    if (!e) return;
    for (int64_t i = 0; e->place && i < e->places; i++)
        e->place[i].layer->hook = (ml_linear_hook){0};
    ml_memory_free(e->place);
    ml_memory_free(e->hooks);
    ml_memory_free(e);
}

void ml_exchange_admit(ml_exchange *e, int64_t tenant)
{
    for (int64_t i = 0; i < e->places; i++) {
        e->place[i].hook[tenant] = e->place[i].layer->hook;
        e->place[i].layer->hook = (ml_linear_hook){0};
    }
}

/* A layer that nobody adapts stays without a hook: whether one has is what backward goes by. */
void ml_exchange_install(ml_exchange *e)
{
    for (int64_t i = 0; i < e->places; i++) {
        place *at = &e->place[i];
        ml_linear_hook hook = {0};
        for (int64_t t = 0; t < e->tenants; t++) {
            const ml_linear_hook *own = &at->hook[t];
            if (own->self) hook.self = at;
            if (own->forward) hook.forward = forward;
            if (own->backward) hook.backward = backward;
            if (own->scale_backward) hook.scale_backward = scale_backward;
            if (own->after_forward) hook.after_forward = after_forward;
            if (own->after_backward) hook.after_backward = after_backward;
            hook.scaled_per_token = ml_max(hook.scaled_per_token, own->scaled_per_token);
            hook.saved_per_token = ml_max(hook.saved_per_token, own->saved_per_token);
            hook.scratch_per_token = ml_max(hook.scratch_per_token, own->scratch_per_token);
        }
        at->dy = hook.scale_backward || hook.after_backward ? at->layer->out : 0;
        hook.scratch_per_token += at->dy;
        at->layer->hook = hook;
    }
}

ml_status ml_exchange_check(const ml_exchange *e)
{
    const ml_model_spec *spec = ml_model_get_spec(e->model);
    bool shared = spec->relative_shared, adapted = false;
    for (int64_t l = 0; ml_model_is_relative(spec) && l < spec->layers; l++) {
        const ml_layer *layer = ml_model_layer(e->model, l);
        adapted = adapted || (shared ? &layer->qkv : &layer->pos)->hook.self;
    }
    if (!adapted) return ML_OK;
    return ml_fail(
        ML_USAGE,
        "runs: method.targets has %s, which project the rows of distances that the texts "
        "of all runs share in this model; take others, or train each run alone",
        shared ? "q, k or v" : "pos_q or pos_k");
}
