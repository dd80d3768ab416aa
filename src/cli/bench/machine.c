/* mpilora bench machine: what `mpilora plan --machine` computes times from, as a file. */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <omp.h>
#include <stdlib.h>
#include <unistd.h>

#include "cli/bench/machine.h"

static const char usage[] =
    "mpilora bench machine [--out FILE.yaml] [--name NAME] [--seconds X] [--json]";

typedef struct machine_options {
    bool json;
    const char *out, *name;
    double seconds;
} machine_options;

/* The processor's name as a word of a file's name: "amd-epyc-7b13-2core". */
static void name_processor(char *to, size_t room, int64_t cores)
{
    char line[256], model[128] = "machine";
    size_t n = 0;
    FILE *file = fopen("/proc/cpuinfo", "r");
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "model name : %127[^\n]", model) == 1) break;
    if (file) fclose(file);
    for (const char *c = model; *c && n + 16 < room; c++) {
        if (isalnum((unsigned char)*c))
            to[n++] = (char)tolower((unsigned char)*c);
        else if (n > 0 && to[n - 1] != '-')
            to[n++] = '-';
    }
    while (n > 0 && to[n - 1] == '-') n--;
    snprintf(to + n, room - n, "-%" PRId64 "core", cores);
}

/* Domains of memory with processors; 1 where the system does not say. */
static int64_t count_domains(void)
{
    char path[64];
    int64_t count = 0;
    for (int i = 0; i < 1024; i++) {
        snprintf(path, sizeof path, "/sys/devices/system/node/node%d", i);
        if (access(path, F_OK)) break;
        count++;
    }
    return ml_max(1, count);
}

static ml_status describe_node(const machine_options *o, ml_machine *out)
{
    ml_status st = ML_OK;
    char name[160];
    out->cores = ml_max(1, sysconf(_SC_NPROCESSORS_ONLN));
    out->threads = omp_get_max_threads();
    out->domains = count_domains();
    out->memory = (int64_t)sysconf(_SC_PHYS_PAGES) * ml_memory_page();
    out->element_ns[ML_ELEMENT_DATA] =
        100.0; /* a token out of the page cache; far below everything else */
    name_processor(name, sizeof name, out->cores);
    if (o->name) snprintf(name, sizeof name, "%s", o->name);
    ML_NEW(out->name, (int64_t)strlen(name) + 1, ML_MEM_OTHER, "a name");
    snprintf(out->name, strlen(name) + 1, "%s", name);
done:
    return st;
}

static ml_status write_file(const char *path, const ml_text *text)
{
    FILE *file = fopen(path, "w");
    if (!file) return ml_fail(ML_RESOURCE, "%s: cannot be written: %s", path, strerror(errno));
    bool bad = fwrite(text->data, 1, (size_t)text->length, file) != (size_t)text->length;
    bad = fclose(file) != 0 || bad;
    return bad ? ml_fail(ML_RESOURCE, "%s: cannot be written: %s", path, strerror(errno)) : ML_OK;
}

static json_t *describe(const ml_machine *m, const ml_grid *grid, bool inside, bool between,
                        const char *path)
{
    const ml_cost *c = m->cost;
    return json_pack(
        "{s:s, s:I, s:I, s:I, s:i, s:i, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, "
        "s:b, s:b, s:s?}",
        "name", m->name, "cores", (json_int_t)m->cores, "domains", (json_int_t)m->domains, "memory",
        (json_int_t)m->memory, "ranks", ml_grid_size(grid), "threads", omp_get_max_threads(),
        "peak_gflops", m->peak_gflops, "bf16_forward_gflops", c[ML_COST_BF16_FORWARD].gflops,
        "bf16_backward_gflops", c[ML_COST_BF16_BACKWARD].gflops, "fp32_forward_gflops",
        c[ML_COST_FP32_FORWARD].gflops, "fp32_backward_gflops", c[ML_COST_FP32_BACKWARD].gflops,
        "attention_forward_gflops", c[ML_COST_ATTENTION_FORWARD].gflops, "memory_bytes_per_s",
        m->memory_rate, "inside_latency_s", m->inside_latency, "inside_bytes_per_s",
        m->inside_bandwidth, "between_latency_s", m->between_latency, "between_bytes_per_s",
        m->between_bandwidth, "inside_measured", (int)inside, "between_measured", (int)between,
        "file", path);
}

