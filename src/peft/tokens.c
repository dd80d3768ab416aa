/* Rows of the embedding or of the head that train by themselves, as PEFT's trainable_token_indices:
 * v_i for each token i of a list, in the place of W's row w_i. With δ_i = v_i − w_i, known to the
 * rank that holds the row, it enters through the layers' hooks, so the base may be shared, or in
 * blocks:
 *
 *   embedding   x_t += c·δ_i where token t is i (c the embedding's multiplier),  dv_i += c·dx_t
 *   head        y_i += x·δ_i,  dv_i += dy_iᵀ·x,  dx += dy_i·δ_i
 *
 * A tied head has the embedding's rows, so it follows. v[n, d] is whole on every rank of a tp
 * group; each finds the gradient of the rows that it holds, a partial sum. In an adapter v stands
 * with the tokens' numbers beside it, "embed.tokens" and "embed.token_ids". */
#include <inttypes.h>
#include <stdlib.h>

#include "peft/peft_private.h"

/* One of the two layers, and the tokens whose rows this rank holds of it. */
typedef struct site {
    struct tokens *tokens;
    ml_linear *layer;     /* NULL: not this one */
    int64_t first, count; /* in the list: their numbers ascend, as the rows do */
    int64_t first_row;    /* this rank's first, of the whole vocabulary */
} site;

typedef struct tokens {
    ml_peft *peft;
    int64_t count, width, slot; /* slot: of the base's rows */
    int32_t *id;                /* [count], ascending */
    float *delta;               /* [count, width]; 0 for rows that this rank does not hold */
    site embed, head;
} tokens;

static const char *const names[] = {"embed", "head"};

static float *values(const tokens *t) { return peft_value(t->peft, t->peft->first_parameter); }
static float *gradient(const tokens *t) { return peft_gradient(t->peft, t->peft->first_parameter); }

/* ---- hooks --------------------------------------------------------------------------------- */

