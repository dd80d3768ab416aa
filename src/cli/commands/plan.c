/* mpilora plan: memory of a run, LoRA beside full fine-tuning, before anything is run. */
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>

#include "cli/cli.h"
#include "cli/commands/plan_search.h"
#include "cli/support/block_options.h"
#include "cli/support/run_list.h"
#include "io/json.h"
#include "mpilora/grid.h"
#include "mpilora/plan.h"

static const char usage[] = "mpilora plan CONFIG.yaml [--ranks N] [--nodes M] [--machine FILE] "
                            "[--quantise FORMAT [--head-dtype FORMAT]] [--set key=value]... "
                            "[--json]  |  mpilora plan CONFIG.yaml "
                            "--search --nodes M --machine FILE [--ranks-per-node R] "
                            "[--memory-per-node BYTES] [--quantise FORMAT [--head-dtype FORMAT]] "
                            "[--set key=value]... [--json]";

static json_t *time_json(const ml_plan_time *t)
{
    return json_pack("{s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "forward_s", t->forward_s,
                     "backward_s", t->backward_s, "comm_s", t->comm_s, "bubble_s", t->bubble_s,
                     "optimizer_s", t->optimizer_s, "data_s", t->data_s, "step_s", t->step_s,
                     "tokens_per_s", t->tokens_per_s);
}

static json_t *method_json(const ml_plan_method *m)
{
    json_t *o = json_object(), *rank = json_object(), *need = json_object();
    for (int c = 0; c < ML_MEM_CATEGORIES; c++)
        json_object_set_new(rank, ml_category_name((ml_category)c), json_integer(m->per_rank[c]));
    json_object_set_new(o, "name", json_string(m->name));
    json_object_set_new(o, "params_total", json_integer(m->params_total));
    json_object_set_new(o, "params_trainable", json_integer(m->params_trainable));
    json_object_set_new(o, "checkpoint_bytes", json_integer(m->checkpoint_bytes));
    json_object_set_new(o, "adapter_bytes_16bit", json_integer(m->adapter_bytes_16bit));
    json_object_set_new(o, "allreduce_bytes_per_step", json_integer(m->allreduce_bytes_per_step));
    json_object_set_new(o, "piped_bytes_per_step", json_integer(m->piped_bytes_per_step));
    json_object_set_new(o, "activations", json_string(ml_activation_mode_name(m->activations)));
    json_object_set_new(o, "fits", json_boolean(m->fits));
    for (int mode = 0; mode < ML_ACTIVATION_MODES; mode++)
        json_object_set_new(need, ml_activation_mode_name((ml_activation_mode)mode),
                            json_integer(m->need[mode]));
    json_object_set_new(o, "process_bytes_by_activations", need);
    json_object_set_new(o, "per_rank", rank);
    json_object_set_new(o, "stage", json_integer(m->stage));
    json_object_set_new(o, "total_bytes_per_rank", json_integer(m->total_bytes_per_rank));
    json_object_set_new(o, "frozen_shared_by", json_integer(m->frozen_shared_by));
    json_object_set_new(o, "node_bytes", json_integer(m->node_bytes));
    json_object_set_new(o, "total_bytes", json_integer(m->total_bytes));
    if (m->time.step_s > 0.0) json_object_set_new(o, "time", time_json(&m->time));
    return o;
}

static ml_status print_json(const ml_plan *p)
{
    json_t *o = json_pack("{s:i, s:i, s:i, s:i, s:i, s:i, s:I, s:I, s:[o, o]}", "ranks", p->ranks,
                          "nodes", p->nodes, "dp", p->dp, "tp", p->tp, "cp", p->cp, "pp", p->pp,
                          "micro_batch_tokens", (json_int_t)p->tokens, "runtime_floor_bytes",
                          (json_int_t)p->runtime_floor_bytes, "methods", method_json(&p->method[0]),
                          method_json(&p->method[1]));
    if (o) json_object_set_new(o, "numerics", json_string(ml_numerics_name(p->numerics)));
    if (o && p->threads > 0) json_object_set_new(o, "threads", json_integer(p->threads));
    return plan_print_object(o);
}

static double mib(int64_t bytes) { return (double)bytes / 1048576.0; }

