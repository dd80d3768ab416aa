/* Every grid that some nodes can form is planned for itself, with every activation mode and size
 * of a micro-batch; those that fit are sorted by their tokens per second, the others keep the
 * reason why they do not. A grid's stages are described once for all modes and sizes. */
#include <inttypes.h>
#include <stdlib.h>

#include "plan/grid.h"

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

typedef struct searched {
    ml_plan_list *list;
    const ml_run_config *config;
    const ml_plan_module *module;
    plan_run *run;
    int64_t floor; /* bytes of a process beside accounted ones: MPI and libraries */
} searched;

/* The reason that ml_fail gave, cut to what a line holds. */
static void take_reason(char why[ML_PLAN_WHY])
{
    snprintf(why, ML_PLAN_WHY, "%.*s", ML_PLAN_WHY - 1, ml_error_text());
    ml_error_clear();
}

/* One candidate as it was planned. */
static void judge(const searched *s, const ml_plan_method *m, ml_plan_candidate *c)
{
    int64_t limit = s->config->memory.limit, need = m->need[c->activations];
    c->step_s = m->time.step_s;
    c->tokens_per_s = m->time.tokens_per_s;
    c->bubble_s = m->time.bubble_s;
    c->node_bytes = m->node_bytes + s->module->ranks_per_node * s->floor;
    int64_t over = c->node_bytes - s->module->memory_per_node;
    c->fits = over <= 0 && (limit == 0 || need <= limit);
    if (over > 0)
        snprintf(c->why, sizeof c->why,
                 "memory: %s needs %.2f GB a node, %.2f GB more than there is", m->name,
                 1e-9 * (double)c->node_bytes, 1e-9 * (double)over);
    else if (!c->fits)
        snprintf(c->why, sizeof c->why,
                 "memory: a process needs %.2f GB, more than memory.limit of %.2f GB",
                 1e-9 * (double)need, 1e-9 * (double)limit);
}

static bool is_tried(const ml_run_config *c, int mode)
{
    return c->memory.activations == ML_KEEP_AUTO ||
           (int)c->memory.activations == ML_KEEP_FULL + mode;
}

/* Micro-batches of 1, 2, 4 … up to `most`; no more than MICROS, since that counts in 64 bits. */
enum { MICROS = 64 };

static int64_t list_micros(int64_t most, plan_micro micro[MICROS])
{
    int64_t count = 0;
    for (int64_t size = 1;; size = ml_min(2 * size, most)) {
        micro[count++] = (plan_micro){.micro = size};
        if (size == most) return count;
    }
}

/* All sizes and modes of a grid that can be. */
static ml_status add_sizes(const searched *s, const ml_plan *grid, int64_t count,
                           const plan_micro *micro)
{
    ml_status st = ML_OK;
    for (int64_t k = 0; k < count; k++) {
        ml_plan_candidate c = {.tp = grid->tp,
                               .dp = grid->dp,
                               .cp = grid->cp,
                               .pp = grid->pp,
                               .micro = micro[k].micro};
        if (micro[k].why[0]) {
            snprintf(c.why, sizeof c.why, "%s", micro[k].why);
            return add(s->list, &c);
        }
        for (int mode = 0; mode < ML_ACTIVATION_MODES; mode++) {
            if (!is_tried(s->config, mode)) continue;
            c.why[0] = '\0';
            c.activations = (ml_activation_mode)mode;
            judge(s, &micro[k].mode[mode], &c);
            ML_TRY(add(s->list, &c));
        }
    }
done:
    return st;
}

