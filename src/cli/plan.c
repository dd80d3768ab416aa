/* mpilora plan: memory of a run, LoRA beside full fine-tuning, before anything is run. */
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>

#include "cli/cli.h"
#include "cli/options.h"
#include "mpilora/grid.h"
#include "mpilora/plan.h"

static const char usage[] = "mpilora plan CONFIG.yaml [--ranks N] [--nodes M] [--set key=value]... [--json]";

static json_t *method_json(const ml_plan_method *m)
{
    json_t *o = json_object(), *rank = json_object(), *need = json_object();
    for (int c = 0; c < ML_MEM_CATEGORIES; c++) json_object_set_new(rank, ml_category_name((ml_category)c), json_integer(m->per_rank[c]));
    json_object_set_new(o, "name", json_string(m->name));
    json_object_set_new(o, "params_total", json_integer(m->params_total));
    json_object_set_new(o, "params_trainable", json_integer(m->params_trainable));
    json_object_set_new(o, "checkpoint_bytes", json_integer(m->checkpoint_bytes));
    json_object_set_new(o, "adapter_bytes_16bit", json_integer(m->adapter_bytes_16bit));
    json_object_set_new(o, "allreduce_bytes_per_step", json_integer(m->allreduce_bytes_per_step));
    json_object_set_new(o, "activations", json_string(ml_activation_mode_name(m->activations)));
    json_object_set_new(o, "fits", json_boolean(m->fits));
    for (int mode = 0; mode < ML_ACTIVATION_MODES; mode++)
        json_object_set_new(need, ml_activation_mode_name((ml_activation_mode)mode), json_integer(m->need[mode]));
    json_object_set_new(o, "process_bytes_by_activations", need);
    json_object_set_new(o, "per_rank", rank);
    json_object_set_new(o, "total_bytes_per_rank", json_integer(m->total_bytes_per_rank));
    json_object_set_new(o, "frozen_shared_by", json_integer(m->frozen_shared_by));
    json_object_set_new(o, "node_bytes", json_integer(m->node_bytes));
    json_object_set_new(o, "total_bytes", json_integer(m->total_bytes));
    return o;
}

static ml_status print_json(const ml_plan *p)
{
    json_t *o = json_pack("{s:i, s:i, s:i, s:i, s:I, s:I, s:[o, o]}", "ranks", p->ranks, "nodes", p->nodes, "dp", p->dp, "tp", p->tp,
                          "micro_batch_tokens", (json_int_t)p->tokens, "runtime_floor_bytes", (json_int_t)p->runtime_floor_bytes, "methods",
                          method_json(&p->method[0]), method_json(&p->method[1]));
    char *text = o ? json_dumps(o, JSON_INDENT(2)) : NULL;
    json_decref(o);
    if (!text) return ml_fail(ML_RESOURCE, "plan: out of memory");
    puts(text);
    free(text);
    return ML_OK;
}

static double mib(int64_t bytes) { return (double)bytes / 1048576.0; }

/* What is chosen, and what a process would need in each mode. */
static void print_activations(const ml_plan *p)
{
    const ml_plan_method *a = &p->method[0], *b = &p->method[1];
    printf("%-34s%16s%16s\n", "activations kept", a->fits ? ml_activation_mode_name(a->activations) : "does not fit",
           b->fits ? ml_activation_mode_name(b->activations) : "does not fit");
    for (int mode = 0; mode < ML_ACTIVATION_MODES; mode++)
        printf("  a process with %-17s%16.1f%16.1f\n", ml_activation_mode_name((ml_activation_mode)mode), mib(a->need[mode]),
               mib(b->need[mode]));
}

/* Sums over ranks, and how often they count the frozen weights. */
static void print_sums(const ml_plan *p)
{
    const ml_plan_method *a = &p->method[0], *b = &p->method[1];
    if (p->nodes > 1) printf("%-34s%16.1f%16.1f\n", "the fullest node, GiB", mib(a->node_bytes) / 1024.0, mib(b->node_bytes) / 1024.0);
    printf("%-34s%16.1f%16.1f\n", "all ranks, GiB", mib(a->total_bytes) / 1024.0, mib(b->total_bytes) / 1024.0);
    if (a->frozen_shared_by > 1)
        printf("%s: up to %d ranks of a node hold one copy of the frozen weights; a node counts it once\n", a->name, a->frozen_shared_by);
}

