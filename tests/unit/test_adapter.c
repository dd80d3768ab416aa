/* adapters: adapter.h5 and PEFT directories, both ways; nothing is dropped on the way, nothing bad
 * is taken. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <unistd.h>

#include "../adapter_case.h"
#include "kinds_case.h"
#include "mpilora/config.h"
#include "mpilora/peft.h"
#include "store/formats/peft/config.h"

static char directory[64], peft[96], file[96];

static void shell(const char *format, const char *argument)
{
    char command[1024];
    snprintf(command, sizeof command, format, argument);
    assert_int_equal(system(command), 0);
}

static int set_up(void **state)
{
    (void)state;
    snprintf(directory, sizeof directory, "/tmp/mpilora-adapter-XXXXXX");
    assert_non_null(mkdtemp(directory));
    snprintf(peft, sizeof peft, "%s/peft", directory);
    snprintf(file, sizeof file, "%s/adapter.h5", directory);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    shell("rm -rf %s", directory);
    return 0;
}

/* Reads `path`, which must fail with a message that contains `text`. */
static void expect_refused(const char *path, const ml_model_spec *spec, const char *text)
{
    ml_adapter adapter;
    ml_status st = ml_adapter_read(&adapter, path, spec, SOURCE_HASH);
    if (st != ML_INPUT || !strstr(ml_error_text(), text))
        print_error("status %d: %s\n", (int)st, ml_error_text());
    assert_int_equal(st, ML_INPUT);
    assert_non_null(strstr(ml_error_text(), text));
    assert_null(adapter.pairs);
}

static const char *const all_llama[] = {"attn.q",   "attn.k", "attn.v",   "attn.o",
                                        "mlp.gate", "mlp.up", "mlp.down", NULL};
static const char *const all_gpt2[] = {"attn.qkv", "attn.o", "mlp.fc", "mlp.proj", NULL};
static const char *const q_and_v[] = {"attn.q", "attn.v", NULL};
static const char *const only_o[] = {"attn.o", NULL};

static void adapter_file_comes_back(void **state)
{
    (void)state;
    ml_adapter read, adapter = make_adapter(&tiny_llama, all_llama, 0, 3, 6.5, true);
    assert_int_equal(ml_adapter_write(&adapter, file), ML_OK);
    assert_int_equal(ml_adapter_read(&read, file, &tiny_llama, SOURCE_HASH), ML_OK);
    assert_true(adapter_distance(&adapter, &read) == 0.0F);
    assert_true(read.rslora);
    assert_true(read.dropout == 0.125);
    assert_true(read.pairs[0].alpha == 6.5);
    assert_int_equal(strlen(read.hash), 64);
    ml_adapter_destroy(&read);
    assert_int_equal(ml_adapter_read(&read, file, &tiny_llama, "other"), ML_INPUT);
    assert_non_null(strstr(ml_error_text(), "another base"));
    ml_adapter_destroy(&adapter);
}

/* Reading holds the adapter and a piece of its file, no copy of that. */
static void reading_holds_no_copy(void **state)
{
    (void)state;
    enum { ROWS = 2000, COLS = 500 };
    static const int64_t values = (int64_t)sizeof(float) * ROWS * COLS;
    ml_adapter read = {0}, adapter = {.method = ML_METHOD_BITFIT};
    float *value;
    assert_int_equal(ml_adapter_add_tensor(&adapter, "large", ROWS, COLS, &value), ML_OK);
    for (int64_t i = 0; i < (int64_t)ROWS * COLS; i++) value[i] = (float)i;
    assert_int_equal(ml_adapter_write(&adapter, file), ML_OK);
    /* Up to the peak, so that it moves with what the reading takes. */
    int64_t peak = ml_memory_peak(ML_MEM_OTHER);
    void *ballast =
        ml_memory_alloc(peak - ml_memory_current(ML_MEM_OTHER), 1, ML_MEM_OTHER, "ballast");
    assert_int_equal(ml_adapter_read_file(&read, file), ML_OK);
    assert_true(ml_memory_peak(ML_MEM_OTHER) - peak < values + 2 * ML_SHA256_PIECE);
    assert_memory_equal(read.tensors[0].value, value, (size_t)values);
    ml_memory_free(ballast);
    ml_adapter_destroy(&read);
    ml_adapter_destroy(&adapter);
}

