/* summary.json says what a run was and what it took: losses, rates, seconds by phase, bytes by
 * category, and beside them what was predicted for the same run. What is not known is null. */
#include <jansson.h>
#include <math.h>
#include <stdlib.h>

#include "io/durable.h"
#include "io/json.h"
#include "train/run.h"

/* JSON has no NaN: what is not known is null. */
static json_t *number(double x) { return isfinite(x) ? json_real(x) : json_null(); }

static json_t *memory_table(const int64_t bytes[ML_MEM_CATEGORIES])
{
    json_t *table = json_object();
    for (int c = 0; c < ML_MEM_CATEGORIES; c++)
        json_object_set_new(table, ml_category_name((ml_category)c), json_integer(bytes[c]));
    return table;
}

static void add_waits(json_t *table, const run *r, double steps)
{
    double others;
    json_t *list = json_array();
    for (int i = 0; i < r->waits.ranks; i++)
        json_array_append_new(list, number(r->waits.sum[i] / steps));
    json_object_set_new(table, "wait_s_by_rank", list);
    json_object_set_new(table, "slowest_rank", json_integer(waits_slowest(r, &others)));
}

/* Seconds a step on rank 0, the mean over this start's steps; the phases add up to step_s. */
static json_t *phase_table(const run *r)
{
    double steps = (double)(r->step - r->first_step);
    char key[32];
    json_t *table = json_object();
    for (int p = 0; p < ML_PHASES; p++) {
        snprintf(key, sizeof key, "%s_s", ml_phase_name((ml_phase)p));
        json_object_set_new(table, key, number(r->phase[p] / steps));
    }
    json_object_set_new(table, "step_s", number(r->seconds / steps));
    json_object_set_new(table, "wait_s", number(r->waits.sum[0] / steps));
    if (r->waits.ranks > 1) add_waits(table, r, steps);
    return table;
}

/* What the ranks have in common: maxima over all of them, and sums over the fullest node. */
typedef struct memory_figures {
    int64_t peak[ML_MEM_CATEGORIES], total, process; /* of the largest rank */
    int64_t node, node_process,
        node_predicted; /* of all ranks of a node, what they share counted once */
    int64_t sharers;
} memory_figures;

/* Collective. VmHWM counts shared pages in every rank that holds them: all but one of the holders
 * take them out of the sum. */
static memory_figures find_memory(const run *r)
{
    const session *s = &r->session;
    memory_figures m = {.total = ml_memory_peak_total(),
                        .process = ml_memory_process_peak(),
                        .sharers = ml_session_frozen_sharers(s)};
    for (int c = 0; c < ML_MEM_CATEGORIES; c++) m.peak[c] = ml_memory_peak((ml_category)c);
    for (int c = 0; c < ML_MEM_CATEGORIES; c++) m.node_predicted += r->predicted[c];
    m.node_predicted -= ml_session_borrowed_bytes(s);
    m.node = m.total;
    m.node_process = m.process - ml_session_borrowed_bytes(s);
    ml_grid_sum_int64(s->grid, ML_GROUP_NODE, &m.node, 3);
    ml_grid_max_int64(s->grid, ML_GROUP_WORLD, (int64_t *)(void *)&m,
                      (int64_t)(sizeof m / sizeof(int64_t)));
    return m;
}

/* What was predicted for the rank that was to need most: stages of a pipeline differ. Collective.
 */
static void find_predicted(const run *r, int64_t predicted[ML_MEM_CATEGORIES])
{
    const ml_grid *g = r->session.grid;
    int64_t own = 0;
    memcpy(predicted, r->predicted, sizeof r->predicted);
    if (ml_grid_pp(g) == 1) return;
    for (int c = 0; c < ML_MEM_CATEGORIES; c++) own += predicted[c];
    int64_t most = own;
    ml_grid_max_int64(g, ML_GROUP_WORLD, &most, 1);
    int64_t first = own == most ? -ml_grid_rank(g) : -ml_grid_size(g);
    ml_grid_max_int64(g, ML_GROUP_WORLD, &first, 1);
    ml_grid_broadcast(g, ML_GROUP_WORLD, (int)-first, predicted, sizeof r->predicted);
}

static json_t *describe_memory(const memory_figures *m, const int64_t planned[ML_MEM_CATEGORIES])
{
    json_t *predicted = memory_table(planned), *memory = memory_table(m->peak);
    int64_t total = 0;
    for (int c = 0; c < ML_MEM_CATEGORIES; c++) total += planned[c];
    json_object_set_new(predicted, "total_bytes", json_integer(total));
    json_object_set_new(predicted, "node_bytes", json_integer(m->node_predicted));
    json_object_set_new(memory, "total_peak_bytes", json_integer(m->total));
    json_object_set_new(memory, "process_peak_bytes", json_integer(m->process));
    json_object_set_new(memory, "frozen_shared_by", json_integer(m->sharers));
    json_object_set_new(memory, "node_peak_bytes", json_integer(m->node));
    json_object_set_new(memory, "node_process_peak_bytes", json_integer(m->node_process));
    json_object_set_new(memory, "predicted", predicted);
    return memory;
}

