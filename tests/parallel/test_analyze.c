/* Subspaces, amplification and spectra of a small base with known factors, against what dgesvd
 * gives for matrices that are formed here. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <hdf5.h>
#include <stdlib.h>
#include <unistd.h>

#include "../adapter_case.h"
#include "analyze/lapack.h"
#include "mpilora/analyze.h"
#include "mpilora/config.h"

static ml_grid *grid;

static double *numbers(int64_t n)
{
    double *x = ml_memory_alloc(n, sizeof *x, ML_MEM_OTHER, "test");
    assert_non_null(x);
    return x;
}

static void check_close(const double *found, const double *expected, int64_t n, double scale,
                        const char *what)
{
    for (int64_t i = 0; i < n; i++)
        if (!(fabs(found[i] - expected[i]) <= 1e-10 * scale))
            fail_msg("%s: number %d is %.17g, expected %.17g", what, (int)i, found[i], expected[i]);
}

/* ---- studies ------------------------------------------------------------------------------- */

static char directory[64], base_path[96], a_path[96], b_path[96], out_path[96];

static void write_base(const ml_model_spec *spec, ml_dtype dtype)
{
    ml_base_writer *writer;
    assert_int_equal(
        ml_base_writer_create(&writer, base_path, spec, dtype, "", 0, SOURCE_HASH, NULL), ML_OK);
    for (int64_t i = 0; i < ml_model_tensor_count(spec); i++) {
        ml_model_tensor t;
        ml_model_tensor_at(spec, i, &t);
        float *values = ml_memory_alloc(t.rows * t.cols, sizeof *values, ML_MEM_OTHER, "test");
        for (int64_t k = 0; k < t.rows * t.cols; k++) values[k] = sinf((float)(k * 17 + i * 31));
        assert_int_equal(ml_base_writer_rows(writer, t.name, 0, t.rows, values), ML_OK);
        ml_memory_free(values);
    }
    assert_int_equal(ml_base_writer_finish(writer), ML_OK);
}

/* Rank 0 writes; every rank knows where. */
static void write_files(const ml_model_spec *spec, const char *const *kinds)
{
    snprintf(directory, sizeof directory, "/tmp/mpilora-analyze-XXXXXX");
    bool writes = ml_grid_rank(grid) == 0;
    if (writes) assert_non_null(mkdtemp(directory));
    ml_grid_broadcast(grid, ML_GROUP_WORLD, 0, directory, (int64_t)sizeof directory);
    snprintf(base_path, sizeof base_path, "%s/base.h5", directory);
    snprintf(a_path, sizeof a_path, "%s/a.h5", directory);
    snprintf(b_path, sizeof b_path, "%s/b.h5", directory);
    snprintf(out_path, sizeof out_path, "%s/out.h5", directory);
    if (writes) {
        ml_adapter a = make_adapter(spec, kinds, 0, 2, 4.0, false),
                   b = make_adapter(spec, kinds, 0, 3, 4.0, true);
        write_base(spec, spec->family == &ml_family_gpt2 ? ML_BF16 : ML_FP32);
        assert_int_equal(ml_adapter_write(&a, a_path), ML_OK);
        assert_int_equal(ml_adapter_write(&b, b_path), ML_OK);
        ml_adapter_destroy(&a);
        ml_adapter_destroy(&b);
    }
    ml_grid_barrier(grid);
}

static void remove_files(void)
{
    char command[96];
    ml_grid_barrier(grid);
    if (ml_grid_rank(grid) != 0) return;
    snprintf(command, sizeof command, "rm -rf %s", directory);
    assert_int_equal(system(command), 0);
}

/* W of a module, double, row-major; of the fused projection q, k and v below each other. */
static double *read_weight(const ml_study *study, const ml_study_module *module)
{
    const ml_shard whole = {.dim = ML_SHARD_WHOLE};
    static const char *const fused[] = {"q", "k", "v", NULL};
    const char *const single[] = {module->target, NULL}, *const *part =
                                                             strcmp(module->target, "qkv") ? single
                                                                                           : fused;
    double *out = numbers(module->out * module->in);
    float *values = ml_memory_alloc(module->out * module->in, sizeof *values, ML_MEM_OTHER, "test");
    int64_t done = 0;
    for (; *part; part++) {
        char name[96];
        int stem = (int)(strlen(module->name) - strlen(module->target));
        snprintf(name, sizeof name, "%.*s%s.weight", stem, module->name, *part);
        assert_int_equal(ml_base_read(study->base, name, &whole, ML_FP32, values), ML_OK);
        int64_t n = module->out * module->in /
                    (part == single                   ? 1
                     : !strcmp(module->target, "qkv") ? 3
                                                      : 1);
        for (int64_t i = 0; i < n; i++) out[done + i] = values[i];
        done += n;
    }
    ml_memory_free(values);
    return out;
}

