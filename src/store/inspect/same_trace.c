/* Two traces beside each other (src/train/trace.c writes them). On the same grid line by line, so
 * that the rank is named, and whether it found another gradient itself or got another sum. On
 * different grids, of which a resumed run may have several, each rank adds up other sequences, and
 * only the sums are to be the same: each of the one run's is looked for in the other. What one has
 * alone, since the other's file ends earlier or was cut, is a difference, too. */
#include <inttypes.h>
#include <stdlib.h>

#include "store/inspect/same.h"

static const char name[] = "trace.jsonl";

typedef struct trace_line {
    int64_t step, rank;
    json_t *object;                    /* owned; what follows is borrowed from it */
    const char *tensor, *part, *after; /* after: NULL where the rank has not the whole sum */
    const char *before, *grid;
} trace_line;

typedef struct trace {
    const char *run;
    trace_line *line; /* owned */
    int64_t count, capacity;
    bool there, cut; /* the file; its last line has no end */
} trace;

/* What was compared, and the first line of the earliest step that one has alone. */
typedef struct comparison {
    int64_t compared;
    const trace *more, *other;
    const trace_line *line; /* NULL: both have the same */
} comparison;

static void destroy(trace *t)
{
    for (int64_t i = 0; i < t->count; i++) json_decref(t->line[i].object);
    ml_memory_free(t->line);
}

static ml_status add_line(trace *t, json_t *object)
{
    ml_status st = ML_OK;
    trace_line l = {.object = json_incref(object)};
    l.step = json_integer_value(json_object_get(object, "step"));
    l.rank = json_integer_value(json_object_get(object, "rank"));
    l.tensor = json_string_value(json_object_get(object, "tensor"));
    l.part = json_string_value(json_object_get(object, "part"));
    l.grid = json_string_value(json_object_get(object, "grid"));
    l.before = json_string_value(json_object_get(object, "before"));
    l.after = json_string_value(json_object_get(object, "after"));
    if (!l.tensor || !l.part || !l.grid || !l.before) {
        st = ml_fail(ML_INPUT, "%s/%s: a line lacks tensor, part, grid or before", t->run, name);
        goto done;
    }
    ML_GROW(t->line, t->count, t->capacity, ML_MEM_OTHER, "the lines of a trace");
    t->line[t->count++] = l;
    l.object = NULL;
done:
    json_decref(l.object);
    return st;
}

static ml_status read_trace(trace *t)
{
    ml_status st = ML_OK;
    char *text = NULL;
    const char *end = NULL;
    json_t *object = NULL;
    ML_TRY(same_read_lines(t->run, name, &text, &end));
    t->there = text != NULL;
    for (const char *at = text; text;) {
        ML_TRY(same_next_line(t->run, name, &at, end, &object));
        t->cut = at < end;
        if (!object) break;
        ML_TRY(add_line(t, object));
    }
done:
    json_decref(object);
    ml_memory_free(text);
    return st;
}

static ml_status name_line(json_t *list, const trace_line *l, const char *which)
{
    json_t *about = json_pack("{s:I,s:s,s:I,s:s}", "step", (json_int_t)l->step, "tensor", l->tensor,
                              "rank", (json_int_t)l->rank, "sum", which);
    return same_add(list, "trace", SAME_NO, about,
                    "step %" PRId64 ": the gradient of %s (%s) on rank %" PRId64
                    " differs %s the sum over the grid",
                    l->step, l->tensor, l->part, l->rank, which);
}

static void note_more(comparison *c, const trace *more, const trace *other, const trace_line *l)
{
    if (c->line && c->line->step <= l->step) return;
    c->more = more;
    c->other = other;
    c->line = l;
}

static int64_t last_step(const trace *t) { return t->count > 0 ? t->line[t->count - 1].step : 0; }

/* Nothing that both have differs. `what` was compared. */
static ml_status conclude(json_t *list, const comparison *c, const char *what)
{
    const char *midst = " in the midst of a line";
    if (c->line)
        return same_add(list, "trace", SAME_NO,
                        same_about_more(c->more->run, c->line->step, last_step(c->more)),
                        "%" PRId64 " %s are the same; of step %" PRId64 " only %s has %s on rank "
                        "%" PRId64 "; it ends at step %" PRId64 "%s, %s at step %" PRId64 "%s",
                        c->compared, what, c->line->step, c->more->run, c->line->tensor,
                        c->line->rank, last_step(c->more), c->more->cut ? midst : "", c->other->run,
                        last_step(c->other), c->other->cut ? midst : "");
    if (c->compared == 0)
        return same_add(list, "trace", SAME_UNKNOWN, NULL, "there are no %s", what);
    return same_add(list, "trace", SAME_YES, json_pack("{s:I}", "lines", (json_int_t)c->compared),
                    "%" PRId64 " %s are the same", c->compared, what);
}

/* ---- the same grid ------------------------------------------------------------------------- */

/* Within a step: a rank that computed something else explains sums that are others, so those are
 * looked for first. */
static ml_status compare_step(json_t *list, const trace_line *a, const trace_line *b, int64_t count,
                              bool *other)
{
    for (int64_t i = 0; i < count; i++) {
        if (!strcmp(a[i].before, b[i].before)) continue;
        *other = true;
        return name_line(list, &a[i], "before");
    }
    for (int64_t i = 0; i < count; i++) {
        if (!a[i].after || !b[i].after || !strcmp(a[i].after, b[i].after)) continue;
        *other = true;
        return name_line(list, &a[i], "after");
    }
    return ML_OK;
}

