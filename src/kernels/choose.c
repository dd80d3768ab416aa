/* Chooses the vector path by what the processor can run, and the backend by measuring the
 * candidates (measure.c), or by what an earlier start measured (remember.c).
 *
 * Flags do not tell which product is fastest: a library may not know the processor, and a bf16
 * instruction can be half as fast as fp32. But a measurement is noisy, and other products have
 * other bits: "native" stays unless another one is faster beyond doubt, so that the same command
 * has the same bits. */
#include <stdlib.h>

#include "kernels/kernels_private.h"

static const ml_backend *const backends[] = {&ml_backend_native,      &ml_backend_blas,
#ifdef MPILORA_HAS_ONEDNN
                                             &ml_backend_onednn,      &ml_backend_onednn_matmul,
#endif
                                             &ml_backend_native_bf16, &ml_backend_native_amx,
#ifdef MPILORA_HAS_ONEDNN
                                             &ml_backend_onednn_bf16,
#endif
                                             &ml_backend_ref,         NULL};

static const ml_vector_path *const vector_paths[] = {
#ifdef MPILORA_NATIVE_X86
    &ml_vector_path_avx512, &ml_vector_path_avx2,
#endif
    &ml_vector_path_generic, NULL}; /* the widest first */

const ml_backend *ml_backend_find(const char *name)
{
    for (const ml_backend *const *p = backends; *p; p++)
        if (name && !strcmp((*p)->name, name)) return *p;
    return NULL;
}

static bool is_auto(const char *name) { return !name || !strcmp(name, "auto"); }

/* ---- what there is ------------------------------------------------------------------------- */

/* Whether MPILORA_WITHOUT_PATHS, a list with commas, names it. */
static bool is_left_out(const char *name)
{
    const char *list = getenv("MPILORA_WITHOUT_PATHS");
    size_t length = strlen(name);
    for (const char *at = list; at && *at; at += strcspn(at, ","), at += *at == ',')
        if (strcspn(at, ",") == length && !strncmp(at, name, length)) return true;
    return false;
}

bool ml_backend_anywhere(ml_dtype dtype)
{
    (void)dtype;
    return true;
}

bool ml_backend_without_blocks(ml_dtype dtype) { return !ml_dtype_is_block(dtype); }

ml_kernels_paths ml_kernels_available(ml_dtype dtype)
{
    ml_kernels_paths all = {0, 0};
    for (int i = 0; backends[i]; i++)
        if (backends[i]->available(dtype) && !is_left_out(backends[i]->name))
            all.backends |= 1U << i;
    for (int i = 0; vector_paths[i]; i++)
        if (vector_paths[i]->available() && !is_left_out(vector_paths[i]->name))
            all.vector_paths |= 1U << i;
    return all;
}

bool ml_kernels_paths_have(const ml_kernels_paths *paths, const char *backend,
                           const char *vector_path)
{
    bool product = is_auto(backend), vector = is_auto(vector_path) || !strcmp(vector_path, "ref");
    for (int i = 0; backends[i]; i++)
        product |= paths->backends >> i & 1 && backend && !strcmp(backends[i]->name, backend);
    for (int i = 0; vector_paths[i]; i++)
        vector |= paths->vector_paths >> i & 1 && vector_path &&
                  !strcmp(vector_paths[i]->name, vector_path);
    return product && vector;
}

/* Those of this processor, and of them those that the caller lets be chosen. */
static ml_kernels_paths paths_of(const ml_kernels_options *options)
{
    ml_kernels_paths p = ml_kernels_available(options->weight_dtype);
    if (!options->among) return p;
    return (ml_kernels_paths){p.backends & options->among->backends,
                              p.vector_paths & options->among->vector_paths};
}

/* Paths that do the same as a better one which can run, too, so that neither their scratch memory,
 * oneDNN's the largest of all, nor their measurement need be there. */
static bool is_outdone(const ml_backend *path, const ml_kernels_paths *paths)
{
    const bool amx = ml_kernels_paths_have(paths, ml_backend_native_amx.name, NULL);
    if (path == &ml_backend_native_bf16) return amx;
#ifdef MPILORA_HAS_ONEDNN
    if (path == &ml_backend_onednn_bf16)
        return amx || ml_kernels_paths_have(paths, ml_backend_native_bf16.name, NULL);
#endif
    return false;
}

/* May this path be taken under these options? The reference only where it is forced. */
static bool is_candidate(const ml_backend *path, const ml_kernels_options *options)
{
    const ml_kernels_paths paths = paths_of(options);
    if (!ml_kernels_paths_have(&paths, path->name, NULL)) return false;
    if ((path->rounds && options->exact) || (!path->ordered && options->ordered)) return false;
    return is_auto(options->backend) ? path != &ml_backend_ref && !is_outdone(path, &paths)
                                     : !strcmp(path->name, options->backend);
}

int64_t ml_product_scratch_floats(const ml_kernels_options *options, int threads)
{
    int64_t most = 0;
    for (const ml_backend *const *p = backends; *p; p++)
        if (is_candidate(*p, options)) most = ml_max(most, (*p)->scratch_floats(options, threads));
    return most;
}

/* ---- the vector path ----------------------------------------------------------------------- */

