/* run.prometheus: the newest figures of a run for the collector of text files of a Prometheus node
 * exporter, which reads every *.prom of one folder for all runs of a node.
 *
 * One file a run, replaced as a whole. HELP and TYPE of a metric never change: where two files
 * disagree the exporter drops the second one's series without a word. No timestamps: one ends the
 * whole file. What is not known is left out. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "io/durable.h"
#include "io/utf8.h"
#include "train/run.h"

enum { SECONDS_BETWEEN = 5 };

typedef struct metric {
    const char *name, *type, *help;
    double value;
} metric;

/* A label's value: backslash, quote and newline are escaped. What is no UTF-8 would end the file.
 */
static ml_status put_label(const char *name, ml_text *out)
{
    ml_status st = ML_OK;
    ml_text valid = {0};
    ML_TRY(ml_utf8_add(&valid, name, (int64_t)strlen(name)));
    for (const char *text = valid.data; text && *text; text++) {
        if (*text == '\n') {
            ML_TRY(ml_text_printf(out, "\\n"));
            continue;
        }
        if (*text == '\\' || *text == '"') ML_TRY(ml_text_printf(out, "\\"));
        ML_TRY(ml_text_add(out, text, 1));
    }
done:
    ml_text_destroy(&valid);
    return st;
}

static ml_status put_metric(const metric *m, const char *label, ml_text *out)
{
    if (!isfinite(m->value)) return ML_OK;
    return ml_text_printf(out,
                          "# HELP mpilora_%s %s\n# TYPE mpilora_%s %s\nmpilora_%s{run=\"%s\"} "
                          "%.17g\n",
                          m->name, m->help, m->name, m->type, m->name, label, m->value);
}

static ml_status write_text(const run *r, const step_result *step, bool running, const char *label,
                            ml_text *out)
{
    const metric metrics[] = {
        {"running", "gauge", "1 while a start of the run goes on, 0 after it.", running},
        {"step", "gauge", "Updates done.", (double)r->step},
        {"steps", "gauge", "Updates of the whole run.", (double)r->config->train.steps},
        {"tokens", "counter", "Tokens trained on since step 1.", (double)r->tokens},
        {"ranks", "gauge", "MPI ranks.", (double)ml_grid_size(r->session.grid)},
        {"loss", "gauge", "Loss of the newest step, nats a target.", r->loss_last},
        {"valid_loss", "gauge", "Loss of the newest evaluation, nats a target.", r->valid_loss},
        {"learning_rate", "gauge", "Learning rate of the newest step.", step ? step->lr : NAN},
        {"grad_norm", "gauge", "Norm of the gradient before clipping.",
         step ? step->grad_norm : NAN},
        {"tokens_per_second", "gauge", "Tokens of the newest step a second.",
         step ? (double)step->tokens / step->seconds : NAN},
        {"peak_bytes", "gauge", "Peak of accounted memory of rank 0.",
         (double)ml_memory_peak_total()},
    };
    for (size_t i = 0; i < sizeof metrics / sizeof *metrics; i++) {
        ml_status st = put_metric(&metrics[i], label, out);
        if (st != ML_OK) return st;
    }
    return ML_OK;
}

/* The file is named by where the run is, the label is that place. */
static ml_status write_file(const run *r, const step_result *step, bool running)
{
    ml_status st = ML_OK;
    ml_text label = {0}, text = {0};
    char path[ML_DURABLE_PATH], id[ML_SHA256_HEX];
    char *place = realpath(r->config->run_dir, NULL);
    const char *name = place ? place : r->config->run_dir;
    ml_sha256_of(name, strlen(name), id);
    ML_TRY(put_label(name, &label));
    ML_TRY(write_text(r, step, running, label.data, &text));
    ML_TRY(ml_durable_path(path, "%s/mpilora-%.12s.prom", r->config->prometheus, id));
    ML_TRY(ml_durable_write(path, text.data, text.length, NULL));
done:
    free(place);
    ml_text_destroy(&label);
    ml_text_destroy(&text);
    return st;
}

ml_status prometheus_check(const run *r)
{
    char path[ML_DURABLE_PATH];
    if (!r->config->prometheus) return ML_OK;
    ml_status st = ml_durable_path(path, "%s/mpilora.prom", r->config->prometheus);
    if (st == ML_OK) st = ml_durable_may_write(path);
    return st == ML_OK ? ML_OK : ml_fail_within(st, "run.prometheus");
}

ml_status prometheus_open(run *r)
{
    if (!r->config->prometheus) return ML_OK;
    ml_status st = write_file(r, NULL, true);
    if (st == ML_OK) r->prometheus_time = ml_seconds();
    return st == ML_OK ? ML_OK : ml_fail_within(st, "run.prometheus");
}

/* A folder that goes away while the run goes on is no reason to end it. */
static void write_or_warn(run *r, const step_result *step, bool running)
{
    r->prometheus_time = ml_seconds();
    if (write_file(r, step, running) == ML_OK) return;
    if (!r->prometheus_failed) ml_warn("run.prometheus: %s", ml_error_text());
    r->prometheus_failed = true;
    ml_error_clear();
}

void prometheus_step(run *r, const step_result *step)
{
    bool due =
        ml_seconds() - r->prometheus_time >= SECONDS_BETWEEN || r->step == r->config->train.steps;
    if (r->config->prometheus && due) write_or_warn(r, step, true);
}

void prometheus_close(run *r)
{
    if (r->config->prometheus && r->prometheus_time > 0.0) write_or_warn(r, NULL, false);
    r->prometheus_time = 0.0;
}
