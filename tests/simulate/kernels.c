/* Kernels that compute nothing and take the time that the machine's file gives them. Each entry of
 * the table has the cost of what it is asked to do, by the formulas of mpilora/plan.h; how often
 * and with which sizes is the model's doing. Values stay what they are, 0 where nothing was
 * written; those that a loss is made of are such that it is a number. */
#include <math.h>

#include "kernels/kernels_private.h"
#include "simulate.h"

static const ml_machine *machine;
static double cores, ranks_on_node; /* cores: of this rank */
static bool in_fp32;                /* what is computed with */

void kernels_use(const ml_machine *on, double rank_cores, double on_node)
{
    machine = on;
    cores = rank_cores;
    ranks_on_node = on_node;
}

static void spend_elements(ml_element_kind kind, double numbers)
{
    clock_spend(1e-9 * machine->element_ns[kind] * numbers / cores);
}

void kernels_move(double floats) { spend_elements(ML_ELEMENT_MOVE, floats); }

/* ---- products ------------------------------------------------------------------------------ */

static void spend_product(ml_cost_kind fp32, int64_t T, const ml_weight *w)
{
    bool narrow = w->dtype == ML_BF16;
    ml_cost_kind kind = narrow ? fp32 - ML_COST_FP32_FORWARD + ML_COST_BF16_FORWARD : fp32;
    double t = (double)T, m = (double)w->rows, n = (double)w->cols;
    double computing =
        ml_cost_seconds(&machine->cost[kind], 2.0 * t * m * n, m * n, t * (m + n)) / cores;
    double reading = m * n * (narrow ? 2.0 : 4.0) / machine->memory_rate * ranks_on_node;
    clock_spend(fmax(computing, reading));
}

static void weight_forward(const ml_kernels *k, int64_t T, const float *x, int64_t ldx,
                           const ml_weight *w, float beta, float *y, int64_t ldy)
{
    (void)k, (void)x, (void)ldx, (void)beta, (void)y, (void)ldy;
    spend_product(ML_COST_FP32_FORWARD, T, w);
}

static void weight_backward(const ml_kernels *k, int64_t T, const float *dy, int64_t ldy,
                            const ml_weight *w, float beta, float *dx, int64_t ldx)
{
    (void)k, (void)dy, (void)ldy, (void)beta, (void)dx, (void)ldx;
    spend_product(ML_COST_FP32_BACKWARD, T, w);
}

/* Of an adapter: forward alone has B transposed. Of the three matrices the factor is small. A
 * product without a narrow side is a weight's gradient. */
static void gemm(const ml_kernels *k, bool ta, bool tb, int64_t m, int64_t n, int64_t kk,
                 float alpha, const float *a, int64_t lda, const float *b, int64_t ldb, float beta,
                 float *c, int64_t ldc)
{
    enum { NARROW = 256 };
    (void)k, (void)ta, (void)alpha, (void)a, (void)lda, (void)b, (void)ldb, (void)beta, (void)c,
        (void)ldc;
    double M = (double)m, N = (double)n, K = (double)kk;
    bool narrow = ml_min(m, ml_min(n, kk)) <= NARROW;
    ml_cost_kind kind = !narrow ? ML_COST_WEIGHT_GRADIENT
                        : tb    ? ML_COST_ADAPTER_FORWARD
                                : ML_COST_ADAPTER_BACKWARD;
    double numbers = fmax(M * K, fmax(K * N, M * N)); /* the wide one */
    clock_spend(ml_cost_seconds(&machine->cost[kind], 2.0 * M * N * K, narrow ? 0.0 : M * N,
                                narrow ? numbers : K * (M + N)) /
                cores);
}

/* ---- norms, positions, activations --------------------------------------------------------- */

static void layernorm_forward(int64_t T, int64_t d, const float *x, const float *w, const float *b,
                              float eps, float *y, float *mean, float *rstd)
{
    (void)x, (void)w, (void)b, (void)eps, (void)y, (void)mean, (void)rstd;
    spend_elements(ML_ELEMENT_NORM_FORWARD, (double)(T * d));
}

static void layernorm_backward(int64_t T, int64_t d, const float *x, const float *w,
                               const float *mean, const float *rstd, const float *dy, float *dx,
                               bool add, float *dw, float *db)
{
    (void)x, (void)w, (void)mean, (void)rstd, (void)dy, (void)dx, (void)add, (void)dw, (void)db;
    spend_elements(ML_ELEMENT_NORM_BACKWARD, (double)(T * d));
}

static void rmsnorm_forward(int64_t T, int64_t d, const float *x, const float *w, bool plus_one,
                            float eps, float *y, float *rstd)
{
    (void)x, (void)w, (void)plus_one, (void)eps, (void)y, (void)rstd;
    spend_elements(ML_ELEMENT_NORM_FORWARD, (double)(T * d));
}

