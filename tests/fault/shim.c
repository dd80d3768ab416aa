/* fault shim: preloaded into a program, it makes the n-th call of one kind that concerns files
 * under a directory fail, or the last thing that the process does. Calls are counted over all
 * threads.
 *
 *   FAULT_ROOT   only paths under it (and files opened there) count
 *   FAULT_CALL   a kind of call_name below; none: nothing fails. "open" is to write, "look" to read
 *     (files and directories), "malloc" whatever asks
 *                for memory while a checkpoint is saved; "hdf5" (files that HDF5 opens, images in
 *                  memory with them) is counted only
 *   FAULT_AT     which call of the kind, from 1
 *   FAULT_DO     EIO, ENOSPC, EDQUOT, EINTR, EACCES, ENOMEM; SHORT (half of a read or write); FLIP
 *     (a read's first byte is another one); KILL_BEFORE,
 *                KILL_AFTER
 *   FAULT_COUNT  a file that gets a line "KIND CALLS" for each kind when the process ends
 *
 * A program that knows when it saves says so through fault_saving and may ask for the counts
 * through fault_report (both weak in it); for another one a save is what the thread that makes a
 * directory step-… does until it has renamed something to `latest`.
 */
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef enum call {
    OPEN,
    LOOK,
    READ,
    WRITE,
    FSYNC,
    CLOSE,
    RENAME,
    UNLINK,
    MKDIR,
    RMDIR,
    FALLOCATE,
    FTRUNCATE,
    FLUSH,
    STAT,
    LIST,
    MALLOC,
    HDF5,
    CALLS
} call;
static const char *const call_name[CALLS] = {
    "open",  "look",      "read",      "write", "fsync", "close", "rename", "unlink", "mkdir",
    "rmdir", "fallocate", "ftruncate", "flush", "stat",  "list",  "malloc", "hdf5"};

enum { FILES = 1024 };
static _Atomic long calls[CALLS];
static _Atomic bool ours[FILES]; /* file descriptors that were opened under the root */
static _Atomic bool saving;      /* said by the program */
static _Thread_local bool saving_here;
static _Atomic long
    malloc_at; /* which one fails; 0: none. Set when a save begins: malloc itself cannot look */

void fault_saving(bool on);
void fault_report(void);

extern void *__libc_malloc(size_t bytes);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *old, size_t bytes);
extern void *__libc_memalign(size_t alignment, size_t bytes);

/* The function that the library has; ISO C has no cast from an object pointer to a function
 * pointer. */
#define REAL(pointer, name)                         \
    do {                                            \
        void *found_ = dlsym(RTLD_NEXT, name);      \
        memcpy(&(pointer), &found_, sizeof found_); \
    } while (0)

static bool under_root(const char *path)
{
    const char *root = getenv("FAULT_ROOT");
    return root && path && !strncmp(path, root, strlen(root));
}

static bool is_ours(int fd) { return fd >= 0 && fd < FILES && atomic_load(&ours[fd]); }

static void note(int fd, bool here)
{
    if (fd >= 0 && fd < FILES) atomic_store(&ours[fd], here);
}

static bool does(const char *what)
{
    const char *action = getenv("FAULT_DO");
    return action && !strcmp(action, what);
}

/* The number of the call that is to fail; 0 where it is another kind's. */
static long struck_call(call kind)
{
    const char *name = getenv("FAULT_CALL"), *at = getenv("FAULT_AT");
    return name && at && !strcmp(name, call_name[kind]) ? atol(at) : 0;
}

/* Counts the call; true where this is the one. */
static bool strikes(call kind)
{
    return atomic_fetch_add(&calls[kind], 1) + 1 == struck_call(kind);
}

static void die(void)
{
    for (;;) kill(getpid(), SIGKILL);
}

