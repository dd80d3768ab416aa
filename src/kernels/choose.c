/* Chooses the product path by measuring the candidates on (cut-down) shapes of the run, and the vector path by what the processor can run.
 *
 * Flags do not tell which product is fastest: a library may not know the processor, and a bf16 instruction can be half as fast
 * as fp32. Candidates run in turn, round by round, so that a disturbance meets all of them; the median round counts. */
#include "kernels/kernels_private.h"

static const ml_product_path *const product_paths[] = {&ml_product_path_blas, &ml_product_path_ref, NULL};

static const ml_vector_path *const vector_paths[] = {
#ifdef MPILORA_NATIVE_X86
    &ml_vector_path_avx512, &ml_vector_path_avx2,
#endif
    &ml_vector_path_generic, NULL}; /* the widest first */

static bool is_auto(const char *name) { return !name || !strcmp(name, "auto"); }

/* "a, b, c" of what can run here. */
static const char *available_products(ml_dtype dtype, char *text, size_t bytes)
{
    size_t used = 0;
    for (const ml_product_path *const *p = product_paths; *p && used < bytes; p++)
        if ((*p)->available(dtype)) used += (size_t)snprintf(text + used, bytes - used, "%s%s", used ? ", " : "", (*p)->name);
    return text;
}

static const ml_product_path *find_product(const char *name, ml_dtype dtype)
{
    for (const ml_product_path *const *p = product_paths; *p; p++)
        if (!strcmp((*p)->name, name) && (*p)->available(dtype)) return *p;
    return NULL;
}

int64_t ml_product_scratch_floats(const ml_kernels_options *options)
{
    int64_t most = 0;
    for (const ml_product_path *const *p = product_paths; *p; p++)
        if ((*p)->available(options->weight_dtype) && (is_auto(options->product_path) || !strcmp((*p)->name, options->product_path)))
            most = ml_max(most, (*p)->scratch_floats(options));
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
    if (is_auto(name)) return ML_OK;
    return ml_fail(ML_USAGE, "vector path \"%s\" cannot run here; this processor and build have: %s", name, text);
}

ml_status ml_choose_product_path(ml_kernels_owner *owner, const ml_kernels_options *options)
{
    ml_status st = ML_OK;
    char text[128] = "";
    const char *name = is_auto(options->product_path) ? "blas" : options->product_path;
    const ml_product_path *path = find_product(name, options->weight_dtype);
    if (!path)
        return ml_fail(ML_USAGE, "product path \"%s\" cannot run here with %s weights; this processor and build have: %s", name,
                       ml_dtype_name(options->weight_dtype), available_products(options->weight_dtype, text, sizeof text));
    ML_TRY(path->start(owner, options));
    owner->product = path;
    owner->table.product_path = path->name;
done:
    return st;
}