static json_t *describe_load(const session *s)
{
    json_t *load = json_object();
    json_object_set_new(load, "seconds", number(s->load_seconds));
    json_object_set_new(load, "bytes", json_integer(s->load_bytes));
    json_object_set_new(load, "mapped_bytes", json_integer(s->mapped_bytes));
    json_object_set_new(load, "gb_per_s", number(1e-9 * (double)s->load_bytes / s->load_seconds));
    return load;
}

static json_t *describe_changes(const ml_checkpoint_changes *changes)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < changes->count; i++) {
        const ml_checkpoint_change *c = &changes->items[i];
        json_array_append_new(list, json_pack("{s:s,s:s,s:s,s:I}", "key", c->key, "from", c->from,
                                              "to", c->to, "step", (json_int_t)c->step));
    }
    return list;
}

static json_t *describe(const run *r, const memory_figures *memory,
                        const int64_t predicted[ML_MEM_CATEGORIES])
{
    const session *s = &r->session;
    json_t *o = json_object();
    json_object_set_new(o, "steps", json_integer(r->step));
    json_object_set_new(o, "loss_first", number(r->loss_first));
    json_object_set_new(o, "loss_last", number(r->loss_last));
    json_object_set_new(o, "valid_loss", number(r->valid_loss));
    json_object_set_new(o, "best_step",
                        isfinite(r->progress.best_loss) ? json_integer(r->progress.best_step)
                                                        : json_null());
    json_object_set_new(o, "best_loss", number(r->progress.best_loss));
    json_object_set_new(o, "tokens", json_integer(r->tokens));
    json_object_set_new(o, "tokens_per_s",
                        number(r->seconds > 0.0 ? (double)r->timed_tokens / r->seconds : NAN));
    json_object_set_new(o, "phases", phase_table(r));
    json_object_set_new(o, "ranks", json_integer(ml_grid_size(s->grid)));
    json_object_set_new(o, "dp", json_integer(ml_grid_dp(s->grid)));
    json_object_set_new(o, "tp", json_integer(ml_grid_tp(s->grid)));
    json_object_set_new(o, "cp", json_integer(ml_grid_cp(s->grid)));
    json_object_set_new(o, "pp", json_integer(ml_grid_pp(s->grid)));
    json_object_set_new(o, "params_total",
                        json_integer(ml_model_parameters_total(ml_base_spec(s->base))));
    json_object_set_new(o, "params_trainable", json_integer(s->parameters.global));
    json_object_set_new(o, "allreduce_bytes_per_step", json_integer(r->reduction.payload_bytes));
    json_object_set_new(o, "allreduce_bytes_passed_per_step",
                        json_integer(r->reduction.passed_bytes));
    json_object_set_new(o, "piped_bytes_per_step",
                        number((double)r->piped_bytes / (double)(r->step - r->first_step)));
    json_object_set_new(o, "gathered_bytes_per_step",
                        number((double)r->gathered_bytes / (double)(r->step - r->first_step)));
    json_object_set_new(o, "checkpoint_bytes", json_integer(r->checkpoint_bytes));
    json_object_set_new(o, "saves", json_integer(r->saves));
    json_object_set_new(o, "save_seconds", number(r->save_seconds));
    json_object_set_new(o, "save_waited_seconds", number(r->save_waited));
    json_object_set_new(o, "product_path", json_string(s->kernels->backend));
    json_object_set_new(o, "vector_path", json_string(s->kernels->vector_path));
    json_object_set_new(o, "numerics", json_string(ml_numerics_name(r->config->numerics)));
    json_object_set_new(o, "activations", json_string(ml_activation_mode_name(s->activations)));
    json_object_set_new(o, "allowed_changes", describe_changes(&r->changes));
    json_object_set_new(o, "load", describe_load(s));
    json_object_set_new(o, "memory", describe_memory(memory, predicted));
    return o;
}

static ml_status write_json(const run *r, const json_t *object)
{
    ml_status st = ML_OK;
    ml_text path = {0};
    char *text = ml_json_dump(object, JSON_INDENT(2) | JSON_REAL_PRECISION(17));
    ML_TRY(ml_text_printf(&path, "%s/summary.json", r->config->run_dir));
    if (!text) {
        st = ml_fail(ML_RESOURCE, "%s: out of memory", path.data);
        goto done;
    }
    ML_TRY(ml_durable_write(path.data, text, (int64_t)strlen(text), NULL));
done:
    free(text);
    ml_text_destroy(&path);
    return st;
}

ml_status summary_write(run *r)
{
    ml_status st = ML_OK;
    const session *s = &r->session;
    const memory_figures memory = find_memory(r);
    int64_t predicted[ML_MEM_CATEGORIES];
    find_predicted(r, predicted);
    if (ml_grid_rank(s->grid) == 0) {
        json_t *object = describe(r, &memory, predicted);
        st = object ? write_json(r, object) : ml_fail(ML_RESOURCE, "summary.json: out of memory");
        json_decref(object);
    }
    return ml_grid_agree(s->grid, st);
}