static void a_damaged_file_is_refused(void **state)
{
    (void)state;
    ml_adapter adapter = make_adapter(&tiny_llama, q_and_v, 0, 2, 4, false);
    assert_int_equal(ml_adapter_write(&adapter, file), ML_OK);
    FILE *f = fopen(file, "r+b");
    fseek(f, 0, SEEK_END);
    long size = ftell(f);
    for (long at = 512; at < size; at += size / 37) {
        fseek(f, at, SEEK_SET);
        int byte = fgetc(f);
        fseek(f, at, SEEK_SET);
        fputc(byte ^ 4, f);
        fflush(f);
        expect_refused(file, &tiny_llama, "is damaged");
        fseek(f, at, SEEK_SET);
        fputc(byte, f);
    }
    fclose(f);
    assert_int_equal(truncate(file, size - 1), 0);
    expect_refused(file, &tiny_llama, "is damaged");
    assert_int_equal(truncate(file, 100), 0);
    expect_refused(file, &tiny_llama, "not an adapter");
    expect_refused("/nowhere/adapter.h5", &tiny_llama, "/nowhere/adapter.h5");
    ml_adapter_destroy(&adapter);
}

static void shapes_and_values_are_checked(void **state)
{
    (void)state;
    ml_model_spec wider = tiny_llama, shallow = tiny_llama;
    ml_adapter adapter = make_adapter(&tiny_llama, q_and_v, 0, 2, 4, false);
    assert_int_equal(ml_adapter_write(&adapter, file), ML_OK);
    wider.width = 16;
    expect_refused(file, &wider, "A is 2 × 8 and B 8 × 2, the base expects A 2 × 16");
    shallow.layers = 1;
    expect_refused(file, &shallow, "layers.1.attn.q");
    expect_refused(file,
                   &(ml_model_spec){.family = &ml_family_gpt2,
                                    .norm = ML_NORM_LAYER,
                                    .positions = ML_POSITIONS_LEARNED,
                                    .layers = 2,
                                    .width = 4,
                                    .heads = 1,
                                    .kv_heads = 1,
                                    .head_dim = 4},
                   "expects");
    adapter.pairs[1].b[3] = NAN;
    assert_int_equal(ml_adapter_write(&adapter, file), ML_OK);
    expect_refused(file, &tiny_llama, "layers.0.attn.v: B has a NaN");
    ml_adapter_destroy(&adapter);
}

static void export_and_read(const ml_adapter *adapter, const ml_model_spec *spec, ml_adapter *read)
{
    assert_int_equal(ml_adapter_export_peft(adapter, spec, NULL, "base name", peft), ML_OK);
    ml_status st = ml_adapter_read(read, peft, spec, SOURCE_HASH);
    if (st != ML_OK) print_error("%s\n", ml_error_text());
    assert_int_equal(st, ML_OK);
}