static void rmsnorm_backward(int64_t T, int64_t d, const float *x, const float *w, bool plus_one,
                             const float *rstd, const float *dy, float *dx, bool add, float *dw)
{
    (void)x, (void)w, (void)plus_one, (void)rstd, (void)dy, (void)dx, (void)add, (void)dw;
    spend_elements(ML_ELEMENT_NORM_BACKWARD, (double)(T * d));
}

static void rope(const ml_rope_shape *shape, int64_t T, float *x, int64_t ldx,
                 const int32_t *position, const float *cosine, const float *sine, bool inverse)
{
    (void)x, (void)ldx, (void)position, (void)cosine, (void)sine, (void)inverse;
    kernels_move((double)(T * shape->heads * shape->rotated));
}

static void activation_forward(ml_activation a, int64_t T, int64_t n, const float *x, int64_t ldx,
                               float *y, int64_t ldy)
{
    (void)a, (void)x, (void)ldx, (void)y, (void)ldy;
    spend_elements(ML_ELEMENT_ACTIVATION_FORWARD, (double)(T * n));
}

static void activation_backward(ml_activation a, int64_t T, int64_t n, const float *x, int64_t ldx,
                                const float *dy, int64_t lddy, float *dx, int64_t lddx)
{
    (void)a, (void)x, (void)ldx, (void)dy, (void)lddy, (void)dx, (void)lddx;
    spend_elements(ML_ELEMENT_ACTIVATION_BACKWARD, (double)(T * n));
}

static void slopes_forward(ml_activation a, int64_t T, int64_t n, const float *x, int64_t ldx,
                           uint8_t *code)
{
    (void)a, (void)x, (void)ldx, (void)code;
    kernels_move((double)(T * n));
}

static void slopes_backward(int64_t T, int64_t n, const uint8_t *code, const float *dy,
                            int64_t lddy, float *dx, int64_t lddx)
{
    (void)code, (void)dy, (void)lddy, (void)dx, (void)lddx;
    kernels_move((double)(T * n));
}

static void gated_forward(ml_activation a, int64_t T, int64_t n, const float *gate, const float *up,
                          int64_t ldg, float *y, int64_t ldy)
{
    (void)a, (void)gate, (void)up, (void)ldg, (void)y, (void)ldy;
    spend_elements(ML_ELEMENT_GATED_FORWARD, (double)(T * n));
}

static void gated_backward(ml_activation a, int64_t T, int64_t n, const float *gate,
                           const float *up, int64_t ldg, const float *dy, int64_t lddy,
                           float *dgate, float *dup, int64_t lddg)
{
    (void)a, (void)gate, (void)up, (void)ldg, (void)dy, (void)lddy, (void)dgate, (void)dup,
        (void)lddg;
    spend_elements(ML_ELEMENT_GATED_BACKWARD, (double)(T * n));
}

/* ---- attention ----------------------------------------------------------------------------- */

static void spend_attention(ml_cost_kind kind, const ml_attention_shape *shape,
                            const ml_sequences *sequences)
{
    if (in_fp32) kind += ML_COST_FP32_ATTENTION_FORWARD - ML_COST_ATTENTION_FORWARD;
    double pairs = 0.0, width = (double)(shape->heads * shape->head_dim),
           T = (double)sequences->start[sequences->count];
    for (int64_t i = 0; i < sequences->count; i++) {
        double shared = (double)ml_sequences_shared(sequences, i),
               all = shared + (double)(sequences->start[i + 1] - sequences->start[i]);
        pairs += ml_attention_pairs(all, shape->window, shape->both_ways) -
                 ml_attention_pairs(shared, shape->window, shape->both_ways);
    }
    clock_spend(ml_cost_seconds(&machine->cost[kind], 4.0 * pairs * width, 0.0, T * width) / cores);
}

static void attention_forward(const ml_kernels *k, const ml_attention_shape *shape,
                              const ml_sequences *sequences, const float *q, int64_t ldq,
                              const float *key, const float *value, int64_t ldkv, float *o,
                              int64_t ldo, float *lse)
{
    (void)k, (void)q, (void)ldq, (void)key, (void)value, (void)ldkv, (void)o, (void)ldo, (void)lse;
    spend_attention(ML_COST_ATTENTION_FORWARD, shape, sequences);
}

static void attention_backward(const ml_kernels *k, const ml_attention_shape *shape,
                               const ml_sequences *sequences, const ml_attention_kept *kept,
                               const float *d_o, int64_t lddo, float *dq, int64_t lddq, float *dk,
                               float *dv, int64_t lddkv)
{
    (void)k, (void)kept, (void)d_o, (void)lddo, (void)dq, (void)lddq, (void)dk, (void)dv,
        (void)lddkv;
    spend_attention(ML_COST_ATTENTION_BACKWARD, shape, sequences);
}

/* ---- the loss ------------------------------------------------------------------------------ */

static void xent_max(int64_t C, int64_t V, const float *z, int64_t ldz, float *rowmax)
{
    (void)z, (void)ldz;
    for (int64_t c = 0; c < C; c++) rowmax[c] = 0.0F;
    spend_elements(ML_ELEMENT_CROSS_ENTROPY, 0.25 * (double)(C * V));
}

