/* A training run in progress: its session, how far it has come, what it is saving and what it
 * writes to its files. One struct, which the files of train/ pass to each other. */
#ifndef MPILORA_TRAIN_RUN_H
#define MPILORA_TRAIN_RUN_H

#include "mpilora/checkpoint.h"
#include "mpilora/train.h"
#include "session/session.h"
#include "session/together.h"
#include "train/step.h"

/* stopping.c: when this start has to be over, and what the longest step and save took so far.
 * Seconds. */
typedef struct deadline {
    double started, end; /* by ml_seconds; no end: infinite */
    double step, save;
} deadline;

enum { IDENTITIES = 64 };

/* What a step sums over all ranks; the first STEP_SUMS numbers of rank_waits.said. */
typedef enum step_sum {
    SUM_LOSS,
    SUM_COMPUTED,
    SUM_FAILED,
    SUM_STOP,
    SUM_SAVED,
    SUM_SAVE,
    SUM_SECONDS,
    SUM_COMPARED,
    STEP_SUMS = SUM_COMPARED + PAIR_SUMS
} step_sum;

/* Seconds of each rank of the world that it waited for others, the same on every rank. */
typedef struct rank_waits {
    int ranks;
    double
        *said; /* what goes through a step's sum: that, and what each rank says of itself; owned */
    double *step, *sum; /* [ranks] of the newest step, and of the steps of this start; owned */
} rank_waits;

typedef struct run {
    session session;
    bool among_others;           /* it trains with others, and says in its lines which one it is */
    ml_run_config resolved;      /* the run's own copy, train.epochs made steps; texts borrowed */
    const ml_run_config *config; /* that copy */
    ml_run_directory *directory;
    int64_t step;       /* done */
    int64_t first_step; /* done before this start */
    int64_t saved_step; /* of the newest checkpoint, which may still be on its way; −1: none */
    int64_t tokens;     /* since step 1 */
    double loss_first, loss_last, valid_loss; /* NaN: not known */
    double seconds;                           /* in steps of this start, as are the next two */
    double phase[ML_PHASES];
    rank_waits waits;                    /* also of this start */
    int64_t timed_tokens;                /* in steps of this start */
    int64_t piped_bytes, gathered_bytes; /* in steps of this start */
    ml_reduction reduction;
    int64_t checkpoint_bytes;
    int64_t saves; /* of this start, as are the next two */
    double save_seconds,
        save_waited;  /* they took in all; training waited for them. Seconds of world rank 0 */
    double save_wait; /* since the last line of metrics.jsonl */
    double save_time; /* when the newest was begun */
    bool
        best_is_new; /* the newest evaluation was the best so far, and is not in a checkpoint yet */
    int64_t written_evaluation; /* the step of the newest one that earlier starts wrote; −1: none */
    FILE *metrics, *evaluations, *save_list, *csv, *tensorboard, *samples, *trace_file; /* rank 0 */
    gradient_trace trace; /* of run.trace; owned */
    ml_status line; /* whether what belongs to the newest step was written; ML_OK but on rank 0 */
    double prometheus_time; /* of the file's newest writing; 0: there was none */
    bool prometheus_failed; /* which was said */
    int64_t predicted[ML_MEM_CATEGORIES];
    double progress_time; /* of the last line */
    deadline deadline;
    int64_t look_every; /* micro-batches between two looks for a signal; the same on every rank */
    ml_checkpoint_progress progress;
    bool anew;         /* no run was in the directory, or it is not to count */
    ml_adapter first;  /* of method.init, where that is an adapter; until its values are taken */
    ml_base *original; /* of method.init: loftq, until its factors are found; or NULL */
    char first_hash[ML_SHA256_HEX]; /* of that adapter; "": there is none */
    bool belongs_to_blocks;         /* what trains makes up for what the base's blocks have lost */
    int32_t *start_token;           /* [virtual tokens], owned; NULL: they start otherwise */
    int64_t identities;
    ml_checkpoint_identity identity[IDENTITIES];
    char identity_text[IDENTITIES][128];
    const ml_train_options *options; /* borrowed */
    ml_checkpoint_changes changes;   /* on rank 0 */
    char kernel[2 * ML_PATH_NAME];   /* product/vector of this start */
} run;

