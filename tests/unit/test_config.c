/* config: defaults, every kind of value, what is refused and how, writing and reading again, model
 * descriptions, targets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <unistd.h>

#include "model/families/families.h"
#include "mpilora/config.h"
#include "mpilora/kernels.h"

static char path[64];

static void write_file(const char *text)
{
    snprintf(path, sizeof path, "test_config-%ld.yaml", (long)getpid());
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static ml_status read_text(const char *text, const char *const *sets, int64_t nsets,
                           ml_run_config *out)
{
    write_file(text);
    ml_status st = ml_run_config_read(out, path, sets, nsets);
    unlink(path);
    return st;
}

static void refused(const char *text, const char *needle)
{
    ml_run_config c;
    int64_t before = ml_memory_current(ML_MEM_OTHER);
    assert_int_equal(read_text(text, NULL, 0, &c), ML_USAGE);
    if (!strstr(ml_error_text(), needle))
        fail_msg("\"%s\" is not in \"%s\"", needle, ml_error_text());
    assert_int_equal(ml_memory_current(ML_MEM_OTHER), before);
}

static void set_refused(const char *set, const char *needle)
{
    ml_run_config c;
    assert_int_equal(read_text("base: b.h5\n", &set, 1, &c), ML_USAGE);
    if (!strstr(ml_error_text(), needle))
        fail_msg("\"%s\" is not in \"%s\"", needle, ml_error_text());
    assert_non_null(strstr(ml_error_text(), "--set"));
}

/* Refused before anything is made of a run, which the kernels, who know what can run here, are too
 * late for. The names are those of every build, so this one's must be among them. */
static void paths_of_kernels_are_known(void **state)
{
    (void)state;
    const char *const good[] = {"kernels.product=auto", "kernels.vector=avx512",
                                "kernels.vector=null"};
    char set[64];
    ml_run_config c;
    ml_kernels *k;
    ml_kernels_options options = {.backend = "none", .weight_dtype = ML_BF16};
    set_refused("kernels.product=nativ", "did you mean native?");
    set_refused("kernels.vector=1e", "kernels.vector: \"1e\" is not one of auto, avx512, avx2");
    refused("base: b.h5\nkernels:\n  vector: 2\n", ".yaml:3: kernels.vector: ");
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_int_equal(read_text("base: b.h5\n", &good[i], 1, &c), ML_OK);
        ml_run_config_destroy(&c);
    }
    assert_int_equal(
        read_text("base: b.h5\nnumerics: grid\nkernels: {product: auto}\n", NULL, 0, &c), ML_OK);
    assert_string_equal(c.backend, "native");
    ml_run_config_destroy(&c);
    for (int vector = 0; vector < 2; vector++) {
        assert_int_equal(ml_kernels_create(&k, &options), ML_USAGE);
        const char *at = strstr(ml_error_text(), "have: ");
        assert_non_null(at);
        char list[256];
        snprintf(list, sizeof list, "%s", at + strlen("have: "));
        for (char *word = strtok(list, ", "); word; word = strtok(NULL, ", ")) {
            const char *const sets[] = {set};
            snprintf(set, sizeof set, "kernels.%s=%s", vector ? "vector" : "product", word);
            if (read_text("base: b.h5\n", sets, 1, &c) != ML_OK) fail_msg("%s", ml_error_text());
            ml_run_config_destroy(&c);
        }
        options = (ml_kernels_options){.vector_path = "none", .weight_dtype = ML_BF16};
    }
}

