/* What the subjects of `mpilora analyze` share: options, the study, the beginnings of JSON. */
#include <errno.h>
#include <inttypes.h>

#include "cli/analyze/analyze.h"
#include "cli/bench/bench.h"
#include "io/durable.h"

int64_t analyze_memory(const analyze_options *o)
{
    return (int64_t)(o->memory * (double)(1 << 30));
}

/* ---- options ------------------------------------------------------------------------------- */

/* "3" or "0-3" at *text; *text moves behind it. */
static bool read_range(const char **text, int64_t *first, int64_t *last)
{
    char *end;
    errno = 0;
    *first = *last = strtoll(*text, &end, 10);
    if (end == *text || **text == '-' || **text == '+') return false;
    if (*end == '-') {
        const char *second = end + 1;
        *last = strtoll(second, &end, 10);
        if (end == second || *second == '-' || *second == '+') return false;
    }
    *text = end;
    return errno == 0 && (*end == ',' || *end == '\0');
}

static ml_status read_layers(const char *text, ml_selection *out)
{
    for (const char *at = text;; at++) {
        if (out->ranges == ML_SELECTION_RANGES)
            return ml_fail(ML_USAGE, "--layers: more than %d ranges", ML_SELECTION_RANGES);
        if (!read_range(&at, &out->range[out->ranges].first, &out->range[out->ranges].last))
            return ml_fail(ML_USAGE, "--layers: \"%s\" is no list of layers like 0-3,7", text);
        out->ranges++;
        if (!*at) return ML_OK;
    }
}

static ml_status read_selection(const analyze_options *o, ml_selection *out)
{
    ml_status st = ML_OK;
    *out = (ml_selection){0};
    if (o->targets) ML_TRY(bench_read_targets(o->targets, &out->targets));
    if (out->targets & ML_TARGET_ALL) out->targets = 0;
    if (o->layers) ML_TRY(read_layers(o->layers, out));
    if (o->seed < 0) return ml_fail(ML_USAGE, "--seed: %" PRId64 " is negative", o->seed);
    if (o->memory < 0.0 || o->memory > 1e6)
        return ml_fail(ML_USAGE, "--memory: %g GiB is out of range", o->memory);
done:
    return st;
}

/* Before hours of work: can the result be written, and does it replace nothing that is studied? */
static ml_status check_out(const char *out, const char *base,
                           const char *const adapters[ML_STUDY_ADAPTERS])
{
    if (ml_durable_is_same(out, base))
        return ml_fail(ML_USAGE, "--out: %s is the base itself", out);
    for (int i = 0; i < ML_STUDY_ADAPTERS && adapters[i]; i++)
        if (ml_durable_is_same(out, adapters[i]))
            return ml_fail(ML_USAGE, "--out: %s is the adapter itself", out);
    return ml_durable_may_write(out);
}

/* ---- the study ----------------------------------------------------------------------------- */

ml_status analyze_open(analyze_run *run, const analyze_options *o,
                       const char *const adapters[ML_STUDY_ADAPTERS], const char *usage)
{
    ml_status st = ML_OK;
    ml_selection selection;
    *run = (analyze_run){0};
    if (!o->base) return ml_fail(ML_USAGE, "--base is missing; usage: %s", usage);
    ML_TRY(read_selection(o, &selection));
    ML_TRY(ml_grid_create(&run->grid, 1));
    if (o->out)
        ML_TRY(ml_grid_agree(run->grid,
                             analyze_speaks() ? check_out(o->out, o->base, adapters) : ML_OK));
    st = ml_study_open(&run->study, run->grid, o->base, adapters, &selection);
done:
    return st;
}

void analyze_close(analyze_run *run)
{
    ml_study_close(&run->study);
    ml_grid_destroy(run->grid);
}

/* ---- output -------------------------------------------------------------------------------- */

bool analyze_speaks(void) { return ml_grid_world_rank() == 0; }

json_t *analyze_json(const ml_study *study, const char *kind)
{
    json_t *adapters = json_array();
    for (int i = 0; i < study->adapters; i++)
        json_array_append_new(adapters, json_string(study->path[i]));
    return json_pack("{s:s, s:s, s:o, s:[]}", "kind", kind, "base", ml_base_path(study->base),
                     "adapters", adapters, "sites");
}

json_t *analyze_json_module(const ml_study_module *module)
{
    return json_pack("{s:s, s:I, s:s, s:I, s:I}", "site", module->name, "layer",
                     (json_int_t)module->layer, "target", module->target, "out",
                     (json_int_t)module->out, "in", (json_int_t)module->in);
}

json_t *analyze_json_numbers(const double *x, int64_t n)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < n; i++) json_array_append_new(list, json_real(x[i]));
    return list;
}

void analyze_print_json(json_t *result)
{
    json_dumpf(result, stdout, JSON_COMPACT);
    putchar('\n');
    json_decref(result);
}