/* loop.c: a run from its start to its end, in the order in which these are called; collective
 * where they give a status. run_read_start: what it starts from, of all runs before anything of one
 * is written; the method is attached. run_open_directory: its files, and whether there is a
 * checkpoint to go on from. run_begin: values, files, table; the session is built. */
void run_init(run *r, const ml_run_config *config, const ml_train_options *options);
/* The session is open: its data may have chosen the objective, and with it what follows from that,
 * as one sequence a micro-batch under numerics: grid. Local. */
void run_take_settled(run *r);
/* What is missing outside the run's directory is said before anything is written. Local. */
ml_status run_prepare(run *r) ML_NODISCARD;
ml_status run_read_start(run *r) ML_NODISCARD;
ml_status run_open_directory(run *r, bool *found) ML_NODISCARD;
bool run_is_finished(const run *r); /* by an earlier start: there is nothing to do */
ml_status run_begin(run *r, bool found) ML_NODISCARD;
/* What is due before the first step and after each one; *stop: the run is to save and end. */
ml_status run_before_steps(run *r, bool *stop) ML_NODISCARD;
ml_status run_after_step(run *r, const step_result *result, bool *stop) ML_NODISCARD;
bool run_is_done(const run *r); /* its last step is done */
ml_status run_finish(run *r) ML_NODISCARD;
ml_status run_stop(run *r) ML_NODISCARD; /* saves; ML_STOPPED */
void run_close(run *r);

/* first_values.c. The tokens that virtual ones start as into r->start_token, where the
 * configuration says so: local. */
ml_status choose_start_tokens(run *r) ML_NODISCARD;
/* The adapter of method.init into r->first, also of a resumed run: its contents are part of what
 * the run is. Collective. */
ml_status read_first_adapter(run *r) ML_NODISCARD;
/* The method's own values, or those of method.init; the weights are there. Collective over dp where
 * there are virtual tokens, else local. */
ml_status initial_values(run *r) ML_NODISCARD;
/* The factors and what they leave of the weights; RUN/initial-adapter.h5 has them for a resumed
 * run. Collective. */
ml_status start_pissa(run *r, bool resumed) ML_NODISCARD;

/* LoftQ: the base before it was rounded, opened and checked where it is not yet (local); the
 * factors of a new run, beside values that are there, after which the original is closed
 * (collective). */
ml_status open_original(run *r) ML_NODISCARD;
ml_status start_loftq(run *r) ML_NODISCARD;
void close_original(run *r);

/* reference.c: the log-probabilities before the first step, where the objective asks for them: with
 * the model as it is, then in RUN/reference.bin; of a resumed run from there. Collective. */
ml_status find_reference(run *r, bool resumed) ML_NODISCARD;

/* shared_reference.c: source->reference, and of kto source->unpaired.reference, beside the data set
 * `data`, for other runs. take: collective; ML_RESOURCE, ML_USAGE for a path that is too long; no
 * file that helps is no error. leave: on world rank 0, else nothing; where it cannot, it does not.
 */
ml_status shared_reference_take(run *r, data_source *source, const char *data,
                                bool *found) ML_NODISCARD;
void shared_reference_leave(const run *r, data_source *source, const char *data);

/* step.c: one update. Collective. ML_NUMERIC naming step and tensor where loss or gradient is not
 * finite (nothing is updated then). */
ml_status run_step(run *r, step_result *out) ML_NODISCARD;
/* step_together.c: the same of several runs in passes that they share: run i's session is number
 * member[i] of `together`'s. failed[count]: why a run came to ML_NUMERIC, of which nothing was
 * updated then and a checkpoint that leads there is set aside; empty where it did not. What ends
 * them all is the status. The caller destroys the texts. */
typedef struct step_group {
    int64_t count, members;
    run *const *run;
    const int64_t *member;
    ml_together *together;
} step_group;
ml_status run_steps_together(const step_group *group, step_result *out,
                             ml_text *failed) ML_NODISCARD;