static void print_table(const ml_plan *p)
{
    const ml_plan_method *a = &p->method[0], *b = &p->method[1];
    printf("%d ranks = dp %d x tp %d on %d node%s; micro-batches of up to %" PRId64 " tokens\n", p->ranks, p->dp, p->tp, p->nodes,
           p->nodes > 1 ? "s" : "", p->tokens);
    printf("%-34s%16s%16s\n", "", a->name, b->name);
    printf("%-34s%16.1f%16.1f\n", "parameters, millions", 1e-6 * (double)a->params_total, 1e-6 * (double)b->params_total);
    printf("%-34s%16.3f%16.3f\n", "  trained", 1e-6 * (double)a->params_trainable, 1e-6 * (double)b->params_trainable);
    printf("%-34s%16.1f%16.1f\n", "trained tensors in 16 bit, MB", 1e-6 * (double)a->adapter_bytes_16bit,
           1e-6 * (double)b->adapter_bytes_16bit);
    printf("%-34s%16.1f%16.1f\n", "checkpoint, MB", 1e-6 * (double)a->checkpoint_bytes, 1e-6 * (double)b->checkpoint_bytes);
    printf("%-34s%16.1f%16.1f\n", "all-reduced a step, MB", 1e-6 * (double)a->allreduce_bytes_per_step,
           1e-6 * (double)b->allreduce_bytes_per_step);
    puts("memory of a rank, MiB");
    for (int c = 0; c < ML_MEM_CATEGORIES; c++)
        if (a->per_rank[c] || b->per_rank[c])
            printf("  %-32s%16.1f%16.1f\n", ml_category_name((ml_category)c), mib(a->per_rank[c]), mib(b->per_rank[c]));
    printf("  %-32s%16.1f%16.1f\n", "total", mib(a->total_bytes_per_rank), mib(b->total_bytes_per_rank));
    print_sums(p);
    print_activations(p);
    printf("beside the totals, each process: MPI and libraries, %.1f MiB here\n", mib(p->runtime_floor_bytes));
}

static ml_status run(int argc, char **argv)
{
    ml_status st = ML_OK;
    const char *path = NULL;
    bool json = false;
    int64_t ranks = -1; /* not given: the smallest grid */
    int64_t nodes = 1;
    option_list sets = {0};
    ml_run_config config = {0};
    ml_plan plan;
    const option table[] = {{"--ranks", OPTION_INT, &ranks},
                            {"--nodes", OPTION_INT, &nodes},
                            {"--set", OPTION_LIST, &sets},
                            {"--json", OPTION_FLAG, &json},
                            {NULL, OPTION_FLAG, NULL}};
    ML_TRY(options_read(argc, argv, table, 1, 1, &path, usage));
    ML_TRY(ml_run_config_read(&config, path, sets.items, sets.count));
    if (ranks == -1) ranks = config.parallel.tp;
    if (ranks < 1 || ranks > 1 << 24) {
        st = ml_fail(ML_USAGE, "--ranks: %" PRId64 ", expected 1 to %d", ranks, 1 << 24);
        goto done;
    }
    if (nodes < 1 || nodes > ranks) {
        st = ml_fail(ML_USAGE, "--nodes: %" PRId64 ", expected 1 to the number of ranks, %" PRId64, nodes, ranks);
        goto done;
    }
    ML_TRY(ml_plan_create(&plan, &config, (int)ranks, (int)nodes));
    if (ml_grid_world_rank() != 0) goto done;
    if (json)
        st = print_json(&plan);
    else
        print_table(&plan);
done:
    ml_run_config_destroy(&config);
    return st;
}

const ml_command ml_command_plan = {
    "plan",
    "memory of a run, LoRA beside full fine-tuning, without running it",
    "usage: mpilora plan CONFIG.yaml [--ranks N] [--nodes M] [--set key=value]... [--json]\n"
    "\n"
    "Predicts the memory of each rank by category from the sizing functions that training allocates with. `base` may be a base file or a\n"
    "model description (configs/models/NAME.yaml). dp = N / parallel.tp; N is parallel.tp unless told. Micro-batches are as long as the "
    "data\n"
    "sets make them where these can be read, else batch.micro x data.max_len tokens. Nothing large is allocated, no weights are read.\n"
    "\n"
    "  --json  prints {\"methods\": [{name, params_total, params_trainable, checkpoint_bytes, allreduce_bytes_per_step, per_rank, ...}]}\n",
    run,
    true,
    NULL};