ml_status ml_choose_vector_path(ml_kernels *table, const ml_kernels_options *options)
{
    char text[128] = "ref";
    const char *name = options->vector_path;
    const ml_kernels_paths paths = paths_of(options);
    if (!is_auto(name) && !strcmp(name, "ref")) return ML_OK;
    for (const ml_vector_path *const *v = vector_paths; *v; v++) {
        if (!ml_kernels_paths_have(&paths, NULL, (*v)->name)) continue;
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

void ml_kernels_vector_paths(const char *names[ML_KERNELS_VECTOR_PATHS])
{
    int count = 0;
    for (const ml_vector_path *const *v = vector_paths; *v; v++)
        if ((*v)->available()) names[count++] = (*v)->name;
    names[count] = NULL;
}

/* ---- the backend --------------------------------------------------------------------------- */

static ml_status no_such_path(const ml_kernels_options *options)
{
    char text[128] = "auto";
    const ml_kernels_paths paths = paths_of(options);
    for (const ml_backend *const *p = backends; *p; p++) {
        size_t used = strlen(text);
        if (ml_kernels_paths_have(&paths, (*p)->name, NULL) && !((*p)->rounds && options->exact) &&
            ((*p)->ordered || !options->ordered))
            snprintf(text + used, sizeof text - used, ", %s", (*p)->name);
    }
    return ml_fail(
        ML_USAGE,
        "product path \"%s\" cannot run here with %s weights%s; this processor and build have: %s",
        options->backend, ml_dtype_name(options->weight_dtype),
        options->ordered ? " under numerics: grid" : "", text);
}

static void stop_path(ml_kernels_owner *owner, const ml_backend *path)
{
    if (path->stop) path->stop(owner);
}

/* Fills the table's products; *right: they are what the reference computes. */
static ml_status start_path(ml_kernels_owner *owner, const ml_kernels_options *options,
                            const ml_backend *path, bool *right)
{
    owner->table = owner->without_backend; /* not what the path before has put there */
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
            blas = r->forward.median;
        else if (!strcmp(r->path, "onednn")) {
            other = r->forward.median;
            name = r->path;
        }
    }
    const char *kernel = ml_blas_kernel();
    if (kernel && tokens >= ENOUGH_TOKENS && blas > 0 &&
        blas < 0.5 * other) /* a few tokens say little about a kernel */
        ml_warn("OpenBLAS is slow on this processor: its %s kernel reaches %.0f GF/s where %s "
                "reaches %.0f; OPENBLAS_CORETYPE=SkylakeX "
                "(AVX-512) "
                "or Haswell (AVX2) in the environment chooses another kernel",
                kernel, blas, name, other);
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

/* Beyond what noise may pretend. */
static const double clearly = 1.3;

/* A product of fewer operations is over in a few milliseconds, whatever multiplies it: there is
 * less to win than noise makes of its rate, so a model without a longer one keeps the first path.
 */
static const double long_product = 1e8;

static bool has_long_product(const ml_kernels_options *options)
{
    for (int64_t i = 0; i < options->nshapes; i++) {
        const ml_weight *w = &options->shapes[i];
        if (2.0 * (double)options->tokens * (double)w->rows * (double)w->cols >= long_product)
            return true;
    }
    return false;
}

/* The first stays unless a later one is clearly faster in both directions, and so on. */
static int64_t choose_rate(const ml_kernels_owner *owner, const ml_kernels_options *options)
{
    int64_t chosen = 0;
    if (!has_long_product(options)) return chosen;
    for (int64_t i = 1; i < owner->nrates; i++) {
        const ml_kernels_rate *before = &owner->rates[chosen], *r = &owner->rates[i];
        if (r->forward.median >= clearly * before->forward.median &&
            r->backward.median >= clearly * before->backward.median)
            chosen = i;
    }
    return chosen;
}

/* Less than a second for all candidates together, also on a slow core. One thread: where several
 * wait for each other, the time depends on what else has the cores. */
static const ml_kernels_effort choosing = {.shapes = 2,
                                           .tokens = 256,
                                           .cols = 1024,
                                           .flops = 1.2e8,
                                           .seconds = 0.3,
                                           .rounds = 5,
                                           .one_thread = true};

static ml_status measure_candidates(ml_kernels_owner *owner, const ml_kernels_options *options,
                                    const ml_kernels *tables)
{
    const ml_kernels *each[ML_MAX_PATHS];
    for (int64_t i = 0; i < owner->nrates; i++) each[i] = &tables[i];
    return ml_kernels_measure(options, &choosing, owner->nrates, each, owner->rates);
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
        ML_TRY(measure_candidates(owner, options, tables));
        best = choose_rate(owner, options);
        warn_of_slow_blas(owner, options->tokens);
        if (options->keep) ml_rates_keep(owner, options);
    }
done:
    for (int64_t i = 0; i < count; i++)
        if (st != ML_OK || i != best) stop_path(owner, candidate[i]);
    if (st != ML_OK) return st;
    owner->table = tables[best];
    owner->product = candidate[best];
    return ML_OK;
}

/* By the rates of an earlier start; *done false: there are none, or what they name is wrong. */
static ml_status choose_recalled(ml_kernels_owner *owner, const ml_kernels_options *options,
                                 bool *done)
{
    *done = false;
    if (!options->recall || options->nshapes == 0 || !ml_rates_recall(owner, options)) return ML_OK;
    const ml_backend *path = ml_backend_find(owner->rates[choose_rate(owner, options)].path);
    ml_status st = start_path(owner, options, path, done);
    if (st != ML_OK || !*done) return st;
    owner->product = path;
    owner->recalled = true;
    return ML_OK;
}

ml_status ml_choose_backend(ml_kernels_owner *owner, const ml_kernels_options *options)
{
    bool done;
    owner->without_backend = owner->table;
    if (!is_auto(options->backend)) return choose_forced(owner, options);
    ml_status st = choose_recalled(owner, options, &done);
    return st != ML_OK || done ? st : choose_measured(owner, options);
}
