/* LoRA's arithmetic, on one rank and one linear layer, through the layer's hook; and W += s·B·A,
 * which makes the hook unnecessary.
 *
 *   forward   H = D∘x·Aᵀ,  y += s·H·Bᵀ
 *   backward  dB += s·dyᵀ·H,  dH = s·dy·B,  dA += dHᵀ·(D∘x),  dx += D∘(dH·A)
 *
 * PiSSA's initial factors are in the weights, or, where these are blocks that cannot change, taken
 * off here:  y −= s·(x·A0ᵀ)·B0ᵀ,  dx −= s·(dy·B0)·A0, without dropout, as it would be in W.
 *
 * In a look-up x is one-hot: H is the token's column of A, without dropout, as PEFT has it.
 *
 * T tokens; H[T, R] of all pairs side by side, R the sum of their ranks. Without dropout (D = 1)
 * the A's of all pairs, one below the other, make one product. D is drawn from the counter-based
 * generator by (pair, sequence, position, column): the same on any grid and after a resume. */
#include "peft/peft_private.h"

static bool drops(const lora_group *group, const ml_pass *pass)
{
    return group->dropout > 0.0 && pass->key_sequence;
}

/* out = D∘x (or, with `add`, out += D∘x), columns `first`… of the layer's whole input. */
static void apply_dropout(const lora_group *group, const lora_pair *pair, const ml_pass *pass,
                          const float *x, float *out, bool add)
{
    int64_t in = group->layer->in, first = group->layer->first_in;
    uint64_t blocks = (uint64_t)(group->layer->global_in + 3) / 4;
    uint32_t below = (uint32_t)(group->dropout * 4294967296.0);
    float keep = (float)(1.0 / (1.0 - group->dropout));
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < pass->tokens; t++) {
        uint64_t row = (uint64_t)pass->key_position[t] * blocks;
        uint32_t word[4] = {0};
        for (int64_t j = 0; j < in; j++) {
            uint64_t column = (uint64_t)(first + j);
            if (j == 0 || column % 4 == 0)
                ml_random_block(pair->dropout_key, (uint64_t)pass->key_sequence[t],
                                row + column / 4, word);
            float d = word[column % 4] < below ? 0.0F : keep * x[t * in + j];
            out[t * in + j] = add ? out[t * in + j] + d : d;
        }
    }
}

/* ---- sums in leaves ------------------------------------------------------------------------ */

/* What tp cuts is contracted by one factor of each pair: A of a row-parallel layer on the way in, B
 * of a column-parallel one on the way back. With leaves these sums are whole on every rank, since
 * what they are added to is, and so are the gradients that come of them: dB of a row-parallel
 * layer, dA of a column-parallel one. */
typedef struct contraction {
    const lora_group *group;
    const ml_pass *pass;
    const float *x; /* or dy */
    bool taken;     /* with what the factors were at first */
} contraction;

/* What a factor was at first. */
static const float *initial_of(const lora_group *group, const float *value)
{
    return group->taken + (value - group->parameters->value);
}

static const float *factor_of(const contraction *c, const float *value)
{
    return c->taken ? initial_of(c->group, value) : value;
}

/* h[T, R] of a leaf of x's columns. */
static void contract_inputs(const void *self, int leaf, float *h)
{
    const contraction *c = self;
    const lora_group *group = c->group;
    const ml_linear *layer = group->layer;
    const ml_kernels *k = c->pass->kernels;
    const ml_rows columns = ml_linear_leaf(layer, 0, leaf);
    k->gemm(k, false, true, c->pass->tokens, group->rank, columns.count, 1.0F, c->x + columns.first,
            layer->in, factor_of(c, group->pair[0].a) + columns.first, layer->in, 0.0F, h,
            group->rank);
}

