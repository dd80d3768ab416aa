/* The checkpoints of a run as directories: listed, removed, set aside. */
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "store/run_directory.h"

enum { KEPT_ASIDE = 2, NAME = 64 };
static const char set_aside_name[] = "set-aside";

ml_status ml_step_path(const ml_run_directory *run, int64_t step, const char *file, char out[ML_DURABLE_PATH])
{
    return ml_durable_path(out, "%s/step-%08lld%s%s", run->checkpoints, (long long)step, *file ? "/" : "", file);
}

/* The step of a directory's name; −1 where it is none of ours. */
static int64_t step_of(const char *name)
{
    char again[NAME];
    if (strncmp(name, "step-", 5) != 0) return -1;
    long long step = strtoll(name + 5, NULL, 10);
    snprintf(again, sizeof again, "step-%08lld", step);
    return step >= 0 && !strcmp(name, again) ? step : -1;
}

static int ascending(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static ml_status add_step(int64_t **steps, int64_t *count, int64_t *capacity, int64_t step)
{
    if (*count == *capacity) {
        int64_t *grown = ml_memory_resize(*steps, 2 * *capacity, sizeof *grown, "the list of checkpoints");
        if (!grown) return ML_RESOURCE;
        *steps = grown;
        *capacity *= 2;
    }
    (*steps)[(*count)++] = step;
    return ML_OK;
}

ml_status ml_steps_list(const ml_run_directory *run, bool committed, int64_t **out, int64_t *count)
{
    ml_status st = ML_OK;
    int64_t capacity = 16, *steps = NULL, n = 0;
    DIR *dir = opendir(run->checkpoints);
    if (!dir) return ml_fail(ML_INPUT, "%s: cannot be listed: %s", run->checkpoints, strerror(errno));
    ML_NEW(steps, capacity, ML_MEM_OTHER, "the list of checkpoints");
    const struct dirent *entry;
    while ((entry = readdir(dir))) {
        char manifest[ML_DURABLE_PATH];
        int64_t step = step_of(entry->d_name);
        if (step < 0) continue;
        ML_TRY(ml_step_path(run, step, ml_manifest_name, manifest));
        if (ml_durable_exists(manifest) == committed) ML_TRY(add_step(&steps, &n, &capacity, step));
    }
    qsort(steps, (size_t)n, sizeof *steps, ascending);
    *out = steps;
    *count = n;
    steps = NULL;
done:
    ml_memory_free(steps);
    (void)closedir(dir);
    return st;
}

static ml_status cannot_remove(const char *path) { return ml_fail(ML_RESOURCE, "%s: cannot be removed: %s", path, strerror(errno)); }

static ml_status remove_files(const char *path)
{
    ml_status st = ML_OK;
    DIR *dir = opendir(path);
    if (!dir) return cannot_remove(path);
    const struct dirent *entry;
    while (st == ML_OK && (entry = readdir(dir))) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        if (unlinkat(dirfd(dir), entry->d_name, 0) && errno != ENOENT) st = cannot_remove(path);
    }
    (void)closedir(dir);
    return st;
}

/* Manifest first, and that on disk before the rest goes: a half-deleted checkpoint is no checkpoint. */
static ml_status remove_directory(const char *path)
{
    ml_status st = ML_OK;
    char manifest[ML_DURABLE_PATH];
    ML_TRY(ml_durable_path(manifest, "%s/%s", path, ml_manifest_name));
    if (unlink(manifest) == 0)
        ML_TRY(ml_durable_sync_directory(path));
    else if (errno != ENOENT)
        return cannot_remove(manifest);
    ML_TRY(remove_files(path));
    if (rmdir(path)) return cannot_remove(path);
done:
    return st;
}

ml_status ml_step_remove(const ml_run_directory *run, int64_t step)
{
    char path[ML_DURABLE_PATH];
    ml_status st = ml_step_path(run, step, "", path);
    return st != ML_OK ? st : remove_directory(path);
}

/* ---- set-aside/: step-%08d.KIND-%06d, numbered upwards ---------------------------------------------------------------------------- */

static int64_t aside_number(const char *name, const char *kind)
{
    char mark[16];
    snprintf(mark, sizeof mark, ".%s-", kind);
    const char *found = strstr(name, mark);
    return found && !strncmp(name, "step-", 5) ? strtoll(found + strlen(mark), NULL, 10) : -1;
}

/* How many of the kind there are, the highest number, and the name with the lowest. */
static int64_t survey(const ml_run_directory *run, const char *kind, int64_t *highest, char lowest[NAME])
{
    char path[ML_DURABLE_PATH];
    int64_t count = 0, least = INT64_MAX;
    *highest = 0;
    if (ml_durable_path(path, "%s/%s", run->checkpoints, set_aside_name) != ML_OK) return 0;
    DIR *dir = opendir(path);
    if (!dir) return 0;
    const struct dirent *entry;
    while ((entry = readdir(dir))) {
        int64_t number = aside_number(entry->d_name, kind);
        if (number < 0) continue;
        count++;
        *highest = ml_max(*highest, number);
        if (number < least) {
            least = number;
            snprintf(lowest, NAME, "%.*s", NAME - 1, entry->d_name);
        }
    }
    (void)closedir(dir);
    return count;
}

bool ml_step_has_set_aside(const ml_run_directory *run, const char *kind)
{
    int64_t highest;
    char lowest[NAME];
    return survey(run, kind, &highest, lowest) > 0;
}

ml_status ml_step_set_aside(const ml_run_directory *run, int64_t step, const char *kind)
{
    ml_status st = ML_OK;
    char from[ML_DURABLE_PATH], to[ML_DURABLE_PATH], lowest[NAME];
    int64_t highest;
    ML_TRY(ml_durable_path(to, "%s/%s", run->checkpoints, set_aside_name));
    ML_TRY(ml_durable_make_directories(to));
    survey(run, kind, &highest, lowest);
    ML_TRY(ml_step_path(run, step, "", from));
    ML_TRY(ml_durable_path(to, "%s/%s/step-%08lld.%s-%06lld", run->checkpoints, set_aside_name, (long long)step, kind,
                           (long long)highest + 1));
    ML_TRY(ml_durable_rename(from, to));
    while (survey(run, kind, &highest, lowest) > KEPT_ASIDE) {
        ML_TRY(ml_durable_path(to, "%s/%s/%s", run->checkpoints, set_aside_name, lowest));
        ML_TRY(remove_directory(to));
    }
done:
    return st;
}

/* Bad ones of earlier starts forbid a silent fresh start; one that was asked for needs them no more. */
static ml_status remove_bad(const ml_run_directory *run)
{
    ml_status st = ML_OK;
    char from[ML_DURABLE_PATH], lowest[NAME];
    int64_t highest;
    while (survey(run, "bad", &highest, lowest) > 0) {
        ML_TRY(ml_durable_path(from, "%s/%s/%s", run->checkpoints, set_aside_name, lowest));
        ML_TRY(remove_directory(from));
    }
done:
    return st;
}

ml_status ml_steps_start_over(const ml_run_directory *run)
{
    ml_status st = ML_OK;
    char latest[ML_DURABLE_PATH];
    int64_t *steps = NULL, count = 0;
    ML_TRY(ml_steps_list(run, true, &steps, &count));
    for (int64_t i = 0; i < count; i++) ML_TRY(ml_step_set_aside(run, steps[i], "old"));
    ML_TRY(remove_bad(run));
    ML_TRY(ml_durable_path(latest, "%s/latest", run->checkpoints));
    if (unlink(latest) && errno != ENOENT) st = cannot_remove(latest);
done:
    ml_memory_free(steps);
    return st;
}
