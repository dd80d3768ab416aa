/* plan: the paper's figures, and nothing large allocated for them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <unistd.h>

#include "mpilora/plan.h"

/* A configuration that names configs/models/NAME.yaml, planned. */
static ml_status try_plan(const char *model, const char *set, int ranks, int nodes, ml_plan *out)
{
    const char *source = getenv("MPILORA_SOURCE_DIR");
    char path[64];
    snprintf(path, sizeof path, "test_plan-%ld.yaml", (long)getpid());
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fprintf(file, "base: %s/configs/models/%s.yaml\nbatch: {sequences: 1073741824, micro: 1}\n",
            source ? source : ".", model);
    fclose(file);
    ml_run_config config;
    assert_int_equal(ml_run_config_read(&config, path, &set, 1), ML_OK);
    ml_status st = ml_plan_create(out, &config, ranks, nodes);
    ml_run_config_destroy(&config);
    unlink(path);
    return st;
}

static void make_plan_on(const char *model, const char *set, int ranks, int nodes, ml_plan *out)
{
    if (try_plan(model, set, ranks, nodes, out) != ML_OK) fail_msg("%s", ml_error_text());
}

static void make_plan(const char *model, const char *set, int ranks, ml_plan *out)
{
    make_plan_on(model, set, ranks, 1, out);
}

/* Hu et al. 2021: GPT-3 175B trains 4.7 M (r = 1) and 37.7 M (r = 8) on q and v of 175,255.8 M; 35
 * MB at r = 4 in 16 bit. The total here is 175,221.8 M with the head counted apart from the
 * embedding: 0.02 % less than the paper's. */
static void gpt3_has_the_papers_figures(void **state)
{
    (void)state;
    ml_plan plan;
    make_plan("gpt3-175b", "method.rank=1", 1, &plan);
    assert_int_equal(plan.method[0].params_trainable, 4718592);
    make_plan("gpt3-175b", "method.rank=8", 1, &plan);
    assert_int_equal(plan.method[0].params_trainable, 37748736);
    assert_int_equal(plan.method[0].params_total, 175221817344);
    assert_int_equal(plan.method[1].params_trainable, plan.method[1].params_total);
    make_plan("gpt3-175b", "method.rank=4", 1, &plan);
    assert_int_equal(plan.method[0].adapter_bytes_16bit, 37748736); /* 36 MiB */
}

/* GPT-2 medium, r = 4 on q and v: 24 x 2 x 4 x (1024 + 1024) = 0.393 M of 354.82 M; the paper
 * prints 0.35 M and 354.92 M. */
static void gpt2_medium_has_the_papers_figures(void **state)
{
    (void)state;
    ml_plan plan;
    make_plan("gpt2-medium", "method.rank=4", 1, &plan);
    assert_int_equal(plan.method[0].params_trainable, 393216);
    assert_int_equal(plan.method[0].params_total, 354823168);
}

/* Frozen weights never count as trainable; tp halves them; LoRA's all-reduce is 4 bytes a trained
 * parameter on every grid. */
static void memory_goes_where_it_belongs(void **state)
{
    (void)state;
    ml_plan one, two;
    make_plan("gpt2-small", "parallel.tp=1", 2, &one);
    make_plan("gpt2-small", "parallel.tp=2", 2, &two);
    const ml_plan_method *lora = &one.method[0], *full = &one.method[1];
    assert_true(lora->per_rank[ML_MEM_FROZEN] >= 2 * lora->params_total);
    assert_int_equal(lora->per_rank[ML_MEM_TRAINABLE], 4 * lora->params_trainable);
    assert_int_equal(lora->per_rank[ML_MEM_OPTIMIZER], 8 * lora->params_trainable);
    assert_int_equal(full->per_rank[ML_MEM_FROZEN], 0);
    assert_int_equal(full->per_rank[ML_MEM_OPTIMIZER], 8 * full->params_total);
    double half =
        (double)two.method[0].per_rank[ML_MEM_FROZEN] / (double)lora->per_rank[ML_MEM_FROZEN];
    assert_true(half > 0.485 && half < 0.515);
    assert_int_equal(lora->allreduce_bytes_per_step, 4 * lora->params_trainable);
    assert_int_equal(two.method[0].allreduce_bytes_per_step, lora->allreduce_bytes_per_step);
}

/* Replicas of a node hold one copy of the frozen weights, which counts once in sums and whole in
 * the rank that stands for all. */
