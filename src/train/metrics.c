/* metrics.jsonl: a line a step, flushed when the step ends; evaluations.jsonl and saves.jsonl: a
 * line each; metrics.csv: both steps and evaluations, a row each. What else shows the curves is
 * told of them from here. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "io/durable.h"
#include "io/json.h"
#include "train/run.h"

static const char metrics_name[] = "metrics.jsonl", evaluations_name[] = "evaluations.jsonl",
                  saves_name[] = "saves.jsonl", csv_name[] = "metrics.csv",
                  samples_name[] = "samples.jsonl", trace_name[] = "trace.jsonl";

static ml_status write_failed(const run *r, const char *name)
{
    return ml_fail(ML_RESOURCE, "%s/%s: cannot be written: %s", r->config->run_dir, name,
                   strerror(errno));
}

static ml_status open_file(const run *r, const char *name, FILE **out)
{
    ml_text path = {0};
    ml_status st = ml_text_printf(&path, "%s/%s", r->config->run_dir, name);
    /* no link leads out of run.dir */
    int fd = st == ML_OK
                 ? open(path.data, O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0666)
                 : -1;
    if (st == ML_OK && (fd < 0 || !(*out = fdopen(fd, "a")))) st = write_failed(r, name);
    if (fd >= 0 && !*out) (void)close(fd);
    ml_text_destroy(&path);
    return st;
}

/* A row of names where the file has no row yet. */
static ml_status open_csv(run *r)
{
    struct stat about;
    ml_status st = open_file(r, csv_name, &r->csv);
    if (st != ML_OK) return st;
    if (fstat(fileno(r->csv), &about)) return write_failed(r, csv_name);
    if (about.st_size == 0)
        fputs("step,loss,lr,grad_norm,tokens,tokens_per_s,step_s,valid_loss,time\n", r->csv);
    return fflush(r->csv) ? write_failed(r, csv_name) : ML_OK;
}

/* The checkpoint names the newest evaluation, whose line was on disk before it. */
static void warn_of_lost_evaluation(const run *r)
{
    int64_t step = r->progress.evaluated_step;
    if (!r->config->data.valid || r->saved_step < 0 || step < 0 || r->written_evaluation >= step)
        return;
    ml_warn("%s/%s: has no line of the evaluation after step %" PRId64
            ": it was lost since; the run goes on without it",
            r->config->run_dir, evaluations_name, step);
}

/* A start that ended between the last evaluation and the end of the run has left its line, and
 * evaluates once more: each step stands once in every file. */
static ml_status find_written_evaluation(run *r)
{
    ml_status st = ML_OK;
    char path[ML_DURABLE_PATH], *lines = NULL;
    int64_t length;
    bool there;
    json_t *object = NULL;
    r->written_evaluation = -1;
    ML_TRY(ml_durable_path(path, "%s/%s", r->config->run_dir, evaluations_name));
    ML_TRY(ml_durable_find(path, &there));
    if (!there) goto done;
    ML_TRY(ml_durable_read(path, largest_lines, &lines, &length));
    const char *end = length ? memrchr(lines, '\n', (size_t)length - 1) : NULL;
    int64_t first = end ? end + 1 - lines : 0;
    if (length) object = json_loadb(lines + first, (size_t)(length - first), 0, NULL);
    const json_t *step = json_object_get(object, "step");
    if (json_is_integer(step)) r->written_evaluation = json_integer_value(step);
done:
    if (st == ML_OK) warn_of_lost_evaluation(r);
    json_decref(object);
    ml_memory_free(lines);
    return st;
}

static ml_status open_files(run *r)
{
    ml_status st = ML_OK;
    ML_TRY(find_written_evaluation(r));
    ML_TRY(open_file(r, metrics_name, &r->metrics));
    ML_TRY(open_file(r, saves_name, &r->save_list));
    if (r->config->data.valid) ML_TRY(open_file(r, evaluations_name, &r->evaluations));
    if (r->config->train.samples.file) ML_TRY(open_file(r, samples_name, &r->samples));
    if (r->config->trace) ML_TRY(open_file(r, trace_name, &r->trace_file));
    ML_TRY(open_csv(r));
    ML_TRY(tensorboard_open(r));
    ML_TRY(prometheus_open(r));
done:
    return st;
}

ml_status metrics_open(run *r)
{
    return ml_grid_agree(r->session.grid,
                         ml_grid_rank(r->session.grid) == 0 ? open_files(r) : ML_OK);
}

void metrics_close(run *r)
{
    FILE **files[] = {&r->metrics,     &r->save_list, &r->evaluations, &r->csv,
                      &r->tensorboard, &r->samples,   &r->trace_file};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        if (*files[i]) fclose(*files[i]); /* every line was flushed when it was written */
        *files[i] = NULL;
    }
    prometheus_close(r);
}

/* A line is written when it is whole: what a killed run leaves is cut by the next start. */
static ml_status end_line(const run *r, FILE *file, const char *name)
{
    return fflush(file) || ferror(file) ? write_failed(r, name) : ML_OK;
}

