/* Saving a checkpoint: one state machine, from tensors in the ranks' memory to the commit.
 *
 *   state        who works, on which thread               what a failure leaves on disk
 *
 *   (no save)
 *      | ml_checkpoint_begin, every rank
 *   CHECKING     rank 0's caller: is the lock still       nothing new; a bad checkpoint of this
 *      |    |    ours, is this step committed already?    step has moved to set-aside/
 *      |    +--- it is: its files are taken over -----+
 *   BUILDING     every rank's caller (state_file.c):  |   an adapter: nothing;
 *      |         an adapter becomes one image, held   |   a larger state: step-N/ without a
 *      |         by rank 0; of a larger state each    |   manifest, which rank 0 removes
 *      |         tp rank writes its own files         |
 *   WRITING <-----------------------------------------+
 *      |         rank 0, `beside`: a thread of its own    step-N/ without a manifest, removed; but
 *      |         (an image is held), else its caller:     where it cannot be told whether the
 *      |         the image, before_commit(), the          manifest is there, or another job took
 *      |         manifest (its rename is the COMMIT),     the lock, everything stays: it may be
 *      |         `latest`; old checkpoints are deleted    a checkpoint
 *   ENDED        nobody; ml_checkpoint_has_ended is true
 *      | ml_checkpoint_wait, every rank: rank 0's result becomes everybody's
 *   (no save)
 *
 * Ranks other than 0 go through BUILDING and then stay in WRITING until they wait. The thread has
 * every signal blocked, calls neither MPI nor HDF5, and calls back before_commit alone. A process
 * that is killed leaves what a failure in that state leaves, or a temporary file: find.c clears
 * both at the next start. Before COMMIT the newest checkpoint is the one before, after it this one.
 */
#include <inttypes.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/thread.h"
#include "store/checkpoint/state_file.h"

/* The thread shares the cores with those that compute: it gets the smaller part of one, and the
 * rest when they wait for it. */
enum { BACKGROUND_NICE = 10, TEXT_BYTES = 2048 };

typedef enum save_stage { SAVE_CHECKING, SAVE_BUILDING, SAVE_WRITING, SAVE_ENDED } save_stage;

struct ml_save {
    atomic_int stage; /* the thread's only message: SAVE_ENDED, after everything below is final */
    ml_run_directory *run;     /* borrowed */
    ml_checkpoint_state state; /* its configuration is ours, what else it points to is borrowed */
    int64_t keep;
    double since, waited; /* begun at; the caller's seconds so far */

    /* World rank 0's. */
    bool committed;      /* the step is a whole checkpoint: only its manifest is written again */
    ml_file_list files;  /* what the manifest is going to name */
    ml_image *image;     /* the file that WRITING has to write; NULL: all files are written */
    const char *bytes;   /* of the image */
    ml_manifest_file of; /* the image's name and size */
    bool threaded;
    pthread_t thread;
    ml_checkpoint_report report;
    ml_status status;
    char text[TEXT_BYTES]; /* of a failure: error texts belong to their thread */
};

static save_stage stage_of(const ml_save *s) { return (save_stage)atomic_load(&s->stage); }

static ml_status create(ml_save **out, ml_run_directory *run, const ml_checkpoint_state *state,
                        int64_t keep)
{
    ml_save *s = ml_memory_alloc(1, sizeof *s, ML_MEM_OTHER, "a save");
    if (!s) return ML_RESOURCE;
    atomic_init(&s->stage, SAVE_CHECKING);
    s->run = run;
    s->state = *state;
    s->keep = keep;
    s->since = ml_seconds();
    s->state.configuration = ml_memory_string(state->configuration);
    *out = s;
    return s->state.configuration ? ML_OK : ML_RESOURCE;
}

static void destroy(ml_save *s)
{
    if (!s) return;
    ml_image_destroy(s->image);
    ml_file_list_destroy(&s->files);
    ml_memory_free((char *)(uintptr_t)s->state.configuration);
    ml_memory_free(s);
}

/* ---- CHECKING ------------------------------------------------------------------------------ */

/* A whole checkpoint of this step is kept as it is and its file list taken over; a bad one is set
 * aside. */
static ml_status look_for_committed(ml_save *s)
{
    ml_status st = ML_OK;
    int64_t step = s->state.progress.step;
    char path[ML_DURABLE_PATH];
    json_t *manifest = NULL;
    bool there, bad;
    ML_TRY(ml_step_path(s->run, step, ml_manifest_name, path));
    ML_TRY(ml_durable_find(path, &there));
    if (!there) return ML_OK;
    st = ml_step_check(s->run, step, &manifest, &bad);
    if (bad) {
        ml_warn("checkpoint of step %" PRId64 ": %s; set aside", step, ml_error_text());
        st = ml_step_set_aside(s->run, step, "bad");
        goto done;
    }
    for (int64_t i = 0; st == ML_OK && i < ml_manifest_files(manifest); i++) {
        ml_manifest_file file = ml_manifest_file_at(manifest, i);
        st = ml_file_list_add(&s->files, &file);
    }
    s->committed = st == ML_OK;
done:
    json_decref(manifest);
    return st;
}