static void peft_directory_comes_back(void **state)
{
    (void)state;
    const struct {
        const ml_model_spec *spec;
        const char *const *kinds;
        int64_t first;
    } cases[] = {{&tiny_llama, all_llama, 0},
                 {&tiny_llama, q_and_v, 1},
                 {&tiny_gpt2, all_gpt2, 0},
                 {&tiny_gpt2, only_o, 0},
                 {&tiny_gpt2, only_o, 1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (int rslora = 0; rslora < 2; rslora++) {
            ml_adapter read,
                adapter = make_adapter(cases[i].spec, cases[i].kinds, cases[i].first, 3, 6, rslora);
            export_and_read(&adapter, cases[i].spec, &read);
            assert_true(adapter_distance(&adapter, &read) == 0.0F);
            assert_int_equal(read.rslora, rslora);
            ml_adapter_destroy(&read);
            ml_adapter_destroy(&adapter);
        }
    }
}

static void magnitudes_come_back(void **state)
{
    (void)state;
    const struct {
        const ml_model_spec *spec;
        const char *const *kinds;
    } cases[] = {{&tiny_llama, all_llama},
                 {&tiny_gpt2, all_gpt2},
                 {&tiny_gpt2, (const char *const[]){"attn.q", "attn.k", "attn.v", NULL}}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ml_adapter read, adapter = make_adapter(cases[i].spec, cases[i].kinds, 0, 3, 6, false);
        add_magnitudes(&adapter);
        assert_int_equal(ml_adapter_write(&adapter, file), ML_OK);
        assert_int_equal(ml_adapter_read(&read, file, cases[i].spec, SOURCE_HASH), ML_OK);
        assert_true(adapter_distance(&adapter, &read) == 0.0F);
        ml_adapter_destroy(&read);
        export_and_read(&adapter, cases[i].spec, &read);
        if (i < 2) assert_true(adapter_distance(&adapter, &read) == 0.0F);
        for (int64_t k = 0; i == 2 && k < 24; k++) /* q, k and v one below the other in c_attn */
            assert_true(read.pairs[0].m[k] == adapter.pairs[k / 8].m[k % 8]);
        if (i == 2)
            assert_int_equal(
                ml_adapter_split_fused(&read, &tiny_gpt2, ML_TARGET_Q | ML_TARGET_K | ML_TARGET_V),
                ML_USAGE);
        ml_adapter_destroy(&read);
        ml_adapter_destroy(&adapter);
    }
}

/* The sizes in a file are not the user's: what does not fit is a bad file, before anything is
 * divided by it. */
static void sizes_are_checked(void **state)
{
    (void)state;
    ml_adapter adapter = {.method = ML_METHOD_COMPACTER, .sizes = {.bottleneck = 4}};
    assert_int_equal(ml_adapter_write(&adapter, file), ML_OK);
    expect_refused(file, &tiny_gpt2, "factors is 0");
    adapter.sizes = (ml_method_sizes){.factors = 2};
    assert_int_equal(ml_adapter_write(&adapter, file), ML_OK);
    expect_refused(file, &tiny_gpt2, "bottleneck is 0");
    adapter.sizes = (ml_method_sizes){.factors = 3, .bottleneck = 6}; /* the width is 8 */
    static const char *const texts[] = {"must divide", "has no tensor compacter.rule"};
    for (int i = 0; i < 2; i++) {
        ml_model *model;
        ml_peft *attached;
        ml_parameters parameters = {0};
        assert_int_equal(ml_model_create(&model, &tiny_gpt2, NULL, 1, 0, ML_FP32), ML_OK);
        assert_int_equal(ml_peft_attach_adapter(&attached, model, &parameters, &adapter), ML_INPUT);
        assert_non_null(strstr(ml_error_text(), texts[i]));
        ml_parameters_destroy(&parameters);
        ml_model_destroy(model);
        adapter.sizes.factors = 2;
    }
}

static void magnitudes_are_checked(void **state)
{
    (void)state;
    static const char *const both[] = {"attn.qkv", "attn.v", NULL};
    ml_adapter adapter = make_adapter(&tiny_gpt2, q_and_v, 0, 3, 6, false);
    add_magnitudes(&adapter);
    assert_int_equal(ml_adapter_export_peft(&adapter, &tiny_gpt2, NULL, "b", peft),
                     ML_USAGE); /* rows of k would have none */
    ml_memory_free(adapter.pairs[1].m);
    adapter.pairs[1].m = NULL;
    assert_int_equal(ml_adapter_write(&adapter, file), ML_OK);
    expect_refused(file, &tiny_gpt2, "the other has none");
    ml_adapter_destroy(&adapter);
    adapter = make_adapter(&tiny_gpt2, both, 0, 3, 6, false);
    add_magnitudes(&adapter);
    assert_int_equal(ml_adapter_write(&adapter, file), ML_OK);
    expect_refused(file, &tiny_gpt2, "the same rows");
    ml_adapter_destroy(&adapter);
}

static void ranks_of_their_own_come_back(void **state)
{
    (void)state;
    int64_t capacity = 32, in, out; /* make_adapter's own */
    ml_adapter_pair *pair;
    ml_adapter read, adapter = make_adapter(&tiny_llama, q_and_v, 0, 3, 6, false);
    ml_module_shape(&tiny_llama, ml_family_find_target(tiny_llama.family, "mlp.down"), &in, &out);
    assert_int_equal(ml_adapter_add(&adapter, &capacity, "layers.1.mlp.down", 5, in, out, &pair),
                     ML_OK);
    pair->alpha = 2.5;
    pair->scale = 0.5F;
    pair->b[0] = 1.0F;
    export_and_read(&adapter, &tiny_llama, &read);
    assert_true(adapter_distance(&adapter, &read) == 0.0F);
    ml_adapter_destroy(&read);
    ml_adapter_destroy(&adapter);
}

/* ΔW[i, j] of one part of the fused projection. */
static float delta(const ml_adapter_pair *p, int64_t row, int64_t col)
{
    double sum = 0.0;
    for (int64_t k = 0; k < p->rank; k++)
        sum += (double)p->b[row * p->rank + k] * (double)p->a[k * p->in + col];
    return (float)(p->scale * sum);
}

static void gpt2_parts_are_fused_exactly(void **state)
{
    (void)state;
    static const char *const subsets[][4] = {
        {"attn.q", "attn.v", NULL}, {"attn.k", NULL}, {"attn.q", "attn.k", "attn.v", NULL}};
    static const unsigned bits[] = {ML_TARGET_Q | ML_TARGET_V, ML_TARGET_K,
                                    ML_TARGET_Q | ML_TARGET_K | ML_TARGET_V};
    for (int s = 0; s < 3; s++) {
        for (int rslora = 0; rslora < 2; rslora++) {
            ml_adapter read, adapter = make_adapter(&tiny_gpt2, subsets[s], 0, 3, 6, rslora);
            export_and_read(&adapter, &tiny_gpt2, &read);
            const ml_adapter_pair *fused = pair_at(&read, "layers.1.attn.qkv");
            assert_non_null(fused);
            for (int part = 0; part < 3; part++) {
                static const char *const modules[] = {"layers.1.attn.q", "layers.1.attn.k",
                                                      "layers.1.attn.v"};
                const ml_adapter_pair *own = pair_at(&adapter, modules[part]);
                for (int64_t i = 0; i < 8; i++)
                    for (int64_t j = 0; j < 8; j++)
                        assert_float_equal(delta(fused, part * 8 + i, j),
                                           (own ? delta(own, i, j) : 0.0F), 1e-5F);
            }
            assert_int_equal(ml_adapter_split_fused(&read, &tiny_gpt2, bits[s]), ML_OK);
            assert_true(adapter_distance(&adapter, &read) <= (rslora ? 1e-6F : 0.0F));
            ml_adapter_destroy(&read);
            ml_adapter_destroy(&adapter);
        }
    }
}

static void what_is_not_made_of_parts_is_not_split(void **state)
{
    (void)state;
    static const char *const fused[] = {"attn.qkv", "mlp.fc", NULL};
    ml_adapter adapter = make_adapter(&tiny_gpt2, fused, 0, 4, 6, false);
    assert_int_equal(ml_adapter_split_fused(&adapter, &tiny_gpt2, ML_TARGET_Q | ML_TARGET_V),
                     ML_USAGE);
    assert_non_null(strstr(ml_error_text(), "layers.0.attn.qkv"));
    assert_int_equal(ml_adapter_split_fused(&adapter, &tiny_gpt2, ML_TARGET_QKV), ML_OK);
    assert_int_equal(adapter.count, 4);
    ml_adapter_destroy(&adapter);
}

static void a_directory_with_other_files_is_left_alone(void **state)
{
    (void)state;
    ml_adapter adapter = make_adapter(&tiny_llama, q_and_v, 0, 2, 4, false);
    shell("mkdir -p %s/peft", directory);
    shell("touch %s/peft/mine.txt", directory);
    assert_int_equal(ml_adapter_export_peft(&adapter, &tiny_llama, NULL, "b", peft), ML_USAGE);
    assert_non_null(strstr(ml_error_text(), "mine.txt"));
    ml_adapter_destroy(&adapter);
}

static void write_peft(void)
{
    ml_adapter adapter = make_adapter(&tiny_llama, q_and_v, 0, 2, 4, false);
    shell("rm -rf %s/peft", directory);
    assert_int_equal(ml_adapter_export_peft(&adapter, &tiny_llama, NULL, "b", peft), ML_OK);
    ml_adapter_destroy(&adapter);
}

static void configurations_that_are_not_plain_lora_are_refused(void **state)
{
    (void)state;
    static const char *const changes[][2] = {
        {"s/\"use_dora\": false/\"use_dora\": true/", "use_dora"},
        {"s/\"bias\": \"none\"/\"bias\": \"some\"/", "bias"},
        {"s/\"LORA\"/\"IA3\"/", "peft_type"},
        {"s/\"CAUSAL_LM\"/\"SEQ_CLS\"/", "task_type"},
        {"s/\"r\": 2/\"r\": 0/", "r: is 0"},
        {"s/\"r\": 2/\"r\": 3/", "expected 3 × 8"},
        {"s/\"r\": 2/\"layer_replication\": [[0,2]], \"r\": 2/", "layer_replication"},
        {"s/\"r\": 2/\"r\": 2, \"r\": 2/", "not a JSON object"},
        {"s/\"trainable_token_indices\": null/\"trainable_token_indices\": [3]/",
         "trainable_token_indices is set"},
        {"s/\"r\": 2/\"kasa_config\": {\"beta\": 1}, \"r\": 2/", "kasa_config"},
        {"s/\"init_lora_weights\": true/\"init_lora_weights\": \"pissa\"/",
         "path_initial_model_for_weight_conversion"},
        {"s/\"v_proj\"/\"v_proj\", \"o_proj\"/", "lora_A is missing"},
        {"s/\"v_proj\"/\"other\"/", "belongs to no module"},
        {"s/\"lora_alpha\": 4/\"lora_alpha\": \"4\"/", "lora_alpha"},
        {"s/\"lora_dropout\": [0-9.]*/\"lora_dropout\": 1.5/", "lora_dropout: is 1.5"},
        {"s/\"layers_to_transform\": null/\"layers_to_transform\": [0]/", "belongs to no module"},
        {"s/\"rank_pattern\": {}/\"rank_pattern\": {\"q_proj\": 5}/", "expected 5 × 8"},
    };
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        char command[512];
        write_peft();
        snprintf(command, sizeof command, "sed -i '%s' %s/adapter_config.json", changes[i][0],
                 peft);
        assert_int_equal(system(command), 0);
        expect_refused(peft, &tiny_llama, changes[i][1]);
    }
}

