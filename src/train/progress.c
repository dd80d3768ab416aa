/* What a person sees: one table at the start, then a bar on a terminal or a line now and then
 * elsewhere. Rank 0 alone. */
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <unistd.h>

#include "train/run.h"

const char *run_label(const run *r)
{
    static char label[256];
    if (!r->among_others) return "";
    snprintf(label, sizeof label, "%s: ", r->config->run_dir);
    return label;
}

static double mib(int64_t bytes) { return (double)bytes / 1048576.0; }

static void print_kernels(const session *s)
{
    const ml_kernels_rate *rates;
    bool recalled;
    int64_t n = ml_kernels_rates(s->kernels, &rates, &recalled);
    ml_log("  products     %s, vectors %s", s->kernels->backend, s->kernels->vector_path);
    for (int64_t i = 0; i < n; i++)
        if (rates[i].forward.median > 0.0)
            ml_log("               %-14s forward %.0f, backward %.0f GF/s a thread", rates[i].path,
                   rates[i].forward.median, rates[i].backward.median);
    if (recalled) ml_log("               as an earlier start measured (kernels.measure: once)");
}

static void print_load(const session *s)
{
    char mapped[64] = "";
    if (s->mapped_bytes > 0)
        snprintf(mapped, sizeof mapped, ", %.1f MB of them mapped", 1e-6 * (double)s->mapped_bytes);
    ml_log("  weights      %.1f MB read in %.2f s, %.2f GB/s (%d thread%s a rank)%s",
           1e-6 * (double)s->load_bytes, s->load_seconds,
           1e-9 * (double)s->load_bytes / s->load_seconds, omp_get_max_threads(),
           omp_get_max_threads() > 1 ? "s" : "", mapped);
}

static void print_data(const run *r)
{
    const session *s = &r->session;
    const ml_sampler *sampler = s->train.sampler;
    ml_log("  data         %" PRId64 " sequences, %" PRId64 " tokens; %" PRId64 " cut at %" PRId64
           " tokens, %" PRId64 " left without a target and skipped",
           ml_dataset_sequences(s->train.dataset), ml_dataset_tokens(s->train.dataset),
           ml_sampler_cut(sampler), s->max_len, ml_sampler_skipped(sampler));
    double sum = 0.0;
    int64_t parts = ml_dataset_parts(s->train.dataset), first;
    for (int64_t k = 0; k < parts; k++) sum += ml_dataset_weight(s->train.dataset, k);
    for (int64_t k = 0; k < parts; k++) {
        const ml_dataset *part = ml_dataset_part(s->train.dataset, k, &first);
        ml_log("    %5.1f %%    %s: %" PRId64 " sequences",
               100.0 * ml_dataset_weight(s->train.dataset, k) / sum, ml_dataset_path(part),
               ml_dataset_sequences(part));
    }
}

static void print_memory(const run *r)
{
    const session *s = &r->session;
    int64_t total = 0;
    for (int c = 0; c < ML_MEM_CATEGORIES; c++) {
        int64_t bytes = ml_memory_current((ml_category)c);
        total += bytes;
        if (bytes >= 1 << 20)
            ml_log("    %-13s%10.1f MiB", ml_category_name((ml_category)c), mib(bytes));
    }
    ml_log("    %-13s%10.1f MiB a rank, %d ranks on a node", "total", mib(total),
           ml_grid_ranks_on_node(s->grid));
    if (s->shared)
        ml_log("                 the frozen weights are one copy for %d ranks of this node and "
               "count in rank 0 alone",
               ml_session_frozen_sharers(s));
}

/* Of a run whose base, grid and memory the table of the first has. */
static void print_guest(const run *r)
{
    ml_log("%s%" PRId64 " parameters trained beside", run_label(r), r->session.parameters.global);
    print_data(r);
}

void progress_table(run *r)
{
    const session *s = &r->session;
    const ml_run_config *c = r->config;
    int64_t all = ml_model_parameters_total(ml_base_spec(s->base)), trained = s->parameters.global;
    int threads = omp_get_max_threads();
    r->progress_time = ml_seconds();
    if (s->host) {
        print_guest(r);
        return;
    }
    ml_log("mpilora train: %s, %s, %s%s", c->base,
           c->method.name == ML_METHOD_FULL   ? "full fine-tuning"
           : c->method.name == ML_METHOD_LORA ? "LoRA"
                                              : ml_method_name(c->method.name),
           ml_dtype_name(c->precision), s->parameters.exact ? ", numerics grid" : "");
    char stages[32] = "", sharers[32] = "";
    if (ml_grid_cp(s->grid) > 1) snprintf(sharers, sizeof sharers, " x cp %d", ml_grid_cp(s->grid));
    if (ml_grid_pp(s->grid) > 1) snprintf(stages, sizeof stages, " x pp %d", ml_grid_pp(s->grid));
    ml_log(
        "  grid         %d ranks = dp %d x tp %d%s%s on %d node%s (%d a node), %d thread%s a rank",
        ml_grid_size(s->grid), ml_grid_dp(s->grid), ml_grid_tp(s->grid), sharers, stages,
        ml_grid_nodes(s->grid), ml_grid_nodes(s->grid) > 1 ? "s" : "",
        ml_grid_ranks_on_node(s->grid), threads, threads > 1 ? "s" : "");
    print_kernels(s);
    ml_log("  parameters   %" PRId64 " in the base, %" PRId64
           " trained (%.3f %%); %.3f MB summed a step",
           all, trained, 100.0 * (double)trained / (double)all,
           1e-6 * (double)(ml_gradient_bytes(s->parameters.exact) * trained));
    print_data(r);
    print_load(s);
    ml_log("  activations  kept: %s", ml_activation_mode_name(s->activations));
    ml_log("  memory (rank 0)");
    print_memory(r);
}