static ml_status report(const machine_options *o, const ml_machine *m, const ml_grid *grid,
                        bool inside, bool between)
{
    ml_status st = ML_OK;
    ml_text text = {0};
    ML_TRY(ml_text_printf(&text,
                          "# Written by `mpilora bench machine` with %d rank(s) of %d thread(s). "
                          "Rates are those of one core while all of these work;\n"
                          "# seconds of a product of T rows with W[m, n]: 1e-9 * (2 T m n / gflops "
                          "+ weight_ns m n + row_ns T (m + n)).\n"
                          "# network: inside a node %s, between nodes %s.\n",
                          ml_grid_size(grid), omp_get_max_threads(),
                          inside ? "measured" : "a default, not measured",
                          between ? "measured" : "a default, not measured"));
    ML_TRY(ml_machine_write(m, &text));
    if (o->out) ML_TRY(write_file(o->out, &text));
    if (o->json)
        bench_print_json(describe(m, grid, inside, between, o->out));
    else if (!o->out)
        fputs(text.data, stdout);
    else
        printf("%s: %.1f GF/s a core in bf16 products, memory %.1f GB/s, ranks %.1f us and %.2f "
               "GB/s\n",
               o->out, m->cost[ML_COST_BF16_FORWARD].gflops, 1e-9 * m->memory_rate,
               1e6 * m->inside_latency, 1e-9 * m->inside_bandwidth);
done:
    ml_text_destroy(&text);
    return st;
}

static const option options[] = {{"--out", OPTION_TEXT, offsetof(machine_options, out), "FILE.yaml",
                                  "where the machine file goes; else nowhere", NULL},
                                 {"--name", OPTION_TEXT, offsetof(machine_options, name), "NAME",
                                  "of the machine; else the processor's", NULL},
                                 {"--seconds", OPTION_NUMBER, offsetof(machine_options, seconds),
                                  "X", "seconds for each rate", "4"},
                                 {"--json", OPTION_FLAG, offsetof(machine_options, json), NULL,
                                  "one JSON object on standard output", NULL},
                                 {NULL, OPTION_FLAG, 0, NULL, NULL, NULL}};

static ml_status run(int argc, char **argv)
{
    ml_status st = ML_OK;
    ml_grid *grid = NULL;
    ml_machine machine = {0};
    machine_options o = {0};
    bool inside, between;
    ML_TRY(options_read(argc, argv, options, &o, 0, 0, NULL, usage));
    if (!(o.seconds >= 0.0)) return ml_fail(ML_USAGE, "--seconds: %g is negative", o.seconds);
    ML_TRY(ml_grid_create(&grid, 1));
    ML_TRY(ml_grid_agree(grid, describe_node(&o, &machine)));
    ML_TRY(bench_machine_compute(grid, o.seconds, &machine));
    ML_TRY(bench_machine_network(grid, &machine, &inside, &between));
    ML_TRY(
        ml_grid_agree(grid, bench_speaks() ? report(&o, &machine, grid, inside, between) : ML_OK));
done:
    ml_machine_destroy(&machine);
    ml_grid_destroy(grid);
    return st;
}

const ml_command bench_machine = {
    .name = "machine",
    .summary = "what plan computes times from, as a machine file",
    .usage = usage,
    .about =
        "What `mpilora plan --machine FILE` computes times from: rates of products of several "
        "shapes, of attention and of what goes over numbers once, latency and bandwidth of sums; "
        "alone it starts two processes for these. Run it as jobs run: with as many "
        "ranks a node and threads a rank, and all cores at work.",
    .options = options,
    .run = run,
    .parallel = true,
};
