/* What ΔW amplifies: W seen through the singular directions of ΔW, of its own, and of chance.
 *
 * Rank p of R has the p-th of R equal runs of W's rows: its part of ‖W‖²_F and of Uᵀ·W·V is a
 * local sum; one sum over the ranks follows for each module.
 */
#include <math.h>

#include "analyze/directions.h"
#include "analyze/lapack.h"
#include "analyze/spectrum.h"
#include "analyze/weights.h"

enum { STEP_ROWS = 256, PAIRS = 2 };

/* The left and right directions of ΔW, and random ones. */
typedef struct frame {
    directions left, right;
} frame;

/* What one module needs. */
typedef struct work {
    int64_t rank;
    frame frame[PAIRS];
    float *rows;    /* [STEP_ROWS, in] of W */
    double *wide;   /* the same */
    double *turned; /* [STEP_ROWS, r]: W·V */
    double *left;   /* [STEP_ROWS, r]: U */
    double *sums;   /* [PAIRS, r, r] and ‖W‖² */
    double *sigma;  /* of W */
} work;

static void work_destroy(work *w)
{
    for (int i = 0; i < PAIRS; i++) {
        directions_destroy(&w->frame[i].left);
        directions_destroy(&w->frame[i].right);
    }
    ml_memory_free(w->rows);
    ml_memory_free(w->wide);
    ml_memory_free(w->turned);
    ml_memory_free(w->left);
    ml_memory_free(w->sums);
    ml_memory_free(w->sigma);
}

static ml_status make_room(work *w, const ml_study_module *module)
{
    ml_status st = ML_OK;
    static const char what[] = "a block of a weight";
    ML_NEW(w->rows, STEP_ROWS * module->in, ML_MEM_WORKSPACE, what);
    ML_NEW(w->wide, STEP_ROWS * module->in, ML_MEM_WORKSPACE, what);
    ML_NEW(w->turned, STEP_ROWS * w->rank, ML_MEM_WORKSPACE, what);
    ML_NEW(w->left, STEP_ROWS * w->rank, ML_MEM_WORKSPACE, what);
    ML_NEW(w->sums, PAIRS * w->rank * w->rank + 1, ML_MEM_WORKSPACE, what);
    ML_NEW(w->sigma, ml_min(module->in, module->out), ML_MEM_WORKSPACE, what);
done:
    return st;
}

static ml_status find_directions(work *w, const ml_study_module *module, uint64_t seed)
{
    ml_status st = ML_OK;
    char name[96];
    frame *own = &w->frame[0], *chance = &w->frame[1];
    ML_TRY(directions_of_delta(&own->left, &own->right, module->pair[0]));
    w->rank = ml_min(w->rank, directions_rank(&own->left, module->in));
    if (w->rank == 0) {
        st = ml_fail(ML_INPUT, "%s: ΔW is zero, as before training, and so has no directions",
                     module->name);
        goto done;
    }
    snprintf(name, sizeof name, "analyze.amplification.left.%s", module->name);
    ML_TRY(directions_random(&chance->left, w->rank, module->out, seed, name));
    snprintf(name, sizeof name, "analyze.amplification.right.%s", module->name);
    st = directions_random(&chance->right, w->rank, module->in, seed, name);
done:
    return st;
}

/* sums += U[rows]ᵀ·(W[rows]·V) */
static void project_rows(work *w, const frame *f, int64_t first, int64_t count, double *sums)
{
    blas_product(false, true, count, w->rank, f->right.length, 1.0, w->wide, f->right.vector, 0.0,
                 w->turned);
    for (int64_t i = 0; i < count; i++)
        for (int64_t k = 0; k < w->rank; k++)
            w->left[i * w->rank + k] = f->left.vector[k * f->left.length + first + i];
    blas_product(true, false, w->rank, w->rank, count, 1.0, w->left, w->turned, 1.0, sums);
}

/* This rank's rows. */
static ml_status project_own(work *w, const ml_study *study, const ml_study_module *module)
{
    weight_reader reader = {study, module};
    int64_t square = w->rank * w->rank, ranks = ml_grid_size(study->grid),
            me = ml_grid_rank(study->grid);
    int64_t first = ml_part_start(module->out, ranks, me),
            end = first + ml_part_count(module->out, ranks, me);
    for (; first < end; first += STEP_ROWS) {
        int64_t n = ml_min(STEP_ROWS, end - first);
        ml_status st = weight_reader_rows(&reader, first, n, w->rows);
        if (st != ML_OK) return st;
        for (int64_t i = 0; i < n * module->in; i++) w->wide[i] = w->rows[i];
        w->sums[PAIRS * square] += blas_square(n * module->in, w->wide);
        for (int i = 0; i < PAIRS; i++)
            project_rows(w, &w->frame[i], first, n, w->sums + i * square);
    }
    return ML_OK;
}

static double norm_of(const double *x, int64_t n)
{
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) sum += x[i] * x[i];
    return sqrt(sum);
}

static ml_status study_module(ml_amplification *out, const ml_study *study,
                              const ml_study_module *module, uint64_t seed)
{
    ml_status st = ML_OK;
    work w = {.rank = out->rank};
    st = find_directions(&w, module, seed);
    if (st == ML_OK) st = make_room(&w, module);
    if (st == ML_OK) st = project_own(&w, study, module);
    ML_TRY(ml_grid_agree(study->grid, st));
    int64_t square = w.rank * w.rank;
    ml_grid_sum_double(study->grid, ML_GROUP_WORLD, w.sums, PAIRS * square + 1);
    ML_TRY(spectrum_of_weight(study, module, w.sigma));
    out->rank = w.rank;
    out->of_delta = norm_of(w.sums, square);
    out->of_random = norm_of(w.sums + square, square);
    out->of_weight = norm_of(w.sigma, w.rank);
    out->weight_norm = sqrt(w.sums[PAIRS * square]);
    out->delta_norm = norm_of(w.frame[0].left.sigma, w.frame[0].left.count);
    out->factor = out->delta_norm / out->of_delta;
done:
    work_destroy(&w);
    return st;
}

static ml_status choose_rank(ml_amplification *out, const ml_study_module *module, int64_t rank)
{
    int64_t own = module->pair[0]->rank;
    out->rank = rank > 0 ? rank : own;
    if (out->rank <= own) return ML_OK;
    return ml_fail(ML_USAGE,
                   "--rank: %lld directions are more than ΔW has at %s, which is of rank %lld",
                   (long long)rank, module->name, (long long)own);
}

ml_status ml_amplification_compute(ml_amplification *out, const ml_study *study, int64_t rank,
                                   uint64_t seed, int64_t memory)
{
    ml_status st = ML_OK;
    for (int64_t i = 0; i < study->count; i++)
        ML_TRY(choose_rank(&out[i], &study->modules[i], rank));
    ML_TRY(spectrum_check_memory(study, memory));
    for (int64_t i = 0; i < study->count; i++)
        ML_TRY(study_module(&out[i], study, &study->modules[i], seed));
done:
    return st;
}
