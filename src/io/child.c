/* Another program behind a socket. */
#include "io/child.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

enum { HEAD = 4 };

static ml_status spawn(pid_t *pid, int socket, char *const *argv)
{
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attributes;
    sigset_t none;
    sigemptyset(&none);
    if (posix_spawn_file_actions_init(&files)) return ml_fail(ML_RESOURCE, "out of memory");
    int error = posix_spawnattr_init(&attributes);
    if (!error) error = posix_spawn_file_actions_adddup2(&files, socket, STDIN_FILENO);
    for (int fd = STDOUT_FILENO; !error && fd <= STDERR_FILENO; fd++)
        error = posix_spawn_file_actions_addopen(&files, fd, "/dev/null", O_WRONLY, 0);
    if (!error) error = posix_spawnattr_setsigmask(&attributes, &none);
    if (!error) error = posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
    if (!error) error = posix_spawnp(pid, argv[0], &files, &attributes, argv, environ);
    posix_spawn_file_actions_destroy(&files);
    (void)posix_spawnattr_destroy(&attributes);
    if (error == ENOENT) return ml_fail(ML_USAGE, "there is no program %s in PATH", argv[0]);
    if (error) return ml_fail(ML_RESOURCE, "%s cannot be started: %s", argv[0], strerror(error));
    return ML_OK;
}

ml_status ml_child_start(ml_child *out, char *const *argv)
{
    int ends[2];
    *out = (ml_child){0};
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends))
        return ml_fail(ML_RESOURCE, "%s: no socket for it: %s", argv[0], strerror(errno));
    ml_status st = spawn(&out->pid, ends[1], argv);
    close(ends[1]);
    out->socket = ends[0];
    if (st != ML_OK) {
        close(ends[0]);
        out->pid = 0;
    }
    return st;
}

static void send_all(const ml_child *child, const char *bytes, int64_t length)
{
    while (length > 0) {
        ssize_t sent = send(child->socket, bytes, (size_t)length, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent < 0) return; /* it is gone, and receiving says how */
        bytes += sent;
        length -= sent;
    }
}

ml_status ml_child_send(const ml_child *child, const char *bytes, int64_t length)
{
    if (length > UINT32_MAX) return ml_fail(ML_INPUT, "is longer than 4 GiB");
    char head[HEAD];
    for (int i = 0; i < HEAD; i++) head[i] = (char)(length >> (24 - 8 * i));
    send_all(child, head, HEAD);
    send_all(child, bytes, length);
    return ML_OK;
}

/* ---- answers ------------------------------------------------------------------------------- */

/* Its end, in words. */
static ml_status say_end(ml_child *child)
{
    int status;
    pid_t pid = child->pid;
    child->pid = 0;
    close(child->socket);
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR) return ml_fail(ML_INPUT, "ended");
    child->exited = !WIFSIGNALED(status);
    if (child->exited)
        return ml_fail(ML_INPUT, "ended with code %d and without an answer", WEXITSTATUS(status));
    if (WTERMSIG(status) == SIGXCPU || WTERMSIG(status) == SIGPROF)
        return ml_fail(ML_INPUT, "took more processor time than it is allowed, and was ended");
    return ml_fail(ML_INPUT, "was ended by signal %d (%s)", WTERMSIG(status),
                   strsignal(WTERMSIG(status)));
}

static ml_status receive_all(ml_child *child, char *bytes, int64_t length, int seconds)
{
    while (length > 0) {
        struct pollfd ready = {.fd = child->socket, .events = POLLIN};
        int n = poll(&ready, 1, seconds * 1000);
        if (n < 0 && errno == EINTR) continue;
        if (n == 0) {
            ml_child_end(child);
            return ml_fail(ML_INPUT, "was silent for %d seconds, and was ended", seconds);
        }
        ssize_t got = n < 0 ? -1 : recv(child->socket, bytes, (size_t)length, 0);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return say_end(child);
        bytes += got;
        length -= got;
    }
    return ML_OK;
}

ml_status ml_child_receive(ml_child *child, ml_text *out, int64_t most, int seconds)
{
    ml_status st = ML_OK;
    unsigned char head[HEAD];
    char piece[1 << 14];
    out->length = 0;
    if (!child->pid) return ml_fail(ML_INPUT, "has ended");
    ML_TRY(receive_all(child, (char *)head, HEAD, seconds));
    int64_t left = 0;
    for (int i = 0; i < HEAD; i++) left = left << 8 | head[i];
    child->outgrown = left > most;
    if (child->outgrown) {
        ml_child_end(child);
        return ml_fail(ML_INPUT, "answers with %lld bytes, more than the %lld that are allowed",
                       (long long)left, (long long)most);
    }
    while (left > 0) {
        int64_t count = ml_min(left, (int64_t)sizeof piece);
        ML_TRY(receive_all(child, piece, count, seconds));
        ML_TRY(ml_text_add(out, piece, count));
        left -= count;
    }
done:
    return st;
}

void ml_child_end(ml_child *child)
{
    int status;
    if (!child->pid) return;
    close(child->socket);
    kill(child->pid, SIGKILL);
    while (waitpid(child->pid, &status, 0) < 0 && errno == EINTR) continue;
    child->pid = 0;
}
