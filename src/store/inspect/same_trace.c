/* Two traces beside each other (src/train/trace.c writes them). On the same grid line by line, so
 * that the rank is named, and whether it found another gradient itself or got another sum. On
 * different grids, of which a resumed run may have several, each rank adds up other sequences, and
 * only the sums are to be the same: each of the one run's is looked for in the other. */
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
    trace_line *line; /* owned */
    int64_t count, capacity;
} trace;

static void destroy(trace *t)
{
    for (int64_t i = 0; i < t->count; i++) json_decref(t->line[i].object);
    ml_memory_free(t->line);
}

static ml_status add_line(const char *run, trace *t, json_t *object)
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
        st = ml_fail(ML_INPUT, "%s/%s: a line lacks tensor, part, grid or before", run, name);
        goto done;
    }
    ML_GROW(t->line, t->count, t->capacity, ML_MEM_OTHER, "the lines of a trace");
    t->line[t->count++] = l;
    l.object = NULL;
done:
    json_decref(l.object);
    return st;
}

static ml_status read_trace(const char *run, trace *t)
{
    ml_status st = ML_OK;
    char *text = NULL;
    const char *end = NULL;
    json_t *object = NULL;
    ML_TRY(same_read_lines(run, name, &text, &end));
    for (const char *at = text; text;) {
        ML_TRY(same_next_line(run, name, &at, end, &object));
        if (!object) break;
        ML_TRY(add_line(run, t, object));
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
    return same_add(list, "trace", false, about,
                    "step %" PRId64 ": the gradient of %s (%s) on rank %" PRId64
                    " differs %s the sum over the grid",
                    l->step, l->tensor, l->part, l->rank, which);
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

static ml_status compare_ranks(json_t *list, const trace *a, const trace *b)
{
    bool other = false;
    ml_status st = ML_OK;
    int64_t count = ml_min(a->count, b->count);
    for (int64_t first = 0, end; first < count; first = end) {
        for (end = first; end < count && a->line[end].step == a->line[first].step; end++)
            if (!is_same_place(&a->line[end], &b->line[end]))
                return same_add(list, "trace", false, NULL,
                                "step %" PRId64 ": %s has %s on rank %" PRId64
                                " where the other has %s on rank %" PRId64
                                ": they trained other tensors, or began at other steps",
                                a->line[end].step, name, a->line[end].tensor, a->line[end].rank,
                                b->line[end].tensor, b->line[end].rank);
        st = compare_step(list, a->line + first, b->line + first, end - first, &other);
        if (st != ML_OK || other) return st;
    }
    return same_add(list, "trace", true, json_pack("{s:I}", "lines", (json_int_t)count),
                    "%" PRId64 " gradients are the same before and after their sum", count);
}

/* ---- another grid -------------------------------------------------------------------------- */

static int by_sum(const void *a, const void *b)
{
    const trace_line *x = *(const trace_line *const *)a, *y = *(const trace_line *const *)b;
    if (x->step != y->step) return x->step < y->step ? -1 : 1;
    int order = strcmp(x->tensor, y->tensor);
    return order ? order : strcmp(x->part, y->part);
}

static ml_status compare_sums(json_t *list, const trace *a, const trace *b)
{
    ml_status st = ML_OK;
    const trace_line **sorted = NULL;
    int64_t count = 0, compared = 0;
    ML_NEW(sorted, ml_max(1, b->count), ML_MEM_OTHER, "the lines of a trace");
    for (int64_t i = 0; i < b->count; i++)
        if (b->line[i].after) sorted[count++] = &b->line[i];
    qsort(sorted, (size_t)count, sizeof *sorted, by_sum);
    for (int64_t i = 0; i < a->count; i++) {
        const trace_line *l = &a->line[i];
        const trace_line **found = bsearch(&l, sorted, (size_t)count, sizeof *sorted, by_sum);
        if (!l->after || !found) continue;
        compared++;
        if (!strcmp(l->after, (*found)->after)) continue;
        st = name_line(list, l, "after");
        goto done;
    }
    ML_TRY(same_add(list, "trace", true, json_pack("{s:I}", "lines", (json_int_t)compared),
                    "%" PRId64 " sums of gradients that both grids have are the same", compared));
done:
    ml_memory_free(sorted);
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
    trace x = {0}, y = {0};
    ML_TRY(read_trace(a, &x));
    ML_TRY(read_trace(b, &y));
    if (x.count == 0 || y.count == 0) goto done;
    ML_TRY(is_on(&x, x.line[0].grid) && is_on(&y, x.line[0].grid) ? compare_ranks(list, &x, &y)
                                                                  : compare_sums(list, &x, &y));
done:
    destroy(&x);
    destroy(&y);
    return st;
}