/* paths.c: what r->anew is to be (local); that every rank can run the paths that the configuration
 * names, asked of a new run before anything of it is written (collective; ML_USAGE); those to build
 * the session with: the checkpoint's where every rank can run them (collective); then their names
 * into r->kernel, and the configuration with them (local). */
bool begins_anew(const run *r);
ml_status check_new_paths(const run *r) ML_NODISCARD;
void choose_paths(const run *r, bool resumed, const char **product, const char **vector);
void note_paths(run *r);
ml_status write_configuration(const run *r, ml_text *out) ML_NODISCARD;

/* leftovers.c: Open MPI's shared memory of starts of this run that were killed. On world rank 0,
 * which holds the run's lock; local. clean: removes what a dead start left; note: this start's;
 * forget: it ends by itself. */
void leftovers_clean(const run *r);
void leftovers_note(const run *r);
void leftovers_forget(const run *r);

/* finite.c: collective, each ML_NUMERIC that names the step. Why loss or gradient norm of a step
 * are not finite, before its update; the parameters and moments after the last one; its loss on
 * data.valid. */
ml_status explain_nonfinite(const run *r, const step_result *out) ML_NODISCARD;
ml_status check_state(const run *r) ML_NODISCARD;
ml_status check_evaluation(const run *r) ML_NODISCARD;
/* Where the newest checkpoint is of the step whose state led to the failure ML_NUMERIC, sets it
 * aside; gives `failure` back. Collective. */
ml_status reject_checkpoint(run *r, ml_status failure) ML_NODISCARD;

/* early_stop.c: after an evaluation: whether it is better, by train.early_stop.min_delta, than the
 * value at the last one that was. Whether train.early_stop.patience of them were not: the run is at
 * its end then. Local. */
void early_stop_note(run *r);
bool early_stop_reached(const run *r);

/* stopping.c. A signal has reached this rank (see ml_train_catch_signals). */
bool signals_seen(void);
/* The earlier of run.time_limit and SLURM_JOB_END_TIME. */
void deadline_start(run *r);
/* On world rank 0: there is no room for so many more steps (0 or 1) and a save. */
bool deadline_is_near(const run *r, int steps);
/* Whether this rank would have the run save and end now: a signal, or no room for one more step.
 * Local; the ranks' answers are summed. */
bool wants_to_stop(const run *r);
bool wants_to_give_up(const run *r); /* within a step: a signal, or no room but for a save */

/* figures.c: what a step's or an evaluation's sums say, of the objectives that compare or judge
 * answers; step: of all that have such sums, and what loss.filter left out. Local. */
typedef struct run_figure {
    const char *key, *tag; /* here, and in TensorBoard */
    double value;
} run_figure;
typedef struct run_figures {
    int count;
    run_figure item[8];
} run_figures;
run_figures preference_figures(const ml_run_config *config, const double sums[PAIR_SUMS]);
run_figures step_figures(const ml_run_config *config, const step_result *step);

/* outputs.c: that nothing in run.dir stands in the way of what the run is going to write there, at
 * its end as well: local, on world rank 0. ML_USAGE naming a link; ML_RESOURCE, or ML_USAGE of a
 * directory, naming what is there. */
ml_status outputs_check(const run *r) ML_NODISCARD;
/* For a fresh start: what an earlier run has left there goes to set-aside/, in the place of what is
 * there. Local, on world rank 0. ML_USAGE naming a link; ML_RESOURCE where it cannot be moved. */
ml_status outputs_set_aside(const run *r) ML_NODISCARD;

static const int64_t largest_lines = (int64_t)16 << 30; /* bytes of a file of lines to read */

/* metrics.c: metrics.jsonl, evaluations.jsonl, saves.jsonl and metrics.csv, on rank 0; elsewhere
 * they do nothing. metrics_cut, on rank 0: what kept_lines.c does, to all files of lines. */
ml_status metrics_cut(const run *r) ML_NODISCARD;
ml_status metrics_open(run *r) ML_NODISCARD; /* appends; collective */
void metrics_close(run *r);
ml_status metrics_step(run *r, const step_result *step) ML_NODISCARD;
ml_status metrics_evaluation(const run *r, double loss,
                             const evaluation_result *result) ML_NODISCARD;
