/* Two runs beside each other: the first step whose figures differ, the first evaluation and the
 * first gradient that do (same_trace.c), and the first tensor of the newest checkpoint that both
 * have. A run that goes on where the other ends is not the same as it, and neither is one that
 * lacks the other's newest checkpoint: what both have is compared, and what one has alone is named.
 */
#include "store/inspect/same.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>

#include "io/json.h"
#include "mpilora/inspect.h"
#include "store/inspect/state_tensors.h"

static const int64_t largest_lines = (int64_t)16 << 30;

/* ---- lines --------------------------------------------------------------------------------- */

ml_status same_add(json_t *list, const char *what, same_answer answer, json_t *about,
                   const char *format, ...)
{
    char text[2 * ML_DURABLE_PATH + 512]; /* both runs may be named */
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    json_t *same = answer == SAME_UNKNOWN ? json_null() : json_boolean(answer == SAME_YES);
    json_t *line = json_pack("{s:s,s:o,s:s}", "what", what, "same", same, "text", text);
    bool made = line && (!about || !json_object_update(line, about));
    json_decref(about);
    if (json_array_append(list, line)) made = false;
    json_decref(line);
    return made ? ML_OK
                : ml_fail(ML_RESOURCE,
                          "a comparison of runs: out of memory, or a name is not UTF-8");
}

