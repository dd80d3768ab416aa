/* GGUF files: the head's rules, and files cut at every length or with every byte changed: read or
 * refused, never a crash. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <unistd.h>

#include "mpilora/import.h"
#include "store/formats/gguf/gguf.h"

/* ---- a small file -------------------------------------------------------------------------- */

static char path[64], out_path[80];

static int set_up(void **state)
{
    (void)state;
    snprintf(path, sizeof path, "/tmp/mpilora-gguf-XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    snprintf(out_path, sizeof out_path, "%s.h5", path);
    ml_log_enable(false);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    (void)unlink(out_path);
    return unlink(path);
}

static void add(ml_text *f, const void *bytes, size_t n)
{
    assert_int_equal(ml_text_add(f, bytes, (int64_t)n), ML_OK);
}
static void add_u32(ml_text *f, uint32_t x) { add(f, &x, sizeof x); }
static void add_u64(ml_text *f, uint64_t x) { add(f, &x, sizeof x); }

static void add_text(ml_text *f, const char *text)
{
    add_u64(f, strlen(text));
    add(f, text, strlen(text));
}

static void add_key(ml_text *f, const char *key, uint32_t type)
{
    add_text(f, key);
    add_u32(f, type);
}

static void add_int(ml_text *f, const char *key, uint32_t value)
{
    add_key(f, key, 4);
    add_u32(f, value);
}

static void add_tensor(ml_text *f, const char *name, uint64_t cols, uint64_t rows, uint64_t offset)
{
    add_text(f, name);
    add_u32(f, rows ? 2 : 1);
    add_u64(f, cols);
    if (rows) add_u64(f, rows);
    add_u32(f, 0);
    add_u64(f, offset);
}

static void add_head(ml_text *f, uint32_t version, uint64_t tensors, uint64_t keys)
{
    add(f, "GGUF", 4);
    add_u32(f, version);
    add_u64(f, tensors);
    add_u64(f, keys);
}

/* One layer, width 4, a head of 4, vocabulary 3. */
static const struct {
    const char *name;
    uint64_t cols, rows;
} tensors[] = {{"token_embd.weight", 4, 3},      {"output_norm.weight", 4, 0},
               {"blk.0.attn_norm.weight", 4, 0}, {"blk.0.ffn_norm.weight", 4, 0},
               {"blk.0.attn_q.weight", 4, 4},    {"blk.0.attn_k.weight", 4, 4},
               {"blk.0.attn_v.weight", 4, 4},    {"blk.0.ffn_gate.weight", 4, 8},
               {"blk.0.ffn_up.weight", 4, 8},    {"blk.0.attn_output.weight", 4, 4},
               {"blk.0.ffn_down.weight", 8, 4}};
enum { TENSORS = sizeof tensors / sizeof *tensors };

static void make_model(ml_text *f)
{
    const float eps = 1e-5F;
    uint64_t at = 0;
    add_head(f, 3, TENSORS, 10);
    add_key(f, "general.architecture", 8);
    add_text(f, "llama");
    add_int(f, "llama.block_count", 1);
    add_int(f, "llama.embedding_length", 4);
    add_int(f, "llama.feed_forward_length", 8);
    add_int(f, "llama.attention.head_count", 1);
    add_int(f, "llama.context_length", 16);
    add_key(f, "llama.attention.layer_norm_rms_epsilon", 6);
    add(f, &eps, sizeof eps);
    add_int(f, "tokenizer.ggml.eos_token_id", 2);
    add_int(f, "tokenizer.ggml.eot_token_id", 3);
    add_key(f, "tokenizer.ggml.scores", 9);
    add_u32(f, 4);
    add_u64(f, 2);
    add_u64(f, 7);
    for (int i = 0; i < TENSORS; i++) {
        add_tensor(f, tensors[i].name, tensors[i].cols, tensors[i].rows, at);
        at += (uint64_t)ml_round_up(
            (int64_t)(tensors[i].cols * (tensors[i].rows ? tensors[i].rows : 1) * 4), 32);
    }
    while (f->length % 32) add(f, "", 1);
    for (uint64_t i = 0; i < at / 4; i++) {
        float x = (float)i;
        add(f, &x, sizeof x);
    }
}

static void save(const char *bytes, int64_t count)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, (size_t)count, file), count);
    assert_int_equal(fclose(file), 0);
}