static void times_have_units(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        double seconds;
    } times[] = {{"run.time_limit=90", 90},          {"run.time_limit=0.5s", 0.5},
                 {"run.time_limit=15m", 900},        {"run.time_limit=1.5h", 5400},
                 {"run.time_limit=2d", 172800},      {"run.time_limit=30:00", 1800},
                 {"run.time_limit=11:30:00", 41400}, {"run.time_limit=1-12:00:05", 129605},
                 {"run.time_limit=null", 0}};
    for (size_t i = 0; i < sizeof times / sizeof *times; i++) {
        ml_run_config c, again;
        ml_text yaml = {0};
        assert_int_equal(read_text("base: b.h5\n", &times[i].text, 1, &c), ML_OK);
        assert_true(c.time_limit == times[i].seconds);
        assert_int_equal(ml_run_config_write(&c, &yaml), ML_OK);
        assert_int_equal(read_text(yaml.data, NULL, 0, &again), ML_OK);
        assert_true(again.time_limit == times[i].seconds);
        ml_text_destroy(&yaml);
        ml_run_config_destroy(&c);
        ml_run_config_destroy(&again);
    }
    static const char *const bad[] = {
        "run.time_limit=-1",     "run.time_limit=0",       "run.time_limit=1x",
        "run.time_limit=1:60",   "run.time_limit=1:2:3",   "run.time_limit=1:00:00:00",
        "run.time_limit=1-2",    "run.time_limit=1-02:03", "run.time_limit=:30",
        "run.time_limit=1.2.3h", "run.time_limit=1 h",     "run.time_limit=h"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) set_refused(bad[i], "run.time_limit");
}

static void sizes_have_units(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int64_t bytes;
    } sizes[] = {{"memory.limit=1", 1},
                 {"memory.limit=2.2G", 2200000000},
                 {"memory.limit=512MiB", 512 << 20},
                 {"memory.limit=900M", 900000000},
                 {"memory.limit=null", 0},
                 {"memory.limit=1.5TiB", 3 * (INT64_C(1) << 39)}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        ml_run_config c, again;
        ml_text yaml = {0};
        assert_int_equal(read_text("base: b.h5\n", &sizes[i].text, 1, &c), ML_OK);
        assert_int_equal(c.memory.limit, sizes[i].bytes);
        assert_int_equal(ml_run_config_write(&c, &yaml), ML_OK);
        assert_int_equal(read_text(yaml.data, NULL, 0, &again), ML_OK);
        assert_int_equal(again.memory.limit, sizes[i].bytes);
        ml_text_destroy(&yaml);
        ml_run_config_destroy(&c);
        ml_run_config_destroy(&again);
    }
    static const char *const bad[] = {
        "memory.limit=2.2 G",  "memory.limit=2.2g",       "memory.limit=-1",  "memory.limit=0",
        "memory.limit=1.2.3G", "memory.limit=G",          "memory.limit=1e9", "memory.limit=inf",
        "memory.limit=[1]",    "memory.limit=9999999999T"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) set_refused(bad[i], "memory.limit");
    set_refused("memory.activations=most", "full, selective, checkpoint");
}

/* A least probability is a number or a power of two, and is written so that its bits come back. */
static void filters_are_numbers_or_powers(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        double least;
    } filters[] = {{"loss.filter=off", 0.0},
                   {"loss.filter=2^-16", 0x1p-16},
                   {"loss.filter=2^-1", 0.5},
                   {"loss.filter=1.5e-5", 1.5e-5}};
    for (size_t i = 0; i < sizeof filters / sizeof *filters; i++) {
        ml_run_config c, again;
        ml_text yaml = {0};
        assert_int_equal(read_text("base: b.h5\n", &filters[i].text, 1, &c), ML_OK);
        assert_true(c.loss.filter == filters[i].least);
        assert_int_equal(ml_run_config_write(&c, &yaml), ML_OK);
        assert_int_equal(read_text(yaml.data, NULL, 0, &again), ML_OK);
        assert_true(again.loss.filter == filters[i].least);
        ml_text_destroy(&yaml);
        ml_run_config_destroy(&c);
        ml_run_config_destroy(&again);
    }
    static const char *const bad[] = {
        "loss.filter=0",     "loss.filter=1",       "loss.filter=2^-0",   "loss.filter=2^16",
        "loss.filter=2^-",   "loss.filter=2^-1.5",  "loss.filter=2^-999", "loss.filter=on",
        "loss.filter=-1e-5", "loss.filter=\"off\"", "loss.filter=nan",    "loss.filter=[1]"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) set_refused(bad[i], "loss.filter");
    refused("base: b.h5\nloss: {filter: 2^-12}\nnumerics: grid\n", "loss.filter: numerics is grid");
    refused("base: b.h5\nloss: {filter: 2^-12}\nobjective: {name: dpo}\n", "sft and mlm; with dpo");
    refused("base: b.h5\nloss: {filter: 2^-12}\noptim: {label_smoothing: 0.1}\n",
            "optim.label_smoothing, 0.1");
}

