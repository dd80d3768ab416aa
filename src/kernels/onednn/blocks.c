/* The backend "onednn-bf16" where weights are in blocks: a panel of them is decoded to bf16, a
 * piece that stays in the caches, and oneDNN multiplies it with all tokens before the next one is
 * decoded. Forward a panel is some whole rows of W; backward it is a part of its rows and columns,
 * and the parts below each other are added up. What is rounded is what a bf16 base rounds: the
 * weight once, when it is decoded, and the activations.
 *
 * product_scratch: activations in bf16, a panel, results that cannot be written where they belong
 * (oneDNN has no fast code for the distance of rows, or filling rows), the cache of primitives. */
#include "kernels/onednn/primitives.h"

enum {
    PANEL_WEIGHTS = 512 << 10, /* 1 MB in bf16 */
    PANEL_OUTS = 1024,         /* of the results that a panel gives */
    GROUP = 32,                /* weights that decode together */
    CHUNK_MOST = 512,
    CHUNK_LEAST = 32,
    ACTIVATIONS_MOST = 8 << 20 /* narrowed at a time */
};

typedef struct scratch {
    ml_matmul_cache *cache;
    uint16_t *a;     /* [tokens at a time][inputs at a time] */
    uint16_t *panel; /* [PANEL_WEIGHTS], or one row where that is more */
    float *c;        /* [CHUNK_MOST][PANEL_OUTS] */
} scratch;

/* A size cut into parts of about the same length, multiples of `step`. */
static int64_t length_of_parts(int64_t size, int64_t most, int64_t step)
{
    int64_t parts = (size + most - 1) / most;
    return ml_min(size, ml_round_up((size + parts - 1) / parts, step));
}

/* How a product is cut: columns and rows of W in a panel, and what is narrowed at a time, which
 * grows with the tokens. Backward over a vocabulary, the activations of all its rows would be the
 * largest memory of a step: there only those are narrowed that a panel needs, once for each part of
 * the columns. */
typedef struct cut {
    int64_t columns, rows, inputs, tokens;
} cut;

static cut cut_of(const ml_weight *w, bool backward, int64_t tokens)
{
    const int64_t chunk = ml_min(ml_round_up(tokens, CHUNK_LEAST), CHUNK_MOST);
    cut c = {.columns = w->cols, .inputs = w->cols};
    if (backward) c.columns = length_of_parts(w->cols, PANEL_OUTS, GROUP);
    int64_t fit = ml_max(1, PANEL_WEIGHTS / c.columns);
    c.rows = length_of_parts(w->rows, backward ? fit : ml_min(fit, PANEL_OUTS), 1);
    if (backward) c.inputs = CHUNK_MOST * w->rows <= ACTIVATIONS_MOST ? w->rows : c.rows;
    int64_t most = ACTIVATIONS_MOST / c.inputs / CHUNK_LEAST * CHUNK_LEAST;
    c.tokens = ml_min(ml_round_up(tokens, CHUNK_LEAST), ml_max(chunk, most));
    return c;
}

static int64_t activation_elements(const ml_kernels_options *options)
{
    int64_t most = 0;
    for (int64_t i = 0; i < options->nshapes; i++)
        for (int backward = 0; backward < 2; backward++) {
            cut c = cut_of(&options->shapes[i], backward, options->tokens);
            most = ml_max(most, c.tokens * c.inputs);
        }
    return ml_round_up(most, 64);
}

static int64_t panel_elements(const ml_kernels_options *options)
{
    int64_t most = PANEL_WEIGHTS;
    for (int64_t i = 0; i < options->nshapes; i++) most = ml_max(most, options->shapes[i].cols);
    return ml_round_up(most, 64);
}

int64_t ml_onednn_blocks_scratch_floats(const ml_kernels_options *options)
{
    return (activation_elements(options) + panel_elements(options)) / 2 + CHUNK_MOST * PANEL_OUTS +
           ml_onednn_cache_floats();
}

static scratch scratch_of(const ml_kernels_owner *owner)
{
    ml_matmul_cache *cache = ml_onednn_cache_of(owner);
    float *c = (float *)(void *)cache - CHUNK_MOST * PANEL_OUTS;
    uint16_t *start = (uint16_t *)(void *)owner->product_scratch;
    return (scratch){cache, start, start + owner->chunk_elements, c};
}

