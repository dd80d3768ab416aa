/* Import, forward pass and generation of a real GPT-2-type model with random weights, against the
 * outputs that come with it: last logits, greedy and beam-search continuations. Skipped where the
 * data folder is not there. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "mpilora/cache.h"
#include "mpilora/generate.h"
#include "mpilora/import.h"
#include "mpilora/kernels.h"

enum { TOKENS = 64 };

typedef struct world {
    json_t *expected;
    ml_base *base;
    ml_model *model;
    ml_kernels *kernels;
    char path[64];
} world;

static void data_folder(char path[1024])
{
    const char *shared = getenv("MPILORA_SHARED_DATA"), *source = getenv("MPILORA_SOURCE_DIR");
    if (shared)
        snprintf(path, 1024, "%s/tiny-random-gpt2", shared);
    else
        snprintf(path, 1024, "%s/../shared/data/tiny-random-gpt2", source ? source : ".");
}

static int open_world(void **state)
{
    static world w;
    char folder[1024], name[1100];
    *state = NULL;
    data_folder(folder);
    snprintf(name, sizeof name, "%s/expected_outputs.json", folder);
    w.expected = json_load_file(name, 0, NULL);
    if (!w.expected) {
        print_message("%s is not there: skipped\n", name);
        return 0;
    }
    snprintf(w.path, sizeof w.path, "test_generation-%ld.h5", (long)getpid());
    assert_int_equal(ml_import(folder, &(ml_import_options){.dtype = ML_FP32}, w.path), ML_OK);
    assert_int_equal(ml_base_open(&w.base, w.path), ML_OK);
    assert_int_equal(ml_model_create(&w.model, ml_base_spec(w.base), NULL, 1, 0, ML_FP32), ML_OK);
    ml_weight shapes[ML_MODEL_SHAPES];
    ml_kernels_options options = {.backend = "blas"};
    ml_model_kernel_options(w.model, TOKENS, &options, shapes);
    assert_int_equal(ml_kernels_create(&w.kernels, &options), ML_OK);
    ml_model_use_kernels(w.model, w.kernels);
    assert_int_equal(ml_model_bind(w.model), ML_OK);
    assert_int_equal(ml_model_reserve(w.model, TOKENS, false), ML_OK);
    for (int64_t i = 0; i < ml_model_slots(w.model); i++) {
        ml_model_slot *slot = ml_model_slot_at(w.model, i);
        assert_int_equal(ml_base_read(w.base, slot->name, &slot->shard, ML_FP32, slot->data),
                         ML_OK);
    }
    *state = &w;
    return 0;
}

static int close_world(void **state)
{
    world *w = *state;
    if (!w) return 0;
    ml_model_destroy(w->model);
    ml_kernels_destroy(w->kernels);
    ml_base_close(w->base);
    json_decref(w->expected);
    unlink(w->path);
    return 0;
}

static int64_t read_ids(const json_t *list, int32_t *ids)
{
    int64_t n = (int64_t)json_array_size(list);
    assert_true(n > 0 && n <= TOKENS);
    for (int64_t i = 0; i < n; i++)
        ids[i] = (int32_t)json_integer_value(json_array_get(list, (size_t)i));
    return n;
}

static ml_status continue_one(world *w, const int32_t *prompt, int64_t n, const ml_generation *g,
                              int32_t *out, int64_t *count)
{
    ml_request request = {.prompt = prompt, .length = n, .out = out};
    ml_status st = ml_generate_tokens(w->model, g, 1, &request, 1, NULL);
    *count = request.count;
    return st;
}

/* The only sequence of a batch. */
static void prefill(world *w, ml_cache *cache, int64_t slot, const int32_t *token, int64_t n,
                    float *logits)
{
    const int64_t start[2] = {0, n}, last = n - 1;
    const ml_batch batch = {.tokens = n,
                            .token = token,
                            .sequences = {.count = 1, .start = start},
                            .rows = 1,
                            .row = &last};
    ml_model_prefill(w->model, cache, &slot, &batch, logits);
}

/* −1, one token or a list of them. */
static void read_ends(const json_t *end, ml_generation *g)
{
    if (json_integer_value(end) >= 0) {
        g->end[0] = (int32_t)json_integer_value(end);
        g->ends = !json_is_array(end);
    }
    for (size_t i = 0; i < json_array_size(end); i++)
        g->end[g->ends++] = (int32_t)json_integer_value(json_array_get(end, i));
}

static void check_continuation(world *w, const json_t *item, int64_t beams)
{
    int32_t prompt[TOKENS], expected[TOKENS], found[TOKENS];
    int64_t n = read_ids(json_object_get(item, "input_ids"), prompt),
            all = read_ids(json_object_get(item, "expected"), expected), count;
    ml_generation g = {.max_new = json_integer_value(json_object_get(item, "max_length")) - n,
                       .beams = beams,
                       .length_penalty = 1.0,
                       .top_p = 1.0};
    assert_int_equal(continue_one(w, prompt, n, &g, found, &count), ML_OK);
    assert_int_equal(count, all - n);
    assert_memory_equal(found, expected + n, (size_t)count * sizeof *found);
}

static void greedy_is_as_expected(void **state)
{
    if (!*state) skip();
    world *w = *state;
    size_t i;
    json_t *item;
    json_array_foreach(json_object_get(w->expected, "greedy"), i, item)
        check_continuation(w, item, 1);
    assert_true(i > 0);
}

