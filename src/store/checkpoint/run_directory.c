/* A run's directory and the checkpoints in it: opened and locked, listed, removed, set aside, kept.
 *
 * checkpoints/step-%08d/ with a manifest is a checkpoint; without one it is what a killed save
 * left. Deleting goes the other way round than saving: the manifest first, so that a half-deleted
 * checkpoint is none. set-aside/ holds what was moved away: step-%08d.KIND-%06d.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "store/checkpoint/run_lock.h"

enum { LEAST_KEPT = 2, KEPT_ASIDE = 2, NAME = 64 };
static const char set_aside_name[] = "set-aside";

/* ---- opening and closing ------------------------------------------------------------------- */

/* run.dir may be a link, or lie behind one: that is the user's choice of a place. What is in it
 * may not lead out of it, since old checkpoints are deleted there. */
static ml_status open_here(ml_run_directory *run, bool fresh)
{
    ml_status st = ML_OK;
    char path[ML_DURABLE_PATH];
    ML_TRY(ml_durable_check_own(run->checkpoints, true));
    ML_TRY(ml_durable_make_directories(run->checkpoints));
    ML_TRY(ml_durable_path(path, "%s/%s", run->checkpoints, set_aside_name));
    ML_TRY(ml_durable_check_own(path, true));
    ML_TRY(ml_lock_take(run));
    ML_TRY(ml_durable_clean(run->path));
    ML_TRY(ml_durable_clean(run->checkpoints));
    if (fresh) ML_TRY(ml_steps_start_over(run));
done:
    return st;
}

ml_status ml_run_directory_open(ml_run_directory **out, const char *path, bool fresh,
                                const ml_grid *grid)
{
    ml_status st = ML_OK;
    ml_run_directory *run = ml_memory_alloc(1, sizeof *run, ML_MEM_OTHER, "a run's directory");
    if (run) run->lock = -1; /* where another rank has failed, this one is closed without a lock */
    ML_TRY(ml_grid_agree(grid, run ? ML_OK : ML_RESOURCE));
    st = path[0] ? ml_durable_path(run->path, "%s", path)
                 : ml_fail(ML_USAGE, "run.dir: is empty; name a directory");
    if (st == ML_OK) st = ml_durable_path(run->checkpoints, "%s/checkpoints", path);
    if (st == ML_OK && ml_grid_rank(grid) == 0) st = open_here(run, fresh);
    ML_TRY(ml_grid_agree(grid, st));
    *out = run;
    run = NULL;
done:
    ml_run_directory_close(run);
    return st;
}

void ml_run_directory_close(ml_run_directory *run)
{
    if (!run) return;
    ml_save_abandon(run);
    ml_lock_release(run);
    json_decref(run->chosen);
    ml_memory_free(run->verified);
    ml_memory_free(run);
}

int64_t ml_run_directory_bytes(void)
{
    return (int64_t)sizeof(ml_run_directory) + ml_lock_heartbeat_bytes();
}

const char *ml_run_directory_path(const ml_run_directory *run) { return run->path; }

/* ---- the steps that are there -------------------------------------------------------------- */