static void format_time(double seconds, char text[16])
{
    int64_t t = isfinite(seconds) && seconds < 3.6e8 ? (int64_t)(seconds + 0.5) : 0;
    if (t >= 3600)
        snprintf(text, 16, "%d:%02d:%02d", (int)(t / 3600), (int)(t / 60 % 60), (int)(t % 60));
    else
        snprintf(text, 16, "%d:%02d", (int)(t / 60), (int)(t % 60));
}

/* Whether a person sees standard error: a terminal of our own, or mpirun's, which passes on what
 * we write (it is then our parent). */
static bool on_terminal(void)
{
    char path[64];
    if (isatty(STDERR_FILENO)) return true;
    if (!getenv("OMPI_COMM_WORLD_SIZE")) return false;
    snprintf(path, sizeof path, "/proc/%ld/fd/2", (long)getppid());
    int parent = open(path, O_WRONLY | O_NOCTTY);
    bool terminal = parent >= 0 && isatty(parent);
    if (parent >= 0) close(parent);
    return terminal;
}

static void draw_bar(const run *r, const step_result *step, const char *left)
{
    enum { WIDTH = 30 };
    char bar[WIDTH + 1];
    int64_t full = WIDTH * r->step / r->config->train.steps;
    for (int64_t i = 0; i < WIDTH; i++) bar[i] = i < full ? '#' : '.';
    bar[WIDTH] = '\0';
    fprintf(stderr, "\r[%s] %" PRId64 "/%" PRId64 "  loss %.4f  %.0f tokens/s  %s left \033[K", bar,
            r->step, r->config->train.steps, step->loss, (double)r->timed_tokens / r->seconds,
            left);
}

void progress_step(run *r, const step_result *step)
{
    enum { LINE_SECONDS = 5 };
    if (ml_grid_rank(r->session.grid) != 0) return;
    char left[16];
    double each = r->seconds / (double)(r->step - r->first_step);
    format_time(each * (double)(r->config->train.steps - r->step), left);
    bool ends = r->step == r->config->train.steps || r->step == r->first_step + 1;
    if (on_terminal() && !r->among_others) {
        draw_bar(r, step, left);
    } else if (ends || ml_seconds() - r->progress_time >= LINE_SECONDS) {
        ml_log("%sstep %" PRId64 "/%" PRId64
               "  loss %.6f  lr %.3g  grad_norm %.4f  %.0f tokens/s  %s left",
               run_label(r), r->step, r->config->train.steps, step->loss, step->lr, step->grad_norm,
               (double)r->timed_tokens / r->seconds, left);
        r->progress_time = ml_seconds();
    }
}

void progress_end(const run *r)
{
    if (ml_grid_rank(r->session.grid) == 0 && on_terminal() && !r->among_others)
        fputc('\n', stderr);
}

static void print_figures(const run *r, const ml_figures *figures)
{
    char text[256] = "";
    size_t used = 0;
    for (int64_t i = 0; i < figures->count && used < sizeof text; i++)
        used += (size_t)snprintf(text + used, sizeof text - used, ", %s %.4f", figures->name[i],
                                 figures->value[i]);
    ml_log("%sstep %" PRId64 ": validation loss %.6f%s", run_label(r), r->step, r->valid_loss,
           text);
}

void progress_evaluation(const run *r, const ml_figures *figures)
{
    if (on_terminal() && r->step < r->config->train.steps) progress_end(r);
    if (ml_run_config_scores_labels(r->config) || ml_run_config_contrasts(r->config))
        print_figures(r, figures);
    else if (!ml_run_config_has_figures(r->config))
        ml_log("%sstep %" PRId64 ": validation loss %.6f, perplexity %.3f", run_label(r), r->step,
               r->valid_loss, exp(r->valid_loss));
    else /* no mean over tokens */
        ml_log("%sstep %" PRId64 ": validation loss %.6f", run_label(r), r->step, r->valid_loss);
}

/* Where the time went, as rank 0 saw it. */
static void print_phases(const run *r)
{
    double steps = (double)(r->step - r->first_step);
    if (ml_grid_rank(r->session.grid) != 0 || steps == 0.0) return;
    ml_log("  a step       %10.4f s", r->seconds / steps);
    for (int p = 0; p < ML_PHASES; p++)
        ml_log("    %-11s%10.4f s  %5.1f %%", ml_phase_name((ml_phase)p), r->phase[p] / steps,
               100.0 * r->phase[p] / r->seconds);
    if (r->waits.ranks < 2) return;
    double others;
    int slowest = waits_slowest(r, &others);
    ml_log("    of comm, %.4f s (%.1f %%) were waiting for slower ranks; rank %d waited least, the "
           "others %.4f s (%.1f %%)",
           r->waits.sum[0] / steps, 100.0 * r->waits.sum[0] / r->seconds, slowest, others / steps,
           100.0 * others / r->seconds);
}

void progress_summary(const run *r)
{
    if (!r->among_others) print_phases(r);
    bool full = r->config->method.name == ML_METHOD_FULL;
    const char *result = full ? "model.h5" : "adapter.h5";
    if (r->step == r->first_step) /* all steps were done before this start */
        ml_log("done: %" PRId64 " steps, loss %.4f -> %.4f; %s/%s", r->step, r->loss_first,
               r->loss_last, r->config->run_dir, result);
    else
        ml_log("done: %" PRId64 " steps, loss %.4f -> %.4f, %.0f tokens/s; %s/%s", r->step,
               r->loss_first, r->loss_last, (double)r->timed_tokens / r->seconds,
               r->config->run_dir, result);
}
