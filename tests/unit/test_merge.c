/* merge: W + s·B·A against a sum in double; and back again. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <unistd.h>

#include "../adapter_case.h"
#include "mpilora/merge.h"

static char directory[64], base_path[96], merged_path[96], back_path[96], adapter_path[96];

static int set_up(void **state)
{
    (void)state;
    snprintf(directory, sizeof directory, "/tmp/mpilora-merge-XXXXXX");
    assert_non_null(mkdtemp(directory));
    snprintf(base_path, sizeof base_path, "%s/base.h5", directory);
    snprintf(merged_path, sizeof merged_path, "%s/merged.h5", directory);
    snprintf(back_path, sizeof back_path, "%s/back.h5", directory);
    snprintf(adapter_path, sizeof adapter_path, "%s/adapter.h5", directory);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", directory);
    assert_int_equal(system(command), 0);
    return 0;
}

static void write_base(const ml_model_spec *spec, ml_dtype dtype)
{
    ml_base_writer *writer;
    assert_int_equal(
        ml_base_writer_create(&writer, base_path, spec, dtype, "", 0, SOURCE_HASH, NULL), ML_OK);
    for (int64_t i = 0; i < ml_model_tensor_count(spec); i++) {
        ml_model_tensor t;
        ml_model_tensor_at(spec, i, &t);
        float *values = calloc((size_t)(t.rows * t.cols), sizeof *values);
        for (int64_t k = 0; k < t.rows * t.cols; k++) values[k] = sinf((float)(k * 17 + i * 31));
        assert_int_equal(ml_base_writer_rows(writer, t.name, 0, t.rows, values), ML_OK);
        free(values);
    }
    assert_int_equal(ml_base_writer_finish(writer), ML_OK);
}

static float *read_tensor(const char *path, const char *name, int64_t count)
{
    ml_base *base;
    const ml_shard whole = {.dim = ML_SHARD_WHOLE};
    float *values = calloc((size_t)count, sizeof *values);
    assert_int_equal(ml_base_open(&base, path), ML_OK);
    assert_int_equal(ml_base_read(base, name, &whole, ML_FP32, values), ML_OK);
    ml_base_close(base);
    return values;
}

/* original_path NULL: merged, to `dtype`; else taken off again. */
static ml_status merge_file(const char *from, const char *original_path, ml_dtype dtype,
                            const char *to, ml_merge_result *result)
{
    ml_base *base, *original = NULL;
    ml_adapter adapter;
    ml_merge_options options = {.plain = true, .dtype = dtype};
    assert_int_equal(ml_base_open(&base, from), ML_OK);
    if (original_path) assert_int_equal(ml_base_open(&original, original_path), ML_OK);
    assert_int_equal(ml_adapter_read(&adapter, adapter_path, ml_base_spec(base), NULL), ML_OK);
    ml_status st = ml_merge(base, &adapter, original, dtype == ML_BF16 ? NULL : &options, to,
                            result); /* bf16 unless told */
    ml_adapter_destroy(&adapter);
    ml_base_close(base);
    ml_base_close(original);
    return st;
}

/* s·(B·A)[row, col] of all pairs that reach the base tensor. */
static double delta_of(const ml_adapter *adapter, const ml_model_spec *spec, const char *tensor,
                       int64_t row, int64_t col)
{
    double sum = 0.0;
    for (int64_t i = 0; i < adapter->count; i++) {
        const ml_adapter_pair *p = &adapter->pairs[i];
        char name[96];
        int64_t layer, first = 0;
        const char *kind = ml_module_parse(spec, p->module, &layer)->module;
        snprintf(name, sizeof name, "%s.weight", p->module);
        bool here = !strcmp(name, tensor);
        static const char *const parts[] = {"attn.q", "attn.k", "attn.v"};
        for (int k = 0; k < 3 && !strcmp(kind, "attn.qkv") && !here; k++) {
            snprintf(name, sizeof name, "layers.%lld.%s.weight", (long long)layer, parts[k]);
            here = !strcmp(name, tensor);
            first = ml_module_first_row(spec, ml_family_find_target(spec->family, parts[k]));
        }
        for (int64_t k = 0; here && k < p->rank; k++)
            sum += (double)p->scale * (double)p->b[(first + row) * p->rank + k] *
                   (double)p->a[k * p->in + col];
    }
    return sum;
}

static void compare(const ml_adapter *adapter, const ml_model_spec *spec, ml_dtype dtype)
{
    double unit = dtype == ML_BF16 ? 0x1p-8 : 0x1p-22; /* fp32: the sums over the rank round too */
    for (int64_t i = 0; i < ml_model_tensor_count(spec); i++) {
        ml_model_tensor t;
        ml_model_tensor_at(spec, i, &t);
        int64_t n = t.rows * t.cols;
        float *w = read_tensor(base_path, t.name, n), *merged = read_tensor(merged_path, t.name, n),
              *back = read_tensor(back_path, t.name, n);
        for (int64_t k = 0; k < n; k++) {
            double d = t.vector ? 0.0 : delta_of(adapter, spec, t.name, k / t.cols, k % t.cols),
                   expected = (double)w[k] + d;
            assert_true(fabs((double)merged[k] - expected) <=
                        unit * (fabs((double)w[k]) + fabs(d) + 1.0)); /* the products reach 1 */
            assert_true(back[k] == w[k]);
        }
        free(w);
        free(merged);
        free(back);
    }
}