static void what_a_node_shares_counts_once(void **state)
{
    (void)state;
    ml_plan shared, apart;
    const struct {
        const char *set;
        int ranks, nodes, copies, sharers; /* of the fullest node */
        int all_copies;
    } cases[] = {{"parallel.tp=1", 4, 1, 1, 4, 1}, {"parallel.tp=2", 4, 1, 2, 2, 2},
                 {"parallel.tp=2", 8, 3, 2, 2, 6}, {"parallel.tp=2", 4, 2, 2, 1, 4},
                 {"parallel.tp=4", 8, 4, 2, 1, 8}, {"memory.share_frozen=off", 4, 1, 4, 1, 4}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        make_plan_on("gpt2-small", cases[i].set, cases[i].ranks, cases[i].nodes, &shared);
        const ml_plan_method *m = &shared.method[0], *full = &shared.method[1];
        int64_t frozen = m->per_rank[ML_MEM_FROZEN],
                here = (cases[i].ranks + cases[i].nodes - 1) / cases[i].nodes;
        int64_t each = m->total_bytes_per_rank,
                writer = 16 << 20; /* a checkpoint's image in rank 0 alone is not counted here */
        assert_int_equal(m->frozen_shared_by, cases[i].sharers);
        assert_in_range(here * each - (here - cases[i].copies) * frozen - m->node_bytes, 0,
                        here * writer);
        assert_in_range(cases[i].ranks * each - (cases[i].ranks - cases[i].all_copies) * frozen -
                            m->total_bytes,
                        0, cases[i].ranks * writer);
        assert_int_equal(full->frozen_shared_by, 1); /* full trains everything */
        assert_true(full->total_bytes >=
                    cases[i].ranks * (full->total_bytes_per_rank - full->per_rank[ML_MEM_OTHER]));
    }
    make_plan_on("gpt2-small", "memory.share_frozen=off", 4, 1, &apart);
    make_plan_on("gpt2-small", "memory.share_frozen=on", 4, 1, &shared);
    for (int c = 0; c < ML_MEM_CATEGORIES; c++)
        assert_int_equal(apart.method[0].per_rank[c], shared.method[0].per_rank[c]);
    assert_int_equal(try_plan("gpt2-small", "parallel.tp=1", 2, 3, &apart), ML_USAGE);
    assert_non_null(strstr(ml_error_text(), "--nodes"));
}

/* One layer of GPT-3 175B's width, 2048 tokens, bf16, on two ranks of a 16 GB machine. */
static void a_layer_of_gpt3s_width_fits_16_gb(void **state)
{
    (void)state;
    ml_plan plan;
    make_plan("gpt3-175b-1layer", "parallel.tp=2", 2, &plan);
    const ml_plan_method *lora = &plan.method[0];
    assert_int_equal(lora->params_total, 12 * INT64_C(12288) * 12288 + 13 * 12288 +
                                             (2 * 50257 + 2048 + 2) * INT64_C(12288));
    assert_true(lora->per_rank[ML_MEM_FROZEN] >
                lora->params_total);                       /* 2 bytes each, half of them here */
    assert_true(lora->total_bytes < INT64_C(10000000000)); /* leaves room for the processes' own */
}

static void nothing_large_is_allocated(void **state)
{
    (void)state;
    ml_plan plan;
    make_plan("gpt3-175b", "parallel.tp=8", 128, &plan);
    assert_true(plan.method[0].total_bytes > (int64_t)1 << 40);
    assert_true(ml_memory_peak_total() < 16 << 20);
}

static void sizes_beyond_64_bits_are_refused(void **state)
{
    (void)state;
    ml_plan plan;
    assert_int_equal(try_plan("llama-3.1-8b", "batch.micro=1073741824", 1, 1, &plan), ML_USAGE);
    assert_non_null(strstr(ml_error_text(), "64 bits"));
    assert_int_equal(try_plan("gpt3-175b", "parallel.tp=1", 1 << 24, 1, &plan), ML_USAGE);
    assert_non_null(strstr(ml_error_text(), "--ranks"));
    assert_int_equal(try_plan("gpt3-175b", "parallel.tp=96", 1 << 20 | 1 << 19, 1, &plan), ML_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gpt3_has_the_papers_figures),
        cmocka_unit_test(gpt2_medium_has_the_papers_figures),
        cmocka_unit_test(memory_goes_where_it_belongs),
        cmocka_unit_test(a_layer_of_gpt3s_width_fits_16_gb),
        cmocka_unit_test(nothing_large_is_allocated),
        cmocka_unit_test(what_a_node_shares_counts_once),
        cmocka_unit_test(sizes_beyond_64_bits_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
