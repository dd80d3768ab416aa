/* One run of an experiment: the launcher as a child process, its output in a file, then its metrics and summary. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/scale.h"

extern char **environ;

#define STEP(name)             \
    {                          \
        name, name, NULL, NULL \
    }
#define SUM(name)              \
    {                          \
        name, NULL, NULL, name \
    }
#define MEMORY(name) \
    {"memory_" name, NULL, "memory", name}, { "planned_" name, NULL, "predicted", name }
const scale_column scale_columns[SCALE_COLUMNS] = {
    STEP("tokens_per_s"),
    STEP("step_s"),
    STEP("forward_s"),
    STEP("backward_s"),
    STEP("comm_s"),
    STEP("optimizer_s"),
    STEP("data_s"),
    STEP("other_s"),
    STEP("wait_s"),
    STEP("allreduce_bytes"),
    STEP("allreduce_bytes_passed"),
    SUM("params_trainable"),
    MEMORY("frozen"),
    MEMORY("trainable"),
    MEMORY("gradient"),
    MEMORY("optimizer"),
    MEMORY("activation"),
    MEMORY("workspace"),
    {"memory_total", NULL, "memory", "total_peak_bytes"},
    {"planned_total", NULL, "predicted", "total_bytes"},
    {"process_peak_bytes", NULL, "memory", "process_peak_bytes"},
    {"node_peak_bytes", NULL, "memory", "node_peak_bytes"},
};

int scale_column_find(const char *name)
{
    for (int i = 0; i < SCALE_COLUMNS; i++)
        if (!strcmp(scale_columns[i].name, name)) return i;
    return -1;
}

/* ---- the child ---- */

enum { WORDS = 128 };

typedef struct command {
    char *words[WORDS + 1];
    int count;
    bool full;
} command;

static void add_word(command *c, const char *format, ...) ML_PRINTF(2, 3);

static void add_word(command *c, const char *format, ...)
{
    char piece[SCALE_PATH];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(piece, sizeof piece, format, arguments);
    va_end(arguments);
    char *copy = c->count < WORDS ? ml_memory_string(piece) : NULL;
    if (copy)
        c->words[c->count++] = copy;
    else
        c->full = true;
}

/* The launcher's words, {ranks} replaced. */
static void add_launcher(command *c, const char *launcher, int64_t ranks)
{
    static const char mark[] = "{ranks}";
    for (const char *at = launcher; *at;) {
        int length = (int)strcspn(at, " ");
        const char *found = length > 0 ? strstr(at, mark) : NULL;
        if (found && found + strlen(mark) <= at + length)
            add_word(c, "%.*s%" PRId64 "%.*s", (int)(found - at), at, ranks, (int)(at + length - found) - (int)strlen(mark),
                     found + strlen(mark));
        else if (length > 0)
            add_word(c, "%.*s", length, at);
        at += length;
        at += strspn(at, " ");
    }
}

/* One configuration serves all methods, also where it has keys that only LoRA's variants read. */
static void add_method(command *c, const char *name)
{
    ml_method method;
    bool other = ml_method_find(name, &method) && !ml_method_has_lora(method);
    for (int i = 0; other && ml_lora_variants_off[i]; i++) {
        add_word(c, "--set");
        add_word(c, "%s", ml_lora_variants_off[i]);
    }
    add_word(c, "--set");
    add_word(c, "method.name=%s", name);
}

static void make_command(const scale_options *o, const scale_experiment *e, const char *run_dir, command *c)
{
    add_launcher(c, o->launcher, e->ranks);
    add_word(c, "%s", o->program);
    add_word(c, "train");
    add_word(c, "%s", o->config_path);
    add_word(c, "--fresh");
    for (int64_t i = 0; i < o->nsets; i++) {
        add_word(c, "--set");
        add_word(c, "%s", o->sets[i]);
    }
    const char *const fixed[] = {"train.save_every=0", "train.eval_every=0", "data.valid=null", NULL};
    for (int i = 0; fixed[i]; i++) {
        add_word(c, "--set");
        add_word(c, "%s", fixed[i]);
    }
    add_word(c, "--set");
    add_word(c, "run.dir=%s", run_dir);
    add_word(c, "--set");
    add_word(c, "train.steps=%" PRId64, o->steps + 1);
    add_method(c, e->method);
    add_word(c, "--set");
    add_word(c, "parallel.tp=%" PRId64, e->tp);
    add_word(c, "--set");
    add_word(c, "batch.sequences=%" PRId64, e->sequences);
}

