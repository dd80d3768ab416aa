/* Two runs beside each other: the first step whose figures differ, the first gradient that does
 * (same_trace.c), and the first tensor of the newest checkpoint that both have. */
#include "store/inspect/same.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>

#include "io/json.h"
#include "mpilora/inspect.h"
#include "store/inspect/state_tensors.h"

static const int64_t largest_lines = (int64_t)16 << 30;

/* ---- lines --------------------------------------------------------------------------------- */

ml_status same_add(json_t *list, const char *what, bool same, json_t *about, const char *format,
                   ...)
{
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    json_t *line = json_pack("{s:s,s:b,s:s}", "what", what, "same", same, "text", text);
    bool made = line && (!about || !json_object_update(line, about));
    json_decref(about);
    if (json_array_append(list, line)) made = false;
    json_decref(line);
    return made ? ML_OK : ml_fail(ML_RESOURCE, "out of memory: a comparison of runs");
}

ml_status same_read_lines(const char *run, const char *name, char **text, const char **end)
{
    ml_status st = ML_OK;
    char path[ML_DURABLE_PATH];
    int64_t length;
    bool there;
    *text = NULL;
    ML_TRY(ml_durable_path(path, "%s/%s", run, name));
    ML_TRY(ml_durable_find(path, &there));
    if (!there) return ML_OK;
    ML_TRY(ml_durable_read(path, largest_lines, text, &length));
    *end = *text + length;
done:
    return st;
}

ml_status same_next_line(const char *run, const char *name, const char **at, const char *end,
                         json_t **out)
{
    json_decref(*out);
    *out = NULL;
    if (*at >= end) return ML_OK;
    const char *stop = memchr(*at, '\n', (size_t)(end - *at));
    if (!stop) return ML_OK; /* a line in work, or one that a killed run left */
    *out = json_loadb(*at, (size_t)(stop - *at), JSON_REJECT_DUPLICATES, NULL);
    *at = stop + 1;
    if (json_is_object(*out) && json_is_integer(json_object_get(*out, "step"))) return ML_OK;
    json_decref(*out);
    *out = NULL;
    return ml_fail(ML_INPUT, "%s/%s: a line is no JSON object with a step", run, name);
}

/* ---- metrics ------------------------------------------------------------------------------- */

/* What was measured, or says how a step was computed and not what: it differs from start to
 * start. */
static bool is_measured(const char *key)
{
    static const char *const keys[] = {"time",
                                       "kernel",
                                       "wait_s_by_rank",
                                       "peak_bytes",
                                       "allreduce_bytes",
                                       "allreduce_bytes_passed",
                                       "computed_tokens",
                                       "piped_bytes"};
    size_t length = strlen(key);
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (!strcmp(key, keys[i])) return true;
    return length > 2 && !strcmp(key + length - 2, "_s");
}

/* The first key of `x` whose value in `y` is another, or that is not there. */
static const char *find_other(const json_t *x, const json_t *y)
{
    const char *key;
    json_t *value, *line = (json_t *)(uintptr_t)x;
    json_object_foreach(line, key,
                        value) if (!is_measured(key) &&
                                   !json_equal(value, json_object_get(y, key))) return key;
    return NULL;
}

static void write_value(char *out, size_t size, const json_t *line, const char *key)
{
    char *text = json_dumps(json_object_get(line, key),
                            JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(17));
    snprintf(out, size, "%s", text ? text : "nothing");
    free(text);
}

static ml_status add_other(json_t *list, const json_t *x, const json_t *y, const char *key)
{
    char in_a[64], in_b[64];
    json_int_t step = json_integer_value(json_object_get(x, "step"));
    write_value(in_a, sizeof in_a, x, key);
    write_value(in_b, sizeof in_b, y, key);
    return same_add(list, "metrics", false, json_pack("{s:I,s:s}", "step", step, "key", key),
                    "step %" JSON_INTEGER_FORMAT ": %s is %s and %s", step, key, in_a, in_b);
}

static ml_status same_metrics(const char *a, const char *b, json_t *list)
{
    static const char name[] = "metrics.jsonl";
    ml_status st = ML_OK;
    char *text_a = NULL, *text_b = NULL;
    const char *end_a = NULL, *end_b = NULL, *key = NULL;
    json_t *x = NULL, *y = NULL;
    int64_t steps = 0;
    ML_TRY(same_read_lines(a, name, &text_a, &end_a));
    ML_TRY(same_read_lines(b, name, &text_b, &end_b));
    if (!text_a || !text_b) {
        st = ml_fail(ML_INPUT, "%s/%s: is missing: not a run's directory", text_a ? b : a, name);
        goto done;
    }
    for (const char *p = text_a, *q = text_b;; steps++) {
        ML_TRY(same_next_line(a, name, &p, end_a, &x));
        ML_TRY(same_next_line(b, name, &q, end_b, &y));
        if (!x || !y) break;
        key = find_other(x, y);
        if (!key) key = find_other(y, x);
        if (key) break;
    }
    if (key)
        ML_TRY(add_other(list, x, y, key));
    else if (steps == 0)
        st = ml_fail(ML_INPUT, "%s, %s: have no step in common", a, b);
    else
        ML_TRY(same_add(list, "metrics", true, json_pack("{s:I}", "steps", (json_int_t)steps),
                        "%" PRId64 " steps are the same%s%s%s", steps, x || y ? "; only " : "",
                        x   ? a
                        : y ? b
                            : "",
                        x || y ? " has more" : ""));
done:
    json_decref(x);
    json_decref(y);
    ml_memory_free(text_a);
    ml_memory_free(text_b);
    return st;
}

