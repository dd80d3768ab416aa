/* mpilora: finds the subcommand, runs it, prints one line where it fails; the status is the exit
 * code. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/commands/version.h"
#include "cli/support/commands.h"
#include "cli/support/endings.h"
#include "cli/support/help.h"
#include "cli/support/last_words.h"
#include "cli/support/stack.h"
#include "cli/support/waiting.h"
#include "mpilora/grid.h"

/* A word of a command's, or in the place of a command. */
static bool asks_help(const ml_command *command, int argc, char **argv)
{
    if (!command) return !strcmp(argv[0], "--help") || !strcmp(argv[0], "-h");
    for (int i = 1; i < argc; i++)
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) return true;
    return false;
}

/* Of the subject where the next word names one. */
static ml_status show_help(const ml_command *command, int argc, char **argv)
{
    if (ml_grid_world_rank() != 0) return ML_OK;
    const ml_command *subject =
        command && argc > 1 ? commands_find_subject(command, argv[1]) : NULL;
    if (command)
        help_print(subject ? command : NULL, subject ? subject : command, stdout);
    else
        commands_print(stdout);
    return ML_OK;
}

/* Variables of the environment that choose what is computed, or how ranks work together. */
static const char *const choosing[] = {"MPILORA_PRODUCT_PATH", "MPILORA_VECTOR_PATH",
                                       "MPILORA_SHARED_MEMORY", "MPILORA_SUMS", NULL};

static ml_status agree_on_start(int argc, char **argv)
{
    char name[64];
    ml_status st = ml_grid_agree_on_words(argc, argv);
    for (int i = 0; choosing[i] && st == ML_OK; i++) {
        const char *value = getenv(choosing[i]);
        snprintf(name, sizeof name, "the variable %s", choosing[i]);
        st = ml_grid_agree_on(name, value ? value : "unset", "set it for all ranks, or for none");
    }
    return st;
}

/* In a thread, while the main one waits in MPI_Init: nothing is written yet. */
static void end_alone(void)
{
    fprintf(stderr, "mpilora: the launcher has ended before all ranks had started, so this rank "
                    "ends; start the job again\n");
    _exit((int)ML_RESOURCE);
}

static ml_status start_together(const ml_command *command, int argc, char **argv)
{
    if (command && command->prepare) command->prepare();
    ml_grid_on_launcher_lost(end_alone);
    ml_status st = ml_grid_start(&argc, &argv);
    if (st == ML_OK) st = agree_on_start(argc, argv);
    if (st == ML_OK) ml_log_enable(ml_grid_world_rank() == 0);
    return st;
}

/* Several processes of what is one process would do the same work over each other's files. */
static ml_status refuse_ranks(const ml_launch *launch)
{
    return ml_fail(ML_USAGE,
                   "%d ranks of it were started, says %s, but it is one process: start it alone, "
                   "without mpirun or srun -n. Where each is to be a run of its own: env -u %s "
                   "mpilora …",
                   launch->ranks, launch->variable, launch->variable);
}

/* Several ranks start MPI whatever they are asked for: one that was started as something else
 * beside them has to end with them. */
static ml_status run(const ml_command *command, int argc, char **argv)
{
    const ml_launch launch = ml_grid_launch();
    bool helps = asks_help(command, argc, argv);
    ml_status st = ML_OK;
    if (launch.ranks > 1 || (command && command->parallel && !helps))
        st = start_together(command, argc, argv);
    if (st != ML_OK) return st;
    last_words_prepare();
    endings_prepare();
    if (helps) return show_help(command, argc, argv);
    if (!command) return commands_unknown(argv[0]);
    return ml_grid_settle(launch.ranks > 1 && !command->parallel
                              ? refuse_ranks(&launch)
                              : commands_run(command, argc, argv));
}

/* Once for all ranks: by the first of MPI's world, and where MPI joins none, by the first that the
 * launcher started. The others wait for it, since a launcher ends the job where one ends with an
 * error. */
static void print_error(const ml_command *command)
{
    bool joined = ml_grid_world_size() > 1;
    if (joined ? ml_grid_world_rank() == 0 : ml_grid_launch().speaks)
        fprintf(stderr, "mpilora%s%s: %s\n", command ? " " : "", command ? command->name : "",
                ml_error_text());
    else if (!joined)
        sleep(1);
}

/* What was printed is a result like a file: where it cannot be written, the command has failed. */
static ml_status finish_output(ml_status st)
{
    errno = 0;
    if ((!fflush(stdout) && !ferror(stdout)) || st != ML_OK) return st;
    return ml_fail(ML_RESOURCE,
                   "standard output cannot be written%s%s: what was printed there is not whole",
                   errno ? ": " : "", errno ? strerror(errno) : "");
}

#ifdef MPILORA_CHECK_LEAKS
/* In sanitizer builds: what a command has not given back is a fault, also where Open MPI keeps the
 * leak checker from looking. */
static ml_status check_leaks(const ml_command *command, ml_status st)
{
    for (int c = 0; c < ML_MEM_CATEGORIES; c++) {
        long long left = (long long)ml_memory_current((ml_category)c);
        if (left == 0) continue;
        fprintf(stderr, "mpilora %s: %lld bytes of category %s were never freed\n", command->name,
                left, ml_category_name((ml_category)c));
        st = ML_INTERNAL;
    }
    return st;
}
#endif

/* A stream that was closed before the start stays so, but its number is taken: the first file that
 * is opened would get it, and what is printed would go into a base or a run's metrics. */
static void hold_streams(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        while (fcntl(fd, F_GETFD) < 0 && errno == EBADF)
            if (open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY) < 0) return;
}

int main(int argc, char **argv)
{
    hold_streams();
    if (argc < 2) {
        commands_print(stderr);
        return ML_USAGE;
    }
    const ml_command *command = commands_find(argv[1]);
    ml_status st = stack_settle(argv);
    if (st == ML_OK && command && command->parallel) waiting_settle(argv);
    if (st == ML_OK)
        st = finish_output(!strcmp(argv[1], "--version")
                               ? version_print(argc == 3 && !strcmp(argv[2], "--json"))
                               : run(command, argc - 1, argv + 1));
    if (st != ML_OK) print_error(command);
    ml_grid_stop();
#ifdef MPILORA_CHECK_LEAKS
    if (command) st = check_leaks(command, st);
#endif
    return (int)st;
}