static bool is_same_place(const trace_line *a, const trace_line *b)
{
    return a->step == b->step && a->rank == b->rank && !strcmp(a->tensor, b->tensor) &&
           !strcmp(a->part, b->part);
}

/* How many lines of one step there are from line `first` on. */
static int64_t count_lines(const trace *t, int64_t first, int64_t step)
{
    int64_t end = first;
    while (end < t->count && t->line[end].step == step) end++;
    return end - first;
}

static ml_status compare_ranks(json_t *list, const trace *a, const trace *b)
{
    bool other = false;
    comparison c = {0};
    for (int64_t i = 0, k = 0, of_a, of_b; i < a->count || k < b->count; i += of_a, k += of_b) {
        const trace_line *x = a->line ? a->line + i : NULL, *y = b->line ? b->line + k : NULL;
        bool from_a = k == b->count || (i < a->count && x->step <= y->step);
        int64_t step = (from_a ? x : y)->step;
        of_a = count_lines(a, i, step);
        of_b = count_lines(b, k, step);
        int64_t both = ml_min(of_a, of_b);
        for (int64_t n = 0; n < both; n++)
            if (!is_same_place(&x[n], &y[n]))
                return same_add(list, "trace", SAME_NO, NULL,
                                "step %" PRId64 ": %s has %s on rank %" PRId64
                                " where the other has %s on rank %" PRId64
                                ": they trained other tensors",
                                step, name, x[n].tensor, x[n].rank, y[n].tensor, y[n].rank);
        ml_status st = compare_step(list, x, y, both, &other);
        if (st != ML_OK || other) return st;
        c.compared += both;
        if (of_a > both) note_more(&c, a, b, x + both);
        if (of_b > both) note_more(&c, b, a, y + both);
    }
    return conclude(list, &c, "gradients that both have before and after their sum");
}

/* ---- another grid -------------------------------------------------------------------------- */

static int by_tensor(const void *a, const void *b)
{
    const trace_line *x = *(const trace_line *const *)a, *y = *(const trace_line *const *)b;
    if (x->step != y->step) return x->step < y->step ? -1 : 1;
    return strcmp(x->tensor, y->tensor);
}

static int by_sum(const void *a, const void *b)
{
    const trace_line *x = *(const trace_line *const *)a, *y = *(const trace_line *const *)b;
    int order = by_tensor(a, b);
    return order ? order : strcmp(x->part, y->part);
}

static ml_status sort_lines(const trace *t, const trace_line ***sorted)
{
    ml_status st = ML_OK;
    ML_NEW(*sorted, ml_max(1, t->count), ML_MEM_OTHER, "the lines of a trace");
    for (int64_t i = 0; i < t->count; i++) (*sorted)[i] = &t->line[i];
    qsort(*sorted, (size_t)t->count, sizeof **sorted, by_sum);
done:
    return st;
}

static const trace_line *find_line(const trace_line *l, const trace_line *const *sorted,
                                   int64_t count, int (*by)(const void *, const void *))
{
    const trace_line *const *found =
        bsearch(&l, sorted, (size_t)count, sizeof(const trace_line *), by);
    return found ? *found : NULL;
}

/* Grids may hold a tensor in other parts, but each step's tensors are all there on any. */
static void find_more(comparison *c, const trace *t, const trace *other,
                      const trace_line *const *sorted)
{
    for (int64_t i = 0; i < t->count; i++)
        if (!find_line(&t->line[i], sorted, other->count, by_tensor))
            note_more(c, t, other, &t->line[i]);
}

static ml_status compare_sums(json_t *list, const trace *a, const trace *b)
{
    ml_status st = ML_OK;
    comparison c = {0};
    const trace_line **of_a = NULL, **of_b = NULL;
    ML_TRY(sort_lines(a, &of_a));
    ML_TRY(sort_lines(b, &of_b));
    for (int64_t i = 0; i < a->count; i++) {
        const trace_line *l = &a->line[i], *found = find_line(l, of_b, b->count, by_sum);
        if (!l->after || !found || !found->after) continue;
        c.compared++;
        if (!strcmp(l->after, found->after)) continue;
        st = name_line(list, l, "after");
        goto done;
    }
    find_more(&c, a, b, of_b);
    find_more(&c, b, a, of_a);
    ML_TRY(conclude(list, &c, "sums of gradients that both grids have"));
done:
    ml_memory_free(of_a);
    ml_memory_free(of_b);
    return st;
}

/* A run that went on elsewhere has lines of several grids. */
static bool is_on(const trace *t, const char *grid)
{
    for (int64_t i = 0; i < t->count; i++)
        if (strcmp(t->line[i].grid, grid) != 0) return false;
    return true;
}

ml_status same_traces(const char *a, const char *b, json_t *list)
{
    ml_status st = ML_OK;
    trace x = {.run = a}, y = {.run = b};
    ML_TRY(read_trace(&x));
    ML_TRY(read_trace(&y));
    if (!x.there && !y.there) goto done;
    if (!x.there || !y.there) {
        st = same_add(list, "trace", SAME_UNKNOWN, NULL,
                      "only %s has %s (run.trace): no gradients were compared", x.there ? a : b,
                      name);
        goto done;
    }
    const char *grid = x.count > 0 ? x.line[0].grid : y.count > 0 ? y.line[0].grid : "";
    ML_TRY(is_on(&x, grid) && is_on(&y, grid) ? compare_ranks(list, &x, &y)
                                              : compare_sums(list, &x, &y));
done:
    destroy(&x);
    destroy(&y);
    return st;
}