/* ---- checkpoints --------------------------------------------------------------------------- */

/* Numbers whose bits differ; where the first of them is. */
static int64_t count_other(const state_tensor *x, const state_tensor *y, int64_t *first)
{
    int64_t other = 0;
    for (int64_t i = 0; i < x->rows * x->cols; i++) {
        if (!memcmp(&x->value[i], &y->value[i], sizeof *x->value)) continue;
        if (other++ == 0) *first = i;
    }
    return other;
}

static ml_status add_tensor(json_t *list, int64_t step, const state_tensor *x,
                            const state_tensor *y, int64_t other, int64_t at)
{
    char name[sizeof x->name + 16];
    snprintf(name, sizeof name, "%s/%s", ml_state_kind[x->kind], x->name);
    json_t *about = json_pack("{s:I,s:s}", "step", (json_int_t)step, "tensor", name);
    return same_add(list, "checkpoint", false, about,
                    "step %" PRId64 ": %s: %" PRId64 " of %" PRId64
                    " numbers differ, the first in row %" PRId64 ", column %" PRId64
                    ": %.9g and %.9g",
                    step, name, other, x->rows * x->cols, at / x->cols, at % x->cols,
                    (double)x->value[at], (double)y->value[at]);
}

static ml_status compare_tensors(json_t *list, const state_tensors *x, const state_tensors *y)
{
    for (int64_t i = 0; i < ml_max(x->count, y->count); i++) {
        const state_tensor *p = i < x->count ? &x->item[i] : NULL,
                           *q = i < y->count ? &y->item[i] : NULL;
        const state_tensor *named = p ? p : q;
        int64_t at = 0, other;
        if (!p || !q || p->kind != q->kind || strcmp(p->name, q->name) != 0 || p->rows != q->rows ||
            p->cols != q->cols)
            return same_add(
                list, "checkpoint", false,
                json_pack("{s:I,s:s}", "step", (json_int_t)x->step, "tensor", named->name),
                "step %" PRId64 ": %s is not in both with one shape", x->step, named->name);
        other = count_other(p, q, &at);
        if (other > 0) return add_tensor(list, x->step, p, q, other, at);
    }
    if (x->cursor != y->cursor)
        return same_add(list, "checkpoint", false, json_pack("{s:I}", "step", (json_int_t)x->step),
                        "step %" PRId64 ": %" PRId64 " and %" PRId64 " sequences were taken",
                        x->step, x->cursor, y->cursor);
    return same_add(list, "checkpoint", true, json_pack("{s:I}", "step", (json_int_t)x->step),
                    "step %" PRId64 ": all %" PRId64 " tensors and moments are the same", x->step,
                    x->count);
}

/* The newest step of which both have a whole checkpoint, or −1. */
static ml_status find_common(ml_run_directory *a, ml_run_directory *b, int64_t *step)
{
    ml_status st = ML_OK;
    int64_t *of_a = NULL, *of_b = NULL, i = 0, k = 0;
    bool bad;
    *step = -1;
    ML_TRY(ml_steps_list(a, true, &of_a, &i));
    ML_TRY(ml_steps_list(b, true, &of_b, &k));
    while (i > 0 && k > 0 && *step < 0) {
        if (of_a[i - 1] != of_b[k - 1]) {
            *(of_a[i - 1] > of_b[k - 1] ? &i : &k) -= 1;
            continue;
        }
        if (ml_step_check(a, of_a[i - 1], NULL, &bad) == ML_OK &&
            ml_step_check(b, of_b[k - 1], NULL, &bad) == ML_OK)
            *step = of_a[i - 1];
        i--, k--;
    }
done:
    ml_memory_free(of_a);
    ml_memory_free(of_b);
    return st;
}

static ml_status same_checkpoints(const char *a, const char *b, json_t *list)
{
    ml_status st = ML_OK;
    ml_run_directory *run_a = NULL, *run_b = NULL;
    state_tensors x = {0}, y = {0};
    int64_t step;
    ML_TRY(state_run_open(a, &run_a));
    ML_TRY(state_run_open(b, &run_b));
    ML_TRY(find_common(run_a, run_b, &step));
    if (step < 0) goto done;
    ML_TRY(state_tensors_read(run_a, step, &x));
    ML_TRY(state_tensors_read(run_b, step, &y));
    ML_TRY(compare_tensors(list, &x, &y));
done:
    state_tensors_destroy(&x);
    state_tensors_destroy(&y);
    state_run_close(run_a);
    state_run_close(run_b);
    return st;
}

/* ---- all ----------------------------------------------------------------------------------- */

ml_status ml_same(const char *a, const char *b, ml_text *json, bool *same)
{
    ml_status st = ML_OK;
    char *text = NULL;
    json_t *o = NULL, *list = json_array();
    ML_TRY(same_metrics(a, b, list));
    ML_TRY(same_traces(a, b, list));
    ML_TRY(same_checkpoints(a, b, list));
    *same = true;
    for (size_t i = 0; i < json_array_size(list); i++)
        *same = *same && json_is_true(json_object_get(json_array_get(list, i), "same"));
    o = json_pack("{s:b,s:[s,s],s:O}", "same", *same, "runs", a, b, "compared", list);
    text = o ? ml_json_dump(o, JSON_COMPACT) : NULL;
    if (!text) {
        st = ml_fail(ML_RESOURCE, "%s, %s: out of memory, or a name is not UTF-8", a, b);
        goto done;
    }
    st = ml_text_printf(json, "%s", text);
done:
    free(text);
    json_decref(o);
    json_decref(list);
    return st;
}