/* Initialisations that leave the base alone, keys that say nothing of the result or that PEFT does
 * not have, and the names of a compiled model: the same adapter. */
static void keys_without_a_meaning_are_read(void **state)
{
    (void)state;
    static const char *const changes[] = {
        "s/\"init_lora_weights\": true/\"init_lora_weights\": \"eva\"/",
        "s/\"init_lora_weights\": true/\"init_lora_weights\": \"orthogonal\"/",
        "s/\"r\": 2/\"eva_config\": {\"rho\": 2}, \"velora_config\": {\"x\": 1}, \"r\": 2/",
        "s/\"r\": 2/\"lora_dtype\": \"bf16\", \"r\": 2/",
        "s/\"modules_to_save\": null/\"modules_to_save\": [\"lm_head\"]/",
    };
    ml_adapter plain, read;
    write_peft();
    assert_int_equal(ml_adapter_read(&plain, peft, &tiny_llama, NULL), ML_OK);
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        char command[512];
        write_peft();
        snprintf(command, sizeof command, "sed -i '%s' %s/adapter_config.json", changes[i], peft);
        assert_int_equal(system(command), 0);
        if (ml_adapter_read(&read, peft, &tiny_llama, NULL) != ML_OK)
            fail_msg("%s: %s", changes[i], ml_error_text());
        assert_true(adapter_distance(&plain, &read) == 0.0F);
        ml_adapter_destroy(&read);
    }
    write_peft(); /* the header keeps its length */
    shell("sed -i 's/\"base_model.model.model.layers/       \"model._orig_mod.layers/g' "
          "%s/peft/adapter_model.safetensors",
          directory);
    shell("grep -q _orig_mod %s/peft/adapter_model.safetensors", directory);
    ml_status st = ml_adapter_read(&read, peft, &tiny_llama, NULL);
    if (st != ML_OK) fail_msg("%s", ml_error_text());
    assert_true(adapter_distance(&plain, &read) == 0.0F);
    ml_adapter_destroy(&read);
    ml_adapter_destroy(&plain);
}