static void what_is_not_given_has_a_default(void **state)
{
    (void)state;
    ml_run_config c;
    assert_int_equal(read_text("base: b.h5\nbatch: {sequences: 3}\n", NULL, 0, &c), ML_OK);
    assert_string_equal(c.base, "b.h5");
    assert_null(c.run_dir);
    assert_int_equal(c.seed, 1);
    assert_int_equal(c.method.name, ML_METHOD_LORA);
    assert_int_equal(c.method.rank, 8);
    assert_true(c.method.alpha == 16.0 && c.method.dropout == 0.0);
    assert_int_equal(c.method.targets, ML_TARGET_Q | ML_TARGET_V);
    assert_int_equal(c.data.max_len, 0);
    assert_true(c.data.shuffle);
    assert_int_equal(c.batch.micro, 3);
    assert_true(c.optim.lr == 2e-4 && c.optim.beta1 == 0.9 && c.optim.beta2 == 0.999 &&
                c.optim.eps == 1e-8);
    assert_true(c.optim.weight_decay == 0.01 && c.optim.clip_norm == 1.0 &&
                c.optim.label_smoothing == 0.0);
    assert_int_equal(c.optim.schedule, ML_SCHEDULE_CONSTANT);
    assert_int_equal(c.train.steps, 1000);
    assert_int_equal(c.train.keep, 2);
    assert_int_equal(c.precision, ML_BF16);
    ml_run_config_destroy(&c);
}

static void training_needs_a_directory_and_data(void **state)
{
    (void)state;
    ml_run_config c;
    assert_int_equal(read_text("base: b.h5\ndata: {train: t.h5}\n", NULL, 0, &c), ML_OK);
    assert_int_equal(ml_run_config_check_training(&c), ML_USAGE);
    assert_non_null(strstr(ml_error_text(), "run.dir"));
    ml_run_config_destroy(&c);
    assert_int_equal(read_text("base: b.h5\nrun: {dir: r}\n", NULL, 0, &c), ML_OK);
    assert_int_equal(ml_run_config_check_training(&c), ML_USAGE);
    assert_non_null(strstr(ml_error_text(), "data.train"));
    ml_run_config_destroy(&c);
}

/* The last --set wins over the earlier ones, and all over the file. */
static void sets_win_over_the_file(void **state)
{
    (void)state;
    static const char *const sets[] = {"method.rank=2",         "method.rank=5",
                                       "method.targets=[k, o]", "optim.clip_norm=null",
                                       "optim.lr=.5e-3",        "data.valid=null",
                                       "method.name=full",      "optim.betas=[0, 0.5]",
                                       "data.shuffle=false",    "run.seed=18446744073709551615",
                                       "run.dir=\"a: #b\"",     "precision=fp32"};
    ml_run_config c;
    assert_int_equal(read_text("base: b.h5\nmethod: {rank: 7}\ndata: {valid: v.h5}\n", sets,
                               sizeof sets / sizeof *sets, &c),
                     ML_OK);
    assert_int_equal(c.method.rank, 5);
    assert_int_equal(c.method.targets, ML_TARGET_K | ML_TARGET_O);
    assert_true(c.optim.clip_norm == 0.0 && c.optim.lr == 5e-4 && c.optim.beta1 == 0.0 &&
                c.optim.beta2 == 0.5);
    assert_null(c.data.valid);
    assert_int_equal(c.method.name, ML_METHOD_FULL);
    assert_false(c.data.shuffle);
    assert_true(c.seed == UINT64_MAX);
    assert_string_equal(c.run_dir, "a: #b");
    assert_int_equal(c.precision, ML_FP32);
    ml_run_config_destroy(&c);
}

/* The resolved configuration, read again, gives the same bytes: doubles to the last bit, texts
 * with every odd character. */