/* The error number of FAULT_DO; 0 where the call itself goes on. */
static int error_number(void)
{
    static const struct {
        const char *name;
        int number;
    } errors[] = {{"EIO", EIO},     {"ENOSPC", ENOSPC}, {"EDQUOT", EDQUOT},
                  {"EINTR", EINTR}, {"EACCES", EACCES}, {"ENOMEM", ENOMEM}};
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

/* Makes a call of a kind, where it `counts`, or fails in its place. */
#define STRIKE(type, failure, counts, kind, call) \
    do {                                          \
        bool struck_ = (counts) && strikes(kind); \
        if (fails(struck_)) return failure;       \
        type result_ = (call);                    \
        after(struck_);                           \
        return result_;                           \
    } while (0)

/* ---- files --------------------------------------------------------------------------------- */

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
    bool here = under_root(path),
         struck = here && strikes((flags & (O_ACCMODE | O_DIRECTORY)) == O_RDONLY ? LOOK : OPEN);
    if (fails(struck)) return -1;
    int fd = real(path, flags, mode);
    note(fd, here);
    after(struck);
    return fd;
}

FILE *fopen(const char *path, const char *mode)
{
    FILE *(*real)(const char *, const char *);
    REAL(real, "fopen");
    bool here = under_root(path), struck = here && strikes(*mode == 'r' ? LOOK : OPEN);
    if (fails(struck)) return NULL;
    FILE *file = real(path, mode);
    if (file) note(fileno(file), here);
    after(struck);
    return file;
}

/* What a stream writes otherwise goes past `write`. */
int fflush(FILE *file)
{
    int (*real)(FILE *);
    REAL(real, "fflush");
    STRIKE(int, EOF, file &&is_ours(fileno(file)), FLUSH, real(file));
}

ssize_t read(int fd, void *bytes, size_t count)
{
    ssize_t (*real)(int, void *, size_t);
    REAL(real, "read");
    bool struck = is_ours(fd) && strikes(READ);
    if (fails(struck)) return -1;
    ssize_t n = real(fd, bytes, struck && does("SHORT") && count > 1 ? count / 2 : count);
    if (struck && n > 0 && does("FLIP")) *(unsigned char *)bytes ^= 1;
    after(struck);
    return n;
}

ssize_t pread(int fd, void *bytes, size_t count, off_t offset)
{
    ssize_t (*real)(int, void *, size_t, off_t);
    REAL(real, "pread");
    bool struck = is_ours(fd) && strikes(READ);
    if (fails(struck)) return -1;
    ssize_t n = real(fd, bytes, struck && does("SHORT") && count > 1 ? count / 2 : count, offset);
    if (struck && n > 0 && does("FLIP")) *(unsigned char *)bytes ^= 1;
    after(struck);
    return n;
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

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t offset)
{
    ssize_t (*real)(int, const void *, size_t, off_t);
    REAL(real, "pwrite");
    bool struck = is_ours(fd) && strikes(WRITE);
    if (fails(struck)) return -1;
    ssize_t n = real(fd, bytes, struck && does("SHORT") && count > 1 ? count / 2 : count, offset);
    after(struck);
    return n;
}

static int sync_as(const char *name, int fd)
{
    int (*real)(int);
    REAL(real, name);
    STRIKE(int, -1, is_ours(fd), FSYNC, real(fd));
}

int fsync(int fd) { return sync_as("fsync", fd); }
int fdatasync(int fd) { return sync_as("fdatasync", fd); }

/* As Linux has it: the descriptor is gone, whatever close says. */
int close(int fd)
{
    int (*real)(int);
    REAL(real, "close");
    bool struck = is_ours(fd) && strikes(CLOSE);
    if (struck && does("KILL_BEFORE")) die();
    note(fd, false);
    int failed = real(fd);
    after(struck);
    return fails(struck) ? -1 : failed;
}

int ftruncate(int fd, off_t length)
{
    int (*real)(int, off_t);
    REAL(real, "ftruncate");
    STRIKE(int, -1, is_ours(fd), FTRUNCATE, real(fd, length));
}

int posix_fallocate(int fd, off_t offset, off_t length)
{
    int (*real)(int, off_t, off_t);
    REAL(real, "posix_fallocate");
    STRIKE(int, errno, is_ours(fd), FALLOCATE, real(fd, offset, length));
}

/* ---- names --------------------------------------------------------------------------------- */

int rename(const char *from, const char *to)
{
    int (*real)(const char *, const char *);
    REAL(real, "rename");
    bool struck = under_root(to) && strikes(RENAME);
    if (fails(struck)) return -1;
    int failed = real(from, to);
    if (under_root(to) && strstr(to, "/checkpoints/latest")) saving_here = false;
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
    if (under_root(path) && strstr(path, "/step-")) {
        atomic_store(&malloc_at, struck_call(MALLOC));
        saving_here = true;
    }
    after(struck);
    return failed;
}

