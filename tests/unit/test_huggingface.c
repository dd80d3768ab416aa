/* Hugging Face's GPT-2: each part of the fused c_attn, and every transposed matrix, lands where
 * mpilora has it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <inttypes.h>
#include <stdlib.h>
#include <unistd.h>

#include "kinds_case.h"
#include "mpilora/import.h"
#include "store/formats/huggingface/huggingface.h"

enum { WIDTH = 4, MLP = 16, VOCAB = 5, CONTEXT = 3 };

static const struct stored {
    const char *name;
    int64_t rows, cols; /* cols 0: a vector */
} stored[] = {{"wte.weight", VOCAB, WIDTH},
              {"wpe.weight", CONTEXT, WIDTH},
              {"h.0.ln_1.weight", WIDTH, 0},
              {"h.0.ln_1.bias", WIDTH, 0},
              {"h.0.attn.c_attn.weight", WIDTH, 3 * WIDTH},
              {"h.0.attn.c_attn.bias", 3 * WIDTH, 0},
              {"h.0.attn.c_proj.weight", WIDTH, WIDTH},
              {"h.0.attn.c_proj.bias", WIDTH, 0},
              {"h.0.ln_2.weight", WIDTH, 0},
              {"h.0.ln_2.bias", WIDTH, 0},
              {"h.0.mlp.c_fc.weight", WIDTH, MLP},
              {"h.0.mlp.c_fc.bias", MLP, 0},
              {"h.0.mlp.c_proj.weight", MLP, WIDTH},
              {"h.0.mlp.c_proj.bias", WIDTH, 0},
              {"ln_f.weight", WIDTH, 0},
              {"ln_f.bias", WIDTH, 0}};
enum { STORED = sizeof stored / sizeof *stored };

static char directory[64], base_path[96];
static ml_base *base;

static void save(const char *name, const char *bytes, int64_t count)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, (size_t)count, file), count);
    assert_int_equal(fclose(file), 0);
}

/* Element i of stored tensor t is 1000·t + i. */
static void save_weights(void)
{
    ml_text header = {0}, file = {0};
    int64_t at = 0;
    for (int t = 0; t < STORED; t++) {
        int64_t n = stored[t].rows * ml_max(1, stored[t].cols);
        assert_int_equal(ml_text_printf(&header, "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[%" PRId64,
                                        t ? "," : "{", stored[t].name, stored[t].rows),
                         ML_OK);
        if (stored[t].cols)
            assert_int_equal(ml_text_printf(&header, ",%" PRId64, stored[t].cols), ML_OK);
        assert_int_equal(ml_text_printf(&header, "],\"data_offsets\":[%" PRId64 ",%" PRId64 "]}",
                                        at, at + 4 * n),
                         ML_OK);
        at += 4 * n;
    }
    assert_int_equal(ml_text_printf(&header, "}"), ML_OK);
    assert_int_equal(ml_text_add(&file, &header.length, 8), ML_OK);
    assert_int_equal(ml_text_add(&file, header.data, header.length), ML_OK);
    for (int t = 0; t < STORED; t++) {
        for (int64_t i = 0; i < stored[t].rows * ml_max(1, stored[t].cols); i++) {
            float x = (float)(1000 * t + i);
            assert_int_equal(ml_text_add(&file, &x, sizeof x), ML_OK);
        }
    }
    save("model.safetensors", file.data, file.length);
    ml_text_destroy(&file);
    ml_text_destroy(&header);
}

static int set_up(void **state)
{
    (void)state;
    static const char config[] = "{\"model_type\":\"gpt2\",\"n_layer\":1,\"n_embd\":4,\"n_head\":2,"
                                 "\"vocab_size\":5,\"n_positions\":3,\"n_inner\":null}";
    snprintf(directory, sizeof directory, "/tmp/mpilora-hf-XXXXXX");
    assert_non_null(mkdtemp(directory));
    snprintf(base_path, sizeof base_path, "%s/base.h5", directory);
    save("config.json", config, (int64_t)strlen(config));
    save_weights();
    if (ml_import(directory, &(ml_import_options){.dtype = ML_FP32}, base_path) != ML_OK)
        fail_msg("%s", ml_error_text());
    assert_int_equal(ml_base_open(&base, base_path), ML_OK);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    char command[128];
    ml_base_close(base);
    snprintf(command, sizeof command, "rm -rf %s", directory);
    assert_int_equal(system(command), 0);
    return 0;
}

