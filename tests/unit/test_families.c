/* Families: every column of every row of every table says something; what base files of the first
 * version say of a model is read as it was meant; features by name go out and come back; the
 * descriptions in configs/models/ have the published numbers of parameters. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>

#include "model/families/families.h"
#include "mpilora/config.h"
#include "store/base/base_private.h"

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n > m && !strcmp(text + n - m, end);
}

static ml_model_spec read_description(const char *name)
{
    const char *source = getenv("MPILORA_SOURCE_DIR");
    char path[512];
    ml_model_spec s;
    snprintf(path, sizeof path, "%s/configs/models/%s.yaml", source ? source : ".", name);
    if (ml_model_spec_read(&s, path) != ML_OK) fail_msg("%s", ml_error_text());
    return s;
}

static void check_name(const ml_family_tensor *row, const char *name)
{
    assert_true(name && ends_with(name, row->bias ? "bias" : ".weight")); /* q_bias of DeBERTa */
    assert_int_equal(*name == '@', ml_role_in_layer(row->role));
}

/* PEFT's name is the tensor's, but for a head that transformers has renamed in memory. */
static void check_peft_name(const ml_family *family, const ml_family_tensor *row)
{
    const char *former = family->hf.former_head;
    bool renamed = former && row->role == ML_ROLE_HEAD;
    assert_non_null(row->peft);
    if (renamed) assert_true(*row->peft && strlen(row->peft) <= strlen(former));
    const char *name = renamed ? former : row->peft;
    assert_int_equal(strncmp(row->hf.name, name, strlen(name)), 0);
}

static void check_row(const ml_family *family, const ml_family_tensor *row)
{
    assert_true(*row->module && row->role && row->rows && row->cols && row->cut && row->storage);
    assert_true(row->present && row->hf.layout && row->gguf.layout);
    check_name(row, row->hf.name);
    check_name(row, row->gguf.name);
    check_peft_name(family, row);
    assert_non_null(row->target);
    bool linear = row->role == ML_ROLE_QKV || row->role == ML_ROLE_O || row->role == ML_ROLE_UP ||
                  row->role == ML_ROLE_DOWN || row->role == ML_ROLE_POS;
    assert_int_equal(*row->target != '\0', linear && !row->bias);
    if (*row->target) assert_true(ml_target_find(row->target) != 0);
    assert_int_equal(row->cols == ML_EXTENT_ONE || row->role == ML_ROLE_TRANSFORM ||
                         row->role >= ML_ROLE_POOL,
                     row->storage == ML_STORED_FP32);
}

static void check_keys(const ml_family_key *keys)
{
    int64_t n = 0;
    for (; keys->key; keys++, n++) assert_true(*keys->key && keys->kind);
    assert_true(n > 0);
}

/* The norms that the table has are those that the places of norms ask for. */
static void check_norms(const ml_model_spec *s, unsigned roles)
{
    const ml_norm_places places = s->norm_places;
    bool before = places != ML_NORMS_BEHIND && places != ML_NORMS_SUM,
         behind = places == ML_NORMS_BEHIND || places == ML_NORMS_BOTH || places == ML_NORMS_SUM;
    assert_int_equal((roles & 1U << ML_ROLE_NORM1) != 0, before);
    if (places != ML_NORMS_PARALLEL) assert_int_equal((roles & 1U << ML_ROLE_NORM2) != 0, before);
    assert_int_equal((roles & 1U << ML_ROLE_NORM1_BEHIND) != 0, behind);
    assert_int_equal((roles & 1U << ML_ROLE_NORM2_BEHIND) != 0, behind);
    if (s->qk_norm) assert_true(roles & 1U << ML_ROLE_Q_NORM && roles & 1U << ML_ROLE_K_NORM);
}

static void every_column_is_filled(void **state)
{
    (void)state;
    int families = 0;
    for (const ml_family *const *f = ml_families(); *f; f++, families++) {
        const ml_family *family = *f;
        unsigned roles = 0;
        assert_true(family->name && *family->name && family->title && *family->title);
        assert_ptr_equal(family->defaults.family, family);
        assert_ptr_equal(ml_family_find(family->name), family);
        assert_true(family->defaults.norm_eps > 0);
        for (const ml_family_tensor *row = family->tensors; row->module; row++) {
            check_row(family, row);
            if (!row->places || row->places >> family->defaults.norm_places & 1U)
                roles |= 1U << row->role;
        }
        const ml_role needed[] = {ML_ROLE_EMBED, ML_ROLE_QKV, ML_ROLE_O, ML_ROLE_UP, ML_ROLE_DOWN};
        for (size_t i = 0; i < sizeof needed / sizeof *needed; i++)
            assert_true(roles & 1U << needed[i]);
        assert_int_equal((roles & 1U << ML_ROLE_FINAL_NORM) != 0, !family->defaults.no_final_norm);
        check_norms(&family->defaults, roles);
        assert_true(family->hf.model_type && family->hf.architecture && family->hf.gelu_tanh);
        assert_int_equal(strncmp(family->hf.layers, family->hf.prefix, strlen(family->hf.prefix)),
                         0);
        assert_non_null(family->gguf.architecture);
        check_keys(family->hf.keys);
        check_keys(family->gguf.keys);
    }
    assert_true(families >= 5);
}