static double *form_delta(const ml_adapter_pair *p)
{
    double *d = numbers(p->out * p->in);
    for (int64_t i = 0; i < p->out; i++)
        for (int64_t k = 0; k < p->rank; k++)
            for (int64_t j = 0; j < p->in; j++)
                d[i * p->in + j] += (double)p->scale * p->b[i * p->rank + k] * p->a[k * p->in + j];
    return d;
}

/* ‖Uᵀ·W·V‖_F, U and V the first r singular vectors of X[out, in] (destroyed). */
static double project(double *x, const double *w, int64_t out, int64_t in, int64_t r)
{
    int64_t k = ml_min(in, out);
    double *sigma = numbers(k), *v = numbers(in * k), *u = numbers(k * out), sum = 0.0;
    assert_int_equal(
        lapack_svd(in, out, x, sigma, v, u),
        ML_OK); /* of the transpose, so v is left: v[in, k] and u[k, out] column-major */
    for (int64_t a = 0; a < r; a++)
        for (int64_t b = 0; b < r; b++) {
            double one = 0.0;
            for (int64_t i = 0; i < out; i++)
                for (int64_t j = 0; j < in; j++)
                    one += u[i * k + a] * w[i * in + j] * v[b * in + j];
            sum += one * one;
        }
    ml_memory_free(sigma);
    ml_memory_free(u);
    ml_memory_free(v);
    return sqrt(sum);
}

static double norm(const double *x, int64_t n)
{
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) sum += x[i] * x[i];
    return sqrt(sum);
}

static void check_amplification(const ml_study *study, const ml_amplification *a,
                                const ml_study_module *module)
{
    int64_t n = module->out * module->in;
    double *w = read_weight(study, module), *again = read_weight(study, module),
           *delta = form_delta(module->pair[0]);
    const double expected[] = {norm(w, n), norm(delta, n),
                               project(delta, w, module->out, module->in, a->rank),
                               project(again, w, module->out, module->in, a->rank)};
    const double found[] = {a->weight_norm, a->delta_norm, a->of_delta, a->of_weight},
                 factor = expected[1] / expected[2];
    check_close(found, expected, 4, expected[0], module->name);
    check_close(&a->factor, &factor, 1, factor, module->name);
    assert_true(a->of_random > 0.0 && a->of_random < a->of_weight);
    ml_memory_free(w);
    ml_memory_free(again);
    ml_memory_free(delta);
}

static void check_spectrum(const ml_study *study, const ml_spectrum *s,
                           const ml_study_module *module)
{
    double *w = read_weight(study, module), *delta = form_delta(module->pair[0]),
           *sigma = numbers(s->weights);
    assert_int_equal(s->weights, ml_min(module->in, module->out));
    assert_int_equal(lapack_svd(module->in, module->out, w, sigma, NULL, NULL), ML_OK);
    check_close(s->weight, sigma, s->weights, sigma[0], module->name);
    assert_int_equal(lapack_svd(module->in, module->out, delta, sigma, NULL, NULL), ML_OK);
    check_close(s->delta, sigma, s->deltas, sigma[0], module->name);
    ml_memory_free(w);
    ml_memory_free(delta);
    ml_memory_free(sigma);
}

/* The numbers of a data set of the result file. */
static void check_stored(const char *module, const char *name, const double *expected,
                         int64_t count)
{
    char path[160];
    double *found = numbers(count);
    hid_t file = H5Fopen(out_path, H5F_ACC_RDONLY, H5P_DEFAULT);
    snprintf(path, sizeof path, "sites/%s/%s", module, name);
    hid_t set = H5Dopen2(file, path, H5P_DEFAULT), space = H5Dget_space(set);
    assert_int_equal(H5Sget_simple_extent_npoints(space), count);
    assert_true(H5Dread(set, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, found) >= 0);
    assert_memory_equal(found, expected, (size_t)count * sizeof *found);
    H5Sclose(space);
    H5Dclose(set);
    H5Fclose(file);
    ml_memory_free(found);
}

static double stored_attribute(const char *module, const char *name)
{
    char path[160];
    double value;
    hid_t file = H5Fopen(out_path, H5F_ACC_RDONLY, H5P_DEFAULT);
    snprintf(path, sizeof path, "sites/%s", module);
    hid_t attribute = H5Aopen_by_name(file, path, name, H5P_DEFAULT, H5P_DEFAULT);
    assert_true(H5Aread(attribute, H5T_NATIVE_DOUBLE, &value) >= 0);
    H5Aclose(attribute);
    H5Fclose(file);
    return value;
}

