/* The product paths "onednn-bf16" and "onednn-matmul": oneDNN multiplies straight from the plain weight, in its own type; for bf16
 * the activations are narrowed to bf16 on the way.
 *
 * The number of tokens changes from batch to batch, a primitive's shape does not: tokens are cut into chunks of a few fixed sizes,
 * and the last one is filled up with zero rows. A chunk writes straight into the caller's matrix where oneDNN has fast code for
 * its row distance and no row is filling; else it goes through scratch memory. */
#include "kernels/onednn/primitives.h"

enum { CHUNK_MOST = 1024, CHUNK_LEAST = 64 };

/* product_scratch: panels for what oneDNN refuses share the place of the activations. */
typedef struct scratch {
    ml_matmul_cache *cache;
    char *a;  /* [CHUNK_MOST][widest] of the weight's type */
    float *c; /* [CHUNK_MOST][widest] */
} scratch;

static int64_t widest(const ml_kernels_options *options)
{
    int64_t most = 0;
    for (int64_t i = 0; i < options->nshapes; i++) most = ml_max(most, ml_max(options->shapes[i].rows, options->shapes[i].cols));
    return most;
}

static int64_t chunk_most(int64_t tokens) { return ml_min(CHUNK_MOST, ml_round_up(ml_max(tokens, 1), CHUNK_LEAST)); }

static int64_t cache_floats(void) { return ml_round_up((int64_t)sizeof(ml_matmul_cache), 64) / (int64_t)sizeof(float); }

static int64_t chunk_floats(const ml_kernels_options *options) { return chunk_most(options->tokens) * widest(options); }

/* Panels come first (ml_panel_* take the start of the scratch), then the two chunks, then the cache at the end. */
static int64_t scratch_floats(const ml_kernels_options *options)
{
    return ml_round_up(ml_panel_scratch_floats(options), 16) + ml_round_up(2 * chunk_floats(options), 16) + cache_floats();
}

static ml_matmul_cache *cache_of(const ml_kernels_owner *owner)
{
    return (ml_matmul_cache *)(void *)(owner->product_scratch + owner->product_floats - cache_floats());
}

/* The largest chunk size that fits into `left` tokens, or the least. */
static int64_t chunk_of(int64_t left, int64_t most)
{
    int64_t chunk = CHUNK_LEAST;
    while (2 * chunk <= left && 2 * chunk <= most) chunk *= 2;
    return chunk;
}

static void copy_activations(const ml_kernels *k, dnnl_data_type_t type, int64_t rows, int64_t filled, int64_t n, const float *x,
                             int64_t ldx, char *to)
{
    int64_t size = type == dnnl_bf16 ? 2 : 4;
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < rows; t++) {
        char *row = to + t * n * size;
        if (t >= filled)
            memset(row, 0, (size_t)(n * size));
        else if (type == dnnl_bf16)
            k->narrow(n, x + t * ldx, (uint16_t *)(void *)row);
        else
            memcpy(row, x + t * ldx, (size_t)(n * size));
    }
}

static void put_results(int64_t rows, int64_t n, const float *from, float beta, float *c, int64_t ldc)
{
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < rows; t++)
        for (int64_t i = 0; i < n; i++) c[t * ldc + i] = from[t * n + i] + (beta != 0 ? c[t * ldc + i] : 0);
}

/* One chunk of tokens; false where oneDNN has no fast code. */
static bool run_chunk(const ml_kernels *k, const scratch *s, const ml_weight *w, bool backward, int64_t chunk, int64_t filled,
                      const float *x, int64_t ldx, float beta, float *y, int64_t ldy)
{
    int64_t in = backward ? w->rows : w->cols, out = backward ? w->cols : w->rows;
    ml_matmul_key key = {.m = chunk, .rows = w->rows, .cols = w->cols, .ldc = ldy, .backward = backward, .add = beta != 0};
    copy_activations(k, s->cache->type, chunk, filled, in, x, ldx, s->a);
    if (filled == chunk && ml_matmul_run(s->cache, &key, s->a, w->data, y)) return true;
    key.ldc = out;
    key.add = false;
    if (!ml_matmul_run(s->cache, &key, s->a, w->data, s->c)) return false;
    put_results(filled, out, s->c, beta, y, ldy);
    return true;
}

/* How many of the T tokens were done. */
static int64_t run(const ml_kernels *k, bool backward, int64_t T, const float *x, int64_t ldx, const ml_weight *w, float beta, float *y,
                   int64_t ldy)
{
    const ml_kernels_owner *owner = ml_kernels_owner_of(k);
    ml_matmul_cache *cache = cache_of(owner);
    if ((w->dtype == ML_BF16) != (cache->type == dnnl_bf16)) return 0;
    float *chunks = (float *)(void *)cache - 2 * owner->product_chunk_floats;
    const scratch s = {cache, (char *)(void *)chunks, chunks + owner->product_chunk_floats};
    int64_t most = owner->product_chunk_floats / ml_max(w->rows, w->cols), t = 0;
    while (t < T) {
        int64_t chunk = chunk_of(T - t, ml_min(most, CHUNK_MOST)), filled = ml_min(chunk, T - t);
        if (!run_chunk(k, &s, w, backward, chunk, filled, x + t * ldx, ldx, beta, y + t * ldy, ldy)) break;
        t += filled;
    }
    return t;
}

static void weight_forward(const ml_kernels *k, int64_t T, const float *x, int64_t ldx, const ml_weight *w, float beta, float *y,
                           int64_t ldy)
{
    int64_t done = T <= ML_SMALL_TOKENS ? 0 : run(k, false, T, x, ldx, w, beta, y, ldy);
    if (done < T) ml_panel_forward(ml_onednn_sgemm, k, T - done, x + done * ldx, ldx, w, beta, y + done * ldy, ldy);
}

static void weight_backward(const ml_kernels *k, int64_t T, const float *dy, int64_t ldy, const ml_weight *w, float beta, float *dx,
                            int64_t ldx)
{
    int64_t done = run(k, true, T, dy, ldy, w, beta, dx, ldx);
    if (done < T) ml_panel_backward(ml_onednn_sgemm, k, T - done, dy + done * ldy, ldy, w, beta, dx + done * ldx, ldx);
}

static ml_status start(ml_kernels_owner *owner, const ml_kernels_options *options)
{
    owner->product_chunk_floats = ml_round_up(2 * chunk_floats(options), 16) / 2;
    owner->table.weight_forward = weight_forward;
    owner->table.weight_backward = weight_backward;
    owner->table.gemm = ml_onednn_gemm;
    return ml_matmul_cache_start(cache_of(owner), options->weight_dtype == ML_BF16 ? dnnl_bf16 : dnnl_f32);
}

static void stop(ml_kernels_owner *owner) { ml_matmul_cache_stop(cache_of(owner)); }

/* bf16 instructions, of AVX-512 or AMX, and code in oneDNN that uses them. */
static bool bf16_available(ml_dtype dtype)
{
    return dtype == ML_BF16 && (dnnl_get_effective_cpu_isa() & dnnl_cpu_isa_avx512_core_bf16) == dnnl_cpu_isa_avx512_core_bf16;
}

static bool fp32_available(ml_dtype dtype) { return dtype == ML_FP32; }

const ml_product_path ml_product_path_onednn_bf16 = {"onednn-bf16", bf16_available, scratch_floats, start, stop};
const ml_product_path ml_product_path_onednn_matmul = {"onednn-matmul", fp32_available, scratch_floats, start, stop};