ml_status metrics_save(const run *r, const ml_checkpoint_report *report) ML_NODISCARD;
ml_status metrics_sync(const run *r) ML_NODISCARD; /* also from a checkpoint's thread */

/* waits.c: room for a step's sum, local. waits_say: count numbers to be summed over the world, the
 * first STEP_SUMS of them the caller's and zero, the others what this rank says of the step so far.
 * waits_find: the waiting times from these sums, and in the place of the bytes that this rank sent
 * those of the busiest one. waits_add: into those of this start. waits_slowest: the rank that
 * waited least since then; *others ← what the others waited in the mean, s. All local. */
ml_status waits_create(run *r) ML_NODISCARD;
void waits_destroy(run *r);
double *waits_say(const run *r, const step_result *step, int64_t *count);
void waits_find(run *r, step_result *step);
void waits_add(run *r);
int waits_slowest(const run *r, double *others);

/* trace.c: room for the hashes of run.trace (local), and the lines of the step that is being done
 * (collective); nothing without it. metrics.c writes them. */
ml_status trace_create(run *r) ML_NODISCARD;
void trace_destroy(run *r);
ml_status trace_step(const run *r) ML_NODISCARD;
ml_status trace_write(const run *r, const char *lines, int64_t length) ML_NODISCARD;

/* tensorboard.c: RUN/tb, a file a start. prometheus.c: a file in run.prometheus, at most every few
 * seconds; nothing where that is not given. On rank 0, which metrics.c calls them on. */
ml_status tensorboard_open(run *r) ML_NODISCARD;
ml_status tensorboard_step(const run *r, const step_result *step) ML_NODISCARD;
ml_status tensorboard_evaluation(const run *r, double loss,
                                 const evaluation_result *result) ML_NODISCARD;
ml_status prometheus_check(const run *r) ML_NODISCARD; /* whether the folder is there */
ml_status prometheus_open(run *r) ML_NODISCARD;
void prometheus_step(run *r, const step_result *step);
void prometheus_close(run *r); /* says that no start goes on; nothing where none was opened */

/* samples.c: the prompts, and room for them in the session, before the model is built: local; what
 * the model makes of them where the step asks for it: collective. Nothing without train.samples. */
ml_status samples_prepare(run *r) ML_NODISCARD;
int64_t samples_every(const run *r); /* 0: there are none */
ml_status samples_where_due(run *r) ML_NODISCARD;

/* summary.c */
ml_status summary_write(run *r) ML_NODISCARD; /* collective: maxima over the ranks */

/* save.c: checkpoints. The first two are local, and true on world rank 0 alone; the others
 * collective. */
bool save_has_ended(const run *r);     /* the one beside training */
bool save_time_has_come(const run *r); /* by train.save_every as a time */
ml_status save_beside(run *r)
    ML_NODISCARD; /* begins one that is written while training goes on, where that can be */
ml_status save_now(run *r, bool finished) ML_NODISCARD; /* it is there when this returns */
ml_status save_wait(run *r) ML_NODISCARD; /* for one that was begun, if any: its result */

/* identity.c: what a resumed run must have in common with its checkpoint, and that what it is
 * allowed to change is known. Local. */
ml_status describe_identity(run *r) ML_NODISCARD;

/* binding.c: rank 0 prints where every rank computes, and warns where threads outnumber cores.
 * Collective. */
ml_status print_binding(const session *s) ML_NODISCARD;

/* progress.c: rank 0 alone prints. */
void progress_table(run *r);
void progress_step(run *r, const step_result *step);
void progress_evaluation(const run *r, const ml_figures *figures);
void progress_end(const run *r); /* leaves the bar's line */
void progress_summary(const run *r);
const char *run_label(const run *r); /* "DIR: ", or nothing where the run is alone; until the next
                                       call */

/* finish.c: adapter.h5, or model.h5 of method full; with train.keep_best also best-adapter.h5 or
 * best-model.h5, from the checkpoint of the best step. Collective. */
ml_status write_result(run *r) ML_NODISCARD;
ml_status write_best(run *r) ML_NODISCARD;

#endif
