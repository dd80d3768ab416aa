/* analyze: what LoRA learns (Hu et al. 2021, arXiv:2106.09685, section 7): subspaces of adapters,
 * what they amplify, spectra of W and ΔW.
 *
 * ΔW = s·B·A of a module, with A[r, in], B[out, r] and the adapter's scale s; W[out, in] is the
 * base's weight there. ΔW is never formed: with B = Q_B·R_B and Aᵀ = Q_A·R_A its singular vectors
 * are those of the r × r matrix s·R_B·R_Aᵀ, turned by Q_B and Q_A. Everything is computed in
 * double precision.
 *
 * Beside grid/ the only module with MPI: ScaLAPACK works on a process grid P × Q of its own, over
 * the world's ranks.
 *
 * Letters: r rank, k = min(out, in) singular values of W, φ similarity of subspaces.
 */
#ifndef MPILORA_ANALYZE_H
#define MPILORA_ANALYZE_H

#include "mpilora/base.h"
#include "mpilora/grid.h"
#include "mpilora/store.h"

/* ---- a study: a base, one or two adapters, and the modules looked at ----------------------- */
ML_BEGIN_DECLS

enum { ML_SELECTION_RANGES = 64, ML_STUDY_ADAPTERS = 2 };

/* Which modules. */
typedef struct ml_selection {
    unsigned targets; /* ml_target bits; 0: all that are there */
    int ranges;       /* 0: every layer */
    struct {
        int64_t first, last; /* inclusive, from 0 */
    } range[ML_SELECTION_RANGES];
} ml_selection;

typedef struct ml_study_module {
    char name[64]; /* "layers.3.attn.q" */
    int64_t layer;
    const char *target; /* "q" */
    int64_t in, out;
    const ml_adapter_pair
        *pair[ML_STUDY_ADAPTERS]; /* borrowed from the adapters; NULL where there is none */
} ml_study_module;

typedef struct ml_study {
    const ml_grid *grid; /* borrowed */
    ml_base *base;
    int adapters;
    const char *path[ML_STUDY_ADAPTERS]; /* borrowed */
    ml_adapter adapter[ML_STUDY_ADAPTERS];
    int64_t count;
    ml_study_module *modules; /* in the model's order */
} ml_study;

/* Opens the base and the adapters (adapter.h5 or PEFT directories; NULL: none) and lists the
 * modules that are selected: those of the adapters, or without any all linear layers. GPT-2's
 * fused pairs become q, k and v again where the selection or the other adapter has these.
 * Shapes: none.
 * Ownership: `grid` and the paths are borrowed until ml_study_close, which ends *out.
 * Collective over the world.
 * Errors: ML_INPUT where an adapter belongs to another base, has a module that the other lacks, or
 * a rank exceeds a side of W; ML_USAGE where a target or layer that was asked for is not there;
 * ML_RESOURCE. */
ml_status ml_study_open(ml_study *out, const ml_grid *grid, const char *base,
                        const char *const adapters[ML_STUDY_ADAPTERS],
                        const ml_selection *selection) ML_NODISCARD;

/* Ends a study; {0} is fine.
 * Shapes: none.
 * Ownership: takes what `study` owns.
 * Local.
 * Errors: none. */
void ml_study_close(ml_study *study);

/* ---- subspaces (section 7.2, figures 3 and 4) ---------------------------------------------- */

/* Whose directions span the subspaces: A's right-singular ones (the paper's), B's left-singular
 * ones, or ΔW's on either side. */
typedef enum ml_factor { ML_FACTOR_A, ML_FACTOR_B, ML_FACTOR_RIGHT, ML_FACTOR_LEFT } ml_factor;
enum { ML_FACTORS = 4 };

/* The word of a factor: "A", "B", "right", "left".
 * Shapes: none.
 * Ownership: static.
 * Local.
 * Errors: none. */
const char *ml_factor_name(ml_factor factor);

/* φ(i, j) = ‖U_iᵀ·V_j‖²_F / min(i, j) of the first i directions of the one and the first j of the
 * other: 0 orthogonal, 1 one contains the other. */
