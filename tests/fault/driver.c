/* fault driver: a run in miniature. `driver RUN STEPS` goes on from the newest checkpoint of RUN, checks that its tensors are those of its step, and saves every
 * step up to STEPS. Prints "found STEP" (or "found none"); its exit code is the status. */
#include <stdio.h>
#include <stdlib.h>

#include "../checkpoint_case.h"

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
    ml_checkpoint_state state = case_state(0);
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

static ml_status go_on(ml_run_directory *run, const ml_grid *grid, ml_parameters *p, int64_t steps)
{
    ml_status st = ML_OK;
    int64_t step;
    ML_TRY(resume(run, grid, p, &step));
    while (step < steps) {
        ml_checkpoint_state state = case_state(++step);
        case_fill(p, false);
        move(p, (float)step);
        ML_TRY(ml_checkpoint_save(run, grid, p, &state, 2, NULL));
    }
done:
    return st;
}

int main(int argc, char **argv)
{
    ml_grid *grid;
    ml_run_directory *run;
    if (argc != 3 || ml_grid_start(&argc, &argv) != ML_OK || ml_grid_create(&grid, 1) != ML_OK) return ML_USAGE;
    ml_parameters p = case_parameters(grid);
    ml_status st = ml_run_directory_open(&run, argv[1], false, grid);
    if (st == ML_OK) {
        st = go_on(run, grid, &p, atoll(argv[2]));
        ml_run_directory_close(run);
    }
    if (st != ML_OK) fprintf(stderr, "error: %s\n", ml_error_text());
    ml_parameters_destroy(&p);
    ml_grid_destroy(grid);
    ml_grid_stop();
    return (int)st;
}