static void check_files(const ml_study *study, const ml_amplification *a, const ml_spectrum *s)
{
    if (ml_grid_rank(grid) != 0) return;
    assert_int_equal(ml_spectra_write(out_path, study, s), ML_OK);
    for (int64_t i = 0; i < study->count; i++) {
        check_stored(study->modules[i].name, "weight", s[i].weight, s[i].weights);
        check_stored(study->modules[i].name, "delta", s[i].delta, s[i].deltas);
    }
    assert_int_equal(ml_amplification_write(out_path, study, 1, a),
                     ML_OK); /* in place of the other */
    for (int64_t i = 0; i < study->count; i++) {
        assert_true(stored_attribute(study->modules[i].name, "amplification") == a[i].factor);
        assert_true(stored_attribute(study->modules[i].name, "projected_on_random") ==
                    a[i].of_random);
        assert_true(stored_attribute(study->modules[i].name, "layer") ==
                    (double)study->modules[i].layer);
    }
}

static void study_model(const ml_model_spec *spec, const char *const *kinds, int64_t modules)
{
    ml_study study;
    const char *adapters[ML_STUDY_ADAPTERS] = {NULL};
    write_files(spec, kinds);
    adapters[0] = a_path;
    assert_int_equal(ml_study_open(&study, grid, base_path, adapters, &(ml_selection){0}), ML_OK);
    assert_int_equal(study.count, modules);
    ml_amplification *a = ml_memory_alloc(modules, sizeof *a, ML_MEM_OTHER, "test");
    ml_spectrum *s;
    for (int64_t rank = 0; rank < 3; rank++) { /* 0: the pairs' own, 2 */
        if (ml_amplification_compute(a, &study, rank, 1, 0) != ML_OK)
            fail_msg("%s", ml_error_text());
        for (int64_t i = 0; i < modules; i++) check_amplification(&study, &a[i], &study.modules[i]);
    }
    assert_int_equal(ml_amplification_compute(a, &study, 3, 1, 0), ML_USAGE);
    assert_int_equal(ml_spectra_compute(&s, &study, 0), ML_OK);
    for (int64_t i = 0; i < modules; i++) check_spectrum(&study, &s[i], &study.modules[i]);
    assert_int_equal(ml_amplification_compute(a, &study, 0, 1, 0), ML_OK);
    check_files(&study, a, s);
    ml_spectra_destroy(s, modules);
    ml_memory_free(a);
    ml_study_close(&study);
    remove_files();
}

static void test_studies(void **state)
{
    (void)state;
    const char *const llama[] = {"attn.q", "attn.v", "mlp.up", "mlp.down", NULL}, *const gpt2[] = {
                                                                                      "attn.qkv",
                                                                                      "attn.o",
                                                                                      "mlp.fc",
                                                                                      NULL};
    study_model(&tiny_llama, llama, 8);
    study_model(&tiny_gpt2, gpt2, 6);
}

/* φ of A against right-singular vectors of A as a whole matrix. */
static void check_subspace(const ml_subspace *s, const ml_study_module *module)
{
    double *vt[2];
    for (int i = 0; i < 2; i++) {
        const ml_adapter_pair *p = module->pair[i];
        double sigma[8], *a = numbers(p->rank * p->in);
        vt[i] = numbers(p->in * p->rank);
        for (int64_t k = 0; k < p->rank * p->in; k++) a[k] = p->a[k];
        assert_int_equal(lapack_svd(p->in, p->rank, a, sigma, vt[i], NULL), ML_OK);
        check_close(i ? s->sigma_b : s->sigma_a, sigma, p->rank, sigma[0], "singular values of A");
        ml_memory_free(a);
    }
    assert_int_equal(s->na, 2);
    assert_int_equal(s->nb, 3);
    for (int64_t i = 1; i <= s->na; i++)
        for (int64_t j = 1; j <= s->nb; j++) {
            double sum = 0.0;
            for (int64_t x = 0; x < i; x++)
                for (int64_t y = 0; y < j; y++) {
                    double dot = 0.0;
                    for (int64_t k = 0; k < module->in; k++)
                        dot += vt[0][x * module->in + k] * vt[1][y * module->in + k];
                    sum += dot * dot;
                }
            sum /= (double)ml_min(i, j);
            check_close(&s->phi[(i - 1) * s->nb + j - 1], &sum, 1, 1.0, "phi");
        }
    ml_memory_free(vt[0]);
    ml_memory_free(vt[1]);
}

