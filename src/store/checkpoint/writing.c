/* From an image in memory to a committed checkpoint, beside training where that is wanted. */
#include "store/checkpoint/writing.h"

#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <unistd.h>

/* The thread shares the cores with those that compute: it gets the smaller part of one, and the
 * rest when they wait for it. */
enum { BACKGROUND_NICE = 10, TEXT_BYTES = 2048 };

struct ml_writing {
    ml_run_directory *run;     /* borrowed */
    ml_checkpoint_state state; /* its configuration is ours */
    int64_t keep;
    bool committed; /* all files are there */
    ml_manifest_file *files;
    int64_t nfiles, capacity;
    ml_image *held; /* the file that is still to be written; NULL: none */
    const char *held_bytes;
    ml_manifest_file held_file;
    double since;
    ml_checkpoint_report report;
    bool started, threaded;
    pthread_t thread;
    atomic_bool ended;
    ml_status status;
    char text[TEXT_BYTES]; /* of a failure: error texts belong to their thread */
};

/* ---- files --------------------------------------------------------------------------------- */

ml_status ml_writing_add(ml_writing *w, const ml_manifest_file *file)
{
    ml_status st = ML_OK;
    if (!w->files) {
        w->capacity = 8;
        ML_NEW(w->files, w->capacity, ML_MEM_OTHER, "the files of a checkpoint");
    } else if (w->nfiles == w->capacity) {
        ml_manifest_file *grown =
            ml_memory_resize(w->files, 2 * w->capacity, sizeof *grown, "the files of a checkpoint");
        if (!grown) return ML_RESOURCE;
        w->files = grown;
        w->capacity *= 2;
    }
    w->files[w->nfiles++] = *file;
done:
    return st;
}

ml_status ml_writing_make_directory(const ml_writing *w)
{
    char path[ML_DURABLE_PATH];
    ml_status st = ml_step_path(w->run, w->state.progress.step, "", path);
    return st == ML_OK ? ml_durable_make_directories(path) : st;
}

static ml_status write_held(ml_writing *w)
{
    ml_status st = ML_OK;
    char path[ML_DURABLE_PATH];
    ML_TRY(ml_writing_make_directory(w));
    ML_TRY(ml_step_path(w->run, w->state.progress.step, w->held_file.name, path));
    ML_TRY(ml_durable_write(path, w->held_bytes, w->held_file.bytes, w->held_file.sha256));
    ML_TRY(ml_writing_add(w, &w->held_file));
done:
    return st;
}

ml_status ml_writing_hold(ml_writing *w, const char *name, ml_image *image)
{
    char *bytes;
    w->held = image;
    ml_status st = ml_image_finish(image, &bytes, &w->held_file.bytes);
    if (st != ML_OK) return st;
    w->held_bytes = bytes;
    snprintf(w->held_file.name, sizeof w->held_file.name, "%s", name);
    return ML_OK;
}

/* ---- beginning ----------------------------------------------------------------------------- */

/* A whole checkpoint of this step is kept as it is and its file list taken over; a bad one is set
 * aside. */
static ml_status look_for_committed(ml_writing *w)
{
    ml_status st = ML_OK;
    int64_t step = w->state.progress.step;
    char path[ML_DURABLE_PATH];
    json_t *manifest = NULL;
    bool there, bad;
    ML_TRY(ml_step_path(w->run, step, ml_manifest_name, path));
    ML_TRY(ml_durable_find(path, &there));
    if (!there) return ML_OK;
    st = ml_step_check(w->run, step, &manifest, &bad);
    if (bad) {
        ml_warn("checkpoint of step %" PRId64 ": %s; set aside", step, ml_error_text());
        st = ml_step_set_aside(w->run, step, "bad");
        goto done;
    }
    for (int64_t i = 0; st == ML_OK && i < ml_manifest_files(manifest); i++) {
        ml_manifest_file file = ml_manifest_file_at(manifest, i);
        st = ml_writing_add(w, &file);
    }
    w->committed = st == ML_OK;
done:
    json_decref(manifest);
    return st;
}

static void destroy(ml_writing *w)
{
    ml_image_destroy(w->held);
    ml_memory_free(w->files);
    ml_memory_free((char *)(uintptr_t)w->state.configuration);
    ml_memory_free(w);
}

ml_status ml_writing_create(ml_writing **out, ml_run_directory *run,
                            const ml_checkpoint_state *state, int64_t keep)
{
    ml_status st = ML_OK;
    ml_writing *w = ml_memory_alloc(1, sizeof *w, ML_MEM_OTHER, "a save");
    if (!w) return ML_RESOURCE;
    w->run = run;
    w->state = *state;
    w->keep = keep;
    w->since = ml_seconds();
    w->state.configuration = ml_memory_string(state->configuration);
    st = w->state.configuration ? ml_lock_check(run) : ML_RESOURCE;
    if (st == ML_OK) st = look_for_committed(w);
    if (st == ML_OK)
        *out = w;
    else
        destroy(w);
    return st;
}