/* Written by the first version. */
static const char old_gpt2[] =
    "{\"family\":\"gpt2\",\"layers\":12,\"width\":768,\"mlp_width\":3072,\"heads\":12,\"kv_heads\":"
    "12,\"head_dim\":64,\"vocab\":50257,\"context\":1024,\"activation\":\"gelu_tanh\",\"norm_eps\":"
    "1.0000000000000001e-05,\"rope_theta\":0.0,\"rope_scaling\":{\"factor\":0.0,\"low_freq_factor\""
    ":0.0,\"high_freq_factor\":0.0,\"original_context\":0},\"tied_head\":true,\"qkv_bias\":true,"
    "\"o_bias\":true,\"mlp_bias\":true}";
static const char old_llama[] =
    "{\"family\":\"llama\",\"layers\":2,\"width\":48,\"mlp_width\":112,\"heads\":4,\"kv_heads\":2,"
    "\"head_dim\":16,\"vocab\":203,\"context\":64,\"activation\":\"silu\",\"norm_eps\":1e-06,"
    "\"rope_theta\":5000.0,\"rope_scaling\":{\"factor\":4.0,\"low_freq_factor\":1.0,"
    "\"high_freq_factor\":4.0,\"original_context\":24},\"tied_head\":false,\"qkv_bias\":true,"
    "\"o_bias\":false,\"mlp_bias\":false}";

static void older_files_open(void **state)
{
    (void)state;
    ml_model_spec s;
    assert_int_equal(base_spec_from_json(old_gpt2, &s), ML_OK);
    assert_ptr_equal(s.family, &ml_family_gpt2);
    assert_true(s.norm == ML_NORM_LAYER && s.positions == ML_POSITIONS_LEARNED && !s.gated);
    assert_int_equal(ml_model_parameters_total(&s), 124439808);
    assert_int_equal(base_spec_from_json(old_llama, &s), ML_OK);
    assert_ptr_equal(s.family, &ml_family_llama);
    assert_true(s.norm == ML_NORM_RMS && s.positions == ML_POSITIONS_ROTARY && s.gated);
    assert_true(s.rope_scaling.factor == 4.0 && s.qkv_bias && !s.o_bias && s.window == 0);
}

static void unknown_features_are_refused(void **state)
{
    (void)state;
    ml_model_spec s;
    ml_text text = {0};
    assert_int_equal(
        ml_text_printf(&text, "%.*s,\"sinks\":true}", (int)strlen(old_llama) - 1, old_llama),
        ML_OK);
    assert_int_equal(base_spec_from_json(text.data, &s), ML_INPUT);
    assert_non_null(strstr(ml_error_text(), "sinks"));
    ml_text_destroy(&text);
}

static void features_come_back(void **state)
{
    (void)state;
    for (const ml_family *const *f = ml_families(); *f; f++) {
        ml_model_spec s = (*f)->defaults, again;
        ml_text first = {0}, second = {0};
        s.layers = 70;
        s.width = 64;
        s.mlp_width = 96;
        s.heads = 4;
        s.head_dim = 16;
        s.vocab = 50;
        s.context = 32;
        ml_model_spec_complete(&s);
        s.window = s.positions == ML_POSITIONS_ROTARY ? 7 : 0;
        ml_layer_set_add(&s.full_layers, 3);
        ml_layer_set_add(&s.full_layers, 65);
        assert_int_equal(base_spec_to_json(&s, &first), ML_OK);
        assert_int_equal(base_spec_from_json(first.data, &again), ML_OK);
        assert_int_equal(base_spec_to_json(&again, &second), ML_OK);
        assert_string_equal(first.data, second.data);
        assert_ptr_equal(again.family, *f);
        assert_int_equal(ml_model_window(&again, 64), s.window);
        assert_int_equal(ml_model_window(&again, 65), 0);
        ml_text_destroy(&first);
        ml_text_destroy(&second);
    }
}

static void check_size(const char *name, int64_t parameters)
{
    const ml_model_spec s = read_description(name);
    assert_int_equal(ml_model_parameters_total(&s), parameters);
}