static void xent_sum(int64_t C, int64_t V, const float *z, int64_t ldz, const float *rowmax,
                     const ml_targets *targets, float *sum, float *picked)
{
    (void)z, (void)ldz, (void)rowmax, (void)targets;
    for (int64_t c = 0; c < C; c++) {
        sum[c] = (float)V;
        picked[c] = 0.0F;
    }
    spend_elements(ML_ELEMENT_CROSS_ENTROPY, 0.25 * (double)(C * V));
}

static void xent_backward(int64_t C, int64_t V, float *z, int64_t ldz, const float *rowmax,
                          const float *sum, const ml_targets *targets, float smoothing,
                          int64_t V_all, float scale)
{
    (void)z, (void)ldz, (void)rowmax, (void)sum, (void)targets, (void)smoothing, (void)V_all,
        (void)scale;
    spend_elements(ML_ELEMENT_CROSS_ENTROPY, 0.5 * (double)(C * V));
}

/* ---- vectors ------------------------------------------------------------------------------- */

static void add(int64_t n, const float *x, float *y)
{
    (void)x, (void)y;
    kernels_move((double)n);
}

static void scale(int64_t n, float factor, const float *x, float *y)
{
    (void)factor, (void)x, (void)y;
    kernels_move((double)n);
}

static void add_bias(int64_t T, int64_t n, const float *bias, float *y, int64_t ldy)
{
    (void)bias, (void)y, (void)ldy;
    kernels_move((double)(T * n));
}

static void sum_rows(int64_t T, int64_t n, const float *x, int64_t ldx, float *sum)
{
    (void)x, (void)ldx, (void)sum;
    kernels_move((double)(T * n));
}

static void fp32_to_bf16(int64_t n, const float *x, uint16_t *y)
{
    (void)x, (void)y;
    kernels_move((double)n);
}

static void bf16_to_fp32(int64_t n, const uint16_t *x, float *y)
{
    (void)x, (void)y;
    kernels_move((double)n);
}

/* Part of what the optimizer's rate counts. */
static double sum_squares(int64_t n, const float *x)
{
    (void)n, (void)x;
    return 0.0;
}

/* Computing, or reading and writing values, gradients and moments, as plan has it. */
static void adamw(const ml_adamw *step, int64_t n, float *p, const float *grad, float *m, float *v)
{
    enum { BYTES = 38 };
    (void)step, (void)p, (void)grad, (void)m, (void)v;
    double numbers = (double)n;
    clock_spend(fmax(1e-9 * machine->element_ns[ML_ELEMENT_OPTIMIZER] * numbers / cores,
                     BYTES * numbers * ranks_on_node / machine->memory_rate));
}

/* ---- the table ----------------------------------------------------------------------------- */

static void fill(ml_kernels *t)
{
    *t = *ml_kernels_reference(); /* what training of these models does not call */
    t->backend = t->vector_path = "simulated";
    t->weight_forward = weight_forward;
    t->weight_backward = weight_backward;
    t->gemm = gemm;
    t->layernorm_forward = layernorm_forward;
    t->layernorm_backward = layernorm_backward;
    t->rmsnorm_forward = rmsnorm_forward;
    t->rmsnorm_backward = rmsnorm_backward;
    t->rope = rope;
    t->activation_forward = activation_forward;
    t->activation_backward = activation_backward;
    t->slopes_forward = slopes_forward;
    t->slopes_backward = slopes_backward;
    t->gated_forward = gated_forward;
    t->gated_backward = gated_backward;
    t->attention_forward = attention_forward;
    t->attention_backward = attention_backward;
    t->xent_max = xent_max;
    t->xent_sum = xent_sum;
    t->xent_backward = xent_backward;
    t->add = add;
    t->scale = scale;
    t->add_bias = add_bias;
    t->sum_rows = sum_rows;
    t->fp32_to_bf16 = fp32_to_bf16;
    t->bf16_to_fp32 = bf16_to_fp32;
    t->sum_squares = sum_squares;
    t->adamw = adamw;
}

/* In the place of ml_kernels_create and ml_kernels_destroy. */
ml_status __wrap_ml_kernels_create(ml_kernels **out, const ml_kernels_options *options);
void __wrap_ml_kernels_destroy(ml_kernels *kernels);

ml_status __wrap_ml_kernels_create(ml_kernels **out, const ml_kernels_options *options)
{
    ml_status st = ML_OK;
    ml_kernels_owner *owner = NULL;
    in_fp32 = options->exact;
    ML_NEW(owner, 1, ML_MEM_WORKSPACE, "the simulated kernels");
    fill(&owner->table);
    owner->table.workspace = owner;
    *out = &owner->table;
done:
    return st;
}

void __wrap_ml_kernels_destroy(ml_kernels *kernels)
{
    if (kernels) ml_memory_free(ml_kernels_owner_of(kernels));
}
