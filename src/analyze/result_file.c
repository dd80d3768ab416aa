/* Results as HDF5: made in memory, written whole.
 *
 *   attributes      format, version, kind (subspace | amplification | spectrum),
 *     base_source_sha256, adapter0, adapter1 (paths) and their hashes, seed, of
 *   /modules/NAME     attributes layer, target, out, in, and the rank and scale of each adapter's
 *     pair; the kind's numbers
 */
#include "io/durable.h"
#include "io/image.h"
#include "mpilora/analyze.h"

enum { VERSION = 1, FILE_BYTES = 64 << 10, SITE_BYTES = 8 << 10 };

/* Puts one module's numbers into its group. */
typedef ml_status (*module_writer)(hid_t group, const ml_study *study, int64_t index,
                                   const void *results);

static ml_status put_header(hid_t file, const ml_study *study, const char *kind)
{
    ml_status st = ML_OK;
    char name[32];
    ML_TRY(ml_image_put_text(file, "format", "mpilora analysis"));
    ML_TRY(ml_image_put_int(file, "version", VERSION));
    ML_TRY(ml_image_put_text(file, "kind", kind));
    ML_TRY(ml_image_put_text(file, "base", ml_base_path(study->base)));
    ML_TRY(ml_image_put_text(file, "base_source_sha256", ml_base_source_hash(study->base)));
    for (int i = 0; i < study->adapters; i++) {
        snprintf(name, sizeof name, "adapter%d", i);
        ML_TRY(ml_image_put_text(file, name, study->path[i]));
        snprintf(name, sizeof name, "adapter%d_sha256", i);
        ML_TRY(ml_image_put_text(file, name, study->adapter[i].hash));
    }
done:
    return st;
}

static ml_status describe_module(hid_t group, const ml_study *study, const ml_study_module *module)
{
    ml_status st = ML_OK;
    char name[32];
    ML_TRY(ml_image_put_int(group, "layer", module->layer));
    ML_TRY(ml_image_put_text(group, "target", module->target));
    ML_TRY(ml_image_put_int(group, "out", module->out));
    ML_TRY(ml_image_put_int(group, "in", module->in));
    for (int i = 0; i < study->adapters; i++) {
        snprintf(name, sizeof name, "rank%d", i);
        ML_TRY(ml_image_put_int(group, name, module->pair[i]->rank));
        snprintf(name, sizeof name, "scale%d", i);
        ML_TRY(ml_image_put_double(group, name, (double)module->pair[i]->scale));
    }
done:
    return st;
}

static ml_status put_modules(hid_t file, const ml_study *study, module_writer writer,
                             const void *results)
{
    ml_status st = ML_OK;
    hid_t modules = -1, group = -1;
    ML_TRY(ml_image_make_group(file, "sites"));
    modules = H5Gopen2(file, "sites", H5P_DEFAULT);
    for (int64_t i = 0; i < study->count; i++) {
        ML_TRY(ml_image_make_group(modules, study->modules[i].name));
        group = H5Gopen2(modules, study->modules[i].name, H5P_DEFAULT);
        ML_TRY(describe_module(group, study, &study->modules[i]));
        ML_TRY(writer(group, study, i, results));
        H5Gclose(group);
        group = -1;
    }
done:
    if (group >= 0) H5Gclose(group);
    if (modules >= 0) H5Gclose(modules);
    return st;
}

/* `numbers`: how many there are in all, for the image's size. `seed` and `of` go with the kinds
 * that have them. */
typedef struct result_file {
    const char *path, *kind, *of;
    const uint64_t *seed;
    int64_t numbers;
    module_writer writer;
    const void *results;
} result_file;

static ml_status write_file(const result_file *f, const ml_study *study)
{
    ml_status st = ML_OK;
    ml_image *image = NULL;
    char *bytes;
    int64_t count;
    ML_TRY(ml_image_create(
        &image, FILE_BYTES + study->count * SITE_BYTES + f->numbers * (int64_t)sizeof(double), 0));
    ML_TRY(put_header(ml_image_file(image), study, f->kind));
    if (f->of) ML_TRY(ml_image_put_text(ml_image_file(image), "of", f->of));
    if (f->seed) ML_TRY(ml_image_put_int(ml_image_file(image), "seed", (int64_t)*f->seed));
    ML_TRY(put_modules(ml_image_file(image), study, f->writer, f->results));
    ML_TRY(ml_image_finish(image, &bytes, &count));
    st = ml_durable_write(f->path, bytes, count, NULL);
done:
    ml_image_destroy(image);
    return st;
}

/* ---- the kinds ----------------------------------------------------------------------------- */

static ml_status put_subspace(hid_t group, const ml_study *study, int64_t index,
                              const void *results)
{
    ml_status st = ML_OK;
    const ml_subspace *s = (const ml_subspace *)results + index;
    (void)study;
    ML_TRY(ml_image_put_doubles(group, "sigma0", s->na, 0, s->sigma_a));
    ML_TRY(ml_image_put_doubles(group, "sigma1", s->nb, 0, s->sigma_b));
    ML_TRY(ml_image_put_doubles(group, "phi", s->na, s->nb, s->phi));
    st = ml_image_put_doubles(group, "phi_random", s->na, s->nb, s->phi_random);
done:
    return st;
}

ml_status ml_subspaces_write(const char *path, const ml_study *study, ml_factor factor,
                             uint64_t seed, const ml_subspace *s)
{
    int64_t numbers = 0;
    for (int64_t i = 0; i < study->count; i++) numbers += s[i].na + s[i].nb + 2 * s[i].na * s[i].nb;
    return write_file(
        &(result_file){path, "subspace", ml_factor_name(factor), &seed, numbers, put_subspace, s},
        study);
}

static ml_status put_amplification(hid_t group, const ml_study *study, int64_t index,
                                   const void *results)
{
    ml_status st = ML_OK;
    const ml_amplification *a = (const ml_amplification *)results + index;
    (void)study;
    ML_TRY(ml_image_put_int(group, "rank", a->rank));
    ML_TRY(ml_image_put_double(group, "projected_on_delta", a->of_delta));
    ML_TRY(ml_image_put_double(group, "projected_on_weight", a->of_weight));
    ML_TRY(ml_image_put_double(group, "projected_on_random", a->of_random));
    ML_TRY(ml_image_put_double(group, "weight_norm", a->weight_norm));
    ML_TRY(ml_image_put_double(group, "delta_norm", a->delta_norm));
    st = ml_image_put_double(group, "amplification", a->factor);
done:
    return st;
}

ml_status ml_amplification_write(const char *path, const ml_study *study, uint64_t seed,
                                 const ml_amplification *results)
{
    return write_file(
        &(result_file){path, "amplification", NULL, &seed, 0, put_amplification, results}, study);
}

static ml_status put_spectrum(hid_t group, const ml_study *study, int64_t index,
                              const void *results)
{
    const ml_spectrum *s = (const ml_spectrum *)results + index;
    (void)study;
    ml_status st = ml_image_put_doubles(group, "weight", s->weights, 0, s->weight);
    if (st == ML_OK && s->deltas > 0)
        st = ml_image_put_doubles(group, "delta", s->deltas, 0, s->delta);
    return st;
}

ml_status ml_spectra_write(const char *path, const ml_study *study, const ml_spectrum *s)
{
    int64_t numbers = 0;
    for (int64_t i = 0; i < study->count; i++) numbers += s[i].weights + s[i].deltas;
    return write_file(&(result_file){path, "spectrum", NULL, NULL, numbers, put_spectrum, s},
                      study);
}