/* Counted by transformers 5.24 on its meta device. */
static void descriptions_have_the_published_sizes(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int64_t parameters;
    } models[] = {
        {"command-r", 34980831232},
        {"command-r-plus", 103810674688},
        {"gemma-2-27b", 27227128320},
        {"gemma-2-2b", 2614341888},
        {"gemma-2-9b", 9241705984},
        {"gemma-2b", 2506172416},
        {"gemma-3-1b", 999885952},
        {"gemma-3-270m", 268098176},
        {"gemma-7b", 8537680896},
        {"glm-4-9b", 9400279040},
        {"gpt2-small", 124439808},
        {"granite-3.3-2b", 2533539840},
        {"granite-3.3-8b", 8170864640},
        {"llama-3.1-405b", 405853388800},
        {"llama-3.1-70b", 70553706496},
        {"llama-3.1-8b", 8030261248},
        {"llama-3.2-1b", 1235814400},
        {"llama-3.2-3b", 3212749824},
        {"mistral-7b", 7248023552},
        {"mistral-large-123b", 122610069504},
        {"mistral-nemo-12b", 12247782400},
        {"olmo-2-13b", 13716198400},
        {"olmo-2-1b", 1484916736},
        {"olmo-2-7b", 7298617344},
        {"phi-3-medium", 13960238080},
        {"phi-3-mini", 3821079552},
        {"phi-4", 14659507200},
        {"phi-4-mini", 3836021760},
        {"qwen2.5-0.5b", 494032768},
        {"qwen2.5-7b", 7615616512},
        {"qwen3-0.6b", 596049920},
        {"qwen3-8b", 8190735360},
        {"smollm2-135m", 134515008},
        {"smollm3-3b", 3075098624},
    };
    for (size_t i = 0; i < sizeof models / sizeof *models; i++)
        check_size(models[i].name, models[i].parameters);
}

static void gpts_kin_have_the_published_sizes(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int64_t parameters;
    } models[] = {{"opt-125m", 125239296},
                  {"opt-350m", 331196416},
                  {"stablelm-2-12b", 12143185920},
                  {"opt-1.3b", 1315758080},
                  {"opt-2.7b", 2651596800},
                  {"opt-6.7b", 6658473984},
                  {"opt-13b", 12853473280},
                  {"opt-30b", 29974540288},
                  {"opt-66b", 65719701504},
                  {"opt-175b", 174604468224},
                  {"bloom-560m", 559214592},
                  {"bloom-1b1", 1065314304},
                  {"bloom-1b7", 1722408960},
                  {"bloom-3b", 3002557440},
                  {"bloom-7b1", 7069016064},
                  {"bloom-176b", 176247271424},
                  {"pythia-70m", 70426624},
                  {"pythia-160m", 162322944},
                  {"pythia-410m", 405334016},
                  {"pythia-1b", 1011781632},
                  {"pythia-1.4b", 1414647808},
                  {"pythia-2.8b", 2775208960},
                  {"pythia-6.9b", 6857302016},
                  {"pythia-12b", 11846072320},
                  {"gpt-neox-20b", 20554567680},
                  {"gpt-j-6b", 6050882784},
                  {"falcon-7b", 6921720704},
                  {"falcon-11b", 11102822400},
                  {"falcon-40b", 41303293952},
                  {"falcon-180b", 178557088768},
                  {"falcon-rw-1b", 1311625216},
                  {"phi-1.5", 1418270720},
                  {"phi-2", 2779683840},
                  {"starcoder2-3b", 3030371328},
                  {"starcoder2-7b", 7173923840},
                  {"starcoder2-15b", 15655899136},
                  {"stablelm-3b-4e1t", 2795443200},
                  {"stablelm-2-1.6b", 1644515328}};
    for (size_t i = 0; i < sizeof models / sizeof *models; i++)
        check_size(models[i].name, models[i].parameters);
}

/* A pass over twice the tokens takes twice as much. */
static void relative_terms_take_linear_memory(void **state)
{
    (void)state;
    ml_model_spec s = ml_family_deberta_v2.defaults;
    ml_model *m;
    int64_t bytes[3][ML_MEM_CATEGORIES] = {{0}}, sum[3] = {0};
    s.layers = 2;
    s.width = 64;
    s.heads = 4;
    s.vocab = 100;
    s.context = s.relative_distances = 4096;
    s.relative_keys = s.relative_queries = s.relative_shared = true;
    ml_model_spec_complete(&s);
    assert_int_equal(ml_model_spec_check(&s, ML_USAGE), ML_OK);
    assert_int_equal(ml_model_create(&m, &s, NULL, 1, 0, ML_FP32), ML_OK);
    for (int i = 0; i < 3; i++) {
        ml_model_reserve_bytes(m, (int64_t)1024 << i, true, bytes[i]);
        for (int c = 0; c < ML_MEM_CATEGORIES; c++) sum[i] += bytes[i][c];
    }
    assert_true((double)sum[1] < 2.1 * (double)sum[0] && (double)sum[2] < 2.1 * (double)sum[1]);
    ml_model_destroy(m);
}

