/* Machines: their files, a table of keys like every configuration; the two formulas that everything
 * else is made of; and rates from measurements. */
#include <math.h>
#include <string.h>

#include "config/table.h"
#include "mpilora/plan.h"

#define AT(field) offsetof(ml_machine, field)
#define POSITIVE(name, field)                                                                \
    {                                                                                        \
        .path = name, .kind = KEY_REAL, .offset = AT(field), .least = 0, .open_least = true, \
        .most = HUGE_VAL, .open_most = true                                                  \
    }
#define SOME(name, field)                                                                  \
    {                                                                                      \
        .path = name, .kind = KEY_REAL, .offset = AT(field), .least = 0, .most = HUGE_VAL, \
        .open_most = true                                                                  \
    }
#define COST(name, kind)                                                                        \
    POSITIVE(name "_gflops", cost[kind].gflops), SOME(name "_weight_ns", cost[kind].weight_ns), \
        SOME(name "_row_ns", cost[kind].row_ns)

static const key table[] = {
    {.path = "name", .kind = KEY_TEXT, .offset = AT(name)},
    {.path = "cores", .kind = KEY_INT, .offset = AT(cores), .least = 1, .most = 1 << 16},
    {.path = "threads", .kind = KEY_INT, .offset = AT(threads), .least = 0, .most = 1 << 16},
    {.path = "domains", .kind = KEY_INT, .offset = AT(domains), .least = 1, .most = 1 << 10},
    {.path = "memory",
     .kind = KEY_BYTES,
     .offset = AT(memory),
     .least = 1,
     .most = 0x1p60,
     .nullable = true},
    POSITIVE("memory_bytes_per_s", memory_rate),
    POSITIVE("peak_gflops", peak_gflops),
    COST("products_bf16.forward", ML_COST_BF16_FORWARD),
    COST("products_bf16.backward", ML_COST_BF16_BACKWARD),
    COST("products_fp32.forward", ML_COST_FP32_FORWARD),
    COST("products_fp32.backward", ML_COST_FP32_BACKWARD),
    COST("products_fp32.gradient", ML_COST_WEIGHT_GRADIENT),
    COST("adapter.forward", ML_COST_ADAPTER_FORWARD),
    COST("adapter.backward", ML_COST_ADAPTER_BACKWARD),
    COST("attention.forward", ML_COST_ATTENTION_FORWARD),
    COST("attention.backward", ML_COST_ATTENTION_BACKWARD),
    COST("attention_fp32.forward", ML_COST_FP32_ATTENTION_FORWARD),
    COST("attention_fp32.backward", ML_COST_FP32_ATTENTION_BACKWARD),
    SOME("elements.norm_forward_ns", element_ns[ML_ELEMENT_NORM_FORWARD]),
    SOME("elements.norm_backward_ns", element_ns[ML_ELEMENT_NORM_BACKWARD]),
    SOME("elements.activation_forward_ns", element_ns[ML_ELEMENT_ACTIVATION_FORWARD]),
    SOME("elements.activation_backward_ns", element_ns[ML_ELEMENT_ACTIVATION_BACKWARD]),
    SOME("elements.gated_forward_ns", element_ns[ML_ELEMENT_GATED_FORWARD]),
    SOME("elements.gated_backward_ns", element_ns[ML_ELEMENT_GATED_BACKWARD]),
    SOME("elements.cross_entropy_ns", element_ns[ML_ELEMENT_CROSS_ENTROPY]),
    SOME("elements.move_ns", element_ns[ML_ELEMENT_MOVE]),
    SOME("elements.optimizer_ns", element_ns[ML_ELEMENT_OPTIMIZER]),
    SOME("elements.dropout_ns", element_ns[ML_ELEMENT_DROPOUT]),
    SOME("elements.data_ns", element_ns[ML_ELEMENT_DATA]),
    SOME("network.inside_latency_s", inside_latency),
    POSITIVE("network.inside_bytes_per_s", inside_bandwidth),
    SOME("network.between_latency_s", between_latency),
    POSITIVE("network.between_bytes_per_s", between_bandwidth),
    {.path = NULL},
};
enum { KEYS = sizeof table / sizeof *table };