static void config_refused(const char *document, const char *message)
{
    ml_peft_config config;
    ml_status st = ml_peft_config_parse(&config, document, (int64_t)strlen(document));
    if (st != ML_INPUT || !strstr(ml_error_text(), message))
        fail_msg("%s: status %d, \"%s\", expected \"%s\"", document, (int)st, ml_error_text(),
                 message);
}

static void values_of_other_kinds_are_refused(void **state)
{
    (void)state;
    try_other_kinds(ml_peft_name_keys, "\"peft_type\": \"LORA\", ", false, config_refused);
    try_other_kinds(ml_peft_lora_keys, "\"peft_type\": \"LORA\", ", false, config_refused);
    try_other_kinds(ml_peft_prompt_keys, "\"peft_type\": \"PREFIX_TUNING\", ", false,
                    config_refused);
}

static void a_pattern_may_name_the_modules(void **state)
{
    (void)state;
    ml_adapter adapter;
    write_peft();
    shell(
        "sed -i -z 's/\\[[^]]*_proj[^]]*\\]/\".*_attn[.](q|v)_proj\"/' %s/peft/adapter_config.json",
        directory);
    assert_int_equal(ml_adapter_read(&adapter, peft, &tiny_llama, NULL), ML_OK);
    assert_int_equal(adapter.count, 4);
    ml_adapter_destroy(&adapter);
    shell("sed -i 's/(q|v)_proj/(((/' %s/peft/adapter_config.json", directory);
    expect_refused(peft, &tiny_llama, "no regular expression");
}