/* Rows 0, 1, 2, 3 of q in GGUF are Hugging Face's 0, 2, 1, 3. */
static void a_model_is_imported(void **state)
{
    (void)state;
    ml_text f = {0};
    ml_base *base;
    const ml_shard whole = {.dim = ML_SHARD_WHOLE};
    float q[16], embed[12];
    make_model(&f);
    save(f.data, f.length);
    assert_int_equal(ml_import(path, &(ml_import_options){.dtype = ML_FP32}, out_path), ML_OK);
    assert_int_equal(ml_base_open(&base, out_path), ML_OK);
    assert_true(ml_base_spec(base)->tied_head);
    assert_int_equal(ml_base_spec(base)->vocab, 3);
    assert_int_equal(ml_base_read(base, "embed.weight", &whole, ML_FP32, embed), ML_OK);
    assert_int_equal(ml_base_read(base, "layers.0.attn.q.weight", &whole, ML_FP32, q), ML_OK);
    for (int i = 0; i < 12; i++) assert_true(embed[i] == (float)i);
    ml_text ends = {0};
    assert_int_equal(ml_base_read_file(base, "generation_config.json", &ends), ML_OK);
    assert_string_equal(ends.data, "{\"eos_token_id\": [2, 3]}\n");
    ml_text_destroy(&ends);
    float first = q[0];
    assert_true(q[4] == first + 8 && q[8] == first + 4 && q[12] == first + 12 &&
                q[15] == first + 15);
    ml_base_close(base);
    ml_text_destroy(&f);
}

/* ---- what is refused ----------------------------------------------------------------------- */

static void refuses(ml_text *f, const char *why)
{
    gguf_file file;
    for (int i = 0; i < 64; i++) add(f, "", 1);
    save(f->data, f->length);
    ml_status st = gguf_open(&file, path);
    gguf_close(&file);
    if (st != ML_INPUT) fail_msg("not refused: %s", why);
    if (!strstr(ml_error_text(), why)) fail_msg("\"%s\" lacks \"%s\"", ml_error_text(), why);
    ml_text_destroy(f);
}

static void bad_keys_are_refused(void **state)
{
    (void)state;
    ml_text f = {0};
    add(&f, "GGUX", 4);
    refuses(&f, "GGUF");
    add_head(&f, 1, 0, 0);
    refuses(&f, "version 1");
    add_head(&f, 3, UINT64_MAX, 0);
    refuses(&f, "number of tensors");
    add_head(&f, 3, 0, (uint64_t)1 << 60);
    refuses(&f, "number of keys");
    add_head(&f, 3, 0, 2);
    add_int(&f, "twice", 1);
    add_int(&f, "twice", 1);
    refuses(&f, "stands twice");
    add_head(&f, 3, 0, 1);
    add_int(&f, "", 1);
    refuses(&f, "empty");
    add_head(&f, 3, 0, 1);
    add_key(&f, "kind", 13);
    refuses(&f, "type 13");
    add_head(&f, 3, 0, 1);
    add_key(&f, "nested", 9);
    add_u32(&f, 9);
    refuses(&f, "nested");
    add_head(&f, 3, 0, 1);
    add_key(&f, "long", 9);
    add_u32(&f, 10);
    add_u64(&f, (uint64_t)1 << 61);
    refuses(&f, "do not fit");
    add_head(&f, 3, 0, 1);
    add_u64(&f, UINT64_MAX);
    refuses(&f, "do not fit");
}

/* Type number of a value that each kind has, and its bytes: a text, an array of one of two types, a
 * number with a fraction. */
static void add_value(ml_text *f, const char *key, gguf_kind kind)
{
    static const uint32_t types[] = {
        [GGUF_NUMBER] = 6, [GGUF_TEXT] = 8, [GGUF_TEXTS] = 9, [GGUF_NUMBERS] = 9, [GGUF_FLAG] = 7};
    add_key(f, key, types[kind]);
    if (kind == GGUF_TEXT) add_text(f, "x");
    if (kind == GGUF_NUMBER) add(f, &(float){1.5F}, 4);
    if (kind == GGUF_FLAG) add(f, "", 1);
    if (kind != GGUF_TEXTS && kind != GGUF_NUMBERS) return;
    add_u32(f, kind == GGUF_TEXTS ? 8 : 4);
    add_u64(f, 1);
    if (kind == GGUF_TEXTS)
        add_text(f, "x");
    else
        add_u32(f, 1);
}

/* Each key that a reader looks at, with a value of each kind that it may not have. */
static void values_of_other_kinds_are_refused(void **state)
{
    (void)state;
    ml_text f = {0};
    char key[80], why[120];
    for (const gguf_key *k = gguf_keys; k->key; k++)
        for (int kind = GGUF_NUMBER; kind <= GGUF_FLAG; kind++) {
            if (kind == (int)k->kind && (!k->whole || kind != GGUF_NUMBER)) continue;
            snprintf(key, sizeof key, "%s%s", *k->key == '.' ? "llama" : "", k->key);
            snprintf(why, sizeof why, "key %s is ", key);
            add_head(&f, 3, 0, 1);
            add_value(&f, key, (gguf_kind)kind);
            refuses(&f, why);
        }
    add_head(&f, 3, 0, 1);
    add_key(&f, "tokenizer.ggml.token_type", 9);
    add_u32(&f, 6);
    add_u64(&f, 1);
    add(&f, &(float){1.5F}, 4);
    refuses(&f, "is an array of numbers, expected an array of whole numbers");
    add_head(&f, 3, 0, 1);
    add_key(&f, "any", 7);
    add(&f, "\007", 1);
    refuses(&f, "truth value of 7");
}

