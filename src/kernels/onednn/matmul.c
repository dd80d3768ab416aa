/* The backends "onednn-bf16" and "onednn-matmul": oneDNN multiplies straight from the plain
 * weight, in its own type; for bf16 the activations are narrowed to bf16 on the way.
 *
 * The number of tokens changes from batch to batch, a primitive's shape does not: tokens are cut
 * into chunks of a few fixed sizes, and the last one is filled up with zero rows. A chunk writes
 * straight into the caller's matrix where oneDNN has fast code for its row distance and no row is
 * filling; else it goes through scratch memory.
 *
 * oneDNN copies the weight into an order of its own at every call, which few tokens do not pay
 * for. So a weight with many rows, a head of 262,144 say, is multiplied panel by panel: the scratch
 * memory then bounds the panel, and not the tokens of a chunk. */
#include "kernels/onednn/primitives.h"

enum {
    CHUNK_MOST = 512,
    CHUNK_LEAST = 32,
    FILLING_ROWS = 64, /* to multiply them takes about as long as to copy the weight */
    CHUNK_ELEMENTS_MOST = 8 << 20,
    PANEL_ROWS = 4096 /* of the weight, at the most */
};

/* product_scratch: panels (for what oneDNN refuses), activations, results, cache. */
typedef struct scratch {
    ml_matmul_cache *cache;
    char *a;  /* [chunk][in] of the weight's type */
    float *c; /* [chunk][out] */
} scratch;

/* What a chunk's scratch memory has a row of, for either side of a panel. */
static int64_t widest_of(int64_t rows, int64_t cols)
{
    return ml_max(ml_min(rows, PANEL_ROWS), cols);
}

/* The largest chunk size that is not more than `left` tokens, or the next one where the rows that
 * fill it cost less than copying the weight once more would; rows of `widest` stay bounded.
 * CHUNK_LEAST at the least. */
static int64_t chunk_of(int64_t left, int64_t widest)
{
    int64_t chunk = CHUNK_LEAST, most = ml_min(CHUNK_MOST, CHUNK_ELEMENTS_MOST / ml_max(widest, 1));
    while (2 * chunk <= most && chunk < left && 2 * chunk - left < FILLING_ROWS) chunk *= 2;
    return chunk;
}

/* Elements of the largest chunk of any shape, a multiple of 32 so that every part starts at 64
 * bytes. */
static int64_t chunk_elements(const ml_kernels_options *options)
{
    int64_t most = 0;
    for (int64_t i = 0; i < options->nshapes; i++) {
        int64_t widest = widest_of(options->shapes[i].rows, options->shapes[i].cols);
        most = ml_max(most, chunk_of(options->tokens, widest) * widest);
    }
    return ml_round_up(most, 32);
}

static int64_t cache_floats(void)
{
    return ml_round_up((int64_t)sizeof(ml_matmul_cache), 64) / (int64_t)sizeof(float);
}

static int64_t as_floats(ml_dtype dtype, int64_t elements)
{
    return dtype == ML_BF16 ? elements / 2 : elements;
}

static int64_t scratch_floats(const ml_kernels_options *options, int threads)
{
    int64_t elements = chunk_elements(options);
    return ml_round_up(ml_panel_scratch_floats(options, threads), 16) +
           as_floats(options->weight_dtype, elements) + elements + cache_floats();
}

static ml_matmul_cache *cache_of(const ml_kernels_owner *owner)
{
    return (ml_matmul_cache *)(void *)(owner->product_scratch + owner->product_floats -
                                       cache_floats());
}

/* As `type` without distances between rows, those from `filled` on zero. */
static void copy_activations(const ml_kernels *k, dnnl_data_type_t type, int64_t rows,
                             int64_t filled, int64_t n, const float *x, int64_t ldx, void *to)
{
    int64_t size = type == dnnl_bf16 ? 2 : 4;
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < rows; t++) {
        char *row = (char *)to + t * n * size;
        if (t >= filled)
            memset(row, 0, (size_t)(n * size));
        else if (type == dnnl_bf16)
            k->fp32_to_bf16(n, x + t * ldx, (uint16_t *)(void *)row);
        else
            memcpy(row, x + t * ldx, (size_t)(n * size));
    }
}

static void put_results(int64_t rows, int64_t n, const float *from, bool add, float *c, int64_t ldc)
{
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < rows; t++)
        for (int64_t i = 0; i < n; i++)
            c[t * ldc + i] = from[t * n + i] + (add ? c[t * ldc + i] : 0);
}

/* One chunk of tokens by one panel; false where oneDNN has no fast code. */
static bool run_chunk(const ml_kernels *k, const scratch *s, const ml_weight *w, bool backward,
                      int64_t chunk, int64_t filled, const float *x, int64_t ldx, float beta,
                      float *y, int64_t ldy)
{
    int64_t in = backward ? w->rows : w->cols, out = backward ? w->cols : w->rows;
    ml_matmul_key key = {.m = chunk,
                         .rows = w->rows,
                         .cols = w->cols,
                         .ldc = ldy,
                         .backward = backward,
                         .add = beta != 0};
    const void *a = s->a;
    if (w->dtype == ML_FP32 && filled == chunk && ldx == in)
        a = x;
    else
        copy_activations(k, s->cache->type, chunk, filled, in, x, ldx, s->a);
    if (filled == chunk && ml_matmul_run(s->cache, &key, a, w->data, y)) return true;
    key.ldc = out;
    key.add = false;
    if (!ml_matmul_run(s->cache, &key, a, w->data, s->c)) return false;
    put_results(filled, out, s->c, beta != 0, y, ldy);
    return true;
}