typedef struct ml_subspace {
    int64_t na, nb;            /* directions of each: the numerical rank of what they are of */
    double *sigma_a, *sigma_b; /* [na], [nb] its singular values */
    double *phi;               /* [na, nb]; φ(i, j) at (i − 1, j − 1) */
    double *phi_random; /* [na, nb] the same of two matrices of Gaussian numbers in these shapes */
} ml_subspace;

/* Similarity of the subspaces of two adapters for each module of the study, beside that of random
 * matrices drawn from `seed` (Hu et al. 2021, section 7.2). The modules are dealt out among the
 * ranks; every rank gets all results.
 * Shapes: (*out)[study->count].
 * Ownership: *out is the caller's, who ends it with ml_subspaces_destroy.
 * Collective over the world.
 * Errors: ML_INPUT where a factor is zero and so has no directions; ML_RESOURCE. */
ml_status ml_subspaces_compute(ml_subspace **out, const ml_study *study, ml_factor factor,
                               uint64_t seed) ML_NODISCARD;

/* Ends the results; NULL is fine.
 * Shapes: [count].
 * Ownership: takes `subspaces`.
 * Local.
 * Errors: none. */
void ml_subspaces_destroy(ml_subspace *subspaces, int64_t count);

/* φ(i, j) = ‖U_iᵀ·V_j‖²_F / min(i, j) of given directions.
 * Shapes: u[na, length] and v[nb, length], orthonormal rows; phi[na, nb].
 * Ownership: all borrowed.
 * Local.
 * Errors: none. */
void ml_subspace_similarity(const double *u, int64_t na, const double *v, int64_t nb,
                            int64_t length, double *phi);

/* ---- amplification (section 7.3, table 7) -------------------------------------------------- */

/* ‖Uᵀ·W·V‖_F with U, V the first r left- and right-singular vectors of ΔW, of W, and of a random
 * matrix. */
typedef struct ml_amplification {
    int64_t rank;                          /* r, at most the numerical rank of ΔW */
    double of_delta, of_weight, of_random; /* the three projections */
    double weight_norm, delta_norm;        /* ‖W‖_F, ‖ΔW‖_F */
    double factor;                         /* ‖ΔW‖_F / of_delta */
} ml_amplification;

/* What of W a study's one adapter amplifies, with `rank` directions (0: each pair's rank), by Hu
 * et al. 2021, section 7.3. For W's own directions ‖Uᵀ·W·V‖²_F is the sum of its r largest squared
 * singular values, so only these are computed, by ScaLAPACK. The random directions, from `seed`,
 * are Haar-distributed, as those of a Gaussian matrix are.
 * Shapes: out[study->count]; `memory` in bytes as ml_svd_check takes it.
 * Ownership: `out` is the caller's.
 * Collective over the world.
 * Errors: ML_USAGE where `rank` exceeds a pair's; ML_INPUT where ΔW is zero or a weight is not
 * finite; ML_RESOURCE, ML_NUMERIC as ml_singular_values. */
ml_status ml_amplification_compute(ml_amplification *out, const ml_study *study, int64_t rank,
                                   uint64_t seed, int64_t memory) ML_NODISCARD;

/* ---- spectra ------------------------------------------------------------------------------- */

typedef struct ml_spectrum {
    int64_t weights, deltas;
    double *weight; /* [weights] singular values of W, descending */
    double *delta;  /* [deltas] of ΔW; none without an adapter */
} ml_spectrum;

/* Singular values of W and of ΔW for each module.
 * Shapes: (*out)[study->count]; `memory` in bytes as ml_svd_check takes it.
 * Ownership: *out is the caller's, who ends it with ml_spectra_destroy.
 * Collective over the world.
 * Errors: as ml_amplification_compute. */
ml_status ml_spectra_compute(ml_spectrum **out, const ml_study *study, int64_t memory) ML_NODISCARD;