static void start_tensor(ml_text *f, uint32_t alignment)
{
    add_head(f, 3, 1, 1);
    add_int(f, "general.alignment", alignment);
    add_text(f, "t");
}

static void bad_tensors_are_refused(void **state)
{
    (void)state;
    ml_text f = {0};
    static const struct {
        uint32_t alignment, dims, type;
        uint64_t shape[5], offset;
        const char *why;
    } cases[] = {{33, 1, 0, {1}, 0, "alignment"},
                 {2 << 20, 1, 0, {1}, 0, "alignment"},
                 {0, 1, 0, {1}, 0, "alignment"},
                 {32, 5, 0, {1, 1, 1, 1, 1}, 0, "5 dimensions"},
                 {32, 1, 99, {32}, 0, "type unknown (99)"},
                 {32, 1, 17, {256}, 0, "storage type IQ2_XS (17) is not supported"},
                 {32, 1, 2, {33}, 0, "blocks of 32"},
                 {32, 1, 0, {0}, 0, "dimension 0"},
                 {32, 1, 0, {UINT64_MAX}, 0, "dimension"},
                 {32, 2, 0, {(uint64_t)1 << 62, 4}, 0, "inside the file"},
                 {32, 4, 0, {1 << 16, 1 << 16, 1 << 16, 1 << 16}, 0, "inside the file"},
                 {32, 1, 0, {1000}, 0, "inside the file"},
                 {32, 1, 0, {4}, UINT64_MAX - 31, "inside the file"},
                 {32, 1, 0, {4}, 4, "begins at byte 4 of the contents, expected 0"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        start_tensor(&f, cases[i].alignment);
        add_u32(&f, cases[i].dims);
        for (uint32_t d = 0; d < cases[i].dims; d++) add_u64(&f, cases[i].shape[d]);
        add_u32(&f, cases[i].type);
        add_u64(&f, cases[i].offset);
        refuses(&f, cases[i].why);
    }
}

/* Two tensors that share bytes, one that lies elsewhere than ggml would look for it. */
static void contents_lie_behind_each_other(void **state)
{
    (void)state;
    ml_text f = {0};
    static const uint64_t offsets[][2] = {{0, 0}, {32, 0}, {0, 64}, {32, 64}};
    for (size_t i = 0; i < sizeof offsets / sizeof *offsets; i++) {
        add_head(&f, 3, 2, 1);
        add_int(&f, "general.alignment", 32);
        add_tensor(&f, "t", 8, 0, offsets[i][0]);
        add_tensor(&f, "u", 8, 0, offsets[i][1]);
        refuses(&f, "behind the tensor before it");
    }
    gguf_file file;
    add_head(&f, 3, 2, 1);
    add_int(&f, "general.alignment", 32);
    add_tensor(&f, "t", 8, 0, 0);
    add_tensor(&f, "u", 8, 0, 32);
    for (int i = 0; i < 96; i++) add(&f, "", 1);
    save(f.data, f.length);
    assert_int_equal(gguf_open(&file, path), ML_OK);
    gguf_close(&file);
    ml_text_destroy(&f);
}

static void damaged_files_do_no_harm(void **state)
{
    (void)state;
    ml_text f = {0};
    static const char changes[] = {1, 16, -128, 127};
    make_model(&f);
    int64_t contents = 0;
    for (int i = 0; i < TENSORS; i++)
        contents += (int64_t)(tensors[i].cols * (tensors[i].rows ? tensors[i].rows : 1) * 4);
    for (int64_t length = 0; length < f.length; length++) {
        save(f.data, length);
        assert_int_equal(ml_import(path, &(ml_import_options){.dtype = ML_FP32}, out_path),
                         ML_INPUT);
    }
    for (int64_t at = 0; at < f.length - contents; at++) {
        char change = changes[at % (int64_t)sizeof changes];
        f.data[at] = (char)(f.data[at] ^ change);
        save(f.data, f.length);
        f.data[at] = (char)(f.data[at] ^ change);
        ml_status st = ml_import(path, &(ml_import_options){.dtype = ML_FP32}, out_path);
        assert_true(st == ML_OK || st == ML_INPUT);
    }
    ml_text_destroy(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_model_is_imported, set_up, tear_down),
        cmocka_unit_test_setup_teardown(bad_keys_are_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(values_of_other_kinds_are_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(bad_tensors_are_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(contents_lie_behind_each_other, set_up, tear_down),
        cmocka_unit_test_setup_teardown(damaged_files_do_no_harm, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