static ml_weight panel_of(const ml_weight *w, int64_t first)
{
    size_t row = (size_t)w->cols * (w->dtype == ML_BF16 ? sizeof(uint16_t) : sizeof(float));
    return (ml_weight){.data = (const char *)w->data + (size_t)first * row,
                       .dtype = w->dtype,
                       .rows = ml_min(PANEL_ROWS, w->rows - first),
                       .cols = w->cols};
}

/* A panel's rows are columns of what goes in backward, which is summed over the panels, and of
 * what comes out forward. */
static void run_panels(const ml_kernels *k, const scratch *s, const ml_weight *w, bool backward,
                       int64_t chunk, int64_t filled, const float *x, int64_t ldx, float beta,
                       float *y, int64_t ldy)
{
    for (int64_t first = 0; first < w->rows; first += PANEL_ROWS) {
        ml_weight panel = panel_of(w, first);
        const float *from = backward ? x + first : x;
        float *to = backward ? y : y + first, sum = backward && first > 0 ? 1.0f : beta;
        if (run_chunk(k, s, &panel, backward, chunk, filled, from, ldx, sum, to, ldy)) continue;
        if (backward)
            ml_panel_backward(ml_onednn_sgemm, k, filled, from, ldx, &panel, sum, to, ldy);
        else
            ml_panel_forward(ml_onednn_sgemm, k, filled, from, ldx, &panel, sum, to, ldy);
    }
}

/* False: the weight is not of the kind or not among the shapes that the kernels were made for. */
static bool run(const ml_kernels *k, bool backward, int64_t T, const float *x, int64_t ldx,
                const ml_weight *w, float beta, float *y, int64_t ldy)
{
    const ml_kernels_owner *owner = ml_kernels_owner_of(k);
    ml_matmul_cache *cache = cache_of(owner);
    if ((w->dtype == ML_BF16) != (cache->type == dnnl_bf16)) return false;
    int64_t widest = widest_of(w->rows, w->cols);
    if (chunk_of(T, widest) * widest > owner->chunk_elements) return false;
    float *c = (float *)(void *)cache - owner->chunk_elements;
    const scratch s = {cache, (char *)(void *)(c - as_floats(w->dtype, owner->chunk_elements)), c};
    for (int64_t t = 0; t < T;) {
        int64_t chunk = chunk_of(T - t, widest), filled = ml_min(chunk, T - t);
        run_panels(k, &s, w, backward, chunk, filled, x + t * ldx, ldx, beta, y + t * ldy, ldy);
        t += filled;
    }
    return true;
}

static void weight_forward(const ml_kernels *k, int64_t T, const float *x, int64_t ldx,
                           const ml_weight *w, float beta, float *y, int64_t ldy)
{
    if (T <= ML_SMALL_TOKENS || !run(k, false, T, x, ldx, w, beta, y, ldy))
        ml_panel_forward(ml_onednn_sgemm, k, T, x, ldx, w, beta, y, ldy);
}

static void weight_backward(const ml_kernels *k, int64_t T, const float *dy, int64_t ldy,
                            const ml_weight *w, float beta, float *dx, int64_t ldx)
{
    if (!run(k, true, T, dy, ldy, w, beta, dx, ldx))
        ml_panel_backward(ml_onednn_sgemm, k, T, dy, ldy, w, beta, dx, ldx);
}

static ml_status start(ml_kernels_owner *owner, const ml_kernels_options *options)
{
    owner->chunk_elements = chunk_elements(options);
    owner->table.weight_forward = weight_forward;
    owner->table.weight_backward = weight_backward;
    owner->table.gemm = ml_onednn_gemm;
    return ml_matmul_cache_start(cache_of(owner),
                                 options->weight_dtype == ML_BF16 ? dnnl_bf16 : dnnl_f32);
}

static void stop(ml_kernels_owner *owner) { ml_matmul_cache_stop(cache_of(owner)); }

/* bf16 instructions, of AVX-512 or AMX, and code in oneDNN that uses them. */
static bool bf16_available(ml_dtype dtype)
{
    return dtype == ML_BF16 && (dnnl_get_effective_cpu_isa() & dnnl_cpu_isa_avx512_core_bf16) ==
                                   dnnl_cpu_isa_avx512_core_bf16;
}

static bool fp32_available(ml_dtype dtype) { return dtype == ML_FP32; }

const ml_backend ml_backend_onednn_bf16 = {"onednn-bf16", bf16_available, scratch_floats, start,
                                           stop,          true,           false};
const ml_backend ml_backend_onednn_matmul = {
    "onednn-matmul", fp32_available, scratch_floats, start, stop, false, false};