/* ---- decoding ------------------------------------------------------------------------------ */

/* A part of W. */
typedef struct panel {
    int64_t row, rows, column, columns;
} panel;

static void decode_row(const ml_kernels *k, const ml_weight *w, const uint8_t *blocks,
                       int64_t column, int64_t count, uint16_t *to)
{
    const ml_kernels_owner *owner = ml_kernels_owner_of(k);
    if (w->dtype == ML_BF16) /* what has no whole blocks in its rows */
        memcpy(to, blocks + 2 * column, (size_t)count * sizeof *to);
    else if (owner->decode_narrow)
        owner->decode_narrow(w->dtype, blocks, column, count, to);
    else
        for (int64_t i = 0; i < count; i++) {
            float value;
            ml_dtype_decode(w->dtype, blocks, column + i, 1, &value);
            to[i] = ml_bf16_from_float(value);
        }
}

static void decode_panel(const ml_kernels *k, const ml_weight *w, const panel *p, uint16_t *to)
{
    const int64_t bytes = ml_dtype_bytes(w->dtype, w->cols);
    const uint8_t *first = (const uint8_t *)w->data + p->row * bytes;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < p->rows; i++)
        decode_row(k, w, first + i * bytes, p->column, p->columns, to + i * p->columns);
}

/* ---- products ------------------------------------------------------------------------------ */

/* One direction of one product with a weight. */
typedef struct job {
    const ml_kernels *k;
    const scratch *s;
    const ml_weight *w;
    cut cut;
    bool backward, whole;   /* whole: all inputs are narrowed before the first panel */
    int64_t tokens, padded; /* padded: tokens and zero rows up to a whole chunk */
    const float *x;
    float beta, *y;
    int64_t ldx, ldy;
} job;

/* Inputs of a narrowed row. */
static int64_t narrowed(const job *j, const panel *p)
{
    if (j->whole) return j->cut.inputs;
    return j->backward ? p->rows : p->columns;
}

static int64_t chunk_of(int64_t left)
{
    int64_t chunk = CHUNK_LEAST;
    while (2 * chunk <= ml_min(left, CHUNK_MOST)) chunk *= 2;
    return chunk;
}

/* What oneDNN has no fast code for. */
static void multiply_plainly(const job *j, const panel *p, int64_t n, int64_t outs,
                             const uint16_t *a, bool add, float *y)
{
    int64_t in = j->backward ? p->rows : p->columns, step = j->backward ? p->columns : 1,
            next = j->backward ? 1 : p->columns, lda = narrowed(j, p);
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < n; t++)
        for (int64_t o = 0; o < outs; o++) {
            float sum = add ? y[t * j->ldy + o] : 0;
            for (int64_t i = 0; i < in; i++)
                sum += ml_bf16_to_float(a[t * lda + i]) *
                       ml_bf16_to_float(j->s->panel[o * next + i * step]);
            y[t * j->ldy + o] = sum;
        }
}

/* A panel's part of the results of tokens [t, t + chunk): straight to their place, or through c. */
static void multiply_chunk(const job *j, const panel *p, int64_t t, int64_t chunk)
{
    int64_t first_in = j->backward ? p->row : p->column,
            first_out = j->backward ? p->column : p->row, outs = j->backward ? p->columns : p->rows,
            filled = ml_min(chunk, j->tokens - t), lda = narrowed(j, p);
    const uint16_t *a = j->s->a + t * lda + (j->whole ? first_in : 0);
    float *y = j->y + t * j->ldy + first_out;
    bool add = j->beta != 0 || first_in > 0;
    ml_matmul_key key = {.m = chunk,
                         .rows = p->rows,
                         .cols = p->columns,
                         .lda = lda,
                         .ldc = j->ldy,
                         .backward = j->backward,
                         .add = add};
    if (filled == chunk && ml_matmul_run(j->s->cache, &key, a, j->s->panel, y)) return;
    key.ldc = outs;
    key.add = false;
    if (ml_matmul_run(j->s->cache, &key, a, j->s->panel, j->s->c))
        ml_onednn_put_results(filled, outs, j->s->c, add, y, j->ldy);
    else
        multiply_plainly(j, p, filled, outs, a, add, y);
}