/* What is chosen, and what a process would need in each mode. */
static void print_activations(const ml_plan *p)
{
    const ml_plan_method *a = &p->method[0], *b = &p->method[1];
    printf("%-34s%16s%16s\n", "activations kept",
           a->fits ? ml_activation_mode_name(a->activations) : "does not fit",
           b->fits ? ml_activation_mode_name(b->activations) : "does not fit");
    for (int mode = 0; mode < ML_ACTIVATION_MODES; mode++)
        printf("  a process with %-17s%16.1f%16.1f\n",
               ml_activation_mode_name((ml_activation_mode)mode), mib(a->need[mode]),
               mib(b->need[mode]));
}

/* Sums over ranks, and how often they count the frozen weights. */
static void print_sums(const ml_plan *p)
{
    const ml_plan_method *a = &p->method[0], *b = &p->method[1];
    if (p->nodes > 1)
        printf("%-34s%16.1f%16.1f\n", "the fullest node, GiB", mib(a->node_bytes) / 1024.0,
               mib(b->node_bytes) / 1024.0);
    printf("%-34s%16.1f%16.1f\n", "all ranks, GiB", mib(a->total_bytes) / 1024.0,
           mib(b->total_bytes) / 1024.0);
    if (a->frozen_shared_by > 1)
        printf("%s: up to %d ranks of a node hold one copy of the frozen weights; a node counts it "
               "once\n",
               a->name, a->frozen_shared_by);
}

static void print_time(const ml_plan *p)
{
    const ml_plan_time *a = &p->method[0].time, *b = &p->method[1].time;
    printf("time of a step on this machine, %d thread%s a rank, s\n", p->threads,
           p->threads > 1 ? "s" : "");
    if (p->measured_threads > 0 && p->measured_threads != p->threads)
        printf("  its rates were measured with %" PRId64 " thread%s a rank, on which they depend: "
               "run `mpilora bench machine` as jobs run\n",
               p->measured_threads, p->measured_threads > 1 ? "s" : "");
    printf("  %-32s%16.4f%16.4f\n  %-32s%16.4f%16.4f\n", "forward", a->forward_s, b->forward_s,
           "backward", a->backward_s, b->backward_s);
    printf("  %-32s%16.4f%16.4f\n  %-32s%16.4f%16.4f\n", "communication", a->comm_s, b->comm_s,
           "optimizer", a->optimizer_s, b->optimizer_s);
    if (p->pp > 1) printf("  %-32s%16.4f%16.4f\n", "waiting for stages", a->bubble_s, b->bubble_s);
    printf("  %-32s%16.4f%16.4f\n  %-32s%16.4f%16.4f\n", "data", a->data_s, b->data_s, "step",
           a->step_s, b->step_s);
    printf("%-34s%16.1f%16.1f\n", "tokens/s", a->tokens_per_s, b->tokens_per_s);
}

static void print_table(const ml_plan *p)
{
    const ml_plan_method *a = &p->method[0], *b = &p->method[1];
    char sharers[32] = "", stages[32] = "";
    if (p->cp > 1) snprintf(sharers, sizeof sharers, " x cp %d", p->cp);
    if (p->pp > 1) snprintf(stages, sizeof stages, " x pp %d", p->pp);
    printf("%d ranks = dp %d x tp %d%s%s on %d node%s; micro-batches of up to %" PRId64
           " tokens; numerics %s\n",
           p->ranks, p->dp, p->tp, sharers, stages, p->nodes, p->nodes > 1 ? "s" : "", p->tokens,
           ml_numerics_name(p->numerics));
    printf("%-34s%16s%16s\n", "", a->name, b->name);
    printf("%-34s%16.1f%16.1f\n", "parameters, millions", 1e-6 * (double)a->params_total,
           1e-6 * (double)b->params_total);
    printf("%-34s%16.3f%16.3f\n", "  trained", 1e-6 * (double)a->params_trainable,
           1e-6 * (double)b->params_trainable);
    printf("%-34s%16.1f%16.1f\n", "trained tensors in 16 bit, MB",
           1e-6 * (double)a->adapter_bytes_16bit, 1e-6 * (double)b->adapter_bytes_16bit);
    printf("%-34s%16.1f%16.1f\n", "checkpoint, MB", 1e-6 * (double)a->checkpoint_bytes,
           1e-6 * (double)b->checkpoint_bytes);
    printf("%-34s%16.1f%16.1f\n", "all-reduced a step, MB",
           1e-6 * (double)a->allreduce_bytes_per_step, 1e-6 * (double)b->allreduce_bytes_per_step);
    if (p->pp > 1)
        printf("%-34s%16.1f%16.1f\n", "sent to neighbouring stages, MB",
               1e-6 * (double)a->piped_bytes_per_step, 1e-6 * (double)b->piped_bytes_per_step);
    if (p->pp > 1)
        printf("memory of a rank, MiB, of stage %d (%s) and %d (%s), which need most\n", a->stage,
               a->name, b->stage, b->name);
    else
        puts("memory of a rank, MiB");
    for (int c = 0; c < ML_MEM_CATEGORIES; c++)
        if (a->per_rank[c] || b->per_rank[c])
            printf("  %-32s%16.1f%16.1f\n", ml_category_name((ml_category)c), mib(a->per_rank[c]),
                   mib(b->per_rank[c]));
    printf("  %-32s%16.1f%16.1f\n", "total", mib(a->total_bytes_per_rank),
           mib(b->total_bytes_per_rank));
    print_sums(p);
    print_activations(p);
    if (p->threads > 0) print_time(p);
    printf("beside the totals, each process: MPI and libraries, %.1f MiB here\n",
           mib(p->runtime_floor_bytes));
}

