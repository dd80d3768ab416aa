/* The formulas that plan computes times from, and what a plan on a machine says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "mpilora/plan.h"

static void near(double found, double expected)
{
    if (fabs(found - expected) > 1e-6 * fabs(expected))
        fail_msg("%g, expected %g", found, expected);
}

/* Measurements that are made of three parts give these parts back; a part that would be negative
 * is none. */
static void a_fit_finds_its_parts(void **state)
{
    (void)state;
    const double x[][3] = {
        {1e9, 1e6, 2e6}, {8e9, 1e6, 4e6}, {1e8, 2e6, 1e5}, {5e8, 1e4, 6e6}, {2e9, 4e6, 1e5}};
    double seconds[5], flat[5];
    const ml_cost real = {50.0, 0.5, 1.5};
    for (int i = 0; i < 5; i++) {
        seconds[i] = ml_cost_seconds(&real, x[i][0], x[i][1], x[i][2]);
        flat[i] = 1e-9 * (x[i][0] / 40.0 - 1e-3 * x[i][1]);
    }
    ml_cost found = ml_cost_fit(5, x, seconds);
    near(found.gflops, 50.0);
    near(found.weight_ns, 0.5);
    near(found.row_ns, 1.5);
    found = ml_cost_fit(5, x, flat);
    assert_true(found.weight_ns == 0.0 && found.gflops > 39.9);
}

static void a_sum_takes_latency_and_bandwidth(void **state)
{
    (void)state;
    const ml_machine m = {.inside_latency = 1e-6,
                          .inside_bandwidth = 2e9,
                          .between_latency = 1e-5,
                          .between_bandwidth = 1e9};
    ml_sum_group g = {1.0, 1.0, 1.0, 1.0};
    assert_true(ml_sum_seconds(&m, &g, 5.0, 1e9) == 0.0);
    g.ranks = 4.0;
    near(ml_sum_seconds(&m, &g, 3.0, 1e9), 3.0 * 2e-6 + 1.5 * 0.5);
    g.crowd = 2.0;
    near(ml_sum_seconds(&m, &g, 3.0, 1e9), 3.0 * 4e-6 + 1.5 * 1.0);
    g = (ml_sum_group){8.0, 4.0, 3.0,
                       1.0}; /* two ranks on each of four nodes, three groups over one link */
    near(ml_sum_seconds(&m, &g, 1.0, 1e9), 1e-6 + 2e-5 + 1.0 * 0.5 + 1.5 * 3.0);
}

static void read_inputs(ml_run_config *config, ml_machine *machine, const char *set)
{
    const char *source = getenv("MPILORA_SOURCE_DIR");
    char path[64], file_name[512];
    snprintf(path, sizeof path, "test_plan_time-%ld.yaml", (long)getpid());
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fprintf(file, "base: %s/configs/models/gpt3-175b.yaml\nbatch: {sequences: 64, micro: 2}\n",
            source ? source : ".");
    fclose(file);
    if (ml_run_config_read(config, path, &set, 1) != ML_OK) fail_msg("%s", ml_error_text());
    unlink(path);
    snprintf(file_name, sizeof file_name, "%s/configs/machines/cluster-2x32.yaml",
             source ? source : ".");
    if (ml_machine_read(machine, file_name) != ML_OK) fail_msg("%s", ml_error_text());
}

static ml_plan_time time_of(const char *set, int ranks, int nodes, int method)
{
    ml_run_config config;
    ml_machine machine;
    ml_plan plan;
    read_inputs(&config, &machine, set);
    if (ml_plan_create_on(&plan, &config, ranks, nodes, &machine, 0, NULL) != ML_OK)
        fail_msg("%s", ml_error_text());
    ml_run_config_destroy(&config);
    ml_machine_destroy(&machine);
    return plan.method[method].time;
}

/* 175 B on 64 nodes: 4 flops a weight and token at the machine's rate, full 6; twice the nodes
 * nearly half the time; what is computed again costs. */
static void the_largest_model_has_a_time(void **state)
{
    (void)state;
    ml_plan_time lora = time_of("parallel.tp=16", 64, 16, 0),
                 full = time_of("parallel.tp=16", 64, 16, 1);
    ml_plan_time more = time_of("parallel.tp=16", 128, 32, 0),
                 again = time_of("memory.activations=checkpoint", 64, 16, 0);
    ml_plan_time kept = time_of("memory.activations=full", 64, 16, 0);
    double ideal = 4.0 * 175e9 * 64 * 2048 / (16 * 64 * 64e9);
    double computing = lora.forward_s + lora.backward_s;
    assert_true(computing > ideal && computing < 1.4 * ideal);
    double ratio = (full.forward_s + full.backward_s) / computing;
    assert_true(ratio > 1.4 && ratio < 1.6);
    ratio = more.step_s / lora.step_s;
    assert_true(ratio > 0.45 && ratio < 0.6);
    assert_true(again.backward_s > 1.4 * kept.backward_s &&
                fabs(again.forward_s - kept.forward_s) < 1e-9);
    near(lora.tokens_per_s, 64 * 2048 / lora.step_s);
    assert_true(lora.comm_s > 0.0 && full.optimizer_s > 100.0 * lora.optimizer_s);
}