/* Rank 0 looks, all hear what it found. */
static ml_status check(ml_save *s, const ml_grid *grid)
{
    ml_status st = ML_OK;
    if (ml_grid_rank(grid) == 0) {
        st = ml_lock_check(s->run);
        if (st == ML_OK) st = look_for_committed(s);
    }
    ML_TRY(ml_grid_agree(grid, st));
    ml_grid_broadcast(grid, ML_GROUP_WORLD, 0, &s->committed, (int64_t)sizeof s->committed);
done:
    return st;
}

/* ---- BUILDING ------------------------------------------------------------------------------ */

/* The image becomes the save's own, and with it the bytes that the thread is going to write. */
static ml_status hold(ml_save *s, ml_image *image)
{
    char *bytes;
    s->image = image;
    ml_status st = ml_image_finish(image, &bytes, &s->of.bytes);
    if (st != ML_OK) return st;
    s->bytes = bytes;
    snprintf(s->of.name, sizeof s->of.name, "state.h5");
    return ML_OK;
}

/* Without parents: those of a run's directory that was removed are not made again. */
static ml_status make_step_directory(const ml_save *s)
{
    char path[ML_DURABLE_PATH];
    ml_status st = ml_step_path(s->run, s->state.progress.step, "", path);
    return st == ML_OK ? ml_durable_make_directory(path) : st;
}

/* A failure's cause: of a file that could not be written, mostly itself; that the run's directory
 * is not this job's any more, where it is not. */
static ml_status cause_of(const ml_save *s, ml_status failure)
{
    char reason[TEXT_BYTES];
    if (failure == ML_OK) return ML_OK;
    snprintf(reason, sizeof reason, "%s", ml_error_text());
    if (ml_lock_check(s->run) == ML_USAGE) return ML_USAGE;
    return ml_fail(failure, "%s", reason);
}

static ml_status build(ml_save *s, const ml_grid *grid, const ml_parameters *p, bool gathered)
{
    ml_status st = ML_OK;
    ml_image *image = NULL;
    bool writer = ml_grid_rank(grid) == 0;
    atomic_store(&s->stage, SAVE_BUILDING);
    if (gathered) {
        ML_TRY(ml_state_file_gather(grid, p, &s->state, &image));
        if (writer) st = hold(s, image);
    } else {
        ML_TRY(ml_grid_agree(grid, writer ? cause_of(s, make_step_directory(s)) : ML_OK));
        st = ml_state_files_write(s->run, grid, p, &s->state, &s->files);
    }
    st = ml_grid_agree(grid, st);
done:
    return st;
}

/* ---- WRITING: rank 0, maybe in a thread ---------------------------------------------------- */

static ml_status write_image(ml_save *s)
{
    ml_status st = ML_OK;
    char path[ML_DURABLE_PATH];
    ML_TRY(make_step_directory(s));
    ML_TRY(ml_step_path(s->run, s->state.progress.step, s->of.name, path));
    ML_TRY(ml_durable_write(path, s->bytes, s->of.bytes, s->of.sha256));
    ML_TRY(ml_file_list_add(&s->files, &s->of));
done:
    return st;
}

static ml_status find_previous(const ml_run_directory *run, int64_t step, int64_t *previous)
{
    int64_t *steps = NULL, count = 0;
    ml_status st = ml_steps_list(run, true, &steps, &count);
    *previous = -1;
    for (int64_t i = 0; i < count; i++)
        if (steps[i] < step) *previous = steps[i];
    ml_memory_free(steps);
    return st;
}

static ml_status commit(ml_save *s)
{
    ml_status st = ML_OK;
    int64_t step = s->state.progress.step, previous;
    char path[ML_DURABLE_PATH], hint[32];
    ml_text text = {0};
    ML_TRY(ml_lock_check(s->run));
    ML_TRY(find_previous(s->run, step, &previous));
    ML_TRY(ml_manifest_make(&s->state, previous, &s->files, &text));
    ML_TRY(ml_step_path(s->run, step, ml_manifest_name, path));
    ML_TRY(ml_durable_write(path, text.data, text.length, NULL));
    ML_TRY(ml_step_remember(s->run, step));
    snprintf(hint, sizeof hint, "step-%08" PRId64 "\n", step);
    ML_TRY(ml_durable_path(path, "%s/latest", s->run->checkpoints));
    if (ml_durable_write(path, hint, (int64_t)strlen(hint), NULL) != ML_OK)
        ml_warn("%s; the checkpoint itself is whole", ml_error_text());
done:
    ml_text_destroy(&text);
    return st;
}

/* What a failed save left must not stand in the way of the next one. Where it cannot be told
 * whether it was committed, or another job has taken the lock over, it stays. */
