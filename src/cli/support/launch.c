/* A command line for a launcher (mpirun, srun or the user's own) is put together word by word and
 * run as a child process, whose output goes to a file. */
#include "cli/support/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

const char *launch_default(void)
{
    const char *job = getenv("SLURM_JOB_ID");
    return job && *job ? "srun --mpi=pmix --exact -n {ranks}" : launch_mpirun();
}

const char *launch_mpirun(void) { return MPILORA_MPIRUN " -n {ranks}"; }

int64_t launch_threads(int64_t asked, int64_t ranks)
{
    const char *given = getenv("OMP_NUM_THREADS");
    int64_t number = given ? strtoll(given, NULL, 10) : 0;
    if (asked > 0) return asked;
    return number > 0 ? number : ml_max(1, sysconf(_SC_NPROCESSORS_ONLN) / ranks);
}

ml_status launch_find_program(char path[LAUNCH_PATH])
{
    ssize_t n = readlink("/proc/self/exe", path, LAUNCH_PATH - 1);
    if (n <= 0) return ml_fail(ML_INTERNAL, "/proc/self/exe cannot be read");
    path[n] = '\0';
    return ML_OK;
}

static void add(launch *c, const char *format, va_list arguments)
{
    char piece[LAUNCH_PATH];
    vsnprintf(piece, sizeof piece, format, arguments);
    char *copy = c->count < LAUNCH_WORDS ? ml_memory_string(piece) : NULL;
    if (copy)
        c->words[c->count++] = copy;
    else
        c->full = true;
}

void launch_add_word(launch *c, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    add(c, format, arguments);
    va_end(arguments);
}

void launch_add_set(launch *c, const char *format, ...)
{
    va_list arguments;
    launch_add_word(c, "--set");
    va_start(arguments, format);
    add(c, format, arguments);
    va_end(arguments);
}

void launch_add_method(launch *c, const char *name)
{
    ml_method method;
    if (ml_method_find(name, &method) && method != ML_METHOD_LORA)
        launch_add_set(c, "method.init=null");
    launch_add_set(c, "method.name=%s", name);
}

void launch_add_launcher(launch *c, const char *launcher, int64_t ranks)
{
    static const char mark[] = "{ranks}";
    for (const char *at = launcher; *at;) {
        int length = (int)strcspn(at, " ");
        const char *found = length > 0 ? strstr(at, mark) : NULL;
        if (found && found + strlen(mark) <= at + length)
            launch_add_word(c, "%.*s%" PRId64 "%.*s", (int)(found - at), at, ranks,
                            (int)(at + length - found) - (int)strlen(mark), found + strlen(mark));
        else if (length > 0)
            launch_add_word(c, "%.*s", length, at);
        at += length;
        at += strspn(at, " ");
    }
}

void launch_destroy(launch *c)
{
    for (int i = 0; i < c->count; i++) ml_memory_free(c->words[i]);
}

ml_status launch_run(const launch *c, const char *log, int64_t threads, int *code)
{
    if (c->full)
        return ml_fail(ML_USAGE, "the launcher and --set make more than %d words", LAUNCH_WORDS);
    posix_spawn_file_actions_t files;
    pid_t child;
    int status = 0, fd;
    char number[32];
    ml_status st = ml_check_replaceable(log);
    if (st != ML_OK) return st;
    fd = open(log, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) return ml_fail(ML_RESOURCE, "%s: cannot be written: %s", log, strerror(errno));
    snprintf(number, sizeof number, "%" PRId64, threads);
    setenv("OMP_NUM_THREADS", number, 1);
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&files, fd, STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&files, fd, STDERR_FILENO);
    int error = posix_spawnp(&child, c->words[0], &files, NULL, c->words, environ);
    posix_spawn_file_actions_destroy(&files);
    (void)close(fd);
    if (error)
        return ml_fail(ML_USAGE, "%s cannot be started: %s; name another launcher with --launcher",
                       c->words[0], strerror(error));
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
    *code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    return ML_OK;
}

/* What an error of ours says behind the name of the command that failed, which is not the one that
 * was started by hand. */
static const char *without_command(const char *line)
{
    static const char begin[] = "mpilora ";
    if (strncmp(line, begin, strlen(begin)) != 0) return line;
    const char *end = line + strlen(begin);
    end += strspn(end, "abcdefghijklmnopqrstuvwxyz");
    return strncmp(end, ": ", 2) == 0 ? end + 2 : line;
}

void launch_explain(const char *log, int code, char text[LAUNCH_TEXT])
{
    char line[1024], last[LAUNCH_TEXT - 32] = "";
    FILE *file = fopen(log, "r");
    while (file && fgets(line, sizeof line, file)) {
        const char *said = without_command(line);
        if (strstr(line, "mpilora") ||
            (!last[0] && line[strspn(line, "- \n")])) /* Open MPI begins with a line of dashes */
            snprintf(last, sizeof last, "%.*s", (int)strcspn(said, "\n"), said);
    }
    if (file) fclose(file);
    snprintf(text, LAUNCH_TEXT, "exit code %d: %s", code, last);
}