/* As in PEFT, layers_to_transform is for names without a layer only; and alpha may be negative. */
static void a_whole_path_means_its_module_in_any_layer(void **state)
{
    (void)state;
    ml_adapter adapter;
    write_peft();
    shell("sed -i -z 's/\"layers_to_transform\": null/\"layers_to_transform\": [1]/; "
          "s/\"lora_alpha\": 4/\"lora_alpha\": -4/; "
          "s/\\[[^]]*_proj[^]]*\\]/[\"model.layers.0.self_attn.q_proj\", "
          "\"model.layers.0.self_attn.v_proj\", \"q_proj\", \"v_proj\"]/' "
          "%s/peft/adapter_config.json",
          directory);
    assert_int_equal(ml_adapter_read(&adapter, peft, &tiny_llama, NULL), ML_OK);
    assert_int_equal(adapter.count, 4);
    assert_true(adapter.pairs[0].scale == -2.0F);
    ml_adapter_destroy(&adapter);
}

static void names_are_read_in_all_their_forms(void **state)
{
    (void)state;
    /* The edits keep the header's length: what a name loses becomes space before it. */
    ml_adapter with, without;
    write_peft();
    assert_int_equal(ml_adapter_read(&with, peft, &tiny_llama, NULL), ML_OK);
    shell("sed -i 's/\"base_model.model.model.layers/                 \"model.layers/g' "
          "%s/peft/adapter_model.safetensors",
          directory);
    assert_int_equal(ml_adapter_read(&without, peft, &tiny_llama, NULL), ML_OK);
    assert_true(adapter_distance(&with, &without) == 0.0F);
    assert_string_not_equal(with.hash, without.hash);
    ml_adapter_destroy(&without);
    write_peft();
    shell("sed -i 's/\"base_model.model.model\\.layers\\([^\"]*\\)lora_\\(.\\).weight/         "
          "\"model.layers\\1lora_\\2.default.weight/g' "
          "%s/peft/adapter_model.safetensors",
          directory);
    assert_int_equal(ml_adapter_read(&without, peft, &tiny_llama, NULL), ML_OK);
    assert_true(adapter_distance(&with, &without) == 0.0F);
    ml_adapter_destroy(&without);
    ml_adapter_destroy(&with);
    write_peft();
    shell("sed -i 's/base_model.model.model.layers.1/base_model.model.wrong.layers.1/' "
          "%s/peft/adapter_model.safetensors",
          directory);
    expect_refused(peft, &tiny_llama, "is missing");
}