static void multiply_panel(const job *j, const panel *p)
{
    decode_panel(j->k, j->w, p, j->s->panel);
    for (int64_t t = 0, chunk; t < j->padded; t += chunk) {
        chunk = chunk_of(j->padded - t);
        multiply_chunk(j, p, t, chunk);
    }
}

static void narrow(const job *j, int64_t first_in, int64_t count)
{
    ml_onednn_copy_activations(j->k, dnnl_bf16, j->padded, j->tokens, count, j->x + first_in,
                               j->ldx, j->s->a);
}

static void multiply(const job *j)
{
    const ml_weight *w = j->w;
    if (j->whole) narrow(j, 0, j->cut.inputs);
    for (int64_t column = 0; column < w->cols; column += j->cut.columns)
        for (int64_t row = 0; row < w->rows; row += j->cut.rows) {
            const panel p = {row, ml_min(j->cut.rows, w->rows - row), column,
                             ml_min(j->cut.columns, w->cols - column)};
            if (!j->whole) narrow(j, row, p.rows);
            multiply_panel(j, &p);
        }
}

/* All tokens, as many at a time as there is room for; a weight that was not among the options'
 * shapes has none and goes to the reference. */
static void run(const ml_kernels *k, bool backward, int64_t T, const float *x, int64_t ldx,
                const ml_weight *w, float beta, float *y, int64_t ldy)
{
    const ml_kernels_owner *owner = ml_kernels_owner_of(k);
    const scratch s = scratch_of(owner);
    const cut c = cut_of(w, backward, T);
    bool room = c.tokens * c.inputs <= owner->chunk_elements && w->cols <= owner->panel_elements;
    for (int64_t t = 0, n; t < T; t += n) {
        n = ml_min(c.tokens, T - t);
        const job j = {.k = k,
                       .s = &s,
                       .w = w,
                       .cut = c,
                       .backward = backward,
                       .whole = c.inputs == (backward ? w->rows : w->cols),
                       .tokens = n,
                       .padded = ml_round_up(n, CHUNK_LEAST),
                       .beta = beta,
                       .x = x + t * ldx,
                       .y = y + t * ldy,
                       .ldx = ldx,
                       .ldy = ldy};
        const ml_kernels *ref = ml_kernels_reference();
        if (room)
            multiply(&j);
        else if (backward)
            ref->weight_backward(ref, n, j.x, ldx, w, beta, j.y, ldy);
        else
            ref->weight_forward(ref, n, j.x, ldx, w, beta, j.y, ldy);
    }
}

/* fp32: a matrix that is trained. */
static void weight_forward(const ml_kernels *k, int64_t T, const float *x, int64_t ldx,
                           const ml_weight *w, float beta, float *y, int64_t ldy)
{
    const ml_kernels_owner *owner = ml_kernels_owner_of(k);
    if (w->dtype == ML_FP32 || ml_takes_small_forward(owner, T, w))
        ml_panel_forward(ml_onednn_sgemm, k, T, x, ldx, w, beta, y, ldy);
    else
        run(k, false, T, x, ldx, w, beta, y, ldy);
}

static void weight_backward(const ml_kernels *k, int64_t T, const float *dy, int64_t ldy,
                            const ml_weight *w, float beta, float *dx, int64_t ldx)
{
    if (w->dtype == ML_FP32)
        ml_panel_backward(ml_onednn_sgemm, k, T, dy, ldy, w, beta, dx, ldx);
    else
        run(k, true, T, dy, ldy, w, beta, dx, ldx);
}

ml_status ml_onednn_blocks_start(ml_kernels_owner *owner, const ml_kernels_options *options)
{
    owner->chunk_elements = activation_elements(options);
    owner->panel_elements = panel_elements(options);
    owner->table.weight_forward = weight_forward;
    owner->table.weight_backward = weight_backward;
    owner->table.gemm = ml_onednn_gemm;
    return ml_matmul_cache_start(ml_onednn_cache_of(owner), dnnl_bf16);
}
