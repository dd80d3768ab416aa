/* φ(i, j): how much of the first i directions of one adapter lies in the span of the first j of
 * another. */
#include "analyze/directions.h"
#include "analyze/lapack.h"

const char *ml_factor_name(ml_factor factor)
{
    static const char *const names[ML_FACTORS] = {"A", "B", "right", "left"};
    return names[factor];
}

void ml_subspaces_destroy(ml_subspace *s, int64_t count)
{
    for (int64_t i = 0; s && i < count; i++) {
        ml_memory_free(s[i].sigma_a);
        ml_memory_free(s[i].sigma_b);
        ml_memory_free(s[i].phi);
        ml_memory_free(s[i].phi_random);
    }
    ml_memory_free(s);
}

void ml_subspace_similarity(const double *u, int64_t na, const double *v, int64_t nb,
                            int64_t length, double *phi)
{
    blas_product(false, true, na, nb, length, 1.0, u, v, 0.0, phi);
    for (int64_t i = 0; i < na; i++) { /* squared sums over the upper left corners */
        double row = 0.0;
        for (int64_t j = 0; j < nb; j++) {
            row += phi[i * nb + j] * phi[i * nb + j];
            phi[i * nb + j] = row + (i > 0 ? phi[(i - 1) * nb + j] : 0.0);
        }
    }
    for (int64_t i = 0; i < na; i++)
        for (int64_t j = 0; j < nb; j++) phi[i * nb + j] /= (double)(ml_min(i, j) + 1);
}

/* ---- one module ---------------------------------------------------------------------------- */

static ml_status make_room(ml_subspace *s)
{
    ml_status st = ML_OK;
    ML_NEW(s->sigma_a, s->na, ML_MEM_OTHER, "results");
    ML_NEW(s->sigma_b, s->nb, ML_MEM_OTHER, "results");
    ML_NEW(s->phi, s->na * s->nb, ML_MEM_OTHER, "results");
    ML_NEW(s->phi_random, s->na * s->nb, ML_MEM_OTHER, "results");
done:
    return st;
}

/* The baseline: what two matrices of the same shapes have in common that know nothing of each
 * other. */
static ml_status compare_random(ml_subspace *s, int64_t length, uint64_t seed, const char *module)
{
    ml_status st = ML_OK;
    char name[96];
    directions a = {0}, b = {0};
    snprintf(name, sizeof name, "analyze.subspace.a.%s", module);
    ML_TRY(directions_random(&a, s->na, length, seed, name));
    snprintf(name, sizeof name, "analyze.subspace.b.%s", module);
    ML_TRY(directions_random(&b, s->nb, length, seed, name));
    ml_subspace_similarity(a.vector, s->na, b.vector, s->nb, length, s->phi_random);
done:
    directions_destroy(&a);
    directions_destroy(&b);
    return st;
}

static ml_status compare_module(ml_subspace *s, const ml_study *study,
                                const ml_study_module *module, ml_factor factor, uint64_t seed)
{
    ml_status st = ML_OK;
    directions d[ML_STUDY_ADAPTERS] = {{0}};
    for (int i = 0; i < ML_STUDY_ADAPTERS; i++) {
        st = directions_of(&d[i], module->pair[i], factor);
        if (st != ML_OK) {
            st = ml_fail_within(st, "%s", study->path[i]);
            goto done;
        }
    }
    s->na = d[0].count;
    s->nb = d[1].count;
    ML_TRY(make_room(s));
    memcpy(s->sigma_a, d[0].sigma, (size_t)s->na * sizeof *s->sigma_a);
    memcpy(s->sigma_b, d[1].sigma, (size_t)s->nb * sizeof *s->sigma_b);
    ml_subspace_similarity(d[0].vector, s->na, d[1].vector, s->nb, d[0].length, s->phi);
    st = compare_random(s, d[0].length, seed, module->name);
done:
    for (int i = 0; i < ML_STUDY_ADAPTERS; i++) directions_destroy(&d[i]);
    return st;
}

/* ---- all modules: rank p has those with index ≡ p ------------------------------------------ */

static ml_status compare_own(ml_subspace *s, const ml_study *study, ml_factor factor, uint64_t seed)
{
    ml_status st = ML_OK;
    for (int64_t i = ml_grid_rank(study->grid); i < study->count && st == ML_OK;
         i += ml_grid_size(study->grid))
        st = compare_module(&s[i], study, &study->modules[i], factor, seed);
    return st;
}

static ml_status share_sizes(ml_subspace *s, const ml_study *study)
{
    ml_status st = ML_OK;
    for (int64_t i = 0; i < study->count; i++) {
        int owner = (int)(i % ml_grid_size(study->grid));
        int64_t sizes[2] = {s[i].na, s[i].nb};
        ml_grid_broadcast(study->grid, ML_GROUP_WORLD, owner, sizes, (int64_t)sizeof sizes);
        if (owner == ml_grid_rank(study->grid)) continue;
        s[i].na = sizes[0];
        s[i].nb = sizes[1];
        if (st == ML_OK) st = make_room(&s[i]);
    }
    return ml_grid_agree(study->grid, st);
}

static void share_numbers(ml_subspace *s, const ml_study *study)
{
    for (int64_t i = 0; i < study->count; i++) {
        int owner = (int)(i % ml_grid_size(study->grid));
        const int64_t size = (int64_t)sizeof(double), n = s[i].na * s[i].nb;
        ml_grid_broadcast(study->grid, ML_GROUP_WORLD, owner, s[i].sigma_a, s[i].na * size);
        ml_grid_broadcast(study->grid, ML_GROUP_WORLD, owner, s[i].sigma_b, s[i].nb * size);
        ml_grid_broadcast(study->grid, ML_GROUP_WORLD, owner, s[i].phi, n * size);
        ml_grid_broadcast(study->grid, ML_GROUP_WORLD, owner, s[i].phi_random, n * size);
    }
}

ml_status ml_subspaces_compute(ml_subspace **out, const ml_study *study, ml_factor factor,
                               uint64_t seed)
{
    ml_status st = ML_OK;
    ml_subspace *s = ml_memory_alloc(study->count, sizeof *s, ML_MEM_OTHER, "results");
    ML_TRY(ml_grid_agree(study->grid, s ? ML_OK : ML_RESOURCE));
    ML_TRY(ml_grid_agree(study->grid, compare_own(s, study, factor, seed)));
    ML_TRY(share_sizes(s, study));
    share_numbers(s, study);
    *out = s;
    s = NULL;
done:
    ml_subspaces_destroy(s, study->count);
    return st;
}