ml_status ml_step_path(const ml_run_directory *run, int64_t step, const char *file,
                       char out[ML_DURABLE_PATH])
{
    return ml_durable_path(out, "%s/step-%08lld%s%s", run->checkpoints, (long long)step,
                           *file ? "/" : "", file);
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

/* A link or a file with a checkpoint's name counts as committed: it is judged, and never
 * entered. */
static ml_status is_committed(const ml_run_directory *run, int64_t step, bool *committed)
{
    ml_status st = ML_OK;
    char path[ML_DURABLE_PATH];
    struct stat info;
    ML_TRY(ml_step_path(run, step, "", path));
    *committed = true;
    if (lstat(path, &info) == 0 && !S_ISDIR(info.st_mode)) return ML_OK;
    ML_TRY(ml_step_path(run, step, ml_manifest_name, path));
    ML_TRY(ml_durable_find(path, committed));
done:
    return st;
}

ml_status ml_steps_list(const ml_run_directory *run, bool committed, int64_t **out, int64_t *count)
{
    ml_status st = ML_OK;
    int64_t capacity = 0, *steps = NULL, n = 0;
    DIR *dir = ml_durable_list(run->checkpoints);
    if (!dir)
        return ml_fail(ML_INPUT, "%s: cannot be listed: %s", run->checkpoints, strerror(errno));
    for (const struct dirent *entry;;) {
        bool is;
        ML_TRY(ml_durable_next(dir, run->checkpoints, &entry));
        if (!entry) break;
        int64_t step = step_of(entry->d_name);
        if (step < 0) continue;
        ML_TRY(is_committed(run, step, &is));
        if (is != committed) continue;
        ML_GROW(steps, n, capacity, ML_MEM_OTHER, "the list of checkpoints");
        steps[n++] = step;
    }
    if (n > 0) qsort(steps, (size_t)n, sizeof *steps, ascending);
    *out = steps;
    *count = n;
    steps = NULL;
done:
    ml_memory_free(steps);
    (void)closedir(dir);
    return st;
}

/* Manifest first, and that on disk before the rest goes: a half-deleted checkpoint is no
 * checkpoint. */
static ml_status remove_directory(const char *path)
{
    ml_status st = ML_OK;
    char manifest[ML_DURABLE_PATH];
    struct stat info;
    if (lstat(path, &info) == 0 && S_ISDIR(info.st_mode)) {
        ML_TRY(ml_durable_path(manifest, "%s/%s", path, ml_manifest_name));
        ML_TRY(ml_durable_remove(manifest));
        ML_TRY(ml_durable_sync_directory(path));
    }
    ML_TRY(ml_durable_remove(path));
done:
    return st;
}

ml_status ml_step_remove(const ml_run_directory *run, int64_t step)
{
    char path[ML_DURABLE_PATH];
    ml_status st = ml_step_path(run, step, "", path);
    return st != ML_OK ? st : remove_directory(path);
}

/* ---- which go: only those that enough whole newer ones make dispensable -------------------- */

bool ml_step_is_verified(const ml_run_directory *run, int64_t step)
{
    for (int64_t i = 0; i < run->nverified; i++)
        if (run->verified[i] == step) return true;
    return false;
}

ml_status ml_step_remember(ml_run_directory *run, int64_t step)
{
    ml_status st = ML_OK;
    if (ml_step_is_verified(run, step)) return ML_OK;
    ML_GROW(run->verified, run->nverified, run->capacity, ML_MEM_OTHER, "verified steps");
    run->verified[run->nverified++] = step;
done:
    return st;
}

static bool is_whole(ml_run_directory *run, int64_t step)
{
    bool bad;
    if (ml_step_is_verified(run, step)) return true;
    ml_status st = ml_step_check(run, step, NULL, &bad);
    if (st != ML_OK)
        ml_warn("checkpoint of step %" PRId64 ": %s; it does not count as kept", step,
                ml_error_text());
    return st == ML_OK;
}

void ml_steps_retain(ml_run_directory *run, int64_t keep, int64_t keep_step)
{
    int64_t *steps = NULL, count = 0, kept = 0;
    keep = ml_max(keep, LEAST_KEPT);
    ml_status st = ml_steps_list(run, true, &steps, &count);
    for (int64_t i = count - 1; st == ML_OK && count > keep && i >= 0; i--) {
        if (kept < keep)
            kept += is_whole(run, steps[i]);
        else if (steps[i] != keep_step)
            st = ml_step_remove(run, steps[i]);
    }
    if (st != ML_OK) ml_warn("old checkpoints stay: %s", ml_error_text());
    ml_memory_free(steps);
}

/* ---- set-aside/: step-%08d.KIND-%06d, numbered upwards ------------------------------------- */

static int64_t aside_number(const char *name, const char *kind)
{
    char mark[16];
    snprintf(mark, sizeof mark, ".%s-", kind);
    const char *found = strstr(name, mark);
    return found && !strncmp(name, "step-", 5) ? strtoll(found + strlen(mark), NULL, 10) : -1;
}

/* How many of the kind there are, the highest number, and the name with the lowest. */
typedef struct aside {
    int64_t count, highest;
    char lowest[NAME];
} aside;

static ml_status survey(const ml_run_directory *run, const char *kind, aside *found)
{
    ml_status st = ML_OK;
    char path[ML_DURABLE_PATH];
    int64_t least = INT64_MAX;
    DIR *dir = NULL;
    *found = (aside){0};
    ML_TRY(ml_durable_path(path, "%s/%s", run->checkpoints, set_aside_name));
    if (!(dir = ml_durable_list(path)))
        return errno == ENOENT
                   ? ML_OK
                   : ml_fail(ML_INPUT, "%s: cannot be listed: %s", path, strerror(errno));
    for (const struct dirent *entry;;) {
        ML_TRY(ml_durable_next(dir, path, &entry));
        if (!entry) break;
        int64_t number = aside_number(entry->d_name, kind);
        if (number < 0) continue;
        found->count++;
        found->highest = ml_max(found->highest, number);
        if (number < least) snprintf(found->lowest, NAME, "%.*s", NAME - 1, entry->d_name);
        least = ml_min(least, number);
    }
done:
    if (dir) (void)closedir(dir);
    return st;
}

ml_status ml_step_has_set_aside(const ml_run_directory *run, const char *kind, bool *any)
{
    aside found;
    ml_status st = survey(run, kind, &found);
    *any = found.count > 0;
    return st;
}

/* Of a kind, the oldest go until `keep` are left. */
static ml_status thin_out(const ml_run_directory *run, const char *kind, int64_t keep)
{
    ml_status st = ML_OK;
    char path[ML_DURABLE_PATH];
    aside found;
    for (;;) {
        ML_TRY(survey(run, kind, &found));
        if (found.count <= keep) break;
        ML_TRY(ml_durable_path(path, "%s/%s/%s", run->checkpoints, set_aside_name, found.lowest));
        ML_TRY(remove_directory(path));
    }
done:
    return st;
}

ml_status ml_step_set_aside(const ml_run_directory *run, int64_t step, const char *kind)
{
    ml_status st = ML_OK;
    char from[ML_DURABLE_PATH], to[ML_DURABLE_PATH];
    aside found;
    ML_TRY(ml_durable_path(to, "%s/%s", run->checkpoints, set_aside_name));
    ML_TRY(ml_durable_make_directories(to));
    ML_TRY(survey(run, kind, &found));
    ML_TRY(ml_step_path(run, step, "", from));
    ML_TRY(ml_durable_path(to, "%s/%s/step-%08lld.%s-%06lld", run->checkpoints, set_aside_name,
                           (long long)step, kind, (long long)found.highest + 1));
    ML_TRY(ml_durable_rename(from, to));
    ML_TRY(thin_out(run, kind, KEPT_ASIDE));
done:
    return st;
}

/* Bad ones of earlier starts forbid a silent fresh start; one that was asked for needs them no
 * more. */
ml_status ml_steps_start_over(const ml_run_directory *run)
{
    ml_status st = ML_OK;
    char latest[ML_DURABLE_PATH];
    int64_t *steps = NULL, count = 0;
    ML_TRY(ml_steps_list(run, true, &steps, &count));
    for (int64_t i = 0; i < count; i++) ML_TRY(ml_step_set_aside(run, steps[i], "old"));
    ML_TRY(thin_out(run, "bad", 0));
    ML_TRY(ml_durable_path(latest, "%s/latest", run->checkpoints));
    ML_TRY(ml_durable_remove(latest));
done:
    ml_memory_free(steps);
    return st;
}
