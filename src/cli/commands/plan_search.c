/* mpilora plan --search: the grids of some nodes, fastest first, and why the others do not fit. */
#include "cli/commands/plan_search.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>

#include "cli/support/options.h"
#include "io/json.h"
#include "mpilora/grid.h"

enum { RANKS_MOST = 1 << 20 };

ml_status plan_print_object(json_t *o)
{
    char *text = o ? ml_json_dump(o, JSON_INDENT(2)) : NULL;
    json_decref(o);
    if (!text) return ml_fail(ML_RESOURCE, "out of memory: the plan as JSON");
    puts(text);
    free(text);
    return ML_OK;
}

static json_t *candidate_json(const ml_plan_candidate *c, int threads)
{
    json_t *o =
        json_pack("{s:i, s:i, s:i, s:i, s:i, s:I, s:s, s:b, s:I, s:f, s:f, s:f}", "tp", c->tp, "dp",
                  c->dp, "cp", c->cp, "pp", c->pp, "threads", threads, "micro",
                  (json_int_t)c->micro, "activations", ml_activation_mode_name(c->activations),
                  "fits", (int)c->fits, "node_bytes", (json_int_t)c->node_bytes, "step_s",
                  c->step_s, "bubble_s", c->bubble_s, "tokens_per_s", c->tokens_per_s);
    if (!c->fits) json_object_set_new(o, "why", json_string(c->why));
    return o;
}

static ml_status print_json(const ml_plan_list *list, const ml_plan_module *module,
                            const char *method)
{
    json_t *fit = json_array(), *others = json_array();
    int threads = (int)ml_max(1, module->machine->cores / module->ranks_per_node);
    for (int64_t i = 0; i < list->count; i++)
        json_array_append_new(list->items[i].fits ? fit : others,
                              candidate_json(&list->items[i], threads));
    json_t *o = json_pack("{s:s, s:s, s:i, s:i, s:I, s:o, s:o}", "machine", module->machine->name,
                          "method", method, "nodes", module->nodes, "ranks_per_node",
                          module->ranks_per_node, "memory_per_node",
                          (json_int_t)module->memory_per_node, "grids", fit, "rejected", others);
    return plan_print_object(o);
}

/* Whether a candidate stands for its grid: the first that fits, which is the fastest, or of those
 * that do not the one that needs least. */
static bool stands_for_grid(const ml_plan_list *list, int64_t i)
{
    const ml_plan_candidate *own = &list->items[i];
    for (int64_t k = 0; k < list->count; k++) {
        const ml_plan_candidate *c = &list->items[k];
        if (k == i || c->tp != own->tp || c->cp != own->cp || c->pp != own->pp) continue;
        if (c->fits && (!own->fits || k < i)) return false;
        if (!own->fits &&
            (c->node_bytes < own->node_bytes || (c->node_bytes == own->node_bytes && k < i)))
            return false;
    }
    return true;
}

static void print_candidate(const ml_plan_candidate *c)
{
    printf("%6d%6d%6d%6d%7" PRId64 "  %-12s", c->dp, c->tp, c->cp, c->pp, c->micro,
           ml_activation_mode_name(c->activations));
    if (c->fits)
        printf("%14.2f%12.4f%7.0f%%%12.1f\n", 1e-9 * (double)c->node_bytes, c->step_s,
               100.0 * c->bubble_s / c->step_s, c->tokens_per_s);
    else
        printf("  %s\n", c->why);
}

static void print_table(const ml_plan_list *list, const ml_plan_module *module, const char *method)
{
    int64_t left = 0;
    bool others = false;
    printf("%s on %d node%s of %s, %d rank%s of %" PRId64 " thread(s) each, %.1f GB a node\n",
           method, module->nodes, module->nodes > 1 ? "s" : "", module->machine->name,
           module->ranks_per_node, module->ranks_per_node > 1 ? "s" : "",
           ml_max(1, module->machine->cores / module->ranks_per_node),
           1e-9 * (double)module->memory_per_node);
    printf("%6s%6s%6s%6s%7s  %-12s%14s%12s%8s%12s\n", "dp", "tp", "cp", "pp", "micro",
           "activations", "GB a node", "s a step", "bubble", "tokens/s");
    for (int64_t i = 0; i < list->count; i++) {
        const ml_plan_candidate *c = &list->items[i];
        if (!stands_for_grid(list, i)) {
            left++;
            continue;
        }
        if (!c->fits && !others) puts("these do not fit:");
        others = !c->fits;
        print_candidate(c);
    }
    if (left > 0)
        printf("%" PRId64 " more, of the same grids with other micro-batches and activations: "
               "--json\n",
               left);
}

ml_status plan_search(const ml_run_config *config, const ml_machine *machine,
                      const ml_model_spec *model, int64_t nodes, int64_t per_node,
                      const char *memory, bool json)
{
    ml_status st = ML_OK;
    ml_plan_list list = {0};
    int64_t bytes = machine->memory,
            each = per_node == OPTION_ABSENT ? ml_min(machine->domains, machine->cores) : per_node;
    const char *method = ml_method_name(config->method.name);
    if (memory) ML_TRY(options_read_bytes("--memory-per-node", memory, &bytes));
    if (bytes == 0)
        return ml_fail(ML_USAGE, "--memory-per-node: missing; the machine file does not say the "
                                 "memory of a node either");
    if (nodes < 1 || nodes > RANKS_MOST)
        return ml_fail(ML_USAGE, "--nodes: %" PRId64 ", expected 1 to %d", nodes, RANKS_MOST);
    if (each < 1 || each > RANKS_MOST / nodes)
        return ml_fail(ML_USAGE, "--ranks-per-node: %" PRId64 ", expected 1 to %" PRId64, each,
                       RANKS_MOST / nodes);
    const ml_plan_module module = {(int)nodes, (int)each, bytes, machine, model};
    ML_TRY(ml_plan_search(&list, config, &module));
    if (ml_grid_world_rank() != 0) goto done;
    if (json)
        st = print_json(&list, &module, method);
    else
        print_table(&list, &module, method);
done:
    ml_plan_list_destroy(&list);
    return st;
}