typedef struct plan_options {
    const char *path, *machine, *memory;
    bool json, search;
    int64_t ranks, nodes, per_node, threads;
    option_list sets;
    block_options blocks;
} plan_options;

static const option options[] = {
    {"--ranks", OPTION_INT, offsetof(plan_options, ranks), "N",
     "ranks; else those of one replica, parallel.tp x parallel.cp x parallel.pp", NULL},
    {"--nodes", OPTION_INT, offsetof(plan_options, nodes), "M",
     "nodes that the ranks are spread over", "1"},
    {"--machine", OPTION_TEXT, offsetof(plan_options, machine), "FILE",
     "a machine file (configs/machines/, or what `mpilora bench machine` writes): the time of a "
     "step by phase, too. Sequences count with the data's mean length, else max_len; common "
     "prompts count every time",
     NULL},
    {"--threads", OPTION_INT, offsetof(plan_options, threads), "T",
     "of --machine: threads of a rank; else its share of the cores", NULL},
    {"--search", OPTION_FLAG, offsetof(plan_options, search), NULL,
     "every grid dp x tp x pp on M nodes with its fastest micro-batch and activation mode: those "
     "that fit, fastest first, and why the others do not; cp above 1 is tried where fewer ranks "
     "that share sequences out do not fit; with --json all of them",
     NULL},
    {"--ranks-per-node", OPTION_INT, offsetof(plan_options, per_node), "R",
     "of --search; else one a memory domain of the machine", NULL},
    {"--memory-per-node", OPTION_TEXT, offsetof(plan_options, memory), "BYTES",
     "of --search: 256G, 512GiB; else the machine file's", NULL},
    {"--quantise", OPTION_TEXT, offsetof(plan_options, blocks.quantise), BLOCK_FORMATS,
     "of a model description as base: as if `import --init random --quantise` had made a base of "
     "it",
     NULL},
    {"--head-dtype", OPTION_TEXT, offsetof(plan_options, blocks.head), "FORMAT|bf16|fp32",
     "of --quantise: what the head is kept in, of a tied model the embedding; bf16 or fp32: in no "
     "blocks. " BLOCK_HEAD_CHOICE,
     NULL},
    {"--set", OPTION_LIST, offsetof(plan_options, sets), "KEY=VALUE",
     "sets a key of the configuration, as optim.lr=1e-4 or method.targets=[q,v]; again and again",
     NULL},
    {"--json", OPTION_FLAG, offsetof(plan_options, json), NULL,
     "print {\"methods\": [{name, params_total, params_trainable, checkpoint_bytes, "
     "allreduce_bytes_per_step, per_rank, ...}]}",
     NULL},
    {NULL, OPTION_FLAG, 0, NULL, NULL, NULL}};

