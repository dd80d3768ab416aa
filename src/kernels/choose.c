/* Chooses the backend by measuring the candidates (measure.c) and the vector path by what the
 * processor can run.
 *
 * Flags do not tell which product is fastest: a library may not know the processor, and a bf16
 * instruction can be half as fast as fp32. */
#include <cblas.h>

#include "kernels/kernels_private.h"

static const ml_backend *const backends[] = {&ml_backend_native,
                                             &ml_backend_blas,
                                             &ml_backend_onednn,
                                             &ml_backend_onednn_matmul,
                                             &ml_backend_onednn_bf16,
                                             &ml_backend_ref,
                                             NULL};

static const ml_vector_path *const vector_paths[] = {
#ifdef MPILORA_NATIVE_X86
    &ml_vector_path_avx512, &ml_vector_path_avx2,
#endif
    &ml_vector_path_generic, NULL}; /* the widest first */

static bool is_auto(const char *name) { return !name || !strcmp(name, "auto"); }

/* May this path be taken under these options? The reference only where it is forced. */
static bool is_candidate(const ml_backend *path, const ml_kernels_options *options)
{
    if (!path->available(options->weight_dtype)) return false;
    return is_auto(options->backend) ? path != &ml_backend_ref
                                     : !strcmp(path->name, options->backend);
}

int64_t ml_product_scratch_floats(const ml_kernels_options *options, int threads)
{
    int64_t most = 0;
    for (const ml_backend *const *p = backends; *p; p++)
        if (is_candidate(*p, options)) most = ml_max(most, (*p)->scratch_floats(options, threads));
    return most;
}

ml_status ml_choose_vector_path(ml_kernels *table, const char *name)
{
    char text[128] = "ref";
    if (!is_auto(name) && !strcmp(name, "ref")) return ML_OK;
    for (const ml_vector_path *const *v = vector_paths; *v; v++) {
        if (!(*v)->available()) continue;
        if (is_auto(name) || !strcmp(name, (*v)->name)) {
            (*v)->fill(table);
            table->vector_path = (*v)->name;
            return ML_OK;
        }
        size_t used = strlen(text);
        snprintf(text + used, sizeof text - used, ", %s", (*v)->name);
    }
    return ml_fail(ML_USAGE,
                   "vector path \"%s\" cannot run here; this processor and build have: auto, %s",
                   name, text);
}

static ml_status no_such_path(const ml_kernels_options *options)
{
    char text[128] = "auto";
    for (const ml_backend *const *p = backends; *p; p++) {
        size_t used = strlen(text);
        if ((*p)->available(options->weight_dtype))
            snprintf(text + used, sizeof text - used, ", %s", (*p)->name);
    }
    return ml_fail(
        ML_USAGE,
        "product path \"%s\" cannot run here with %s weights; this processor and build have: %s",
        options->backend, ml_dtype_name(options->weight_dtype), text);
}

static void stop_path(ml_kernels_owner *owner, const ml_backend *path)
{
    if (path->stop) path->stop(owner);
}

/* Fills the table's products; *right: they are what the reference computes. */
static ml_status start_path(ml_kernels_owner *owner, const ml_kernels_options *options,
                            const ml_backend *path, bool *right)
{
    ml_status st = path->start(owner, options);
    owner->table.backend = path->name;
    *right = true;
    if (st == ML_OK && options->nshapes > 0) st = ml_check_products(&owner->table, options, right);
    if (st != ML_OK || !*right) stop_path(owner, path);
    return st;
}

enum { ENOUGH_TOKENS = 128 };

/* OpenBLAS takes an old kernel on a processor that it does not know. */
static void warn_of_slow_blas(const ml_kernels_owner *owner, int64_t tokens)
{
    double blas = 0, other = 0;
    const char *name = "";
    for (int64_t i = 0; i < owner->nrates; i++) {
        const ml_kernels_rate *r = &owner->rates[i];
        if (!strcmp(r->path, "blas"))
            blas = r->forward_gflops;
        else if (!strcmp(r->path, "onednn")) {
            other = r->forward_gflops;
            name = r->path;
        }
    }
    if (tokens >= ENOUGH_TOKENS && blas > 0 &&
        blas < 0.5 * other) /* a few tokens say little about a kernel */
        ml_warn("OpenBLAS is slow on this processor: its %s kernel reaches %.0f GF/s where %s "
                "reaches %.0f; OPENBLAS_CORETYPE=SkylakeX "
                "(AVX-512) "
                "or Haswell (AVX2) in the environment chooses another kernel",
                openblas_get_corename(), blas, name, other);
}

static ml_status choose_forced(ml_kernels_owner *owner, const ml_kernels_options *options)
{
    const ml_backend *path = NULL;
    for (const ml_backend *const *p = backends; *p && !path; p++)
        if (is_candidate(*p, options)) path = *p;
    if (!path) return no_such_path(options);
    bool right;
    ml_status st = start_path(owner, options, path, &right);
    if (st != ML_OK) return st;
    if (!right)
        return ml_fail(ML_INTERNAL,
                       "product path \"%s\" computes wrong products on this processor; choose "
                       "another, or auto",
                       path->name);
    owner->product = path;
    owner->rates[0] = (ml_kernels_rate){.path = path->name};
    owner->nrates = 1;
    return ML_OK;
}

static int64_t fastest(const ml_kernels_owner *owner)
{
    int64_t best = 0;
    for (int64_t i = 1; i < owner->nrates; i++) {
        const ml_kernels_rate *a = &owner->rates[i], *b = &owner->rates[best];
        if (1 / a->forward_gflops + 1 / a->backward_gflops <
            1 / b->forward_gflops + 1 / b->backward_gflops)
            best = i;
    }
    return best;
}

/* All candidates are started side by side, each with its copy of the table, so that they can run
 * in turn; they may share the scratch memory, since only one works at a time and only one of them
 * keeps primitives there. */
static ml_status choose_measured(ml_kernels_owner *owner, const ml_kernels_options *options)
{
    const ml_backend *candidate[ML_MAX_PATHS];
    ml_kernels tables[ML_MAX_PATHS];
    ml_status st = ML_OK;
    int64_t count = 0, best = 0;
    for (const ml_backend *const *p = backends; *p; p++) {
        bool right = false;
        if (!is_candidate(*p, options)) continue;
        ML_TRY(start_path(owner, options, *p, &right));
        if (!right) {
            ml_warn("product path \"%s\" computes wrong products on this processor and is left out",
                    (*p)->name);
            continue;
        }
        tables[count] = owner->table;
        owner->rates[count] = (ml_kernels_rate){.path = (*p)->name};
        candidate[count++] = *p;
    }
    if (count == 0) {
        st = ml_fail(ML_INTERNAL, "every product path computes wrong products on this processor; "
                                  "MPILORA_PRODUCT_PATH=ref is slow but right");
        goto done;
    }
    owner->nrates = count;
    if (options->nshapes > 0 && count > 1) {
        ML_TRY(ml_measure_products(options, owner->threads, count, tables, owner->rates));
        best = fastest(owner);
        warn_of_slow_blas(owner, options->tokens);
    }
done:
    for (int64_t i = 0; i < count; i++)
        if (st != ML_OK || i != best) stop_path(owner, candidate[i]);
    if (st != ML_OK) return st;
    owner->table = tables[best];
    owner->product = candidate[best];
    return ML_OK;
}

ml_status ml_choose_backend(ml_kernels_owner *owner, const ml_kernels_options *options)
{
    return is_auto(options->backend) ? choose_measured(owner, options)
                                     : choose_forced(owner, options);
}
