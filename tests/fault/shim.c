/* fault shim: preloaded into a program, it makes the n-th call of one kind that concerns files under a directory fail, or the last thing that
 * the process does.
 *
 *   FAULT_ROOT   only paths under it (and files opened there) count
 *   FAULT_CALL   open (to write), look (open to read), write, fsync, rename, unlink, mkdir, fallocate, ftruncate; none: nothing fails
 *   FAULT_AT     which call of the kind, from 1
 *   FAULT_DO     EIO, ENOSPC, EDQUOT, EINTR, EACCES; SHORT (write half); KILL_BEFORE, KILL_AFTER
 *   FAULT_COUNT  a file that gets a line "KIND CALLS" for each kind when the process ends
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef enum call { OPEN, LOOK, WRITE, FSYNC, RENAME, UNLINK, MKDIR, FALLOCATE, FTRUNCATE, CALLS } call;
static const char *const call_name[CALLS] = {"open", "look", "write", "fsync", "rename", "unlink", "mkdir", "fallocate", "ftruncate"};

enum { FILES = 1024 };
static long calls[CALLS];
static bool ours[FILES]; /* file descriptors that were opened under the root */

/* The function that the library has; ISO C has no cast from an object pointer to a function pointer. */
#define REAL(pointer, name)                         \
    do {                                            \
        void *found_ = dlsym(RTLD_NEXT, name);      \
        memcpy(&(pointer), &found_, sizeof found_); \
    } while (0)

static bool under_root(const char *path)
{
    const char *root = getenv("FAULT_ROOT");
    return root && !strncmp(path, root, strlen(root));
}

static bool is_ours(int fd) { return fd >= 0 && fd < FILES && ours[fd]; }

static bool does(const char *what)
{
    const char *action = getenv("FAULT_DO");
    return action && !strcmp(action, what);
}

/* Counts the call; true where this is the one. */
static bool strikes(call kind)
{
    const char *name = getenv("FAULT_CALL"), *at = getenv("FAULT_AT");
    calls[kind]++;
    return name && at && !strcmp(name, call_name[kind]) && calls[kind] == atol(at);
}

static void die(void) { kill(getpid(), SIGKILL); }

/* The error number of FAULT_DO; 0 where the call itself goes on. */
static int error_number(void)
{
    static const struct {
        const char *name;
        int number;
    } errors[] = {{"EIO", EIO}, {"ENOSPC", ENOSPC}, {"EDQUOT", EDQUOT}, {"EINTR", EINTR}, {"EACCES", EACCES}};
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
        if (does(errors[i].name)) return errors[i].number;
    return 0;
}

/* Before the call: true where it must fail with errno set. */
static bool fails(bool struck)
{
    if (!struck) return false;
    if (does("KILL_BEFORE")) die();
    int number = error_number();
    if (number) errno = number;
    return number != 0;
}

static void after(bool struck)
{
    if (struck && does("KILL_AFTER")) die();
}

int open(const char *path, int flags, ...)
{
    int (*real)(const char *, int, ...);
    REAL(real, "open");
    mode_t mode = 0;
    if (flags & O_CREAT) {
        va_list arguments;
        va_start(arguments, flags);
        mode = va_arg(arguments, mode_t);
        va_end(arguments);
    }
    bool here = under_root(path), struck = here && strikes((flags & (O_ACCMODE | O_DIRECTORY)) == O_RDONLY ? LOOK : OPEN);
    if (fails(struck)) return -1;
    int fd = real(path, flags, mode);
    if (fd >= 0 && fd < FILES) ours[fd] = here;
    after(struck);
    return fd;
}

ssize_t write(int fd, const void *bytes, size_t count)
{
    ssize_t (*real)(int, const void *, size_t);
    REAL(real, "write");
    bool struck = is_ours(fd) && strikes(WRITE);
    if (fails(struck)) return -1;
    ssize_t n = real(fd, bytes, struck && does("SHORT") && count > 1 ? count / 2 : count);
    after(struck);
    return n;
}

int fsync(int fd)
{
    int (*real)(int);
    REAL(real, "fsync");
    bool struck = is_ours(fd) && strikes(FSYNC);
    if (fails(struck)) return -1;
    int failed = real(fd);
    after(struck);
    return failed;
}

int ftruncate(int fd, off_t length)
{
    int (*real)(int, off_t);
    REAL(real, "ftruncate");
    bool struck = is_ours(fd) && strikes(FTRUNCATE);
    if (fails(struck)) return -1;
    int failed = real(fd, length);
    after(struck);
    return failed;
}

int posix_fallocate(int fd, off_t offset, off_t length)
{
    int (*real)(int, off_t, off_t);
    REAL(real, "posix_fallocate");
    bool struck = is_ours(fd) && strikes(FALLOCATE);
    if (fails(struck)) return errno;
    int code = real(fd, offset, length);
    after(struck);
    return code;
}

int rename(const char *from, const char *to)
{
    int (*real)(const char *, const char *);
    REAL(real, "rename");
    bool struck = under_root(to) && strikes(RENAME);
    if (fails(struck)) return -1;
    int failed = real(from, to);
    after(struck);
    return failed;
}

int mkdir(const char *path, mode_t mode)
{
    int (*real)(const char *, mode_t);
    REAL(real, "mkdir");
    bool struck = under_root(path) && strikes(MKDIR);
    if (fails(struck)) return -1;
    int failed = real(path, mode);
    after(struck);
    return failed;
}

int unlink(const char *path)
{
    int (*real)(const char *);
    REAL(real, "unlink");
    bool struck = under_root(path) && strikes(UNLINK);
    if (fails(struck)) return -1;
    int failed = real(path);
    after(struck);
    return failed;
}

/* Which directory a descriptor of opendir means is asked of the kernel. */
int unlinkat(int directory, const char *path, int flags)
{
    int (*real)(int, const char *, int);
    REAL(real, "unlinkat");
    char link[64], where[PATH_MAX] = "";
    snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
    ssize_t n = readlink(link, where, sizeof where - 1);
    bool struck = n > 0 && under_root(where) && strikes(UNLINK);
    if (fails(struck)) return -1;
    int failed = real(directory, path, flags);
    after(struck);
    return failed;
}

/* MPI's helper processes inherit the shim and count nothing. */
__attribute__((destructor)) static void write_counts(void)
{
    long sum = 0;
    for (int i = 0; i < CALLS; i++) sum += calls[i];
    const char *path = getenv("FAULT_COUNT");
    FILE *file = path && sum > 0 ? fopen(path, "w") : NULL;
    for (int i = 0; file && i < CALLS; i++) fprintf(file, "%s %ld\n", call_name[i], calls[i]);
    if (file) fclose(file);
}