static ml_status read_options(int argc, char **argv, plan_options *o)
{
    ml_status st = options_read(argc, argv, options, o, 1, 1, &o->path, usage);
    if (st != ML_OK) return st;
    if (o->search && !o->machine)
        return ml_fail(ML_USAGE,
                       "--search: needs --machine FILE, as `mpilora bench machine` writes it");
    if (o->search && o->ranks != OPTION_ABSENT)
        return ml_fail(ML_USAGE, "--search: takes --nodes and --ranks-per-node, not --ranks");
    if (!o->search && (o->memory || o->per_node != OPTION_ABSENT))
        return ml_fail(ML_USAGE, "%s: belongs to --search",
                       o->memory ? "--memory-per-node" : "--ranks-per-node");
    if (o->threads < 0 || o->threads > 1 << 16)
        return ml_fail(ML_USAGE, "--threads: %" PRId64 ", expected 1 to %d", o->threads, 1 << 16);
    return ML_OK;
}

static ml_status plan_together(const plan_options *o, const ml_run_config *config, int ranks,
                               const ml_machine *machine, const ml_model_spec *model, ml_plan *plan)
{
    ml_run_config *all = NULL;
    if (machine)
        return ml_run_config_refuse(config, "runs",
                                    "the time of several runs in one job is not planned, their "
                                    "memory is; leave --machine out, or plan with --set runs=null");
    ml_status st = run_list_read(&all, o->path, &config->runs, &o->sets);
    if (st == ML_OK)
        st = ml_plan_create_together(plan, config->runs.count, all, ranks, (int)o->nodes, model);
    run_list_destroy(all, config->runs.count);
    return st;
}

static ml_status plan_one(const plan_options *o, const ml_run_config *config,
                          const ml_machine *machine, const ml_model_spec *model)
{
    ml_plan plan;
    int64_t ranks = o->ranks == OPTION_ABSENT ? ml_run_config_replica_ranks(config) : o->ranks;
    if (ranks < 1 || ranks > ML_RANKS_MOST)
        return ml_fail(ML_USAGE, "--ranks: %" PRId64 ", expected 1 to %d", ranks, ML_RANKS_MOST);
    if (o->nodes < 1 || o->nodes > ranks)
        return ml_fail(ML_USAGE,
                       "--nodes: %" PRId64 ", expected 1 to the number of ranks, %" PRId64,
                       o->nodes, ranks);
    ml_status st = config->runs.count > 0
                       ? plan_together(o, config, (int)ranks, machine, model, &plan)
                       : ml_plan_create_on(&plan, config, (int)ranks, (int)o->nodes, machine,
                                           (int)o->threads, model);
    if (st != ML_OK || ml_grid_world_rank() != 0) return st;
    if (o->json) return print_json(&plan);
    print_table(&plan);
    return ML_OK;
}

static ml_status run(int argc, char **argv)
{
    ml_status st = ML_OK;
    plan_options o = {.ranks = OPTION_ABSENT, .per_node = OPTION_ABSENT};
    ml_run_config config = {0};
    ml_machine machine = {0};
    ml_model_spec quantised;
    ml_dtype *formats = NULL;
    ML_TRY(read_options(argc, argv, &o));
    ML_TRY(ml_run_config_read(&config, o.path, o.sets.items, o.sets.count));
    if (o.machine) ML_TRY(ml_machine_read(&machine, o.machine));
    if (o.blocks.quantise || o.blocks.head)
        ML_TRY(block_options_describe(&o.blocks, config.base, usage, &quantised, &formats));
    const ml_model_spec *model = formats ? &quantised : NULL;
    if (o.search && config.runs.count > 0)
        st = ml_run_config_refuse(&config, "runs",
                                  "--search is for one run; take one out with --set runs=null");
    else if (o.search)
        st = plan_search(&config, &machine, model, o.nodes, o.per_node, o.memory, o.json);
    else
        st = plan_one(&o, &config, o.machine ? &machine : NULL, model);
done:
    ml_memory_free(formats);
    ml_machine_destroy(&machine);
    ml_run_config_destroy(&config);
    return st;
}

const ml_command ml_command_plan = {
    .name = "plan",
    .summary = "memory and time of a run, LoRA beside full fine-tuning, without running it",
    .usage = usage,
    .about = "Predicts the memory of each rank by category from the sizing functions that training "
             "allocates with. `base` may be a base file or a model description "
             "(configs/models/NAME.yaml). Micro-batches are as long as the data sets make them "
             "where these can be read, else batch.micro x data.max_len tokens. Nothing large is "
             "allocated, no weights are read. A configuration with `runs` is planned as one job of "
             "all of them, beside full fine-tuning of the first.",
    .options = options,
    .run = run,
    .parallel = true,
};