static int remove_as(const char *name, call kind, const char *path)
{
    int (*real)(const char *);
    REAL(real, name);
    STRIKE(int, -1, under_root(path), kind, real(path));
}

int unlink(const char *path) { return remove_as("unlink", UNLINK, path); }
int rmdir(const char *path) { return remove_as("rmdir", RMDIR, path); }

/* Which directory a descriptor means is asked of the kernel. */
static bool is_directory_under_root(int directory)
{
    char link[64], where[PATH_MAX] = "";
    snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
    return readlink(link, where, sizeof where - 1) > 0 && under_root(where);
}

int unlinkat(int directory, const char *path, int flags)
{
    int (*real)(int, const char *, int);
    REAL(real, "unlinkat");
    STRIKE(int, -1, is_directory_under_root(directory), flags &AT_REMOVEDIR ? RMDIR : UNLINK,
           real(directory, path, flags));
}

static int stat_as(const char *name, const char *path, struct stat *info)
{
    int (*real)(const char *, struct stat *);
    REAL(real, name);
    STRIKE(int, -1, under_root(path), STAT, real(path, info));
}

int stat(const char *restrict path, struct stat *restrict info)
{
    return stat_as("stat", path, info);
}
int lstat(const char *restrict path, struct stat *restrict info)
{
    return stat_as("lstat", path, info);
}

int fstat(int fd, struct stat *info)
{
    int (*real)(int, struct stat *);
    REAL(real, "fstat");
    STRIKE(int, -1, is_ours(fd), STAT, real(fd, info));
}

DIR *opendir(const char *path)
{
    DIR *(*real)(const char *);
    REAL(real, "opendir");
    STRIKE(DIR *, NULL, under_root(path), LOOK, real(path));
}

struct dirent *readdir(DIR *directory)
{
    struct dirent *(*real)(DIR *);
    REAL(real, "readdir");
    STRIKE(struct dirent *, NULL, is_directory_under_root(dirfd(directory)), LIST, real(directory));
}

/* ---- memory -------------------------------------------------------------------------------- */

void fault_saving(bool on)
{
    atomic_store(&malloc_at, struck_call(MALLOC));
    atomic_store(&saving, on);
}

static bool no_memory(void)
{
    if (!saving_here && !atomic_load(&saving)) return false;
    if (atomic_fetch_add(&calls[MALLOC], 1) + 1 != atomic_load(&malloc_at)) return false;
    errno = ENOMEM;
    return true;
}

void *malloc(size_t bytes) { return no_memory() ? NULL : __libc_malloc(bytes); }
void *calloc(size_t count, size_t size) { return no_memory() ? NULL : __libc_calloc(count, size); }
void *realloc(void *old, size_t bytes) { return no_memory() ? NULL : __libc_realloc(old, bytes); }
void *aligned_alloc(size_t alignment, size_t bytes)
{
    return no_memory() ? NULL : __libc_memalign(alignment, bytes);
}

int posix_memalign(void **out, size_t alignment, size_t bytes)
{
    if (no_memory() || !(*out = __libc_memalign(alignment, bytes))) return ENOMEM;
    return 0;
}

/* ---- HDF5 ---------------------------------------------------------------------------------- */

int64_t H5Fopen(const char *path, unsigned flags, int64_t list);
int64_t H5Fopen(const char *path, unsigned flags, int64_t list)
{
    int64_t (*real)(const char *, unsigned, int64_t);
    REAL(real, "H5Fopen");
    atomic_fetch_add(&calls[HDF5], 1);
    return real(path, flags, list);
}

/* ---- counts -------------------------------------------------------------------------------- */

/* MPI's helper processes inherit the shim and count nothing. */
__attribute__((destructor)) void fault_report(void)
{
    long sum = 0;
    for (int i = 0; i < CALLS; i++) sum += calls[i];
    const char *path = getenv("FAULT_COUNT");
    FILE *file = path && sum > 0 ? fopen(path, "w") : NULL;
    for (int i = 0; file && i < CALLS; i++) fprintf(file, "%s %ld\n", call_name[i], calls[i]);
    if (file) fclose(file);
}