static void remove_uncommitted(const ml_save *s, ml_status failure)
{
    char path[ML_DURABLE_PATH], reason[TEXT_BYTES];
    bool there;
    snprintf(reason, sizeof reason, "%s", ml_error_text());
    if (ml_step_path(s->run, s->state.progress.step, ml_manifest_name, path) != ML_OK ||
        ml_durable_find(path, &there) != ML_OK || ml_lock_check(s->run) != ML_OK)
        there = true;
    if (there) {
        (void)ml_fail(failure, "%s", reason);
        return;
    }
    if (ml_step_path(s->run, s->state.progress.step, "", path) == ML_OK &&
        ml_durable_exists(path) && ml_step_remove(s->run, s->state.progress.step) != ML_OK)
        ml_warn("%s", ml_error_text());
    (void)ml_fail(failure, "%s", reason);
}

static ml_status write_all(ml_save *s)
{
    ml_status st = ML_OK;
    if (s->image) ML_TRY(write_image(s));
    if (s->state.before_commit) ML_TRY(s->state.before_commit(s->state.before_commit_of));
    ML_TRY(commit(s));
    ml_steps_retain(s->run, s->keep, s->state.keep_step);
done:
    return st;
}

static void run_writing(ml_save *s)
{
    s->status = cause_of(s, write_all(s));
    if (s->status != ML_OK) {
        remove_uncommitted(s, s->status);
        snprintf(s->text, sizeof s->text, "%s", ml_error_text());
    }
    s->report = (ml_checkpoint_report){
        .step = s->state.progress.step, .again = s->committed, .seconds = ml_seconds() - s->since};
    for (int64_t i = 0; i < s->files.count; i++) s->report.bytes += s->files.file[i].bytes;
    atomic_store(&s->stage, SAVE_ENDED);
}

static void *thread_main(void *argument)
{
    /* Linux: of this thread alone. */
    (void)setpriority(PRIO_PROCESS, (id_t)gettid(), BACKGROUND_NICE);
    run_writing(argument);
    return NULL;
}

/* Where no thread can be had, the caller writes. */
static void start_writing(ml_save *s, bool beside)
{
    atomic_store(&s->stage, SAVE_WRITING);
    s->threaded = beside && thread_start(&s->thread, 0, thread_main, s) == 0;
    if (!s->threaded) run_writing(s);
}

/* ---- the transitions that callers make ----------------------------------------------------- */

ml_status ml_checkpoint_begin(ml_run_directory *run, const ml_grid *grid,
                              const ml_parameters *parameters, const ml_checkpoint_state *state,
                              int64_t keep, bool beside)
{
    ml_status st = ML_OK;
    ml_save *s = NULL;
    bool writer = ml_grid_rank(grid) == 0, gathered = ml_state_is_gathered(parameters, state->full);
    if (run->save)
        return ml_fail(ML_INTERNAL, "a save was begun before the one before it was waited for");
    ML_TRY(ml_grid_agree(grid, create(&s, run, state, keep)));
    ML_TRY(check(s, grid));
    if (!s->committed) ML_TRY(build(s, grid, parameters, gathered));
    if (writer)
        start_writing(s, beside && s->image);
    else
        atomic_store(&s->stage, SAVE_WRITING);
    s->waited = ml_seconds() - s->since;
    run->save = s;
    s = NULL;
done:
    if (s && writer && stage_of(s) == SAVE_BUILDING) remove_uncommitted(s, st);
    destroy(s);
    return st;
}

bool ml_checkpoint_has_ended(const ml_run_directory *run)
{
    return run->save && stage_of(run->save) == SAVE_ENDED;
}

/* Joins the thread and takes the save out of the directory; its result, on rank 0. */
static ml_status end(ml_run_directory *run, ml_checkpoint_report *report)
{
    ml_save *s = run->save;
    if (s->threaded) (void)pthread_join(s->thread, NULL);
    ml_status st = s->status == ML_OK ? ML_OK : ml_fail(s->status, "%s", s->text);
    *report = s->report;
    report->waited = s->waited;
    destroy(s);
    run->save = NULL;
    return st;
}

ml_status ml_checkpoint_wait(ml_run_directory *run, const ml_grid *grid,
                             ml_checkpoint_report *report)
{
    double since = ml_seconds();
    ml_checkpoint_report own = {0};
    if (report) *report = own;
    if (!run->save) return ML_OK;
    ml_status st = ml_grid_agree(grid, end(run, &own));
    if (st != ML_OK) return st;
    double waited = own.waited; /* each rank's own */
    ml_grid_broadcast(grid, ML_GROUP_WORLD, 0, &own, (int64_t)sizeof own);
    own.waited = waited + ml_seconds() - since;
    if (report) *report = own;
    return ML_OK;
}

void ml_save_abandon(ml_run_directory *run)
{
    ml_checkpoint_report unused;
    if (run->save && end(run, &unused) != ML_OK) ml_warn("%s", ml_error_text());
}

ml_status ml_checkpoint_save(ml_run_directory *run, const ml_grid *grid,
                             const ml_parameters *parameters, const ml_checkpoint_state *state,
                             int64_t keep, ml_checkpoint_report *report)
{
    ml_status st = ml_checkpoint_begin(run, grid, parameters, state, keep, false);
    return st == ML_OK ? ml_checkpoint_wait(run, grid, report) : st;
}