static void test_subspaces(void **state)
{
    (void)state;
    ml_study study;
    ml_subspace *s;
    const char *const kinds[] = {"attn.q", "attn.v", NULL};
    write_files(&tiny_llama, kinds);
    const char *const adapters[] = {a_path, b_path};
    assert_int_equal(
        ml_study_open(&study, grid, base_path, adapters, &(ml_selection){.targets = ML_TARGET_Q}),
        ML_OK);
    assert_int_equal(study.count, 2);
    assert_int_equal(ml_subspaces_compute(&s, &study, ML_FACTOR_A, 1), ML_OK);
    for (int64_t i = 0; i < study.count; i++) check_subspace(&s[i], &study.modules[i]);
    if (ml_grid_rank(grid) == 0) {
        assert_int_equal(ml_subspaces_write(out_path, &study, ML_FACTOR_A, 1, s), ML_OK);
        check_stored(study.modules[1].name, "phi", s[1].phi, s[1].na * s[1].nb);
        check_stored(study.modules[1].name, "phi_random", s[1].phi_random, s[1].na * s[1].nb);
        check_stored(study.modules[1].name, "sigma1", s[1].sigma_b, s[1].nb);
    }
    ml_subspaces_destroy(s, study.count);
    for (int64_t i = 0; i < study.adapters * study.modules[0].pair[0]->out; i++)
        study.adapter[0].pairs[0].b[i] = 0.0F;
    assert_int_equal(ml_subspaces_compute(&s, &study, ML_FACTOR_LEFT, 1), ML_INPUT);
    assert_non_null(strstr(ml_error_text(), "layers.0.attn.q: ΔW is zero"));
    ml_study_close(&study);
    remove_files();
}

/* q and v against the same adapter as PEFT has it: one pair of rank 2r on the fused projection. */
static void test_fused(void **state)
{
    (void)state;
    ml_study study;
    ml_subspace *s;
    const char *const kinds[] = {"attn.q", "attn.v", NULL};
    write_files(&tiny_gpt2, kinds);
    if (ml_grid_rank(grid) == 0) {
        ml_adapter a;
        assert_int_equal(ml_adapter_read(&a, a_path, &tiny_gpt2, NULL), ML_OK);
        assert_int_equal(ml_adapter_export_peft(&a, &tiny_gpt2, NULL, "base", out_path), ML_OK);
        ml_adapter_destroy(&a);
    }
    ml_grid_barrier(grid);
    const char *const adapters[] = {a_path, out_path};
    if (ml_study_open(&study, grid, base_path, adapters, &(ml_selection){0}) != ML_OK)
        fail_msg("%s", ml_error_text());
    assert_int_equal(study.count, 4);
    assert_string_equal(study.modules[0].target, "q");
    assert_int_equal(ml_subspaces_compute(&s, &study, ML_FACTOR_RIGHT, 1), ML_OK);
    for (int64_t i = 0; i < study.count; i++) {
        const double one = 1.0;
        for (int64_t k = 0; k < s[i].na; k++)
            check_close(&s[i].phi[k * s[i].nb + k], &one, 1, 1.0, "phi of an adapter with itself");
        check_close(s[i].sigma_a, s[i].sigma_b, s[i].na, s[i].sigma_a[0], "its singular values");
    }
    ml_subspaces_destroy(s, study.count);
    ml_study_close(&study);
    remove_files();
}

/* Spans that are equal, orthogonal, and half of each. */
static void test_known_subspaces(void **state)
{
    (void)state;
    const double first[] = {1, 0, 0, 0, 0, 1, 0, 0}, turned[] = {0.6, 0.8, 0, 0, -0.8, 0.6, 0, 0},
                 other[] = {0, 0, 1, 0, 0, 0, 0, 1}, half[] = {1, 0, 0, 0, 0, 0, 1, 0};
    double phi[4];
    ml_subspace_similarity(first, 2, turned, 2, 4, phi);
    const double equal[] = {0.36, 1.0, 1.0, 1.0};
    check_close(phi, equal, 4, 1.0, "equal spans");
    ml_subspace_similarity(first, 2, other, 2, 4, phi);
    const double nothing[] = {0.0, 0.0, 0.0, 0.0};
    check_close(phi, nothing, 4, 1.0, "orthogonal spans");
    ml_subspace_similarity(first, 2, half, 2, 4, phi);
    const double halves[] = {1.0, 1.0, 1.0, 0.5};
    check_close(phi, halves, 4, 1.0, "one of two directions");
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_subspaces), cmocka_unit_test(test_studies),
        cmocka_unit_test(test_subspaces), cmocka_unit_test(test_fused)};
    if (ml_grid_start(&argc, &argv) != ML_OK || ml_grid_create(&grid, 1) != ML_OK) return 1;
    ml_log_enable(false);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    ml_grid_destroy(grid);
    ml_grid_stop();
    return failed;
}