json_t *same_about_more(const char *run, int64_t first, int64_t last)
{
    return json_pack("{s:I,s:s,s:I}", "step", (json_int_t)first, "more", run, "last",
                     (json_int_t)last);
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

static bool ends_with(const char *key, const char *end)
{
    size_t length = strlen(key), ending = strlen(end);
    return length > ending && !strcmp(key + length - ending, end);
}

/* What was measured, or says how a step was computed and not what: it differs from start to start,
 * and from grid to grid. Every time and every number of bytes is of these. */
static bool is_measured(const char *key)
{
    static const char *const keys[] = {"time", "kernel", "wait_s_by_rank", "allreduce_bytes_passed",
                                       "computed_tokens"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (!strcmp(key, keys[i])) return true;
    return ends_with(key, "_s") || ends_with(key, "_bytes");
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

static ml_status add_other(json_t *list, const char *what, const json_t *x, const json_t *y,
                           const char *key)
{
    char in_a[64], in_b[64];
    json_int_t step = json_integer_value(json_object_get(x, "step"));
    write_value(in_a, sizeof in_a, x, key);
    write_value(in_b, sizeof in_b, y, key);
    return same_add(list, what, SAME_NO, json_pack("{s:I,s:s}", "step", step, "key", key),
                    "step %" JSON_INTEGER_FORMAT ": %s is %s and %s", step, key, in_a, in_b);
}

/* A run's metrics.jsonl or evaluations.jsonl while it is read. */
typedef struct figures {
    const char *run, *name, *at, *end;
    char *text;   /* owned */
    json_t *line; /* owned; NULL at the end */
    int64_t step; /* of the newest line */
} figures;

static const char metrics_name[] = "metrics.jsonl", evaluations_name[] = "evaluations.jsonl";

/* f->text NULL: it is not there. */
static ml_status open_figures(figures *f)
{
    ml_status st = same_read_lines(f->run, f->name, &f->text, &f->end);
    f->at = f->text;
    return st;
}

static ml_status open_metrics(figures *f)
{
    ml_status st = open_figures(f);
    if (st == ML_OK && !f->text)
        st = ml_fail(ML_INPUT, "%s/%s: is missing: not a run's directory", f->run, metrics_name);
    return st;
}

static ml_status next_figures(figures *f)
{
    ml_status st = same_next_line(f->run, f->name, &f->at, f->end, &f->line);
    if (f->line) f->step = json_integer_value(json_object_get(f->line, "step"));
    return st;
}

/* The first key that one line has otherwise than the other. */
static const char *find_difference(const figures *x, const figures *y)
{
    const char *key = find_other(x->line, y->line);
    return key ? key : find_other(y->line, x->line);
}

static void close_figures(figures *f)
{
    json_decref(f->line);
    ml_memory_free(f->text);
}

/* `more` goes on where `other` ends, after `steps` steps that are the same. */
static ml_status add_more(json_t *list, figures *more, const figures *other, int64_t steps)
{
    ml_status st = ML_OK;
    int64_t first = more->step;
    json_t *about;
    while (more->line) ML_TRY(next_figures(more));
    about = same_about_more(more->run, first, more->step);
    if (about && json_object_set_new(about, "steps", json_integer((json_int_t)steps))) {
        json_decref(about);
        about = NULL;
    }
    ML_TRY(same_add(list, "metrics", SAME_NO, about,
                    "%" PRId64 " steps are the same, to step %" PRId64 ", where %s ends%s; %s goes "
                    "on to step %" PRId64,
                    steps, other->step, other->run,
                    other->at < other->end ? " in the midst of a line" : "", more->run,
                    more->step));
done:
    return st;
}

static ml_status same_metrics(const char *a, const char *b, json_t *list)
{
    ml_status st = ML_OK;
    figures x = {.run = a, .name = metrics_name}, y = {.run = b, .name = metrics_name};
    const char *key = NULL;
    int64_t steps = 0;
    ML_TRY(open_metrics(&x));
    ML_TRY(open_metrics(&y));
    for (;; steps++) {
        ML_TRY(next_figures(&x));
        ML_TRY(next_figures(&y));
        if (!x.line || !y.line) break;
        key = find_difference(&x, &y);
        if (key) break;
    }
    if (key)
        ML_TRY(add_other(list, "metrics", x.line, y.line, key));
    else if (steps == 0)
        st = ml_fail(ML_INPUT, "%s/%s: has no whole line: there is no step to compare",
                     x.line ? b : a, metrics_name);
    else if (x.line || y.line)
        ML_TRY(add_more(list, x.line ? &x : &y, x.line ? &y : &x, steps));
    else
        ML_TRY(same_add(list, "metrics", SAME_YES, json_pack("{s:I}", "steps", (json_int_t)steps),
                        "%" PRId64 " steps are the same", steps));
done:
    close_figures(&x);
    close_figures(&y);
    return st;
}

/* ---- evaluations --------------------------------------------------------------------------- */

/* To the first step that both have evaluated with another result; *steps and *alone: those before
 * that both have, and those that only one has. */
static ml_status compare_evaluations(figures *x, figures *y, const char **key, int64_t *steps,
                                     int64_t *alone)
{
    ml_status st = ML_OK;
    ML_TRY(next_figures(x));
    ML_TRY(next_figures(y));
    while (x->line || y->line) {
        bool in_x = x->line && (!y->line || x->step <= y->step),
             in_y = y->line && (!x->line || y->step <= x->step);
        if (in_x && in_y) {
            *key = find_difference(x, y);
            if (*key) break;
            ++*steps;
        } else {
            ++*alone;
        }
        if (in_x) ML_TRY(next_figures(x));
        if (in_y) ML_TRY(next_figures(y));
    }
done:
    return st;
}

/* Steps that only one has are no difference: how often a run evaluates changes nothing of it. */
static ml_status same_evaluations(const char *a, const char *b, json_t *list)
{
    ml_status st = ML_OK;
    static const char what[] = "evaluations";
    figures x = {.run = a, .name = evaluations_name}, y = {.run = b, .name = evaluations_name};
    const char *key = NULL;
    int64_t steps = 0, alone = 0;
    char rest[64] = "";
    ML_TRY(open_figures(&x));
    ML_TRY(open_figures(&y));
    if (!x.text && !y.text) goto done;
    if (!x.text || !y.text) {
        st = same_add(list, what, SAME_UNKNOWN, NULL, "only %s has %s", x.text ? a : b,
                      evaluations_name);
        goto done;
    }
    ML_TRY(compare_evaluations(&x, &y, &key, &steps, &alone));
    if (alone > 0) snprintf(rest, sizeof rest, "; %" PRId64 " more are of one run alone", alone);
    if (key)
        ML_TRY(add_other(list, what, x.line, y.line, key));
    else if (steps == 0)
        ML_TRY(same_add(list, what, SAME_UNKNOWN, NULL, "there is no step that both evaluated"));
    else
        ML_TRY(same_add(list, what, SAME_YES, json_pack("{s:I}", "steps", (json_int_t)steps),
                        "%" PRId64 " evaluations are the same%s", steps, rest));
done:
    close_figures(&x);
    close_figures(&y);
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
    return same_add(list, "checkpoint", SAME_NO, about,
                    "step %" PRId64 ": %s: %" PRId64 " of %" PRId64
                    " numbers differ, the first in row %" PRId64 ", column %" PRId64
                    ": %.9g and %.9g",
                    step, name, other, x->rows * x->cols, at / x->cols, at % x->cols,
                    (double)x->value[at], (double)y->value[at]);
}

/* The newest checkpoint that both runs have, and what one has alone. */
typedef struct checkpoints {
    int64_t common;   /* the step of the newest that is whole in both, or −1 */
    const char *more; /* the run whose newest whole one the other has not, or NULL */
    int64_t step;     /* that one's */
} checkpoints;

/* The first tensor that differs, or what they have more, or that all is the same. */
static ml_status compare_tensors(json_t *list, const checkpoints *found, const state_tensors *x,
                                 const state_tensors *y)
{
    for (int64_t i = 0; i < ml_max(x->count, y->count); i++) {
        const state_tensor *p = i < x->count ? &x->item[i] : NULL,
                           *q = i < y->count ? &y->item[i] : NULL;
        const state_tensor *named = p ? p : q;
        int64_t at = 0, other;
        if (!p || !q || p->kind != q->kind || strcmp(p->name, q->name) != 0 || p->rows != q->rows ||
            p->cols != q->cols)
            return same_add(
                list, "checkpoint", SAME_NO,
                json_pack("{s:I,s:s}", "step", (json_int_t)x->step, "tensor", named->name),
                "step %" PRId64 ": %s is not in both with one shape", x->step, named->name);
        other = count_other(p, q, &at);
        if (other > 0) return add_tensor(list, x->step, p, q, other, at);
    }
    if (x->cursor != y->cursor)
        return same_add(list, "checkpoint", SAME_NO,
                        json_pack("{s:I}", "step", (json_int_t)x->step),
                        "step %" PRId64 ": %" PRId64 " and %" PRId64 " sequences were taken",
                        x->step, x->cursor, y->cursor);
    if (found->more)
        return same_add(list, "checkpoint", SAME_NO,
                        same_about_more(found->more, found->step, found->step),
                        "step %" PRId64 ": all %" PRId64 " tensors and moments are the same; of "
                        "step %" PRId64 " only %s has a whole checkpoint",
                        x->step, x->count, found->step, found->more);
    return same_add(list, "checkpoint", SAME_YES, json_pack("{s:I}", "step", (json_int_t)x->step),
                    "step %" PRId64 ": all %" PRId64 " tensors and moments are the same", x->step,
                    x->count);
}

static bool is_whole(ml_run_directory *run, int64_t step)
{
    bool bad;
    return ml_step_check(run, step, NULL, &bad) == ML_OK;
}

/* From the newest on, until both have one; older ones are kept as train.keep and train.save_every
 * say, which two runs of the same numbers may have chosen apart. */
static ml_status find_checkpoints(ml_run_directory *a, ml_run_directory *b, const char *const *runs,
                                  checkpoints *out)
{
    ml_status st = ML_OK;
    int64_t *of_a = NULL, *of_b = NULL, i = 0, k = 0;
    *out = (checkpoints){.common = -1};
    ML_TRY(ml_steps_list(a, true, &of_a, &i));
    ML_TRY(ml_steps_list(b, true, &of_b, &k));
    while ((i > 0 || k > 0) && out->common < 0) {
        int64_t in_a = i > 0 ? of_a[i - 1] : -1, in_b = k > 0 ? of_b[k - 1] : -1;
        int64_t step = ml_max(in_a, in_b);
        bool a_has = in_a == step && is_whole(a, step), b_has = in_b == step && is_whole(b, step);
        if (in_a == step) i--;
        if (in_b == step) k--;
        if (a_has && b_has) {
            out->common = step;
        } else if ((a_has || b_has) && !out->more) {
            out->more = runs[a_has ? 0 : 1];
            out->step = step;
        }
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
    checkpoints found;
    ML_TRY(state_run_open(a, &run_a));
    ML_TRY(state_run_open(b, &run_b));
    ML_TRY(find_checkpoints(run_a, run_b, (const char *const[]){a, b}, &found));
    if (found.common >= 0) {
        ML_TRY(state_tensors_read(run_a, found.common, &x));
        ML_TRY(state_tensors_read(run_b, found.common, &y));
        ML_TRY(compare_tensors(list, &found, &x, &y));
    } else if (found.more) {
        ML_TRY(same_add(list, "checkpoint", SAME_NO,
                        same_about_more(found.more, found.step, found.step),
                        "of step %" PRId64 " only %s has a whole checkpoint, and of no step both",
                        found.step, found.more));
    } else {
        ML_TRY(same_add(list, "checkpoint", SAME_UNKNOWN, NULL, "neither has a whole one"));
    }
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
    ML_TRY(same_evaluations(a, b, list));
    ML_TRY(same_traces(a, b, list));
    ML_TRY(same_checkpoints(a, b, list));
    *same = true;
    for (size_t i = 0; i < json_array_size(list); i++)
        *same = *same && !json_is_false(json_object_get(json_array_get(list, i), "same"));
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
