/* gzip -dc and zstd -dc: the file as their standard input, a pipe as their output. */
#include "io/decompress.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

const char *ml_decompress_program(const char *bytes, size_t count)
{
    if (count >= 2 && !memcmp(bytes, "\x1f\x8b", 2)) return "gzip";
    if (count >= 4 && !memcmp(bytes, "\x28\xb5\x2f\xfd", 4)) return "zstd";
    return NULL;
}

static ml_status spawn(pid_t *pid, int from, int to, const char *program)
{
    posix_spawn_file_actions_t files;
    char name[16], option[] = "-dc";
    char *const argv[] = {name, option, NULL};
    snprintf(name, sizeof name, "%s", program);
    if (posix_spawn_file_actions_init(&files)) return ml_fail(ML_RESOURCE, "out of memory");
    int error = posix_spawn_file_actions_adddup2(&files, from, STDIN_FILENO);
    if (!error) error = posix_spawn_file_actions_adddup2(&files, to, STDOUT_FILENO);
    if (!error)
        error = posix_spawn_file_actions_addopen(&files, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
    if (!error) error = posix_spawnp(pid, name, &files, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&files);
    if (!error) return ML_OK;
    *pid = 0;
    return ml_fail(error == ENOENT ? ML_USAGE : ML_RESOURCE,
                   "is compressed; %s, which reads it, cannot be started: %s", program,
                   strerror(error));
}

ml_status ml_decompress_open(FILE **out, pid_t *pid, const char *path, const char *program)
{
    ml_status st = ML_OK;
    int file = -1, ends[2] = {-1, -1};
    int64_t bytes;
    *out = NULL;
    ML_TRY(ml_open_regular(path, &file, &bytes));
    if (pipe2(ends, O_CLOEXEC)) {
        st = ml_fail(ML_RESOURCE, "%s: no pipe to read it by: %s", path, strerror(errno));
        goto done;
    }
    st = spawn(pid, file, ends[1], program);
    if (st != ML_OK) {
        st = ml_fail_within(st, "%s", path);
        goto done;
    }
    *out = fdopen(ends[0], "rb");
    if (!*out) st = ml_fail(ML_RESOURCE, "%s: out of memory", path);
    if (*out) ends[0] = -1;
done:
    for (int i = 0; i < 2; i++)
        if (ends[i] >= 0) (void)close(ends[i]);
    if (file >= 0) (void)close(file);
    if (st != ML_OK) ml_decompress_end(pid);
    return st;
}

ml_status ml_decompress_check(pid_t *pid, const char *path)
{
    int status = 0;
    pid_t child = *pid;
    *pid = 0;
    while (child && waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
    if (status == 0) return ML_OK;
    return ml_fail(ML_INPUT, "%s: is damaged or cut short: it cannot be decompressed to its end",
                   path);
}

void ml_decompress_end(pid_t *pid)
{
    if (*pid) kill(*pid, SIGKILL);
    while (*pid && waitpid(*pid, NULL, 0) < 0 && errno == EINTR) continue;
    *pid = 0;
}
