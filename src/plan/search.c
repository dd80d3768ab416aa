/* Every grid that some nodes can form is planned for itself, with every activation mode and size
 * of a micro-batch; those that fit are sorted by their tokens per second, the others keep the
 * reason why they do not. */
#include <inttypes.h>
#include <stdlib.h>

#include "mpilora/plan.h"

static ml_status add(ml_plan_list *list, const ml_plan_candidate *c)
{
    ml_status st = ML_OK;
    ml_plan_candidate *larger = NULL;
    if (list->count == list->capacity) {
        int64_t capacity = ml_max(32, 2 * list->capacity);
        ML_NEW(larger, capacity, ML_MEM_OTHER, "grids");
        if (list->count) memcpy(larger, list->items, (size_t)list->count * sizeof *larger);
        ml_memory_free(list->items);
        list->items = larger;
        list->capacity = capacity;
    }
    list->items[list->count++] = *c;
done:
    return st;
}

void ml_plan_list_destroy(ml_plan_list *list)
{
    ml_memory_free(list->items);
    *list = (ml_plan_list){0};
}

/* The reason that ml_fail gave, cut to what a line holds. */
static void take_reason(ml_plan_candidate *c)
{
    snprintf(c->why, sizeof c->why, "%.*s", (int)sizeof c->why - 1, ml_error_text());
    ml_error_clear();
}

/* Plans one candidate. Anything but a configuration that cannot be is passed on. */
static ml_status try_candidate(ml_plan_candidate *c, const ml_run_config *config,
                               const ml_plan_module *module)
{
    ml_plan plan;
    ml_run_config tried = *config;
    int ranks = module->nodes * module->ranks_per_node;
    tried.parallel.tp = c->tp;
    tried.batch.micro = c->micro;
    tried.memory.activations = (ml_keep_activations)(ML_KEEP_FULL + (int)c->activations);
    ml_status st = ml_plan_create_on(&plan, &tried, ranks, module->nodes, module->machine, 0);
    if (st == ML_USAGE) take_reason(c);
    if (st != ML_OK) return st;
    const ml_plan_method *m = &plan.method[config->method.name == ML_METHOD_FULL];
    c->step_s = m->time.step_s;
    c->tokens_per_s = m->time.tokens_per_s;
    c->node_bytes = m->node_bytes + module->ranks_per_node * plan.runtime_floor_bytes;
    int64_t over = c->node_bytes - module->memory_per_node;
    c->fits = over <= 0 && m->fits;
    if (over > 0)
        snprintf(
            c->why, sizeof c->why, "memory: %s needs %.2f GB a node, %.2f GB more than there is",
            ml_method_name(config->method.name), 1e-9 * (double)c->node_bytes, 1e-9 * (double)over);
    else if (!m->fits)
        snprintf(c->why, sizeof c->why,
                 "memory: a process needs %.2f GB, more than memory.limit of %.2f GB",
                 1e-9 * (double)m->need[c->activations], 1e-9 * (double)config->memory.limit);
    return ML_OK;
}

/* One tp: all modes and micro-batches, or the one reason why it cannot be. */
static ml_status try_grid(ml_plan_list *list, const ml_run_config *config,
                          const ml_plan_module *module, int tp)
{
    ml_status st = ML_OK;
    int dp = (int)ml_max(1, module->nodes * module->ranks_per_node / tp / config->parallel.pp);
    ml_plan_candidate c = {.tp = tp, .dp = dp, .micro = 1};
    if (config->batch.sequences < dp) {
        snprintf(c.why, sizeof c.why, "batch.sequences: %" PRId64 " are fewer than the %d replicas",
                 config->batch.sequences, dp);
        return add(list, &c);
    }
    int64_t most = ml_run_config_micro(config, dp);
    for (int mode = 0; mode < ML_ACTIVATION_MODES; mode++) {
        if (config->memory.activations != ML_KEEP_AUTO &&
            (int)config->memory.activations != ML_KEEP_FULL + mode)
            continue;
        for (int64_t micro = 1;; micro = ml_min(2 * micro, most)) {
            c = (ml_plan_candidate){
                .tp = tp, .dp = dp, .micro = micro, .activations = (ml_activation_mode)mode};
            st = try_candidate(&c, config, module);
            if (st != ML_OK && st != ML_USAGE) return st;
            bool impossible = st == ML_USAGE;
            ML_TRY(add(list, &c));
            if (impossible) return ML_OK;
            if (micro == most) break;
        }
    }
done:
    return st;
}

static int compare(const void *a, const void *b)
{
    const ml_plan_candidate *x = a, *y = b;
    if (x->fits != y->fits) return x->fits ? -1 : 1;
    if (x->fits && x->step_s != y->step_s) return x->step_s < y->step_s ? -1 : 1;
    if (x->tp != y->tp) return x->tp - y->tp;
    return x->activations != y->activations ? (int)x->activations - (int)y->activations
                                            : (x->micro > y->micro) - (x->micro < y->micro);
}

ml_status ml_plan_search(ml_plan_list *list, const ml_run_config *config,
                         const ml_plan_module *module)
{
    ml_status st = ML_OK;
    int ranks = module->nodes * module->ranks_per_node;
    ml_plan probe;
    ml_run_config whole = *config;
    whole.parallel.tp = whole.parallel.pp = 1;
    ML_TRY(ml_plan_create(
        &probe, &whole, ranks,
        module->nodes)); /* what is wrong with the configuration itself is no grid's fault */
    for (int tp = 1; tp <= ranks; tp++)
        if (ranks % tp == 0) ML_TRY(try_grid(list, config, module, tp));
    if (list->count > 1) qsort(list->items, (size_t)list->count, sizeof *list->items, compare);
done:
    return st;
}
