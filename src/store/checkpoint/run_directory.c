/* A run's directory: made, locked, cleared of what a killed process left. */
#include <sys/stat.h>

#include "store/checkpoint/run_lock.h"
#include "store/checkpoint/writing.h"

/* run.dir may be a link, or lie behind one: that is the user's choice of a place. What is in it
 * may not lead out of it, since old checkpoints are deleted there. */
static ml_status check_no_link(const char *path)
{
    struct stat info;
    if (lstat(path, &info) || !S_ISLNK(info.st_mode)) return ML_OK;
    return ml_fail(ML_USAGE,
                   "%s: is a symbolic link, which would lead out of the run's directory; make "
                   "run.dir itself the link, or remove it",
                   path);
}

static ml_status open_here(ml_run_directory *run, bool fresh)
{
    ml_status st = ML_OK;
    ML_TRY(check_no_link(run->checkpoints));
    ML_TRY(ml_durable_make_directories(run->checkpoints));
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
    ML_TRY(ml_grid_agree(grid, run ? ML_OK : ML_RESOURCE));
    run->lock = -1;
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
    if (run->writing && ml_writing_end(run->writing, ML_INTERNAL, NULL) != ML_OK)
        ml_warn("%s", ml_error_text()); /* the run has failed */
    ml_lock_release(run);
    json_decref(run->chosen);
    ml_memory_free(run->verified);
    ml_memory_free(run);
}

int64_t ml_run_directory_bytes(void)
{
    return (int64_t)sizeof(ml_run_directory) + lock_beat_bytes();
}

const char *ml_run_directory_path(const ml_run_directory *run) { return run->path; }

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
    if (!run->verified) {
        run->capacity = 16;
        ML_NEW(run->verified, run->capacity, ML_MEM_OTHER, "verified steps");
    } else if (run->nverified == run->capacity) {
        int64_t *grown =
            ml_memory_resize(run->verified, 2 * run->capacity, sizeof *grown, "verified steps");
        if (!grown) return ML_RESOURCE;
        run->verified = grown;
        run->capacity *= 2;
    }
    run->verified[run->nverified++] = step;
done:
    return st;
}