static void what_is_written_reads_the_same(void **state)
{
    (void)state;
    static const char *const sets[] = {"optim.lr=0.1e-3",
                                       "optim.eps=1.0000000000000002e-7",
                                       "optim.betas=[0.30000000000000004, 0.1]",
                                       "optim.clip_norm=null",
                                       "method.targets=all",
                                       "optim.schedule=cosine",
                                       "method.scaling=rslora",
                                       "run.seed=18446744073709551615"};
    ml_run_config first, second;
    ml_text one = {0}, two = {0};
    assert_int_equal(read_text("base: \"a \\\"b\\\" \\\\ \\t: {#\\u00e9\"\nrun: {dir: 'null'}\n",
                               sets, sizeof sets / sizeof *sets, &first),
                     ML_OK);
    assert_int_equal(ml_run_config_write(&first, &one), ML_OK);
    assert_int_equal(read_text(one.data, NULL, 0, &second), ML_OK);
    assert_int_equal(ml_run_config_write(&second, &two), ML_OK);
    assert_string_equal(one.data, two.data);
    assert_string_equal(first.base, second.base);
    assert_string_equal(second.run_dir, "null");
    assert_null(second.method.init);
    assert_true(first.optim.eps == second.optim.eps && first.optim.beta1 == second.optim.beta1 &&
                second.optim.clip_norm == 0.0);
    assert_true(second.seed == UINT64_MAX);
    assert_int_equal(second.method.targets, ML_TARGET_ALL);
    ml_text_destroy(&one);
    ml_text_destroy(&two);
    ml_run_config_destroy(&first);
    ml_run_config_destroy(&second);
}

static void messages_name_line_key_and_the_nearest(void **state)
{
    (void)state;
    refused("base: b.h5\nmethod:\n  rank: 4\n  rnak: 5\n",
            ".yaml:4: method.rnak: unknown key; did you mean method.rank?");
    refused("base: b.h5\nmethd: {rank: 4}\n", ".yaml:2: methd: unknown key; did you mean method?");
    refused("base: b.h5\nmethod: {rank: four}\n",
            ".yaml:2: method.rank: expected a whole number, found four");
    refused("base: b.h5\nmethod: {name: lorra}\n", "did you mean lora?");
    set_refused("method.rnak=3", "method.rnak: unknown key; did you mean method.rank?");
    set_refused("method=3", "method: is a section");
    set_refused("method.rank", "not key=value");
    set_refused("method.rank=", "missing");
    set_refused("train.steps=9223372036854775807", "9e+18]");
}

static void intervals_are_steps_or_times(void **state)
{
    (void)state;
    static const struct {
        const char *set;
        int64_t steps;
        double seconds;
    } cases[] = {{"train.save_every=200", 200, 0},     {"train.save_every=0", 0, 0},
                 {"train.save_every=\"10m\"", 0, 600}, {"train.save_every=30s", 0, 30},
                 {"train.save_every=1.5h", 0, 5400},   {"train.save_every=0.001s", 0, 0.001},
                 {"train.save_every=01:30", 0, 90},    {"train.save_every=1000000000s", 0, 1e9}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ml_run_config c, again;
        ml_text yaml = {0};
        const char *sets[] = {"train.save_every=7s", cases[i].set};
        assert_int_equal(read_text("base: b.h5\n", sets, 2, &c), ML_OK);
        assert_int_equal(ml_run_config_write(&c, &yaml), ML_OK);
        assert_int_equal(read_text(yaml.data, NULL, 0, &again), ML_OK);
        assert_true(c.train.save_every.steps == cases[i].steps &&
                    c.train.save_every.seconds == cases[i].seconds);
        assert_true(again.train.save_every.steps == cases[i].steps &&
                    again.train.save_every.seconds == cases[i].seconds);
        ml_text_destroy(&yaml);
        ml_run_config_destroy(&c);
        ml_run_config_destroy(&again);
    }
    static const char *const bad[] = {"train.save_every=-1",     "train.save_every=1.5",
                                      "train.save_every=10x",    "train.save_every=0s",
                                      "train.save_every=\"10\"", "train.save_every=null",
                                      "train.keep_best=1"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        set_refused(bad[i], i < 6 ? "train.save_every" : "train.keep_best");
}

static void values_are_strict(void **state)
{
    (void)state;
    static const char *const sets[] = {"method.rank=0",
                                       "method.rank=2.0",
                                       "method.rank=\"4\"",
                                       "method.rank=0x10",
                                       "method.rank=null",
                                       "method.alpha=0",
                                       "method.dropout=1",
                                       "method.targets=[]",
                                       "method.targets=[q, q]",
                                       "method.targets=[x]",
                                       "optim.lr=-1",
                                       "optim.lr=nan",
                                       "optim.lr=.inf",
                                       "optim.lr=1e999",
                                       "optim.lr=0x1p3",
                                       "optim.betas=[1, 0]",
                                       "optim.betas=0.9",
                                       "optim.betas=[0.9]",
                                       "optim.eps=0",
                                       "optim.clip_norm=-1",
                                       "optim.warmup=-1",
                                       "data.shuffle=yes",
                                       "data.shuffle=tRUE",
                                       "method.targets=[c_proj]",
                                       "data.shuffle=\"true\"",
                                       "run.seed=-1",
                                       "run.dir=\"\"",
                                       "base=null",
                                       "base=[a]",
                                       "precision=fp16",
                                       "parallel.tp=0",
                                       "batch.micro=0",
                                       "train.keep=0",
                                       "train.steps=0",
                                       "optim.label_smoothing=1"};
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) {
        char key[32];
        snprintf(key, sizeof key, "%.*s", (int)strcspn(sets[i], "="), sets[i]);
        set_refused(sets[i], key);
    }
    refused("base: b.h5\nparallel: {pp: 0}\n", ".yaml:2: parallel.pp: ");
}