static void a_pickle_is_refused_with_advice(void **state)
{
    (void)state;
    write_peft();
    shell("rm %s/peft/adapter_model.safetensors", directory);
    expect_refused(peft, &tiny_llama, "cannot be opened");
    shell("touch %s/peft/adapter_model.bin", directory);
    expect_refused(peft, &tiny_llama, "pickle");
}

static void any_changed_header_is_refused_or_harmless(void **state)
{
    (void)state;
    char path[160];
    write_peft();
    snprintf(path, sizeof path, "%s/adapter_model.safetensors", peft);
    FILE *f = fopen(path, "r+b");
    for (long at = 0; at < 700; at++) {
        ml_adapter adapter;
        fseek(f, at, SEEK_SET);
        int byte = fgetc(f);
        fseek(f, at, SEEK_SET);
        fputc(byte ^ (1 << (at % 7)), f);
        fflush(f);
        ml_status st = ml_adapter_read(&adapter, peft, &tiny_llama, NULL);
        assert_true(st == ML_OK || st == ML_INPUT);
        if (st == ML_OK) ml_adapter_destroy(&adapter);
        fseek(f, at, SEEK_SET);
        fputc(byte, f);
    }
    fclose(f);
}

int main(void)
{
#define CASE(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        CASE(adapter_file_comes_back),
        CASE(a_damaged_file_is_refused),
        CASE(reading_holds_no_copy),
        CASE(shapes_and_values_are_checked),
        CASE(peft_directory_comes_back),
        CASE(magnitudes_come_back),
        CASE(sizes_are_checked),
        CASE(magnitudes_are_checked),
        CASE(ranks_of_their_own_come_back),
        CASE(gpt2_parts_are_fused_exactly),
        CASE(what_is_not_made_of_parts_is_not_split),
        CASE(a_directory_with_other_files_is_left_alone),
        CASE(keys_without_a_meaning_are_read),
        CASE(configurations_that_are_not_plain_lora_are_refused),
        CASE(values_of_other_kinds_are_refused),
        CASE(a_pattern_may_name_the_modules),
        CASE(a_whole_path_means_its_module_in_any_layer),
        CASE(names_are_read_in_all_their_forms),
        CASE(a_pickle_is_refused_with_advice),
        CASE(any_changed_header_is_refused_or_harmless),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
