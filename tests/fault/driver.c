/* fault driver: a run in miniature. Each line on standard input, `RUN STEPS OUTPUT [NAME=VALUE]…`,
 * is a process of its own with these environment variables: it goes on from the newest checkpoint
 * of RUN, checks that its tensors are those of its step, and saves every step up to STEPS. It
 * prints "found STEP" (or "found none") to OUTPUT and an error there, too; its exit code is the
 * status. The driver answers each line with the exit code, or minus the signal. MPI starts once;
 * what is forked uses none of it, for a world of one rank needs none. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../checkpoint_case.h"
#include "cli/support/last_words.h"

/* The shim's, where it is preloaded. */
extern void fault_saving(bool on) __attribute__((weak));
extern void fault_report(void) __attribute__((weak));

enum {
    FIRST_MEASURED = 3, /* the save whose allocations are counted */
    PATIENCE_S = 60     /* then a process that hangs ends by SIGALRM */
};

/* What the run is, with the base that DRIVER_BASE names. */
static ml_checkpoint_state state_of(int64_t step)
{
    static ml_checkpoint_identity identity[sizeof case_identity / sizeof *case_identity];
    const char *base = getenv("DRIVER_BASE");
    ml_checkpoint_state state = case_state(step);
    memcpy(identity, case_identity, sizeof identity);
    if (base) identity[0].value = base;
    state.identity = identity;
    return state;
}

/* The tensors of a step: those of the case, moved by the step. */
static void move(ml_parameters *p, float by)
{
    float *buffers[] = {p->value, p->moment1, p->moment2};
    for (int kind = 0; kind < 3; kind++)
        for (int64_t i = 0; i < p->local; i++) buffers[kind][i] += by;
}

static ml_status resume(ml_run_directory *run, const ml_grid *grid, ml_parameters *p, int64_t *step)
{
    ml_status st = ML_OK;
    bool found;
    ml_checkpoint_state state = state_of(0);
    ML_TRY(ml_checkpoint_find(run, grid, &state, &found));
    *step = found ? state.progress.step : 0;
    printf(found ? "found %lld\n" : "found none\n", (long long)*step);
    if (!found) return ML_OK;
    ML_TRY(ml_checkpoint_load(run, grid, p));
    ml_parameters expected = case_parameters(grid);
    case_fill(&expected, false);
    move(&expected, (float)*step);
    if (memcmp(p->moment2, expected.moment2, (size_t)p->local * sizeof *p->moment2) != 0 ||
        memcmp(p->value, expected.value, (size_t)p->local * sizeof *p->value) != 0)
        st = ml_fail(ML_INTERNAL, "the tensors are not those of step %lld", (long long)*step);
    ml_parameters_destroy(&expected);
done:
    return st;
}

static ml_status save(ml_run_directory *run, const ml_grid *grid, ml_parameters *p, int64_t step)
{
    ml_checkpoint_state state = state_of(step);
    const char *file_bytes =
        getenv("DRIVER_FILE_BYTES"); /* tensors cut over several files, as method full has them */
    state.full = file_bytes != NULL;
    state.file_bytes = file_bytes ? atoll(file_bytes) : 0;
    case_fill(p, false);
    move(p, (float)step);
    if (fault_saving) fault_saving(step == FIRST_MEASURED);
    bool beside =
        getenv("DRIVER_BESIDE") != NULL; /* in a thread of its own, as adapters are saved */
    ml_status st = ml_checkpoint_begin(run, grid, p, &state, 2, beside);
    if (st == ML_OK) st = ml_checkpoint_wait(run, grid, NULL);
    if (fault_saving) fault_saving(false);
    return st;
}

static ml_status go_on(ml_run_directory *run, const ml_grid *grid, ml_parameters *p, int64_t steps)
{
    ml_status st = ML_OK;
    int64_t step;
    ML_TRY(resume(run, grid, p, &step));
    while (step < steps) ML_TRY(save(run, grid, p, ++step));
done:
    return st;
}

static ml_status work(const char *path, int64_t steps, const ml_grid *grid)
{
    ml_run_directory *run;
    ml_parameters p = case_parameters(grid);
    ml_status st = ml_run_directory_open(&run, path, false, grid);
    if (st == ML_OK) {
        st = go_on(run, grid, &p, steps);
        ml_run_directory_close(run);
    }
    if (st != ML_OK) fprintf(stderr, "error: %s\n", ml_error_text());
    ml_parameters_destroy(&p);
    return st;
}

static void child(char *line, const ml_grid *grid)
{
    char *run = strtok(line, " \n"), *steps = strtok(NULL, " \n"), *output = strtok(NULL, " \n"),
         *setting;
    int to = output ? open(output, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0666) : -1;
    if (to < 0 || dup2(to, STDOUT_FILENO) < 0 || dup2(to, STDERR_FILENO) < 0) _exit(ML_USAGE);
    alarm(PATIENCE_S);
    while ((setting = strtok(NULL, " \n"))) putenv(setting);
    ml_status st = work(run, atoll(steps), grid);
    fflush(NULL);
    if (fault_report) fault_report();
    _exit((int)st);
}

int main(int argc, char **argv)
{
    char line[4096];
    ml_grid *grid;
    if (ml_grid_start(&argc, &argv) != ML_OK || ml_grid_create(&grid, 1) != ML_OK) return ML_USAGE;
    last_words_prepare();
    while (fgets(line, sizeof line, stdin)) {
        int status = 0;
        pid_t pid = fork();
        if (pid == 0) child(line, grid);
        if (pid < 0 || waitpid(pid, &status, 0) != pid) return ML_RESOURCE;
        printf("%d\n", WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status));
        fflush(stdout);
    }
    ml_grid_destroy(grid);
    ml_grid_stop();
    return ML_OK;
}