/* dh[T, r] of a pair without its scale, of a leaf of each projection that it adapts. */
static void contract_pair(const contraction *c, const lora_pair *pair, int leaf, float *dh)
{
    const ml_linear *layer = c->group->layer;
    const ml_kernels *k = c->pass->kernels;
    const ml_weight b = {factor_of(c, pair->b), ML_FP32, pair->count, pair->rank};
    ml_rows run[ML_LINEAR_PARTS];
    int64_t start = 0;
    int runs = 0;
    for (int part = 0; part < layer->nparts; start += layer->part[part++].count) {
        if (start < pair->start || start >= pair->start + pair->count) continue;
        const ml_rows rows = ml_linear_leaf(layer, part, leaf);
        if (rows.count > 0) run[runs++] = (ml_rows){rows.first - pair->start, rows.count};
    }
    k->rows_backward(k, c->pass->tokens, c->x + pair->start, layer->out, &b, runs, run, 0.0F, dh,
                     c->group->rank);
}

static void contract_outputs(const void *self, int leaf, float *dh)
{
    const contraction *c = self;
    for (int i = 0; i < c->group->npairs; dh += c->group->pair[i++].rank)
        contract_pair(c, &c->group->pair[i], leaf, dh);
}

static void scale_pairs(const lora_group *group, int64_t T, float *dh)
{
    for (int64_t t = 0; t < T; t++)
        for (int i = 0; i < group->npairs; dh += group->pair[i++].rank)
            for (int64_t j = 0; j < group->pair[i].rank; j++) dh[j] *= group->pair[i].scale;
}

static bool sums_leaves(const lora_group *group, ml_linear_kind kind)
{
    return group->layer->leaves > 0 && group->layer->kind == kind;
}

/* h[T, R] of x; in leaves of one projection, and so of one pair. */
static void contract_x(const contraction *c, float *h)
{
    const lora_group *group = c->group;
    const ml_kernels *k = c->pass->kernels;
    int64_t in = group->layer->in, R = group->rank;
    if (sums_leaves(group, ML_LINEAR_ROW))
        ml_linear_sum_leaves(group->layer, c->pass, contract_inputs, c, R, h);
    else
        k->gemm(k, false, true, c->pass->tokens, R, in, 1.0F, c->x, in,
                factor_of(c, group->pair[0].a), in, 0.0F, h, R);
}

/* dh[T, R] of dy, with the scale of each pair. */
static void contract_dy(const contraction *c, float *dh)
{
    const lora_group *group = c->group;
    const ml_kernels *k = c->pass->kernels;
    int64_t T = c->pass->tokens, R = group->rank, at = 0;
    if (sums_leaves(group, ML_LINEAR_COLUMN)) {
        ml_linear_sum_leaves(group->layer, c->pass, contract_outputs, c, R, dh);
        scale_pairs(group, T, dh);
        return;
    }
    for (int i = 0; i < group->npairs; at += group->pair[i++].rank) {
        const lora_pair *pair = &group->pair[i];
        k->gemm(k, false, false, T, pair->rank, pair->count, pair->scale, c->x + pair->start,
                group->layer->out, factor_of(c, pair->b), pair->rank, 0.0F, dh + at, R);
    }
}

/* ---- a linear layer ------------------------------------------------------------------------ */

static void add_outputs(const lora_group *group, const ml_pass *pass, const float *h, float *y)
{
    const ml_kernels *k = pass->kernels;
    int64_t at = 0;
    for (int i = 0; i < group->npairs; i++) {
        const lora_pair *pair = &group->pair[i];
        k->gemm(k, false, true, pass->tokens, pair->count, pair->rank, pair->scale, h + at,
                group->rank, pair->b, pair->rank, 1.0F, y + pair->start, group->layer->out);
        at += pair->rank;
    }
}

/* Behind what the trained factors need of the scratch space. */
static float *taken_space(const lora_group *group, const ml_pass *pass)
{
    int64_t dropped = group->dropout > 0.0 ? group->layer->in : 0;
    return pass->scratch + pass->tokens * (group->rank + dropped);
}