bool ml_writing_is_committed(const ml_writing *w) { return w->committed; }

/* ---- the end: manifest, hint, old ones ----------------------------------------------------- */

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

static ml_status commit(ml_writing *w)
{
    ml_status st = ML_OK;
    int64_t step = w->state.progress.step, previous;
    char path[ML_DURABLE_PATH], hint[32];
    ml_text text = {0};
    ML_TRY(ml_lock_check(w->run));
    ML_TRY(find_previous(w->run, step, &previous));
    ML_TRY(ml_manifest_make(&w->state, previous, w->files, w->nfiles, &text));
    ML_TRY(ml_step_path(w->run, step, ml_manifest_name, path));
    ML_TRY(ml_durable_write(path, text.data, text.length, NULL));
    ML_TRY(ml_step_remember(w->run, step));
    snprintf(hint, sizeof hint, "step-%08" PRId64 "\n", step);
    ML_TRY(ml_durable_path(path, "%s/latest", w->run->checkpoints));
    if (ml_durable_write(path, hint, (int64_t)strlen(hint), NULL) != ML_OK)
        ml_warn("%s; the checkpoint itself is whole", ml_error_text());
done:
    ml_text_destroy(&text);
    return st;
}

/* What a failed save left must not stand in the way of the next one. Where it cannot be told
 * whether it was committed, or another job has taken the lock over, it stays. */
static void remove_uncommitted(const ml_writing *w, ml_status failure)
{
    char path[ML_DURABLE_PATH], reason[TEXT_BYTES];
    bool there;
    snprintf(reason, sizeof reason, "%s", ml_error_text());
    if (ml_step_path(w->run, w->state.progress.step, ml_manifest_name, path) != ML_OK ||
        ml_durable_find(path, &there) != ML_OK || ml_lock_check(w->run) != ML_OK)
        there = true;
    if (there) {
        (void)ml_fail(failure, "%s", reason);
        return;
    }
    if (ml_step_path(w->run, w->state.progress.step, "", path) == ML_OK &&
        ml_durable_exists(path) && ml_step_remove(w->run, w->state.progress.step) != ML_OK)
        ml_warn("%s", ml_error_text());
    (void)ml_fail(failure, "%s", reason);
}

static ml_status write_all(ml_writing *w)
{
    ml_status st = ML_OK;
    if (w->held) ML_TRY(write_held(w));
    if (w->state.before_commit) ML_TRY(w->state.before_commit(w->state.before_commit_of));
    ML_TRY(commit(w));
    ml_steps_retain(w->run, w->keep, w->state.keep_step);
done:
    return st;
}

/* ---- in a thread or not -------------------------------------------------------------------- */

static void run_writing(ml_writing *w)
{
    w->status = write_all(w);
    if (w->status != ML_OK) {
        remove_uncommitted(w, w->status);
        snprintf(w->text, sizeof w->text, "%s", ml_error_text());
    }
    w->report = (ml_checkpoint_report){
        .step = w->state.progress.step, .again = w->committed, .seconds = ml_seconds() - w->since};
    for (int64_t i = 0; i < w->nfiles; i++) w->report.bytes += w->files[i].bytes;
    atomic_store(&w->ended, true);
}

static void *thread_main(void *argument)
{
    (void)setpriority(PRIO_PROCESS, (id_t)gettid(),
                      BACKGROUND_NICE); /* Linux: of this thread alone */
    run_writing(argument);
    return NULL;
}

/* Signals are for the thread that trains. */
static bool start_thread(ml_writing *w)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    bool running = pthread_create(&w->thread, NULL, thread_main, w) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return running;
}

void ml_writing_start(ml_writing *w, bool beside)
{
    w->started = true;
    w->threaded = beside && start_thread(w);
    if (!w->threaded) run_writing(w);
}

bool ml_writing_has_ended(const ml_writing *w) { return atomic_load(&w->ended); }

ml_status ml_writing_end(ml_writing *w, ml_status given_up, ml_checkpoint_report *report)
{
    ml_status st = given_up;
    if (w->threaded) (void)pthread_join(w->thread, NULL);
    if (w->started)
        st = w->status == ML_OK ? ML_OK : ml_fail(w->status, "%s", w->text);
    else
        remove_uncommitted(w, given_up);
    if (report) *report = w->report;
    destroy(w);
    return st;
}