/* Ends the results; NULL is fine.
 * Shapes: [count].
 * Ownership: takes `spectra`.
 * Local.
 * Errors: none. */
void ml_spectra_destroy(ml_spectrum *spectra, int64_t count);

/* ---- singular values by ScaLAPACK ---------------------------------------------------------- */

/* How a matrix is spread: block-cyclic over P × Q of the ranks, each of which gets at least a
 * block; small matrices use fewer ranks. */
typedef struct ml_svd_plan {
    int64_t rows, cols;             /* of W */
    int process_rows, process_cols; /* P cut W's columns, Q its rows */
    int64_t block;
    int64_t matrix_bytes, work_bytes, read_bytes; /* of the rank that holds most */
    int64_t bytes;                                /* their sum */
} ml_svd_plan;

/* How a matrix is spread over `ranks` ranks, and what that takes.
 * Shapes: rows × cols of W.
 * Ownership: `out` is the caller's.
 * Local.
 * Errors: none. */
void ml_svd_plan_make(ml_svd_plan *out, int64_t rows, int64_t cols, int ranks);

enum { ML_SVD_KINDS = 10 };
typedef struct ml_svd_kind {
    const char *target; /* "q" */
    ml_svd_plan plan;
} ml_svd_kind;

/* The plans of each kind of linear layer that `targets` (ml_target bits; 0: all) chooses, in the
 * model's order.
 * Shapes: out[*count], at most ML_SVD_KINDS.
 * Ownership: `out` is the caller's; the words in it are static.
 * Local.
 * Errors: ML_USAGE where the family lacks a target. */
ml_status ml_svd_plan_model(ml_svd_kind out[ML_SVD_KINDS], int64_t *count,
                            const ml_model_spec *spec, unsigned targets, int ranks) ML_NODISCARD;

/* Logs the plan, and refuses it where the ranks of a node need more than the node has: `memory`
 * bytes, or, where that is 0, what the kernel says is available, or the job's cgroup allows.
 * Shapes: bytes.
 * Ownership: borrows all.
 * Collective over the world.
 * Errors: ML_RESOURCE naming both figures; also where a rank's part is beyond ScaLAPACK's 32-bit
 * counts. */
ml_status ml_svd_check(const ml_svd_plan *plan, const ml_grid *grid, int64_t memory) ML_NODISCARD;

/* Rows [first, first + count) of a matrix, row-major fp32. */
typedef ml_status (*ml_rows_reader)(void *context, int64_t first, int64_t count, float *out);

/* Singular values by pdgesvd in double precision, descending, the same on every rank; every rank
 * reads the rows that it has a part of, block by block.
 * Shapes: sigma[min(rows, cols)].
 * Ownership: `sigma` is the caller's; `context` is handed to `read`.
 * Collective over the world.
 * Errors: ML_NUMERIC where the iteration does not converge; ML_INTERNAL where ranks found
 * different values (processors that round differently); what `read` returns; ML_RESOURCE. */
ml_status ml_singular_values(double *sigma, const ml_svd_plan *plan, const ml_grid *grid,
                             ml_rows_reader read, void *context) ML_NODISCARD;

/* ---- results as files ---------------------------------------------------------------------- */

/* Writes results as HDF5: attributes `format` ("mpilora analysis"), `version`, `kind` and what was
 * studied; a group sites/NAME for each module with the numbers in double precision. Over an older
 * file, whole or not at all.
 * Shapes: results[study->count].
 * Ownership: all borrowed.
 * Local.
 * Errors: ML_RESOURCE where it cannot be written. */
ml_status ml_subspaces_write(const char *path, const ml_study *study, ml_factor factor,
                             uint64_t seed, const ml_subspace *subspaces) ML_NODISCARD;
ml_status ml_amplification_write(const char *path, const ml_study *study, uint64_t seed,
                                 const ml_amplification *results) ML_NODISCARD;
ml_status ml_spectra_write(const char *path, const ml_study *study,
                           const ml_spectrum *spectra) ML_NODISCARD;

ML_END_DECLS

#endif