static double wall_clock(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void write_figures(FILE *to, const run_figures *figures)
{
    char number[ML_JSON_NUMBER];
    for (int i = 0; i < figures->count; i++)
        fprintf(to, ", \"%s\": %s", figures->item[i].key,
                ml_json_number(number, figures->item[i].value));
}

/* One rank waits for none. */
static void write_waits(FILE *to, const run *r)
{
    const rank_waits *w = &r->waits;
    fprintf(to, ", \"wait_s\": %.9g", w->step[0]); /* of rank 0, as the phases are */
    for (int i = 0; w->ranks > 1 && i < w->ranks; i++)
        fprintf(to, "%s%.3g", i ? ", " : ", \"wait_s_by_rank\": [", w->step[i]);
    if (w->ranks > 1) fputc(']', to);
}

ml_status metrics_step(run *r, const step_result *step)
{
    ml_status st = ML_OK;
    FILE *to = r->metrics;
    if (!to) return ML_OK;
    const run_figures figures = step_figures(r->config, step);
    fprintf(to,
            "{\"step\": %" PRId64
            ", \"loss\": %.17g, \"lr\": %.17g, \"grad_norm\": %.17g, \"tokens\": %" PRId64
            ", \"computed_tokens\": %" PRId64 ", \"tokens_per_s\": %.9g, \"step_s\": %.9g",
            r->step, step->loss, step->lr, step->grad_norm, step->tokens, step->computed_tokens,
            (double)step->tokens / step->seconds, step->seconds);
    write_figures(to, &figures);
    for (int p = 0; p < ML_PHASES; p++)
        fprintf(to, ", \"%s_s\": %.9g", ml_phase_name((ml_phase)p), step->phase[p]);
    if (r->step == r->first_step + 1) fprintf(to, ", \"kernel\": \"%s\"", r->kernel);
    write_waits(to, r);
    fprintf(to,
            ", \"save_s\": %.9g, \"allreduce_bytes\": %" PRId64
            ", \"allreduce_bytes_passed\": %" PRId64 ", \"piped_bytes\": %" PRId64
            ", \"gathered_bytes\": %" PRId64 ", \"peak_bytes\": %" PRId64 ", \"time\": %.6f}\n",
            r->save_wait, step->reduction.payload_bytes, step->reduction.passed_bytes,
            step->piped_bytes, step->gathered_bytes, ml_memory_peak_total(), wall_clock());
    r->save_wait = 0.0;
    fprintf(r->csv, "%" PRId64 ",%.17g,%.17g,%.17g,%" PRId64 ",%.9g,%.9g,,%.6f\n", r->step,
            step->loss, step->lr, step->grad_norm, step->tokens,
            (double)step->tokens / step->seconds, step->seconds, wall_clock());
    ML_TRY(end_line(r, to, metrics_name));
    ML_TRY(end_line(r, r->csv, csv_name));
    ML_TRY(tensorboard_step(r, step));
    prometheus_step(r, step);
done:
    return st;
}

/* Evaluations go to a file of their own, so that each step stands once in metrics.jsonl. */
ml_status metrics_evaluation(const run *r, double loss, const evaluation_result *result)
{
    if (!r->evaluations || r->step == r->written_evaluation) return ML_OK;
    const ml_figures *figures = &result->figures;
    const run_figures preferences = preference_figures(r->config, result->compared);
    char number[ML_JSON_NUMBER];
    fprintf(r->evaluations, "{\"step\": %" PRId64 ", \"valid_loss\": %s", r->step,
            ml_json_number(number, loss));
    for (int64_t i = 0; i < figures->count; i++)
        fprintf(r->evaluations, ", \"%s\": %s", figures->name[i],
                ml_json_number(number, figures->value[i]));
    write_figures(r->evaluations, &preferences);
    fprintf(r->evaluations, ", \"time\": %.6f}\n", wall_clock());
    fprintf(r->csv, "%" PRId64 ",,,,,,,%.17g,%.6f\n", r->step, loss, wall_clock());
    ml_status st = end_line(r, r->evaluations, evaluations_name);
    if (st == ML_OK) st = end_line(r, r->csv, csv_name);
    return st == ML_OK ? tensorboard_evaluation(r, loss, result) : st;
}

ml_status metrics_save(const run *r, const ml_checkpoint_report *report)
{
    if (!r->save_list) return ML_OK;
    fprintf(r->save_list,
            "{\"step\": %" PRId64 ", \"bytes\": %" PRId64
            ", \"seconds\": %.9g, \"waited_seconds\": %.9g, \"time\": %.6f}\n",
            report->step, report->bytes, report->seconds, report->waited, wall_clock());
    return end_line(r, r->save_list, saves_name);
}

ml_status trace_write(const run *r, const char *lines, int64_t length)
{
    fwrite(lines, 1, (size_t)length, r->trace_file);
    return end_line(r, r->trace_file, trace_name);
}

ml_status metrics_sync(const run *r)
{
    ml_status st = ML_OK;
    const struct {
        FILE *file;
        const char *name;
    } files[] = {{r->metrics, metrics_name}, {r->evaluations, evaluations_name},
                 {r->save_list, saves_name}, {r->csv, csv_name},
                 {r->samples, samples_name}, {r->trace_file, trace_name}};
    for (size_t i = 0; i < sizeof files / sizeof *files && st == ML_OK; i++)
        if (files[i].file && fsync(fileno(files[i].file))) st = write_failed(r, files[i].name);
    return st;
}

/* ---- what earlier starts wrote ------------------------------------------------------------- */

ml_status metrics_cut(const run *r)
{
    ml_status st = ML_OK;
    const struct {
        const char *name;
        ml_metrics_lines lines;
    } files[] = {{metrics_name, {.once = true, .every = 1}},
                 {evaluations_name, {.once = true}},
                 {saves_name, {.every = 0}},
                 {csv_name, {.rows = true, .every = 1}},
                 {samples_name, {.every = samples_every(r)}},
                 {trace_name, {.every = r->config->trace ? 1 : 0}}};
    /* A run without a checkpoint begins anew, with an evaluation before the first step, too. */
    int64_t step = r->saved_step < 0 ? -1 : r->step;
    char path[ML_DURABLE_PATH];
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        ML_TRY(ml_durable_path(path, "%s/%s", r->config->run_dir, files[i].name));
        ML_TRY(ml_metrics_cut(path, &files[i].lines, step));
    }
done:
    return st;
}