/* Also as fp32, which is what they are computed with. */
static void reals_have_ranges(void **state)
{
    (void)state;
    static const struct {
        const char *set, *expected;
    } cases[] = {
        {"optim.lr=1e39", "optim.lr: expected a number in [0, 3.40282e+38], found 1e39"},
        {"optim.weight_decay=1e39", "[0, 3.40282e+38], found 1e39"},
        {"optim.eps=1e-60", "optim.eps: expected a number in (0, 3.40282e+38], found 1e-60"},
        {"optim.clip_norm=1e39", "(0, 3.40282e+38]"},
        {"optim.clip_norm=0", "null, which turns it off"},
        {"optim.betas=[0.9, 0.999999999999]", "optim.betas: expected a number in [0, 1)"},
        {"method.dropout=0.999999999999", "method.dropout: expected a number in [0, 1)"},
        {"method.alpha=1e39", "method.alpha: expected a number in (0, 3.40282e+38]"},
        {"method.lora_plus=1e300", "(0, 3.40282e+38]"},
        {"method.alpha_pattern={q: 1e39}", "method.alpha_pattern"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        set_refused(cases[i].set, cases[i].expected);
    refused("base: b.h5\noptim:\n  lr: 1e39\n", ".yaml:3: optim.lr: expected");
}

/* What only shows in two keys together, or where the key is used. */
static void refusals_name_file_and_line(void **state)
{
    (void)state;
    const char *set = "data.max_len=9";
    ml_run_config c;
    refused("base: b.h5\nmethod:\n  name: prefix_embed\n  prefix: 0\n", ".yaml:4: method.prefix: ");
    refused("base: b.h5\nmethod: {init: pissa,\n  dora: true}\n", ".yaml:2: method.init: ");
    assert_int_equal(read_text("base: b.h5\ndata:\n  max_len: 7\n", NULL, 0, &c), ML_OK);
    assert_int_equal(ml_run_config_refuse(&c, "data.max_len", "%d is too many", 7), ML_USAGE);
    assert_non_null(strstr(ml_error_text(), ".yaml:3: data.max_len: 7 is too many"));
    assert_int_equal(ml_run_config_refuse(&c, "optim.lr", "is missing"), ML_USAGE);
    assert_non_null(strstr(ml_error_text(), ".yaml: optim.lr: is missing"));
    ml_run_config_destroy(&c);
    assert_int_equal(read_text("base: b.h5\ndata: {max_len: 7}\n", &set, 1, &c), ML_OK);
    assert_int_equal(ml_run_config_refuse(&c, "data.max_len", "%d is too many", 9), ML_USAGE);
    assert_non_null(strstr(ml_error_text(), ".yaml, --set: data.max_len: 9 is too many"));
    ml_run_config_destroy(&c);
}

static void documents_are_strict(void **state)
{
    (void)state;
    refused("", "mapping");
    refused("{}", "base: missing");
    refused("- a\n", "mapping");
    refused("base: b.h5\n---\nbase: c.h5\n", "more than one");
    refused("base: b.h5\nbase: c.h5\n", ":2: base: given twice");
    refused("base: b.h5\nmethod: {rank: 4}\nmethod: {alpha: 4}\n", ":3: method: given twice");
    refused("base: b.h5\nmethod.rank: 4\n", ":2: method.rank: unknown key");
    refused("base: b.h5\n\"precision\\0x\": bf16\n", "zero byte");
    refused("base: \"a\\0b\"\n", "zero byte");
    refused("base: &a b.h5\n", "anchors");
    refused("base: !!str b.h5\n", "tags");
    refused("base: b.h5\nmethod: 3\n", "method: expected a mapping");
    refused("base: b.h5\n[a]: 3\n", "a key is a word");
    refused("base: {dir: x\n", "not YAML");
}

/* Within a second: libyaml alone takes minutes over such a file. */
static void deep_nesting_is_refused_at_once(void **state)
{
    (void)state;
    enum { DEPTH = 400000 };
    ml_run_config c;
    char *text = malloc(DEPTH + 1);
    assert_non_null(text);
    memset(text, '[', DEPTH);
    text[DEPTH] = '\0';
    double start = ml_seconds();
    refused(text, "nested deeper");
    assert_true(ml_seconds() - start < 1.0);
    free(text);
    assert_int_equal(ml_run_config_read(&c, "/dev/zero", NULL, 0), ML_USAGE);
    assert_int_equal(ml_run_config_read(&c, "no-such-file.yaml", NULL, 0), ML_USAGE);
    assert_non_null(strstr(ml_error_text(), "no-such-file.yaml"));
}

static void descriptions_follow_their_family(void **state)
{
    (void)state;
    ml_model_spec s;
    write_file("family: gpt2\nlayers: 2\nwidth: 64\nheads: 4\nvocab: 10\ncontext: 8\n");
    assert_int_equal(ml_model_spec_read(&s, path), ML_OK);
    assert_int_equal(s.mlp_width, 256);
    assert_int_equal(s.kv_heads, 4);
    assert_int_equal(s.head_dim, 16);
    assert_true(s.tied_head && s.qkv_bias && s.o_bias && s.mlp_bias && s.norm_eps == 1e-5);
    assert_int_equal(s.activation, ML_GELU_TANH);
    write_file("family: llama\nlayers: 2\nwidth: 64\nheads: 4\nvocab: 10\ncontext: 8\n");
    assert_int_equal(ml_model_spec_read(&s, path), ML_USAGE); /* mlp_width has no rule here */
    assert_non_null(strstr(ml_error_text(), "mlp_width"));
    write_file("family: gpt2\n");
    assert_int_equal(ml_model_spec_read(&s, path), ML_USAGE);
    assert_non_null(strstr(ml_error_text(), "layers: missing"));
    unlink(path);
}

/* YAML 1.2's core schema, and PEFT's names of modules. */
static void words_of_others_are_read(void **state)
{
    (void)state;
    static const struct {
        const char *set;
        unsigned targets;
    } cases[] = {{"method.targets=[q_proj, v_proj]", ML_TARGET_Q | ML_TARGET_V},
                 {"method.targets=[gate_proj, down]", ML_TARGET_GATE | ML_TARGET_DOWN},
                 {"method.targets=[c_attn, c_fc]", ML_TARGET_QKV | ML_TARGET_FC},
                 {"method.targets=all-linear", ML_TARGET_ALL}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *sets[] = {cases[i].set, "data.shuffle=False", "optim.clip_norm=Null"};
        ml_run_config c;
        ml_status st = read_text("base: b.h5\n", sets, sizeof sets / sizeof *sets, &c);
        if (st != ML_OK) fail_msg("%s: %s", cases[i].set, ml_error_text());
        assert_int_equal(c.method.targets, cases[i].targets);
        assert_false(c.data.shuffle);
        assert_true(c.optim.clip_norm == 0.0);
        ml_run_config_destroy(&c);
    }
}

static void targets_belong_to_a_family(void **state)
{
    (void)state;
    unsigned bits = 0;
    assert_int_equal(ml_targets_resolve(&ml_family_gpt2.defaults, ML_TARGET_ALL, &bits), ML_OK);
    assert_int_equal(bits, ML_TARGET_QKV | ML_TARGET_O | ML_TARGET_FC | ML_TARGET_PROJ);
    assert_int_equal(ml_targets_resolve(&ml_family_llama.defaults, ML_TARGET_ALL, &bits), ML_OK);
    assert_int_equal(bits, ML_TARGET_Q | ML_TARGET_K | ML_TARGET_V | ML_TARGET_O | ML_TARGET_GATE |
                               ML_TARGET_UP | ML_TARGET_DOWN);
    assert_int_equal(
        ml_targets_resolve(&ml_family_gpt2.defaults, ML_TARGET_QKV | ML_TARGET_Q, &bits), ML_USAGE);
    assert_int_equal(ml_targets_resolve(&ml_family_llama.defaults, ML_TARGET_QKV, &bits), ML_USAGE);
    assert_int_equal(ml_targets_resolve(&ml_family_llama.defaults, ML_TARGET_FC, &bits), ML_USAGE);
    assert_int_equal(
        ml_targets_resolve(&ml_family_gpt2.defaults, ML_TARGET_ALL | ML_TARGET_Q, &bits), ML_USAGE);
}

/* Projections of distances are those of a model that has them, and stand beside `all`. */
static void targets_of_distances(void **state)
{
    (void)state;
    const unsigned both = ML_TARGET_POS_Q | ML_TARGET_POS_K,
                   tokens = ML_TARGET_QKV | ML_TARGET_O | ML_TARGET_FC | ML_TARGET_PROJ;
    unsigned bits = 0;
    ml_model_spec s = ml_family_deberta.defaults;
    s.relative_keys = true;
    s.relative_queries = false;
    assert_int_equal(ml_targets_resolve(&s, ML_TARGET_ALL, &bits), ML_OK);
    assert_int_equal(bits, tokens);
    assert_int_equal(ml_targets_resolve(&s, ML_TARGET_ALL | ML_TARGET_POS_K, &bits), ML_OK);
    assert_int_equal(bits, tokens | ML_TARGET_POS_K);
    assert_int_equal(ml_targets_resolve(&s, ML_TARGET_POS_Q, &bits), ML_USAGE);
    assert_int_equal(ml_targets_resolve(&s, ML_TARGET_ALL | ML_TARGET_POS_Q, &bits), ML_USAGE);
    s = ml_family_deberta_v2.defaults;
    s.relative_keys = s.relative_queries = true;
    assert_int_equal(ml_targets_resolve(&s, both, &bits), ML_OK);
    assert_int_equal(bits, both);
    s.relative_shared = true;
    assert_int_equal(ml_targets_resolve(&s, both, &bits), ML_USAGE);
    assert_int_equal(ml_target_find("pos_proj"), ML_TARGET_POS_K);
    assert_int_equal(ml_target_find("pos_query_proj"), ML_TARGET_POS_Q);
}

/* Written again: in order, joined, and read back the same. */
static void check_written(const char *set, const char *line)
{
    ml_run_config c, again;
    ml_text yaml = {0}, twice = {0};
    assert_int_equal(read_text("base: b.h5\n", &set, 1, &c), ML_OK);
    assert_int_equal(ml_run_config_write(&c, &yaml), ML_OK);
    if (!strstr(yaml.data, line)) fail_msg("%s: \"%s\" is not in\n%s", set, line, yaml.data);
    assert_int_equal(read_text(yaml.data, NULL, 0, &again), ML_OK);
    assert_int_equal(ml_run_config_write(&again, &twice), ML_OK);
    assert_string_equal(yaml.data, twice.data);
    ml_text_destroy(&yaml);
    ml_text_destroy(&twice);
    ml_run_config_destroy(&c);
    ml_run_config_destroy(&again);
}

static void variants_of_lora(void **state)
{
    (void)state;
    check_written("method.dora=true", "dora: true\n");
    refused("base: b.h5\nmethod: {dora: true, dropout: 0.1}\n", "method.dropout");
    refused("base: b.h5\nmethod: {name: lora+prefix_kv, init: pissa}\n", "pissa");
    refused("base: b.h5\nmethod: {dora: true, init: pissa}\n", "pissa");
    check_written("method.lora_plus=16", "lora_plus: 16\n");
    check_written("method.lora_plus=null", "lora_plus: null\n");
    check_written("method.layers=[5, 0, 2-3, 1]", "layers: [0-3, 5]\n");
    check_written("method.layers=7", "layers: [7]\n");
    check_written("method.layers=2-4", "layers: [2-4]\n");
    check_written("method.layers=null", "layers: null\n");
    check_written("method.rank_pattern={layers.0.attn.q: 4, \"q\": 16}",
                  "rank_pattern: {\"layers.0.attn.q\": 4, \"q\": 16}\n");
    check_written("method.rank_pattern={}", "rank_pattern: null\n");
    check_written("method.alpha_pattern={mlp.down: 2.5}", "alpha_pattern: {\"mlp.down\": 2.5}\n");
    static const char *const bad[][2] = {
        {"method.lora_plus=0", "(0, 3.40282e+38]"},
        {"method.lora_plus=x", "method.lora_plus"},
        {"method.layers=[]", "at least one number"},
        {"method.layers=[1, -2]", "found -2"},
        {"method.layers=[3-1]", "found 3-1"},
        {"method.layers=[1.5]", "found 1.5"},
        {"method.layers=[99999999999999999999]", "found 999"},
        {"method.layers=[[1]]", "a list"},
        {"method.layers={a: 1}", "a list or a mapping"},
        {"method.rank_pattern=[q]", "a mapping of modules"},
        {"method.rank_pattern=4", "a mapping of modules"},
        {"method.rank_pattern={q: 0}", "[1, 65536]"},
        {"method.rank_pattern={q: 1.5}", "whole number"},
        {"method.rank_pattern={q: 1, q: 2}", "twice"},
        {"method.rank_pattern={\"\": 1}", "name of a module"},
        {"method.rank_pattern={\"q.*\": 1}", "name of a module"},
        {"method.rank_pattern={"
         "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa: 1}",
         "name of a module"},
        {"method.alpha_pattern={q: 0}", "(0, 3.40282e+38]"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) set_refused(bad[i][0], bad[i][1]);
}

/* LoRA's own file serves the other methods, which do not read what its variants do. */
static void keys_of_lora_are_unread_elsewhere(void **state)
{
    (void)state;
    for (int method = 0; method < ML_METHODS; method++) {
        ml_run_config c;
        char set[64];
        const char *sets[] = {set,
                              "method.dora=true",
                              "method.lora_plus=2",
                              "method.layers=[1]",
                              "method.rank_pattern={q: 2}",
                              "method.alpha_pattern={q: 2}"};
        snprintf(set, sizeof set, "method.name=%s", ml_method_name((ml_method)method));
        assert_int_equal(read_text("base: b.h5\n", sets, sizeof sets / sizeof *sets, &c), ML_OK);
        ml_run_config_destroy(&c);
        if (ml_method_has_lora((ml_method)method)) continue;
        const char *more[] = {set, "method.init=pissa", "method.dora=true", "method.dropout=0.1"};
        assert_int_equal(read_text("base: b.h5\n", more, sizeof more / sizeof *more, &c), ML_OK);
        assert_false(ml_run_config_is_pissa(&c));
        assert_null(ml_run_config_first_adapter(&c));
        ml_run_config_destroy(&c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(variants_of_lora),
        cmocka_unit_test(keys_of_lora_are_unread_elsewhere),
        cmocka_unit_test(filters_are_numbers_or_powers),
        cmocka_unit_test(what_is_not_given_has_a_default),
        cmocka_unit_test(paths_of_kernels_are_known),
        cmocka_unit_test(times_have_units),
        cmocka_unit_test(sizes_have_units),
        cmocka_unit_test(training_needs_a_directory_and_data),
        cmocka_unit_test(sets_win_over_the_file),
        cmocka_unit_test(what_is_written_reads_the_same),
        cmocka_unit_test(messages_name_line_key_and_the_nearest),
        cmocka_unit_test(intervals_are_steps_or_times),
        cmocka_unit_test(values_are_strict),
        cmocka_unit_test(reals_have_ranges),
        cmocka_unit_test(refusals_name_file_and_line),
        cmocka_unit_test(documents_are_strict),
        cmocka_unit_test(deep_nesting_is_refused_at_once),
        cmocka_unit_test(descriptions_follow_their_family),
        cmocka_unit_test(words_of_others_are_read),
        cmocka_unit_test(targets_belong_to_a_family),
        cmocka_unit_test(targets_of_distances),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