static int by_number(const void *a, const void *b)
{
    const int32_t *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

/* Place in the list of a token that this rank holds, or −1. */
static int64_t find(const site *s, int32_t token)
{
    const int32_t *id = s->tokens->id;
    const int32_t *found = bsearch(&token, id + s->first, (size_t)s->count, sizeof *id, by_number);
    return found ? found - id : -1;
}

static void embed_forward(void *self, const ml_pass *pass, const float *x, float *y)
{
    const site *s = self;
    int64_t d = s->tokens->width;
    (void)x;
    for (int64_t t = 0; t < pass->tokens; t++) {
        int64_t i = find(s, pass->token[t]);
        if (i < 0) continue;
        const float *delta = s->tokens->delta + i * d;
        for (int64_t j = 0; j < d; j++) y[t * d + j] += s->layer->multiplier * delta[j];
    }
}

/* In the order of the tokens, by one thread: the same bits every time. */
static void embed_backward(void *self, const ml_pass *pass, const float *x, const float *dy,
                           float *dx)
{
    const site *s = self;
    int64_t d = s->tokens->width;
    (void)x;
    (void)dx;
    for (int64_t t = 0; t < pass->tokens; t++) {
        int64_t i = find(s, pass->token[t]);
        if (i < 0) continue;
        float *row = gradient(s->tokens) + i * d;
        for (int64_t j = 0; j < d; j++) row[j] += s->layer->multiplier * dy[t * d + j];
    }
}

static int64_t column(const site *s, int64_t i)
{
    return s->tokens->id[s->first + i] - s->first_row;
}

static void head_forward(void *self, const ml_pass *pass, const float *x, float *y)
{
    const site *s = self;
    const ml_kernels *k = pass->kernels;
    int64_t n = s->count, d = s->tokens->width, T = pass->tokens;
    float *h = pass->scratch;
    if (n == 0) return;
    k->gemm(k, false, true, T, n, d, 1.0F, x, d, s->tokens->delta + s->first * d, d, 0.0F, h, n);
    for (int64_t t = 0; t < T; t++)
        for (int64_t i = 0; i < n; i++) y[t * s->layer->out + column(s, i)] += h[t * n + i];
}

static void head_backward(void *self, const ml_pass *pass, const float *x, const float *dy,
                          float *dx)
{
    const site *s = self;
    const ml_kernels *k = pass->kernels;
    int64_t n = s->count, d = s->tokens->width, T = pass->tokens;
    float *h = pass->scratch;
    if (n == 0) return;
    for (int64_t t = 0; t < T; t++)
        for (int64_t i = 0; i < n; i++) h[t * n + i] = dy[t * s->layer->out + column(s, i)];
    k->gemm(k, true, false, n, d, T, 1.0F, h, n, x, d, 1.0F, gradient(s->tokens) + s->first * d, d);
    if (dx)
        k->gemm(k, false, false, T, d, n, 1.0F, h, n, s->tokens->delta + s->first * d, d, 1.0F, dx,
                d);
}

/* ---- values -------------------------------------------------------------------------------- */

/* The base's row of a token, where this rank holds it. */
static void read_row(const tokens *t, int64_t i, int64_t first_row, float *row)
{
    const ml_model_slot *slot = ml_model_slot_at(t->peft->model, t->slot);
    ml_dtype_decode(slot->dtype, slot->data, (t->id[i] - first_row) * t->width, t->width, row);
}

/* Whether the end of the pipeline is this rank's that the tokens belong to. */
static bool is_here(const tokens *t)
{
    return ml_parameters_hold(t->peft->parameters, t->peft->first_parameter);
}

static const site *either(const tokens *t) { return t->embed.layer ? &t->embed : &t->head; }

/* Of rows that other ranks hold -0, which changes no number that it is added to: 0 would make 0 of
 * a base's -0. */
static void initialise(ml_peft *peft)
{
    const tokens *t = peft->own;
    const site *s = either(t);
    const ml_grid *grid = ml_model_grid(peft->model);
    if (!is_here(t)) return;
    for (int64_t i = 0; i < t->count * t->width; i++) values(t)[i] = -0.0F;
    for (int64_t i = s->first; i < s->first + s->count; i++)
        read_row(t, i, s->first_row, values(t) + i * t->width);
    if (grid) ml_grid_sum_float(grid, ML_GROUP_TP, values(t), t->count * t->width);
}

static void after_update(ml_peft *peft)
{
    const tokens *t = peft->own;
    const site *s = either(t);
    for (int64_t i = s->first; i < s->first + s->count && is_here(t); i++) {
        float *delta = t->delta + i * t->width;
        const float *value = values(t) + i * t->width;
        read_row(t, i, s->first_row, delta);
        for (int64_t j = 0; j < t->width; j++) delta[j] = value[j] - delta[j];
    }
}

static ml_status bind(ml_peft *peft)
{
    ml_status st = ML_OK;
    tokens *t = peft->own;
    ML_NEW(t->delta, t->count * t->width, ML_MEM_TRAINABLE, "rows of tokens");
done:
    return st;
}

static void bytes(const ml_peft *peft, bool training, int64_t bytes[ML_MEM_CATEGORIES])
{
    const tokens *t = peft->own;
    (void)training;
    bytes[ML_MEM_TRAINABLE] += t->count * t->width * (int64_t)sizeof *t->delta;
}

static void destroy(ml_peft *peft)
{
    tokens *t = peft->own;
    if (!t) return;
    if (t->embed.layer && t->embed.layer->hook.self == &t->embed)
        t->embed.layer->hook = (ml_linear_hook){0};
    if (t->head.layer && t->head.layer->hook.self == &t->head)
        t->head.layer->hook = (ml_linear_hook){0};
    ml_memory_free(t->id);
    ml_memory_free(t->delta);
}

/* ---- in an adapter ------------------------------------------------------------------------- */

static const ml_adapter_tensor *find_tensor(const ml_adapter *adapter, const char *end,
                                            const char *what)
{
    char name[32];
    snprintf(name, sizeof name, "%s.%s", end, what);
    return adapter ? ml_adapter_find(adapter, name) : NULL;
}

const ml_adapter_tensor *ml_peft_token_rows(const ml_adapter *adapter, bool head,
                                            const ml_adapter_tensor **ids)
{
    *ids = find_tensor(adapter, names[head], "token_ids");
    return find_tensor(adapter, names[head], "tokens");
}

static ml_status check(const ml_peft *peft, const ml_adapter *adapter)
{
    const tokens *t = peft->own;
    bool head = !t->embed.layer, same;
    const ml_adapter_tensor *ids, *rows = ml_peft_token_rows(adapter, head, &ids);
    same = rows && ids && ids->rows == t->count && rows->rows == t->count && rows->cols == t->width;
    for (int64_t i = 0; same && i < t->count; i++) same = ids->value[i] == (float)t->id[i];
    if (!same)
        return ml_fail(ML_USAGE,
                       "method.init: the adapter has %s%" PRId64
                       " trained tokens of the %s, method.trainable_%stokens names %" PRId64,
                       ids && ids->rows == t->count ? "other " : "", ids ? ids->rows : 0,
                       head ? "head" : "embedding", head ? "head_" : "", t->count);
    return ML_OK;
}

static void load(ml_peft *peft, const ml_adapter *adapter)
{
    const tokens *t = peft->own;
    const ml_adapter_tensor *ids, *rows = ml_peft_token_rows(adapter, !t->embed.layer, &ids);
    if (is_here(t)) memcpy(values(t), rows->value, (size_t)(t->count * t->width) * sizeof(float));
}

static ml_status collect(const ml_peft *peft, const ml_grid *grid, ml_adapter *out)
{
    const tokens *t = peft->own;
    char name[32];
    float *ids = NULL;
    ml_status st = tensors_collect(peft, grid, out);
    if (st != ML_OK) return st;
    snprintf(name, sizeof name, "%s.token_ids", names[!t->embed.layer]);
    if (ml_grid_rank(grid) == 0) st = tensors_append(out, name, t->count, 1, &ids);
    for (int64_t i = 0; ids && i < t->count; i++) ids[i] = (float)t->id[i];
    return ml_grid_agree(grid, st);
}

/* ---- attaching ----------------------------------------------------------------------------- */

static const peft_operations operations = {.destroy = destroy,
                                           .bind = bind,
                                           .initialise = initialise,
                                           .after_update = after_update,
                                           .bytes = bytes,
                                           .tensors_each = 2,
                                           .check = check,
                                           .load = load,
                                           .collect = collect};

static ml_status take_ids(tokens *t, const ml_layer_ranges *ranges, const ml_adapter_tensor *ids)
{
    ml_status st = ML_OK;
    t->count = ids ? ids->rows : 0;
    for (int64_t r = 0; !ids && r < ranges->count; r++)
        t->count += ranges->range[r].last - ranges->range[r].first + 1;
    ML_NEW(t->id, t->count, ML_MEM_OTHER, "trained tokens");
    for (int64_t i = 0; ids && i < t->count; i++)
        t->id[i] = ids->value[i] >= 0.0F && ids->value[i] < 0x1p24F ? (int32_t)ids->value[i] : -1;
    for (int64_t r = 0, i = 0; !ids && r < ranges->count; r++)
        for (int64_t id = ranges->range[r].first; id <= ranges->range[r].last; id++)
            t->id[i++] = (int32_t)id;
done:
    return st;
}

/* `who`: a key, or the adapter. */
static ml_status check_ids(const tokens *t, const ml_model_spec *spec, const char *who)
{
    for (int64_t i = 0; i < t->count; i++) {
        if (t->id[i] < 0 || (i > 0 && t->id[i] <= t->id[i - 1]))
            return ml_fail(ML_USAGE, "%s: the tokens' numbers do not ascend from 0 on", who);
        if (t->id[i] >= spec->vocab)
            return ml_fail(ML_USAGE,
                           "%s: token %" PRId32 " is beyond the base's vocabulary of %" PRId64
                           "; import the base with the tokens that it lacks (--add-tokens)",
                           who, t->id[i], spec->vocab);
    }
    return ML_OK;
}

static ml_status join(tokens *t, site *s, ml_linear *layer, const char *who)
{
    const ml_peft *peft = t->peft;
    if (layer->hook.self || ml_model_slot_at(peft->model, t->slot)->apart)
        return ml_fail(ML_USAGE,
                       "%s: %s has an adapter or trains whole, too; take one of them out of "
                       "method.targets, method.modules_to_save, or its tokens",
                       who, layer->part[0].module);
    *s = (site){.tokens = t, .layer = layer};
    s->first_row = layer->lookup ? layer->first_in : layer->part[0].first;
    int64_t rows = layer->lookup ? layer->in : layer->part[0].count;
    while (s->first < t->count && t->id[s->first] < s->first_row) s->first++;
    while (s->first + s->count < t->count && t->id[s->first + s->count] < s->first_row + rows)
        s->count++;
    layer->hook =
        layer->lookup
            ? (ml_linear_hook){.self = s, .forward = embed_forward, .backward = embed_backward}
            : (ml_linear_hook){.self = s,
                               .scratch_per_token = s->count,
                               .forward = head_forward,
                               .backward = head_backward};
    return ML_OK;
}

static int64_t find_slot(ml_model *model, const char *name)
{
    for (int64_t i = 0; i < ml_model_slots(model); i++)
        if (!strcmp(ml_model_slot_at(model, i)->name, name)) return i;
    return -1;
}

ml_status tokens_attach(ml_peft **out, ml_model *model, ml_parameters *parameters,
                        const ml_peft_options *options, const ml_adapter *adapter, bool head)
{
    ml_status st = ML_OK;
    ml_peft *peft = NULL;
    const ml_model_spec *spec = ml_model_get_spec(model);
    const ml_layer_ranges *ranges = &options->trainable_tokens[head];
    const ml_adapter_tensor *ids, *rows = ml_peft_token_rows(adapter, head, &ids);
    const char *who = adapter ? "adapter"
                      : head  ? "method.trainable_head_tokens"
                              : "method.trainable_tokens";
    char name[32];
    *out = NULL;
    if (adapter ? !ids : ranges->count == 0 || !ml_method_saves_modules(options->method))
        return ML_OK;
    if (head || spec->tied_head) ML_TRY(peft_check_leaves(model, options, who));
    ML_TRY(peft_create(&peft, &operations, model, parameters, options));
    tokens *t;
    ML_NEW(t, 1, ML_MEM_OTHER, "a method");
    peft->own = t;
    t->peft = peft;
    peft->first_parameter = parameters->count;
    if (head && spec->tied_head) {
        st = ml_fail(ML_USAGE, "%s: the head is the embedding of this model and follows its tokens",
                     who);
        goto done;
    }
    ML_TRY(take_ids(t, ranges, ids));
    ML_TRY(check_ids(t, spec, who));
    t->slot = find_slot(model, head ? "head.weight" : "embed.weight");
    t->width = ml_model_slot_at(model, t->slot)->cols;
    if (adapter && (!rows || ids->cols != 1 || rows->rows != t->count || rows->cols != t->width)) {
        st = ml_fail(ML_USAGE,
                     "%s.tokens is %" PRId64 " × %" PRId64 ", expected %" PRId64 " × %" PRId64,
                     names[head], rows ? rows->rows : 0, rows ? rows->cols : 0, t->count, t->width);
        goto done;
    }
    int64_t linears = ml_model_linears(model);
    if (!head)
        ML_TRY(join(t, &t->embed, ml_model_linear(model, linears - ML_LINEARS_OUTSIDE), who));
    if (head || spec->tied_head)
        ML_TRY(join(t, &t->head, ml_model_linear(model, linears - 1), who));
    snprintf(name, sizeof name, "%s.tokens", names[head]);
    ML_TRY(ml_parameters_add(parameters, name, t->count, t->width, false,
                             (ml_shard){.dim = ML_SHARD_WHOLE}, ML_GRADIENT_PARTIAL, NULL));
    *out = peft;
    peft = NULL;
done:
    ml_peft_destroy(peft);
    return st;
}