/* Of all ranks of tp, whatever they hold: they sum chunk by chunk. */
static void check_chunks(const ml_model_spec *s, int tp)
{
    for (int64_t tokens = 1; tokens < 9000; tokens += 1 + tokens / 500) {
        int64_t first[2];
        for (int rank = 0; rank < tp; rank++) {
            int64_t chunk, head_chunk;
            ml_model *m;
            assert_int_equal(ml_model_create(&m, s, NULL, tp, rank, ML_BF16), ML_OK);
            ml_model_chunks(m, tokens, true, &chunk, &head_chunk);
            if (rank == 0) first[0] = chunk, first[1] = head_chunk;
            assert_int_equal(chunk, first[0]);
            assert_int_equal(head_chunk, first[1]);
            ml_model_destroy(m);
        }
    }
}

/* A vocabulary, or an MLP's blocks, that tp does not divide. */
static void ranks_of_tp_have_the_same_chunks(void **state)
{
    (void)state;
    ml_model_spec gpt2 = read_description("gpt2-small"), llama = read_description("tiny-llama"),
                  blocks = llama;
    gpt2.layers = blocks.layers = 1;
    check_chunks(&gpt2, 2); /* 50257 tokens */
    llama.layers = 1;       /* 257 tokens */
    check_chunks(&llama, 2);
    ml_dtype *formats = calloc((size_t)ml_model_formats(&blocks), sizeof *formats);
    assert_non_null(formats);
    for (int64_t i = 0; i < ml_model_formats(&blocks); i++) formats[i] = ML_Q8_0;
    blocks.formats = formats;
    blocks.mlp_width = 32L * 5;
    check_chunks(&blocks, 2);
    free(formats);
}

/* Encoders, without poolers and heads. */
static void encoders_have_the_published_sizes(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int64_t parameters;
    } models[] = {{"bert-base", 108891648},           {"bert-large", 334092288},
                  {"roberta-base", 124055040},        {"roberta-large", 354310144},
                  {"xlm-roberta-base", 277453056},    {"xlm-roberta-large", 558840832},
                  {"deberta-v3-small", 141304320},    {"deberta-v3-base", 183831552},
                  {"deberta-v3-large", 434012160},    {"deberta-v2-xlarge", 884593152},
                  {"deberta-v2-xxlarge", 1564549632}, {"modernbert-base", 149014272},
                  {"modernbert-large", 394781696}};
    for (size_t i = 0; i < sizeof models / sizeof *models; i++)
        check_size(models[i].name, models[i].parameters);
}

/* The powers of the paper for 8 heads; 12 heads have four more between them (BLOOM, transformers).
 */
static void slopes_of_alibi(void **state)
{
    (void)state;
    for (int64_t head = 0; head < 8; head++) {
        double expected = ldexp(1.0, (int)(-1 - head));
        assert_true(ml_alibi_slope(8, head) == expected && ml_alibi_slope(12, head) == expected);
    }
    for (int64_t n = 0; n < 4; n++)
        assert_true(fabs(ml_alibi_slope(12, 8 + n) - pow(2.0, -0.5 - (double)n)) < 1e-15);
}

/* Σ (δ + 5001)·row(δ) of |δ| ≤ 5000, by transformers' make_log_bucket_position: one border that is
 * elsewhere changes it. */
static void rows_of_distances(void **state)
{
    (void)state;
    static const struct {
        int64_t buckets, distances, sum;
    } cases[] = {{256, 512, 19158235717},  {32, 512, 2365112113},   {8, 40, 562846313},
                 {6, 30, 412756990},       {2, 10, 125035002},      {7, 64, 489026945},
                 {320, 1024, 23928877931}, {256, 4096, 18880326665}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const ml_model_spec s = {.relative_buckets = cases[i].buckets,
                                 .relative_distances = cases[i].distances};
        int64_t sum = 0;
        for (int64_t d = -5000; d <= 5000; d++) sum += (d + 5001) * ml_model_relative_row(&s, d);
        assert_int_equal(sum, cases[i].sum);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_column_is_filled),
        cmocka_unit_test(older_files_open),
        cmocka_unit_test(unknown_features_are_refused),
        cmocka_unit_test(features_come_back),
        cmocka_unit_test(slopes_of_alibi),
        cmocka_unit_test(rows_of_distances),
        cmocka_unit_test(relative_terms_take_linear_memory),
        cmocka_unit_test(ranks_of_tp_have_the_same_chunks),
        cmocka_unit_test(descriptions_have_the_published_sizes),
        cmocka_unit_test(gpts_kin_have_the_published_sizes),
        cmocka_unit_test(encoders_have_the_published_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