/* One grid: all modes and micro-batches, or the one reason why it cannot be. */
static ml_status try_grid(const searched *s, int tp, int cp, int pp)
{
    ml_status st = ML_OK;
    plan_micro *micro = NULL;
    ml_plan grid = {.ranks = s->module->nodes * s->module->ranks_per_node,
                    .nodes = s->module->nodes,
                    .tp = tp,
                    .cp = cp,
                    .pp = pp};
    int dp = grid.ranks / tp / cp / pp;
    ml_plan_candidate c = {.tp = tp, .dp = dp, .cp = cp, .pp = pp, .micro = 1};
    if (s->config->batch.sequences < dp) {
        snprintf(c.why, sizeof c.why, "batch.sequences: %" PRId64 " are fewer than the %d replicas",
                 s->config->batch.sequences, dp);
        return add(s->list, &c);
    }
    ML_NEW(micro, MICROS, ML_MEM_OTHER, "sizes of micro-batches");
    int64_t count = list_micros(ml_run_config_micro(s->config, dp), micro);
    st = plan_run_on(s->run, &grid, s->config->method.name, count, micro);
    if (st == ML_USAGE) {
        take_reason(c.why);
        st = add(s->list, &c);
    } else if (st == ML_OK) {
        st = add_sizes(s, &grid, count, micro);
    }
done:
    ml_memory_free(micro);
    return st;
}

static int compare(const void *a, const void *b)
{
    const ml_plan_candidate *x = a, *y = b;
    if (x->fits != y->fits) return x->fits ? -1 : 1;
    if (x->fits && x->step_s != y->step_s) return x->step_s < y->step_s ? -1 : 1;
    if (x->pp != y->pp) return x->pp - y->pp;
    if (x->tp != y->tp) return x->tp - y->tp;
    if (x->cp != y->cp) return x->cp - y->cp;
    return x->activations != y->activations ? (int)x->activations - (int)y->activations
                                            : (x->micro > y->micro) - (x->micro < y->micro);
}

/* Of `ranks` replicas. Sequences are shared out among more ranks only where fewer are not enough:
 * what is gathered costs time. */
static ml_status try_shares(const searched *s, int tp, int pp, int ranks, int64_t most)
{
    ml_status st = ML_OK;
    bool fits = false;
    for (int cp = 1; cp <= ml_min(ranks, most) && !fits; cp++) {
        int64_t before = s->list->count;
        if (ranks % cp != 0) continue;
        ML_TRY(try_grid(s, tp, cp, pp));
        for (int64_t i = before; i < s->list->count; i++) fits = fits || s->list->items[i].fits;
    }
done:
    return st;
}

/* Of the ranks beside tp. A model that tp cannot divide has one reason, however many stages. */
static ml_status try_stages(const searched *s, int tp, int64_t stages, int64_t shares)
{
    ml_status st = ML_OK;
    int ranks = s->module->nodes * s->module->ranks_per_node / tp;
    if (!ml_model_can_divide(plan_run_spec(s->run), tp)) stages = shares = 1;
    for (int pp = 1; pp <= ml_min(ranks, stages); pp++)
        if (ranks % pp == 0) ML_TRY(try_shares(s, tp, pp, ranks / pp, shares));
done:
    return st;
}

ml_status ml_plan_search(ml_plan_list *list, const ml_run_config *config,
                         const ml_plan_module *module)
{
    ml_status st = ML_OK;
    int ranks = module->nodes * module->ranks_per_node,
        replicas = (int)ml_min(ranks, config->batch.sequences),
        nodes = (int)ml_min(module->nodes, replicas);
    ml_plan probe;
    ml_run_config whole = *config;
    searched s = {list, config, module, NULL, ml_memory_process_now()};
    whole.parallel.tp = whole.parallel.cp = whole.parallel.pp = 1;
    /* What is wrong with the configuration itself is no grid's fault; a step of fewer sequences
     * than ranks is wrong on some grids alone. */
    ML_TRY(ml_plan_create_on(&probe, &whole, replicas, nodes, NULL, 0, module->model));
    ML_TRY(plan_run_open(&s.run, config, module->machine, module->model));
    int64_t stages = plan_run_spec(s.run)->layers;
    int64_t shares = plan_run_shares_most(s.run);
    for (int tp = 1; tp <= ranks; tp++)
        if (ranks % tp == 0) ML_TRY(try_stages(&s, tp, stages, shares));
    if (list->count > 1) qsort(list->items, (size_t)list->count, sizeof *list->items, compare);
done:
    plan_run_close(s.run);
    return st;
}