static void beams_are_as_expected(void **state)
{
    if (!*state) skip();
    world *w = *state;
    size_t i;
    json_t *item;
    json_array_foreach(json_object_get(w->expected, "beam4"), i, item)
        check_continuation(w, item, json_integer_value(json_object_get(item, "num_beams")));
    assert_true(i > 0);
}

static double number_of(const json_t *item, const char *key, double otherwise)
{
    const json_t *value = json_object_get(item, key);
    return value ? json_number_value(value) : otherwise;
}

/* Length penalties, ends and forbidden repeats, as transformers has them
 * (tests/interop/make_beams_golden.py). */
static void penalties_are_as_expected(void **state)
{
    if (!*state) skip();
    world *w = *state;
    char path[1100];
    const char *source = getenv("MPILORA_SOURCE_DIR");
    snprintf(path, sizeof path, "%s/tests/golden/beams.json", source ? source : ".");
    json_t *cases = json_load_file(path, 0, NULL), *item;
    size_t i;
    assert_non_null(cases);
    json_array_foreach(cases, i, item)
    {
        int32_t prompt[TOKENS], expected[TOKENS], found[TOKENS];
        int64_t n = read_ids(json_object_get(item, "prompt"), prompt), count;
        json_t *list = json_object_get(item, "expected");
        int64_t all = json_array_size(list) ? read_ids(list, expected) : 0;
        ml_generation g = {.max_new = 16,
                           .beams = (int64_t)number_of(item, "num_beams", 1),
                           .length_penalty = number_of(item, "length_penalty", 1.0),
                           .no_repeat_ngram = (int64_t)number_of(item, "no_repeat_ngram_size", 0),
                           .top_p = 1.0};
        read_ends(json_object_get(item, "end"), &g);
        assert_int_equal(continue_one(w, prompt, n, &g, found, &count), ML_OK);
        if (count != all || memcmp(found, expected, (size_t)count * sizeof *found) != 0) {
            for (int64_t t = 0; t < ml_max(count, all); t++)
                print_message("%d/%d ", t < count ? found[t] : -1, t < all ? expected[t] : -1);
            fail_msg("case %d: found / expected differ", (int)i);
        }
    }
    json_decref(cases);
}

static void last_logits_are_as_expected(void **state)
{
    if (!*state) skip();
    world *w = *state;
    size_t i, v;
    json_t *item, *number;
    float logits[1000];
    json_array_foreach(json_object_get(w->expected, "last_prompt_logits"), i, item)
    {
        int32_t prompt[TOKENS];
        ml_cache *cache;
        int64_t n = read_ids(json_object_get(item, "input_ids"), prompt);
        assert_int_equal(ml_cache_create(&cache, w->model, 1, TOKENS, TOKENS), ML_OK);
        prefill(w, cache, 0, prompt, n, logits);
        json_array_foreach(json_object_get(item, "logits"), v, number)
            assert_true(fabs(json_number_value(number) - (double)logits[v]) < 2e-6);
        ml_cache_destroy(cache);
    }
    assert_true(i > 0);
}

/* Token by token through the cache gives what the whole prompt gives at once. */
static void cache_gives_the_same(void **state)
{
    if (!*state) skip();
    world *w = *state;
    enum { N = 20, V = 1000 };
    static float whole[V], grown[V];
    int32_t token[N];
    ml_cache *cache;
    const int64_t slot = 0;
    for (int32_t i = 0; i < N; i++) token[i] = (i * 37 + 11) % V;
    assert_int_equal(ml_cache_create(&cache, w->model, 2, TOKENS, 2 * TOKENS), ML_OK);
    prefill(w, cache, 1, token, N, whole);
    prefill(w, cache, 0, token, 1, grown);
    for (int i = 1; i < N; i++) ml_model_decode(w->model, cache, 1, &slot, &token[i], grown);
    for (int v = 0; v < V; v++) assert_true(fabsf(whole[v] - grown[v]) < 2e-6F);
    ml_cache_destroy(cache);
}

static void sampling_follows_its_seed(void **state)
{
    if (!*state) skip();
    world *w = *state;
    int32_t prompt[3] = {5, 6, 7}, a[20], b[20], c[20];
    int64_t n;
    ml_generation g = {
        .max_new = 20, .beams = 1, .temperature = 1.0, .top_k = 50, .top_p = 0.9, .seed = 4};
    assert_int_equal(continue_one(w, prompt, 3, &g, a, &n), ML_OK);
    assert_int_equal(continue_one(w, prompt, 3, &g, b, &n), ML_OK);
    g.seed = 5;
    assert_int_equal(continue_one(w, prompt, 3, &g, c, &n), ML_OK);
    assert_memory_equal(a, b, sizeof a);
    assert_memory_not_equal(a, c, sizeof a);
    g.max_new = 1000;
    assert_int_equal(continue_one(w, prompt, 3, &g, c, &n), ML_USAGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(last_logits_are_as_expected), cmocka_unit_test(greedy_is_as_expected),
        cmocka_unit_test(beams_are_as_expected),       cmocka_unit_test(penalties_are_as_expected),
        cmocka_unit_test(cache_gives_the_same),        cmocka_unit_test(sampling_follows_its_seed),
    };
    return cmocka_run_group_tests(tests, open_world, close_world);
}