static void take_off_outputs(const lora_group *group, const ml_pass *pass, const float *x, float *y)
{
    const ml_kernels *k = pass->kernels;
    int64_t T = pass->tokens, R = group->rank;
    float *h = taken_space(group, pass);
    const contraction inputs = {group, pass, x, true};
    contract_x(&inputs, h);
    for (int i = 0; i < group->npairs; h += group->pair[i++].rank) {
        const lora_pair *pair = &group->pair[i];
        k->gemm(k, false, true, T, pair->count, pair->rank, -pair->scale, h, R,
                initial_of(group, pair->b), pair->rank, 1.0F, y + pair->start, group->layer->out);
    }
}

static void take_off_inputs(const lora_group *group, const ml_pass *pass, const float *dy,
                            float *dx)
{
    const ml_kernels *k = pass->kernels;
    int64_t T = pass->tokens, in = group->layer->in, R = group->rank;
    float *dh = taken_space(group, pass);
    const contraction outputs = {group, pass, dy, true};
    contract_dy(&outputs, dh);
    k->gemm(k, false, false, T, in, R, -1.0F, dh, R, initial_of(group, group->pair[0].a), in, 1.0F,
            dx, in);
}

static void forward(void *self, const ml_pass *pass, const float *x, float *y)
{
    const lora_group *group = self;
    const ml_kernels *k = pass->kernels;
    int64_t T = pass->tokens, in = group->layer->in, R = group->rank, at = 0;
    float *h = pass->saved ? pass->saved : pass->scratch, *dropped = pass->scratch + T * R;
    bool drop = drops(group, pass);
    if (!drop || sums_leaves(group, ML_LINEAR_ROW)) {
        const contraction inputs = {group, pass, drop ? dropped : x, false};
        if (drop) apply_dropout(group, &group->pair[0], pass, x, dropped, false);
        contract_x(&inputs, h);
    } else {
        for (int i = 0; i < group->npairs; i++) {
            const lora_pair *pair = &group->pair[i];
            apply_dropout(group, pair, pass, x, dropped, false);
            k->gemm(k, false, true, T, pair->rank, in, 1.0F, dropped, in, pair->a, in, 0.0F, h + at,
                    R);
            at += pair->rank;
        }
    }
    add_outputs(group, pass, h, y);
    if (group->taken) take_off_outputs(group, pass, x, y);
    if (group->dora) dora_scale(group, pass, y);
}

/* gradient[rows, cols] += scale·dyᵀ·x, piece by piece of the rows where there are pieces. */
static void add_product(const lora_group *group, const ml_pass *pass, int64_t rows, int64_t cols,
                        float scale, const float *dy, int64_t ldy, const float *x, int64_t ldx,
                        float *gradient)
{
    const ml_kernels *k = pass->kernels;
    for (int64_t at = 0, n; (n = ml_pass_piece(pass, at)) > 0; at += n) {
        k->gemm(k, true, false, rows, cols, n, scale, dy + at * ldy, ldy, x + at * ldx, ldx, 1.0F,
                gradient, cols);
        ml_parameters_take(group->parameters, gradient, rows * cols);
    }
}

/* dB of every pair, and dH[T, R]. */
static void output_gradients(const lora_group *group, const ml_pass *pass, const float *dy,
                             float *dh)
{
    int64_t at = 0;
    const contraction outputs = {group, pass, dy, false};
    contract_dy(&outputs, dh);
    for (int i = 0; i < group->npairs; at += group->pair[i++].rank) {
        const lora_pair *pair = &group->pair[i];
        add_product(group, pass, pair->count, pair->rank, pair->scale, dy + pair->start,
                    group->layer->out, pass->saved + at, group->rank, pair->db);
    }
}

