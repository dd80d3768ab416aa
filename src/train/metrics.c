/* metrics.jsonl: a line a step, flushed when the step ends. */
#include <errno.h>
#include <inttypes.h>
#include <time.h>
#include <unistd.h>

#include "train/run.h"

static ml_status write_failed(const run *r)
{
    return ml_fail(ML_RESOURCE, "%s/metrics.jsonl: cannot be written: %s", r->config->run_dir, strerror(errno));
}

ml_status metrics_open(run *r)
{
    ml_status st = ML_OK;
    if (ml_grid_rank(r->session.grid) == 0) {
        ml_text path = {0};
        st = ml_text_printf(&path, "%s/metrics.jsonl", r->config->run_dir);
        if (st == ML_OK && !(r->metrics = fopen(path.data, "a"))) st = write_failed(r);
        ml_text_destroy(&path);
    }
    return ml_grid_agree(r->session.grid, st);
}

static double wall_clock(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

ml_status metrics_step(run *r, const step_result *step)
{
    if (!r->metrics) return ML_OK;
    FILE *to = r->metrics;
    fprintf(to,
            "{\"step\": %" PRId64 ", \"loss\": %.17g, \"lr\": %.17g, \"grad_norm\": %.17g, \"tokens\": %" PRId64
            ", \"computed_tokens\": %" PRId64 ", \"tokens_per_s\": %.9g, \"step_s\": %.9g",
            r->step, step->loss, step->lr, step->grad_norm, step->tokens, step->computed_tokens, (double)step->tokens / step->seconds,
            step->seconds);
    for (int p = 0; p < ML_PHASES; p++) fprintf(to, ", \"%s_s\": %.9g", ml_phase_name((ml_phase)p), step->phase[p]);
    fprintf(to,
            ", \"wait_s\": %.9g, \"allreduce_bytes\": %" PRId64 ", \"allreduce_bytes_passed\": %" PRId64 ", \"peak_bytes\": %" PRId64
            ", \"time\": %.6f}\n",
            step->wait_seconds, step->reduction.payload_bytes, step->reduction.passed_bytes, ml_memory_peak_total(), wall_clock());
    return fflush(to) || ferror(to) ? write_failed(r) : ML_OK;
}

/* Evaluations go to a file of their own, so that each step stands once in metrics.jsonl. */
ml_status metrics_evaluation(const run *r, double loss)
{
    if (!r->metrics) return ML_OK;
    ml_text path = {0};
    ml_status st = ml_text_printf(&path, "%s/evaluations.jsonl", r->config->run_dir);
    FILE *file = st == ML_OK ? fopen(path.data, "a") : NULL;
    if (st == ML_OK &&
        (!file || fprintf(file, "{\"step\": %" PRId64 ", \"valid_loss\": %.17g, \"time\": %.6f}\n", r->step, loss, wall_clock()) < 0))
        st = ml_fail(ML_RESOURCE, "%s: cannot be written: %s", path.data, strerror(errno));
    if (file && fclose(file) && st == ML_OK) st = ml_fail(ML_RESOURCE, "%s: cannot be written: %s", path.data, strerror(errno));
    ml_text_destroy(&path);
    return st;
}

ml_status metrics_sync(run *r)
{
    if (!r->metrics) return ML_OK;
    return fflush(r->metrics) || fsync(fileno(r->metrics)) ? write_failed(r) : ML_OK;
}
