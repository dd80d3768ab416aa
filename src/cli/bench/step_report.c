/* The results of `mpilora bench step`: one JSON object or a table. */
#include <inttypes.h>
#include <omp.h>

#include "cli/bench/step.h"

/* The round whose time is the median, so that its phases add up to it. */
static const ml_trial_step *median_step(const method_results *r)
{
    double median = bench_median(&r->seconds);
    int64_t i = 0;
    while (i + 1 < r->count && r->steps[i].seconds != median) i++;
    return &r->steps[i];
}

static json_t *describe_method(const step_bench *b, const step_options *o, int i)
{
    const method_results *r = &b->results[i];
    const ml_trial_facts *f = &r->facts;
    const ml_trial_step *step = median_step(r);
    double rate = 1e-9 * f->flops / step->seconds,
           tokens = (double)(o->trial.sequences * o->trial.length);
    char key[32];
    json_t *phases = json_object();
    for (int p = 0; p < ML_PHASES; p++) {
        snprintf(key, sizeof key, "%s_s", ml_phase_name((ml_phase)p));
        json_object_set_new(phases, key, json_real(step->phase[p]));
    }
    return json_pack(
        "{s:s, s:f, s:f, s:f, s:f, s:f, s:o, s:f, s:f, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:s}",
        "method", ml_trial_method_name(o->method[i]), "step_s", step->seconds, "tokens_per_s",
        tokens / step->seconds, "model_gflop", 1e-9 * f->flops, "gflops", rate, "peak_share",
        rate / bench_largest(&b->peaks), "phases", phases, "gradient_allreduce_s",
        step->gradient_seconds, "gradient_allreduce_share", step->gradient_seconds / step->seconds,
        "allreduce_bytes", (json_int_t)f->allreduce_bytes, "tp_bytes", (json_int_t)f->tp_bytes,
        "tp_bytes_expected", (json_int_t)f->tp_bytes_expected, "params_trainable",
        (json_int_t)f->params_trainable, "state_bytes", (json_int_t)f->state_bytes, "frozen_bytes",
        (json_int_t)f->frozen_bytes, "loss", step->loss, "product_path", f->backend);
}

/* Method i beside the first. */
static json_t *compare_method(const step_bench *b, const step_options *o, int i)
{
    const ml_trial_facts *f = &b->results[i].facts, *first = &b->results[0].facts;
    double state = (double)f->state_bytes, first_state = (double)first->state_bytes;
    return json_pack(
        "{s:s, s:s, s:f, s:f, s:f}", "method", ml_trial_method_name(o->method[i]), "to",
        ml_trial_method_name(o->method[0]), "step_ratio", bench_median(&b->results[i].ratio),
        "state_ratio", first_state > 0.0 ? state / first_state : 0.0, "state_and_weights_ratio",
        (state + (double)f->frozen_bytes) / (first_state + (double)first->frozen_bytes));
}

static json_t *describe(const step_bench *b, const step_options *o)
{
    const ml_trial_facts *f = &b->results[0].facts;
    json_t *methods = json_array(), *comparisons = json_array();
    for (int i = 0; i < o->methods; i++) json_array_append_new(methods, describe_method(b, o, i));
    for (int i = 1; i < o->methods; i++)
        json_array_append_new(comparisons, compare_method(b, o, i));
    return json_pack(
        "{s:s, s:s, s:i, s:i, s:i, s:i, s:I, s:I, s:I, s:I, s:s, s:f, s:b, s:o, s:o}", "model",
        o->base    ? o->base
        : o->model ? o->model
                   : "gpt2-small",
        "precision", ml_dtype_name(o->trial.precision), "ranks", f->ranks, "dp", f->dp, "tp", f->tp,
        "threads", omp_get_max_threads(), "sequences", (json_int_t)o->trial.sequences, "length",
        (json_int_t)o->trial.length, "tokens", (json_int_t)(o->trial.sequences * o->trial.length),
        "rounds", (json_int_t)b->results[0].count, "vector_path", f->vector_path, "fma_peak_gflops",
        bench_largest(&b->peaks), "in_turn", (int)b->in_turn, "methods", methods, "comparisons",
        comparisons);
}

static void print_method(const step_bench *b, const step_options *o, int i)
{
    const method_results *r = &b->results[i];
    const ml_trial_facts *f = &r->facts;
    const ml_trial_step *step = median_step(r);
    double rate = 1e-9 * f->flops / step->seconds,
           tokens = (double)(o->trial.sequences * o->trial.length);
    printf("%-7s %9.4f s a step, %8.1f tokens/s, %8.1f GFLOP: %7.1f GF/s (%3.0f %% of the peak), "
           "products by %s\n",
           ml_trial_method_name(o->method[i]), step->seconds, tokens / step->seconds,
           1e-9 * f->flops, rate, 100.0 * rate / bench_largest(&b->peaks), f->backend);
    printf("       ");
    for (int p = 0; p < ML_PHASES; p++)
        printf(" %s %.4f", ml_phase_name((ml_phase)p), step->phase[p]);
    printf(" s\n        trains %" PRId64
           ": %.1f MB with gradients and moments, beside %.1f MB of frozen weights a rank\n",
           f->params_trainable, 1e-6 * (double)f->state_bytes, 1e-6 * (double)f->frozen_bytes);
    if (f->ranks > 1)
        printf("        gradients' sum: %.3f MB in %.5f s (%.2f %% of the step); sums over tp: "
               "%.3f MB a rank\n",
               1e-6 * (double)f->allreduce_bytes, step->gradient_seconds,
               100.0 * step->gradient_seconds / step->seconds, 1e-6 * (double)f->tp_bytes);
}

static void print_table(const step_bench *b, const step_options *o)
{
    const ml_trial_facts *f = &b->results[0].facts;
    printf("%s, %s; %" PRId64 " sequences of %" PRId64
           " tokens; %d rank%s (dp %d x tp %d) of %d thread%s, %s; multiply-add peak %.1f GF/s\n",
           o->base    ? o->base
           : o->model ? o->model
                      : "gpt2-small",
           ml_dtype_name(o->trial.precision), o->trial.sequences, o->trial.length, f->ranks,
           f->ranks > 1 ? "s" : "", f->dp, f->tp, omp_get_max_threads(),
           omp_get_max_threads() > 1 ? "s" : "", f->vector_path, bench_largest(&b->peaks));
    for (int i = 0; i < o->methods; i++) print_method(b, o, i);
    for (int i = 1; i < o->methods; i++) {
        json_t *c = compare_method(b, o, i);
        printf("%s / %s: step %.3f, training state %.1f, training state and frozen weights %.2f "
               "(median of %" PRId64 " rounds%s)\n",
               ml_trial_method_name(o->method[i]), ml_trial_method_name(o->method[0]),
               json_real_value(json_object_get(c, "step_ratio")),
               json_real_value(json_object_get(c, "state_ratio")),
               json_real_value(json_object_get(c, "state_and_weights_ratio")), b->results[0].count,
               b->in_turn ? ", built anew each time: the memory does not hold all" : "");
        json_decref(c);
    }
}

void bench_step_report(const step_bench *b, const step_options *o)
{
    if (o->json)
        bench_print_json(describe(b, o));
    else if (bench_speaks())
        print_table(b, o);
}
