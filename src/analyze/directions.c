/* Singular vectors by way of thin QR factorisations: a factor is long and narrow, and ΔW = s·B·A =
 * Q_B·(s·R_B·R_Aᵀ)·Q_Aᵀ has those of an r × r matrix. */
#include "analyze/directions.h"

#include <float.h>

#include "analyze/lapack.h"

static const char what[] = "directions of an adapter";

void directions_destroy(directions *d)
{
    ml_memory_free(d->vector);
    ml_memory_free(d->sigma);
    *d = (directions){0};
}

/* Room for r ≤ length directions. */
static ml_status make_room(directions *d, int64_t r, int64_t length)
{
    ml_status st = ML_OK;
    *d = (directions){.count = r, .length = length};
    ML_NEW(d->vector, r * length, ML_MEM_WORKSPACE, what);
    ML_NEW(d->sigma, r, ML_MEM_WORKSPACE, what);
done:
    return st;
}

/* d's vectors become Q of the rows that stand there, r[count, count] its R (column-major): the
 * rows are Rᵀ·Qᵀ. */
static ml_status orthogonalise(directions *d, double *r)
{
    return lapack_qr(d->length, d->count, d->vector, r);
}

/* vector ← turn·vector: row k of the result is Σ turn[k, j]·(row j), turn[count, count]
 * row-major. */
static ml_status turn(directions *d, const double *turning)
{
    ml_status st = ML_OK;
    double *turned = NULL;
    ML_NEW(turned, d->count * d->length, ML_MEM_WORKSPACE, what);
    blas_product(false, false, d->count, d->length, d->count, 1.0, turning, d->vector, 0.0, turned);
    ml_memory_free(d->vector);
    d->vector = turned;
done:
    return st;
}

/* The right-singular vectors of the rows that stand in d. */
static ml_status find_own(directions *d)
{
    ml_status st = ML_OK;
    int64_t n = d->count;
    double *r = NULL, *u = NULL;
    ML_NEW(r, n * n, ML_MEM_WORKSPACE, what);
    ML_NEW(u, n * n, ML_MEM_WORKSPACE, what);
    ML_TRY(orthogonalise(d, r));
    ML_TRY(
        lapack_svd(n, n, r, d->sigma, u,
                   NULL)); /* R = U·Σ·Vᵀ: the rows are V·Σ·(Q·U)ᵀ; column-major U is row-major Uᵀ */
    st = turn(d, u);
done:
    ml_memory_free(r);
    ml_memory_free(u);
    return st;
}

/* A[r, in] as it stands. */
static ml_status take_a(directions *d, const ml_adapter_pair *p)
{
    ml_status st = make_room(d, p->rank, p->in);
    for (int64_t i = 0; st == ML_OK && i < p->rank * p->in; i++) d->vector[i] = p->a[i];
    return st;
}

/* B[out, r], transposed. */
static ml_status take_b(directions *d, const ml_adapter_pair *p)
{
    ml_status st = make_room(d, p->rank, p->out);
    for (int64_t i = 0; st == ML_OK && i < p->out; i++)
        for (int64_t k = 0; k < p->rank; k++) d->vector[k * p->out + i] = p->b[i * p->rank + k];
    return st;
}

/* core = s·R_B·R_Aᵀ = U·Σ·Vᵀ, all r × r and column-major: u gets U (row-major Uᵀ), v Vᵀ transposed
 * into row-major Vᵀ. */
static ml_status factorise_core(int64_t r, double scale, const double *rb, const double *ra,
                                double *sigma, double *u, double *v)
{
    ml_status st = ML_OK;
    double *core = NULL, *vt = NULL;
    ML_NEW(core, r * r, ML_MEM_WORKSPACE, what);
    ML_NEW(vt, r * r, ML_MEM_WORKSPACE, what);
    blas_product(true, false, r, r, r, scale, ra, rb, 0.0, core); /* coreᵀ, row-major */
    ML_TRY(lapack_svd(r, r, core, sigma, u, vt));
    for (int64_t i = 0; i < r; i++)
        for (int64_t j = 0; j < r; j++) v[i * r + j] = vt[j * r + i];
done:
    ml_memory_free(core);
    ml_memory_free(vt);
    return st;
}

ml_status directions_of_delta(directions *left, directions *right, const ml_adapter_pair *p)
{
    ml_status st = ML_OK;
    int64_t r = p->rank;
    double *ra = NULL, *rb = NULL, *u = NULL, *v = NULL;
    ML_TRY(take_b(left, p));
    ML_TRY(take_a(right, p));
    ML_NEW(ra, r * r, ML_MEM_WORKSPACE, what);
    ML_NEW(rb, r * r, ML_MEM_WORKSPACE, what);
    ML_NEW(u, r * r, ML_MEM_WORKSPACE, what);
    ML_NEW(v, r * r, ML_MEM_WORKSPACE, what);
    ML_TRY(orthogonalise(left, rb));
    ML_TRY(orthogonalise(right, ra));
    ML_TRY(factorise_core(r, (double)p->scale, rb, ra, left->sigma, u, v));
    memcpy(right->sigma, left->sigma, (size_t)r * sizeof *left->sigma);
    ML_TRY(turn(left, u));
    st = turn(right, v);
done:
    ml_memory_free(ra);
    ml_memory_free(rb);
    ml_memory_free(u);
    ml_memory_free(v);
    return st;
}

int64_t directions_rank(const directions *d, int64_t other_side)
{
    double least = (double)ml_max(d->length, other_side) * DBL_EPSILON * d->sigma[0];
    int64_t n = 0;
    while (n < d->count && d->sigma[n] > least) n++;
    return n;
}

/* Directions that only rounding made are none. */
static ml_status keep_rank(directions *d, int64_t other_side, const char *module,
                           const char *factor)
{
    d->count = directions_rank(d, other_side);
    if (d->count > 0) return ML_OK;
    return ml_fail(ML_INPUT, "%s: %s is zero, as before training, and so has no directions", module,
                   factor);
}

ml_status directions_of(directions *out, const ml_adapter_pair *p, ml_factor factor)
{
    ml_status st = ML_OK;
    directions left = {0}, right = {0};
    switch (factor) {
    case ML_FACTOR_A:
        ML_TRY(take_a(out, p));
        ML_TRY(find_own(out));
        return keep_rank(out, p->rank, p->module, "A");
    case ML_FACTOR_B:
        ML_TRY(take_b(out, p));
        ML_TRY(find_own(out));
        return keep_rank(out, p->rank, p->module, "B");
    case ML_FACTOR_RIGHT:
    case ML_FACTOR_LEFT:
        ML_TRY(directions_of_delta(&left, &right, p));
        *out = factor == ML_FACTOR_LEFT ? left : right;
        *(factor == ML_FACTOR_LEFT ? &left : &right) = (directions){0};
        st = keep_rank(out, factor == ML_FACTOR_LEFT ? p->in : p->out, p->module, "ΔW");
    }
done:
    directions_destroy(&left);
    directions_destroy(&right);
    return st;
}

ml_status directions_random(directions *out, int64_t count, int64_t length, uint64_t seed,
                            const char *name)
{
    ml_random_key key = ml_random_key_make(seed, name);
    ml_status st = make_room(out, count, length);
    for (int64_t i = 0; st == ML_OK && i < count * length; i++)
        out->vector[i] = ml_random_normal(key, 0, (uint64_t)i);
    return st == ML_OK ? find_own(out) : st;
}