/* Of a description with these lines besides. */
static ml_plan_time time_of_encoder(const char *lines)
{
    char path[64], set[96];
    snprintf(path, sizeof path, "test_plan_encoder-%ld.yaml", (long)getpid());
    snprintf(set, sizeof set, "base=%s", path);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fprintf(file,
            "family: deberta_v2\nlayers: 12\nwidth: 768\nheads: 12\nvocab: 1000\ncontext: 512\n"
            "positions: none\n%s",
            lines);
    fclose(file);
    ml_plan_time time = time_of(set, 1, 1, 0);
    unlink(path);
    return time;
}

/* With both terms attention of 512 tokens is some three times the work, and the rows are projected
 * as as many tokens more; backward projects them again. */
static void relative_terms_cost(void **state)
{
    (void)state;
    ml_plan_time plain = time_of_encoder(""),
                 both = time_of_encoder("relative_keys: true\nrelative_queries: true\n"
                                        "relative_shared: true\nrelative_distances: 512\n"
                                        "relative_buckets: 256\n"),
                 one = time_of_encoder("relative_keys: true\nrelative_shared: true\n"
                                       "relative_distances: 512\nrelative_buckets: 256\n"),
                 convolution = time_of_encoder("conv_kernel: 3\n");
    double ratio = both.forward_s / plain.forward_s;
    assert_true(ratio > 1.2 && ratio < 2.0);
    assert_true(plain.forward_s < one.forward_s && one.forward_s < both.forward_s);
    assert_true(plain.backward_s < one.backward_s && one.backward_s < both.backward_s);
    assert_true(convolution.forward_s > plain.forward_s &&
                convolution.forward_s < 1.1 * plain.forward_s);
}

static void a_search_sorts_and_says_why(void **state)
{
    (void)state;
    ml_run_config config;
    ml_machine machine;
    ml_plan_list list = {0};
    int heads = 0, memory = 0, fits = 0, stages = 0;
    read_inputs(&config, &machine, "batch.micro=2");
    const ml_plan_module module = {10, 4, (int64_t)200e9, &machine,
                                   NULL}; /* 40 ranks: 5 and its multiples do not divide 96 heads */
    if (ml_plan_search(&list, &config, &module) != ML_OK) fail_msg("%s", ml_error_text());
    for (int64_t i = 0; i < list.count; i++) {
        const ml_plan_candidate *c = &list.items[i];
        fits += c->fits;
        stages += c->pp > 1;
        assert_int_equal(c->dp * c->tp * c->cp * c->pp, 40);
        assert_true(c->pp > 1 && c->step_s > 0.0 ? c->bubble_s > 0.0 && c->bubble_s < c->step_s
                                                 : c->bubble_s == 0.0);
        if (c->fits)
            assert_true(i == fits - 1 && c->node_bytes <= module.memory_per_node && !*c->why &&
                        c->step_s > 0.0);
        if (c->fits && i > 0) assert_true(c->step_s >= list.items[i - 1].step_s);
        heads += strstr(c->why, "heads") && c->tp % 5 == 0;
        memory += strstr(c->why, "GB more than there is") && c->node_bytes > module.memory_per_node;
        assert_true(c->fits || *c->why);
    }
    assert_true(fits > 0 && heads == 4 && memory > 0 && stages > 0);
    ml_plan_list_destroy(&list);
    ml_run_config_destroy(&config);
    ml_machine_destroy(&machine);
}

/* A candidate of the search is what plan says of its grid. */
static void a_candidate_is_what_plan_says(void **state)
{
    (void)state;
    ml_run_config config;
    ml_machine machine;
    ml_plan_list list = {0};
    int compared = 0;
    read_inputs(&config, &machine, "batch.micro=2");
    const ml_plan_module module = {4, 4, (int64_t)1e12, &machine, NULL};
    /* As the search finds it: this process grows while it plans, by far more under a sanitizer. */
    const int64_t floor = ml_memory_process_now();
    if (ml_plan_search(&list, &config, &module) != ML_OK) fail_msg("%s", ml_error_text());
    for (int64_t i = 0; i < list.count; i++) {
        const ml_plan_candidate *c = &list.items[i];
        ml_run_config own = config;
        ml_plan plan;
        if (!c->fits || (c->pp != 1 && c->pp != 4)) continue;
        own.parallel.tp = c->tp;
        own.parallel.cp = c->cp;
        own.parallel.pp = c->pp;
        own.batch.micro = c->micro;
        own.memory.activations = (ml_keep_activations)(ML_KEEP_FULL + (int)c->activations);
        if (ml_plan_create_on(&plan, &own, 16, 4, &machine, 0, NULL) != ML_OK)
            fail_msg("%s", ml_error_text());
        near(c->step_s, plan.method[0].time.step_s);
        near(c->tokens_per_s, plan.method[0].time.tokens_per_s);
        double bytes = (double)(plan.method[0].node_bytes + 4 * floor);
        assert_true(fabs((double)c->node_bytes - bytes) < 1e-3 * bytes);
        compared++;
    }
    assert_true(compared > 10);
    ml_plan_list_destroy(&list);
    ml_run_config_destroy(&config);
    ml_machine_destroy(&machine);
}