/* What older files do not say. */
static bool is_newer(const key *k)
{
    return k->offset == AT(threads) ||
           (k->offset >= AT(cost[ML_COST_FP32_ATTENTION_FORWARD]) && k->offset < AT(element_ns));
}

/* These have one attention for both types. */
static void take_one_attention(ml_machine *m)
{
    ml_cost *fp32 = &m->cost[ML_COST_FP32_ATTENTION_FORWARD];
    const ml_cost *any = &m->cost[ML_COST_ATTENTION_FORWARD];
    if (fp32[0].gflops == 0.0 && fp32[1].gflops == 0.0) memcpy(fp32, any, 2 * sizeof *fp32);
}

ml_status ml_machine_read(ml_machine *out, const char *path)
{
    int line[KEYS] = {0};
    *out = (ml_machine){0};
    ml_status st = table_read_file(table, out, line, path);
    take_one_attention(out);
    for (int i = 0; st == ML_OK && table[i].path; i++)
        if (!line[i] && !is_newer(&table[i]))
            st = ml_fail(ML_USAGE,
                         "%s: %s: missing; a machine file has every key, as `mpilora bench "
                         "machine` writes it",
                         path, table[i].path);
    if (st != ML_OK) ml_machine_destroy(out);
    return st;
}

void ml_machine_destroy(ml_machine *machine) { table_free_values(table, machine); }

ml_status ml_machine_write(const ml_machine *machine, ml_text *out)
{
    return table_write(table, machine, out);
}

double ml_cost_seconds(const ml_cost *c, double flops, double weights, double numbers)
{
    return 1e-9 * ((c->gflops > 0.0 ? flops / c->gflops : 0.0) + c->weight_ns * weights +
                   c->row_ns * numbers);
}

static double log2_up(double n) { return ceil(log2(fmax(n, 1.0)) - 1e-9); }

double ml_sum_seconds(const ml_machine *m, const ml_sum_group *g, double calls, double bytes)
{
    double crowd = fmax(1.0, g->crowd), nodes = fmax(1.0, g->nodes),
           inside = fmax(1.0, ceil(g->ranks / nodes));
    if (g->ranks <= 1.0) return 0.0;
    double latency =
        m->inside_latency * log2_up(inside) * crowd + m->between_latency * log2_up(nodes);
    double slowness = 2.0 * (inside - 1.0) / inside * crowd / m->inside_bandwidth +
                      2.0 * (nodes - 1.0) / nodes * fmax(1.0, g->beside) / m->between_bandwidth;
    return calls * latency + bytes * slowness;
}

/* ---- rates from measurements --------------------------------------------------------------- */

/* Least squares with no negative part, in relative errors, by going through the parts one by one
 * until they rest. */
enum { PARTS = 3, SWEEPS = 4000 };

ml_cost ml_cost_fit(int64_t count, const double x[][PARTS], const double *seconds)
{
    double normal[PARTS][PARTS] = {{0}}, right[PARTS] = {0}, part[PARTS] = {0};
    for (int64_t i = 0; i < count; i++)
        for (int a = 0; a < PARTS; a++) {
            right[a] += 1e-9 * x[i][a] / seconds[i];
            for (int b = 0; b < PARTS; b++)
                normal[a][b] += 1e-18 * x[i][a] / seconds[i] * (x[i][b] / seconds[i]);
        }
    for (int sweep = 0; sweep < SWEEPS; sweep++)
        for (int a = 0; a < PARTS; a++) {
            double rest = right[a];
            for (int b = 0; b < PARTS; b++)
                if (b != a) rest -= normal[a][b] * part[b];
            part[a] = normal[a][a] > 0.0 && rest > 0.0 ? rest / normal[a][a] : 0.0;
        }
    return (ml_cost){part[0] > 0.0 ? 1.0 / part[0] : 1e12, part[1], part[2]};
}