static void free_command(command *c)
{
    for (int i = 0; i < c->count; i++) ml_memory_free(c->words[i]);
}

/* The exit code; −1 (errno set) where it could not be started. */
static int run_child(const command *c, const char *log, int64_t threads)
{
    posix_spawn_file_actions_t files;
    pid_t child;
    int status = 0;
    char number[32];
    snprintf(number, sizeof number, "%" PRId64, threads);
    setenv("OMP_NUM_THREADS", number, 1);
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&files, STDOUT_FILENO, log, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    posix_spawn_file_actions_adddup2(&files, STDOUT_FILENO, STDERR_FILENO);
    errno = posix_spawnp(&child, c->words[0], &files, NULL, c->words, environ);
    posix_spawn_file_actions_destroy(&files);
    if (errno) return -1;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* ---- what it says ---- */

static double member(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return json_is_number(value) ? json_number_value(value) : NAN;
}

/* Means over the steps after the first. */
static bool read_steps(const char *run_dir, double *value)
{
    char path[SCALE_PATH + 16], line[8192];
    int64_t lines = 0;
    double sum[SCALE_COLUMNS] = {0};
    snprintf(path, sizeof path, "%s/metrics.jsonl", run_dir);
    FILE *file = fopen(path, "r");
    while (file && fgets(line, sizeof line, file)) {
        json_t *step = json_loads(line, 0, NULL);
        if (lines++ > 0)
            for (int i = 0; i < SCALE_COLUMNS; i++)
                if (scale_columns[i].member) sum[i] += member(step, scale_columns[i].member);
        json_decref(step);
    }
    if (file) fclose(file);
    for (int i = 0; lines > 1 && i < SCALE_COLUMNS; i++)
        if (scale_columns[i].member) value[i] = sum[i] / (double)(lines - 1);
    return lines > 1;
}

static bool read_summary(const char *run_dir, double *value)
{
    char path[SCALE_PATH + 16];
    snprintf(path, sizeof path, "%s/summary.json", run_dir);
    json_t *summary = json_load_file(path, 0, NULL);
    const json_t *memory = json_object_get(summary, "memory");
    for (int i = 0; summary && i < SCALE_COLUMNS; i++) {
        const scale_column *c = &scale_columns[i];
        const json_t *from = !c->object ? summary : !strcmp(c->object, "memory") ? memory : json_object_get(memory, c->object);
        if (!c->member) value[i] = member(from, c->key);
    }
    json_decref(summary);
    return summary != NULL;
}

/* The last line of the log that begins like one of this program. */
static void note_failure(scale_experiment *e, const char *log, int code)
{
    char line[1024], last[SCALE_STATUS - 32] = "";
    FILE *file = fopen(log, "r");
    while (file && fgets(line, sizeof line, file))
        if (strstr(line, "mpilora") || !last[0]) snprintf(last, sizeof last, "%.*s", (int)strcspn(line, "\n"), line);
    if (file) fclose(file);
    if (strcmp(e->status, "ok") == 0) snprintf(e->status, sizeof e->status, "exit code %d: %s", code, last);
}

ml_status scale_run(const scale_options *o, scale_experiment *e, int64_t repetition)
{
    ml_status st = ML_OK;
    command c = {0};
    char run_dir[SCALE_PATH], log[SCALE_PATH + 8];
    snprintf(run_dir, sizeof run_dir, "%s/runs/%s-%" PRId64 "x%" PRId64 "-%" PRId64, o->out, e->method, e->dp, e->tp, repetition + 1);
    snprintf(log, sizeof log, "%s.log", run_dir);
    for (int i = 0; i < SCALE_COLUMNS; i++) e->value[repetition][i] = NAN;
    make_command(o, e, run_dir, &c);
    if (c.full) {
        st = ml_fail(ML_USAGE, "scale: the launcher and --set make more than %d words", WORDS);
        goto done;
    }
    int code = run_child(&c, log, e->threads);
    if (code < 0)
        st = ml_fail(ML_USAGE, "scale: %s cannot be started: %s; name another launcher with --launcher", c.words[0], strerror(errno));
    else if (code == 0 && read_summary(run_dir, e->value[repetition]) && read_steps(run_dir, e->value[repetition]))
        e->done++, e->used[repetition] = true;
    else
        note_failure(e, log, code);
done:
    free_command(&c);
    return st;
}