/* Element [o, i] of `name` is the stored tensor's element [i, first + o] where that is in × out,
 * else [first + o, i]. */
static void check(const char *name, int64_t rows, int64_t cols, int tensor, int64_t first,
                  bool transposed)
{
    float *found = calloc((size_t)(rows * cols), sizeof *found);
    const ml_shard whole = {.dim = ML_SHARD_WHOLE};
    assert_int_equal(ml_base_read(base, name, &whole, ML_FP32, found), ML_OK);
    for (int64_t o = 0; o < rows; o++) {
        for (int64_t i = 0; i < cols; i++) {
            int64_t place =
                transposed ? i * stored[tensor].cols + first + o : (first + o) * cols + i;
            if (found[o * cols + i] != (float)(1000 * tensor + place))
                fail_msg("%s[%d, %d] is %g", name, (int)o, (int)i, (double)found[o * cols + i]);
        }
    }
    free(found);
}

static void every_tensor_lies_in_its_place(void **state)
{
    (void)state;
    static const char *const parts[] = {"q", "k", "v"};
    char name[64];
    check("embed.weight", VOCAB, WIDTH, 0, 0, false);
    check("position.weight", CONTEXT, WIDTH, 1, 0, false);
    check("layers.0.norm1.weight", WIDTH, 1, 2, 0, false);
    check("layers.0.norm1.bias", WIDTH, 1, 3, 0, false);
    for (int p = 0; p < 3; p++) {
        snprintf(name, sizeof name, "layers.0.attn.%s.weight", parts[p]);
        check(name, WIDTH, WIDTH, 4, p * WIDTH, true);
        snprintf(name, sizeof name, "layers.0.attn.%s.bias", parts[p]);
        check(name, WIDTH, 1, 5, p * WIDTH, false);
    }
    check("layers.0.attn.o.weight", WIDTH, WIDTH, 6, 0, true);
    check("layers.0.mlp.fc.weight", MLP, WIDTH, 10, 0, true);
    check("layers.0.mlp.fc.bias", MLP, 1, 11, 0, false);
    check("layers.0.mlp.proj.weight", WIDTH, MLP, 12, 0, true);
    check("norm.bias", WIDTH, 1, 15, 0, false);
}

static void config_refused(const char *document, const char *message)
{
    ml_model_spec spec;
    char path[128];
    save("other.json", document, (int64_t)strlen(document));
    snprintf(path, sizeof path, "%s/other.json", directory);
    ml_status st = hf_config_read(path, &spec, NULL);
    if (st != ML_INPUT || !strstr(ml_error_text(), message) || !strstr(ml_error_text(), path))
        fail_msg("%s: status %d, \"%s\", expected \"%s\"", document, (int)st, ml_error_text(),
                 message);
}

/* Each key that is looked at in a config.json of each family. */
static void values_of_other_kinds_are_refused(void **state)
{
    (void)state;
    static const ml_json_key type[] = {{"model_type", ML_JSON_TEXT}, {NULL, 0}};
    try_other_kinds(type, "", false, config_refused);
    config_refused("[]", "is an array, expected an object");
    for (const ml_family *const *f = ml_families(); *f; f++) {
        hf_config_keys kinds;
        char head[64];
        snprintf(head, sizeof head, "\"model_type\": \"%s\", ", (*f)->hf.model_type);
        assert_int_equal(hf_config_keys_of(*f, &kinds), ML_OK);
        assert_true(kinds.count >= 8);
        try_other_kinds(kinds.keys, head, false, config_refused);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(every_tensor_lies_in_its_place, set_up, tear_down),
        cmocka_unit_test_setup_teardown(values_of_other_kinds_are_refused, set_up, tear_down)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