/* 96 equal layers: a stage waits for 7 of n + 7 parts of the passes. */
static void stages_wait_as_the_formula_says(void **state)
{
    (void)state;
    const ml_plan_time t = time_of("parallel.pp=8", 8, 8, 0);
    double n = 32.0, passes = t.step_s - t.optimizer_s - t.data_s, share = t.bubble_s / passes;
    near(t.forward_s + t.backward_s + t.comm_s + t.bubble_s + t.optimizer_s + t.data_s, t.step_s);
    assert_true(fabs(share - 7.0 / (n + 7.0)) < 0.1 * share);
    const ml_plan_time kept = time_of("parallel.pp=1", 8, 8, 0);
    assert_true(kept.bubble_s == 0.0);
}

static double forward_of(const ml_run_config *config, const ml_machine *machine)
{
    ml_plan plan;
    if (ml_plan_create_on(&plan, config, 8, 8, machine, 0, NULL) != ML_OK)
        fail_msg("%s", ml_error_text());
    return plan.method[0].time.forward_s;
}

/* Attention has a rate for each type, which a machine file of before had not: it has one of both
 * then. */
static void attention_has_the_rate_of_its_type(void **state)
{
    (void)state;
    static const char *const precision[] = {"precision=bf16", "precision=fp32"};
    for (int fp32 = 0; fp32 < 2; fp32++) {
        ml_run_config config;
        ml_machine machine;
        read_inputs(&config, &machine, precision[fp32]);
        ml_cost *both[] = {&machine.cost[ML_COST_ATTENTION_FORWARD],
                           &machine.cost[ML_COST_FP32_ATTENTION_FORWARD]};
        assert_memory_equal(both[0], both[1], 2 * sizeof(ml_cost));
        const double before = forward_of(&config, &machine);
        both[!fp32]->gflops /= 10.0;
        assert_true(forward_of(&config, &machine) == before);
        both[fp32]->gflops /= 10.0;
        assert_true(forward_of(&config, &machine) > before);
        ml_run_config_destroy(&config);
        ml_machine_destroy(&machine);
    }
}

/* On a machine whose units of bf16 are fast, what does not use them has the rates of fp32. Without
 * such units bf16's own are those of all. */
static void who_rounds_has_the_rates_of_bf16(void **state)
{
    (void)state;
    static const struct {
        const char *set;
        bool rounds;
    } run[] = {{"kernels.product=auto", true},
               {"kernels.product=native-amx", true},
               {"kernels.product=native-bf16", true},
               {"kernels.product=onednn-bf16", true},
               {"kernels.product=native", false},
               {"kernels.product=onednn", false},
               {"numerics=grid", false}};
    static const ml_cost_kind bf16[] = {ML_COST_BF16_FORWARD, ML_COST_ATTENTION_FORWARD},
                              fp32[] = {ML_COST_FP32_FORWARD, ML_COST_FP32_ATTENTION_FORWARD};
    for (size_t i = 0; i < sizeof run / sizeof *run; i++) {
        ml_run_config config;
        ml_machine machine;
        read_inputs(&config, &machine, run[i].set);
        for (int kind = 0; kind < 2; kind++) {
            ml_cost *fast = &machine.cost[bf16[kind]], *slow = &machine.cost[fp32[kind]];
            *slow = *fast;
            const double alike = forward_of(&config, &machine);
            slow->row_ns += 1.0;
            assert_true(forward_of(&config, &machine) == alike);
            fast->gflops *= 10.0;
            const double with_units = forward_of(&config, &machine);
            assert_true(run[i].rounds ? with_units < alike : with_units > alike);
        }
        ml_run_config_destroy(&config);
        ml_machine_destroy(&machine);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(who_rounds_has_the_rates_of_bf16),
        cmocka_unit_test(attention_has_the_rate_of_its_type),
        cmocka_unit_test(a_fit_finds_its_parts),
        cmocka_unit_test(a_sum_takes_latency_and_bandwidth),
        cmocka_unit_test(the_largest_model_has_a_time),
        cmocka_unit_test(relative_terms_cost),
        cmocka_unit_test(a_search_sorts_and_says_why),
        cmocka_unit_test(a_candidate_is_what_plan_says),
        cmocka_unit_test(stages_wait_as_the_formula_says),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