static void backward_dropped(const lora_group *group, const ml_pass *pass, const float *x,
                             const float *dh, float *dropped, float *dx)
{
    const ml_kernels *k = pass->kernels;
    int64_t T = pass->tokens, in = group->layer->in, R = group->rank, at = 0;
    for (int i = 0; i < group->npairs; i++) {
        const lora_pair *pair = &group->pair[i];
        apply_dropout(group, pair, pass, x, dropped, false);
        add_product(group, pass, pair->rank, in, 1.0F, dh + at, R, dropped, in, pair->da);
        if (dx) {
            k->gemm(k, false, false, T, in, pair->rank, 1.0F, dh + at, R, pair->a, in, 0.0F,
                    dropped, in);
            apply_dropout(group, pair, pass, dropped, dx, true);
        }
        at += pair->rank;
    }
}

static void backward(void *self, const ml_pass *pass, const float *x, const float *dy, float *dx)
{
    const lora_group *group = self;
    const ml_kernels *k = pass->kernels;
    int64_t T = pass->tokens, in = group->layer->in, R = group->rank;
    float *dh = pass->scratch;
    output_gradients(group, pass, dy, dh);
    if (group->taken && dx) take_off_inputs(group, pass, dy, dx);
    if (drops(group, pass)) {
        backward_dropped(group, pass, x, dh, pass->scratch + T * R, dx);
        return;
    }
    add_product(group, pass, R, in, 1.0F, dh, R, x, in, group->pair[0].da);
    if (dx) k->gemm(k, false, false, T, in, R, 1.0F, dh, R, group->pair[0].a, in, 1.0F, dx, in);
}

/* ---- the embedding ------------------------------------------------------------------------- */

/* A token's column among this rank's; −1: it is another rank's, or virtual. */
static int64_t column_of(const ml_linear *layer, int32_t token)
{
    int64_t column = token - layer->first_in;
    return token >= 0 && column >= 0 && column < layer->in ? column : -1;
}

static void look_up_columns(const lora_group *group, const ml_pass *pass, float *h)
{
    const lora_pair *pair = &group->pair[0];
    int64_t r = pair->rank, in = group->layer->in;
    for (int64_t t = 0; t < pass->tokens; t++) {
        int64_t column = column_of(group->layer, pass->token[t]);
        for (int64_t k = 0; k < r; k++)
            h[t * r + k] = column >= 0 ? pair->a[k * in + column] : 0.0F;
    }
}

static void look_up_forward(void *self, const ml_pass *pass, const float *x, float *y)
{
    const lora_group *group = self;
    const lora_pair *pair = &group->pair[0];
    const ml_kernels *k = pass->kernels;
    int64_t r = pair->rank, out = group->layer->out;
    (void)x;
    look_up_columns(group, pass, pass->scratch);
    k->gemm(k, false, true, pass->tokens, out, r, pair->scale * group->layer->multiplier,
            pass->scratch, r, pair->b, r, 1.0F, y, out);
}

/* dA of tokens [at, at + n), in their order, by one thread: the same bits every time. */
static void add_columns(const lora_group *group, const ml_pass *pass, int64_t at, int64_t n,
                        const float *dh)
{
    const lora_pair *pair = &group->pair[0];
    int64_t r = pair->rank, in = group->layer->in;
    for (int64_t t = at; t < at + n; t++) {
        int64_t column = column_of(group->layer, pass->token[t]);
        for (int64_t i = 0; column >= 0 && i < r; i++) pair->da[i * in + column] += dh[t * r + i];
    }
}

/* A token's column that was there before is zero by then. */
static void take_columns(const lora_group *group, const ml_pass *pass, int64_t at, int64_t n)
{
    const lora_pair *pair = &group->pair[0];
    int64_t in = group->layer->in;
    for (int64_t t = at; t < at + n; t++) {
        int64_t column = column_of(group->layer, pass->token[t]);
        for (int64_t i = 0; column >= 0 && i < pair->rank; i++)
            ml_parameters_take(group->parameters, pair->da + i * in + column, 1);
    }
}