/* A base in `own`, merged to `dtype`. */
static void merges_and_goes_back(const ml_model_spec *spec, const char *const *kinds, ml_dtype own,
                                 ml_dtype dtype, int64_t matrices)
{
    ml_merge_result result;
    ml_base *base;
    ml_adapter adapter = make_adapter(spec, kinds, 0, 3, 1.5, false);
    write_base(spec, own);
    assert_int_equal(ml_adapter_write(&adapter, adapter_path), ML_OK);
    assert_int_equal(merge_file(base_path, NULL, dtype, merged_path, &result), ML_OK);
    assert_int_equal(result.matrices, matrices);
    assert_int_equal(ml_base_open(&base, merged_path), ML_OK);
    assert_int_equal(ml_base_dtype(base), dtype);
    ml_base_close(base);
    assert_int_equal(merge_file(merged_path, base_path, dtype, back_path, &result), ML_OK);
    assert_int_equal(result.matrices, matrices);
    assert_int_equal(ml_base_open(&base, back_path), ML_OK);
    assert_string_equal(ml_base_source_hash(base), SOURCE_HASH);
    assert_int_equal(ml_base_dtype(base), own);
    ml_base_close(base);
    compare(&adapter, spec, dtype);
    assert_int_equal(merge_file(merged_path, NULL, dtype, back_path, &result),
                     ML_INPUT); /* another base now */
    assert_int_equal(merge_file(base_path, base_path, dtype, back_path, &result),
                     ML_INPUT); /* was never merged */
    assert_int_equal(merge_file(base_path, NULL, dtype, base_path, &result), ML_USAGE);
    assert_int_equal(unlink(merged_path) | unlink(back_path) | unlink(base_path), 0);
    ml_adapter_destroy(&adapter);
}

static void every_kind_is_merged(void **state)
{
    (void)state;
    static const char *const llama[] = {"attn.q",   "attn.k", "attn.v",   "attn.o",
                                        "mlp.gate", "mlp.up", "mlp.down", NULL};
    static const char *const gpt2[] = {"attn.qkv", "attn.o", "mlp.fc", "mlp.proj", NULL};
    static const char *const parts[] = {"attn.qkv", "attn.v", NULL};
    for (int dtype = ML_FP32; dtype <= ML_BF16; dtype++) {
        merges_and_goes_back(&tiny_llama, llama, (ml_dtype)dtype, (ml_dtype)dtype, 14);
        merges_and_goes_back(&tiny_gpt2, gpt2, (ml_dtype)dtype, (ml_dtype)dtype, 12);
        merges_and_goes_back(&tiny_gpt2, parts, ML_FP32, (ml_dtype)dtype, 6);
    }
}

/* Every row has its magnitude as its norm and the direction of W + s·B·A. */
static void magnitudes_are_merged(void **state)
{
    (void)state;
    static const char *const kinds[] = {"attn.qkv", NULL};
    ml_merge_result result;
    ml_adapter adapter = make_adapter(&tiny_gpt2, kinds, 0, 3, 1.5, false);
    add_magnitudes(&adapter);
    write_base(&tiny_gpt2, ML_FP32);
    assert_int_equal(ml_adapter_write(&adapter, adapter_path), ML_OK);
    assert_int_equal(merge_file(base_path, NULL, ML_FP32, merged_path, &result), ML_OK);
    const char *name = "layers.1.attn.v.weight";
    float *w = read_tensor(base_path, name, 64), *merged = read_tensor(merged_path, name, 64);
    for (int64_t i = 0; i < 8; i++) {
        double norm = 0.0, sum[8];
        for (int64_t j = 0; j < 8; j++) {
            sum[j] = (double)w[8 * i + j] + delta_of(&adapter, &tiny_gpt2, name, i, j);
            norm += sum[j] * sum[j];
        }
        for (int64_t j = 0; j < 8; j++)
            assert_true(fabs((double)merged[8 * i + j] -
                             (double)adapter.pairs[1].m[16 + i] * sum[j] / sqrt(norm)) < 1e-6);
    }
    assert_int_equal(merge_file(merged_path, base_path, ML_FP32, back_path, &result), ML_OK);
    float *back = read_tensor(back_path, name, 64);
    assert_memory_equal(back, w, 64 * sizeof *w);
    free(back);
    free(w);
    free(merged);
    ml_adapter_destroy(&adapter);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(every_kind_is_merged, set_up, tear_down),
        cmocka_unit_test_setup_teardown(magnitudes_are_merged, set_up, tear_down)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
