/* Verifying a run's directory: its checkpoints and all files beside them, each by itself and
 * against each other. */
#include <inttypes.h>
#include <stdlib.h>

#include "store/checkpoint/run_directory.h"
#include "store/inspect/verify.h"

static const int64_t largest_lines = (int64_t)16 << 30, largest_summary = 16 << 20;

typedef struct verify {
    verify_list *list;
    ml_run_directory *run;
    int64_t newest; /* step of the newest whole checkpoint; −1: none */
    bool finished;
} verify;

/* ---- checkpoints --------------------------------------------------------------------------- */

static void check_step(verify *v, int64_t step)
{
    char path[ML_DURABLE_PATH];
    ml_checkpoint_progress progress;
    json_t *manifest = NULL;
    if (!verify_status(v->list, v->run->checkpoints, ml_step_path(v->run, step, "", path))) return;
    bool before = v->list->whole;
    v->list->whole = true;
    verify_checkpoint(v->list, path);
    if (v->list->whole && ml_manifest_read(v->run, step, &manifest, NULL) == ML_OK) {
        ml_manifest_progress(manifest, &progress);
        v->newest = step;
        v->finished = progress.finished;
    }
    json_decref(manifest);
    v->list->whole = v->list->whole && before;
}

/* Ascending, so that the newest comes last. */
static ml_status check_steps(verify *v)
{
    ml_status st = ML_OK;
    char path[ML_DURABLE_PATH];
    int64_t *steps = NULL, count = 0;
    ML_TRY(ml_steps_list(v->run, true, &steps, &count));
    for (int64_t i = 0; i < count; i++) check_step(v, steps[i]);
    ml_memory_free(steps);
    steps = NULL;
    ML_TRY(ml_steps_list(v->run, false, &steps, &count));
    for (int64_t i = 0; i < count; i++) {
        ML_TRY(ml_step_path(v->run, steps[i], "", path));
        verify_right(v->list, path,
                     "not committed: a save in work, or one that was broken off, which the next "
                     "start removes");
    }
done:
    ml_memory_free(steps);
    return st;
}

/* `latest` is a hint that may be lost, but what it names was committed. */
static ml_status check_latest(verify *v)
{
    enum { LONGEST = 64 };
    ml_status st = ML_OK;
    char path[ML_DURABLE_PATH], expected[LONGEST], *text = NULL;
    int64_t length;
    bool there, aside;
    ML_TRY(ml_durable_path(path, "%s/latest", v->run->checkpoints));
    ML_TRY(ml_durable_find(path, &there));
    ML_TRY(ml_step_has_set_aside(v->run, "bad", &aside));
    if (aside && v->newest < 0)
        verify_wrong(v->list, v->run->checkpoints,
                     "all checkpoints are bad (see set-aside/ there)");
    if (!there) return ML_OK;
    if (!verify_status(v->list, path, ml_durable_read(path, LONGEST, &text, &length))) return ML_OK;
    snprintf(expected, sizeof expected, "step-%08" PRId64 "\n", v->newest);
    if (v->newest >= 0 && !strcmp(text, expected))
        verify_right(v->list, path, "names the newest checkpoint");
    else
        verify_wrong(v->list, path,
                     "names %.*s, the newest whole checkpoint is that of step %" PRId64,
                     (int)strcspn(text, "\n"), text, v->newest);
done:
    ml_memory_free(text);
    return st;
}

/* ---- lines of JSON ------------------------------------------------------------------------- */

/* The step of one line; −1 where it is no JSON object with a step. */
static int64_t step_of_line(const char *line, size_t length)
{
    json_t *object = json_loadb(line, length, JSON_REJECT_DUPLICATES, NULL);
    const json_t *step = json_object_get(object, "step");
    int64_t found = json_is_integer(step) ? json_integer_value(step) : -1;
    json_decref(object);
    return found;
}

/* Each step once, ascending; `all`: from 1 on without a gap, at least up to the newest
 * checkpoint's. */