static void look_up_backward(void *self, const ml_pass *pass, const float *x, const float *dy,
                             float *dx)
{
    const lora_group *group = self;
    const lora_pair *pair = &group->pair[0];
    const ml_kernels *k = pass->kernels;
    int64_t T = pass->tokens, r = pair->rank, out = group->layer->out;
    float scale = pair->scale * group->layer->multiplier, *h = pass->scratch;
    (void)x;
    (void)dx;
    look_up_columns(group, pass, h);
    if (group->layer->leaves > 0 && pass->grid) /* every rank has all of dB */
        ml_grid_sum_ordered(pass->grid, ML_GROUP_TP, h, T * r);
    add_product(group, pass, out, r, scale, dy, out, h, r, pair->db);
    k->gemm(k, false, false, T, r, out, scale, dy, out, pair->b, r, 0.0F, h, r);
    for (int64_t at = 0, n; (n = ml_pass_piece(pass, at)) > 0; at += n) {
        add_columns(group, pass, at, n, h);
        take_columns(group, pass, at, n);
    }
}

/* ---- attached ------------------------------------------------------------------------------ */

void lora_install(lora_group *group)
{
    if (group->layer->lookup) {
        group->layer->hook = (ml_linear_hook){.self = group,
                                              .scratch_per_token = group->rank,
                                              .forward = look_up_forward,
                                              .backward = look_up_backward};
        return;
    }
    int64_t dropped = group->dropout > 0.0 ? group->layer->in : 0,
            taken = group->takes ? group->rank : 0;
    group->layer->hook = (ml_linear_hook){.self = group,
                                          .saved_per_token = group->rank,
                                          .scratch_per_token = group->rank + dropped + taken,
                                          .forward = forward,
                                          .backward = backward};
}

/* ---- added into the weights of a model in memory ------------------------------------------- */

/* The model lends its weights as const; here they are its own memory. */
static void store(const ml_weight *w, int64_t i, float value)
{
    void *data = (void *)(uintptr_t)w->data;
    if (w->dtype == ML_BF16)
        ((uint16_t *)data)[i] = ml_bf16_from_float(value);
    else
        ((float *)data)[i] = value;
}

/* Where the weight's number of row i and column j stands: a look-up's weight lies turned. */
static int64_t place_in(const ml_linear *layer, int64_t i, int64_t j)
{
    return layer->lookup ? j * layer->out + i : i * layer->in + j;
}

void lora_merge_pair(const lora_group *group, const lora_pair *pair)
{
    const ml_linear *layer = group->layer;
    int64_t in = layer->in, r = pair->rank;
    const float *gain = group->dora ? group->dora->gain + pair->first_row : NULL;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < pair->count; i++)
        for (int64_t j = 0; j < in; j++) {
            float delta = 0.0F;
            for (int64_t k = 0; k < r; k++) delta += pair->b[i * r + k] * pair->a[k * in + j];
            int64_t at = place_in(layer, pair->start + i, j);
            store(layer->weight, at,
                  (gain ? gain[i] : 1.0F) *
                      (ml_number_at(layer->weight->data, layer->weight->dtype, at) +
                       pair->scale * delta));
        }
}

/* Embedding and head of a tied model have one weight and each its own adapter, which stays. */
static bool has_weight_alone(const ml_peft *peft, const lora_group *group)
{
    bool end = group->layer->lookup || !strchr(group->layer->part[0].module, '.');
    return !end || !ml_model_get_spec(peft->model)->tied_head;
}

void ml_peft_merge(ml_peft *peft)
{
    for (int64_t g = 0; g < peft->ngroups; g++) {
        lora_group *group = &peft->groups[g];
        if (!has_weight_alone(peft, group)) continue;
        for (int i = 0; i < group->npairs; i++) lora_merge_pair(group, &group->pair[i]);
        group->layer->hook = (ml_linear_hook){0};
    }
}