static void check_lines(verify *v, const char *path, const char *text, int64_t length, bool all)
{
    int64_t last = 0, lines = 0;
    for (const char *at = text; at < text + length; lines++) {
        const char *end = memchr(at, '\n', (size_t)(text + length - at));
        if (!end) {
            verify_wrong(v->list, path, "line %" PRId64 " is cut off", lines + 1);
            return;
        }
        int64_t step = step_of_line(at, (size_t)(end - at));
        if (step < 0) {
            verify_wrong(v->list, path, "line %" PRId64 " is no JSON object with a step",
                         lines + 1);
            return;
        }
        if (all ? step != last + 1 : step <= last) {
            verify_wrong(v->list, path,
                         "line %" PRId64 " is of step %" PRId64
                         ", the line before of step %" PRId64,
                         lines + 1, step, last);
            return;
        }
        last = step;
        at = end + 1;
    }
    if (all && last < v->newest) {
        verify_wrong(v->list, path,
                     "ends at step %" PRId64 ", the newest checkpoint is that of step %" PRId64,
                     last, v->newest);
        return;
    }
    verify_right(v->list, path, "%" PRId64 " lines", lines);
}

static void check_summary(verify *v, const char *path, const char *text, int64_t length)
{
    json_t *object = json_loadb(text, (size_t)length, JSON_REJECT_DUPLICATES, NULL);
    if (json_is_object(object))
        verify_right(v->list, path, "summary");
    else
        verify_wrong(v->list, path, "is no JSON object");
    json_decref(object);
}

/* ---- files beside the checkpoints ---------------------------------------------------------- */

typedef enum content { METRICS, EVALUATIONS, SUMMARY, CONFIGURATION, ADAPTER, MODEL } content;

static void check_text(verify *v, const char *path, content kind)
{
    char *text = NULL;
    int64_t length;
    if (!verify_status(v->list, path,
                       ml_durable_read(path,
                                       kind == METRICS || kind == EVALUATIONS ? largest_lines
                                                                              : largest_summary,
                                       &text, &length)))
        return;
    if (kind == METRICS || kind == EVALUATIONS) check_lines(v, path, text, length, kind == METRICS);
    if (kind == SUMMARY) check_summary(v, path, text, length);
    if (kind == CONFIGURATION && length > 0)
        verify_right(v->list, path, "configuration as resolved");
    if (kind == CONFIGURATION && length == 0) verify_wrong(v->list, path, "is empty");
    ml_memory_free(text);
}

static ml_status check_files(verify *v)
{
    static const struct {
        const char *name;
        content kind;
    } files[] = {{"config.yaml", CONFIGURATION},
                 {"metrics.jsonl", METRICS},
                 {"evaluations.jsonl", EVALUATIONS},
                 {"summary.json", SUMMARY},
                 {"adapter.h5", ADAPTER},
                 {"model.h5", MODEL}};
    ml_status st = ML_OK;
    char path[ML_DURABLE_PATH];
    bool there, result = false;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        ML_TRY(ml_durable_path(path, "%s/%s", v->run->path, files[i].name));
        ML_TRY(ml_durable_find(path, &there));
        result = result || (there && files[i].kind >= ADAPTER);
        if (!there && files[i].kind == METRICS && v->newest > 0)
            verify_wrong(v->list, path, "is missing");
        if (!there && files[i].kind == SUMMARY && v->finished)
            verify_wrong(v->list, path, "is missing, and the run is finished");
        if (!there) continue;
        if (files[i].kind < ADAPTER) check_text(v, path, files[i].kind);
        if (files[i].kind == ADAPTER) verify_adapter(v->list, path);
        if (files[i].kind == MODEL) verify_base(v->list, path);
    }
    if (v->finished && !result)
        verify_wrong(v->list, v->run->path,
                     "the run is finished, but has neither adapter.h5 nor model.h5");
done:
    return st;
}

void verify_run(verify_list *list, const char *path)
{
    ml_status st = ML_OK;
    verify v = {.list = list, .newest = -1};
    bool there = false;
    ML_NEW(v.run, 1, ML_MEM_OTHER, "a run's directory");
    ML_TRY(ml_durable_path(v.run->path, "%s", path));
    ML_TRY(ml_durable_path(v.run->checkpoints, "%s/checkpoints", path));
    ML_TRY(ml_durable_find(v.run->checkpoints, &there));
    if (!there) {
        st = ml_fail(ML_INPUT,
                     "%s: is neither a run's directory (no checkpoints/ in it) nor a checkpoint "
                     "nor a PEFT adapter",
                     path);
        goto done;
    }
    ML_TRY(check_steps(&v));
    ML_TRY(check_latest(&v));
    ML_TRY(check_files(&v));
done:
    (void)verify_status(list, path, st);
    if (v.run) ml_memory_free(v.run->verified);
    ml_memory_free(v.run);
}
