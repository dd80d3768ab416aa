/* Threads that write to the table take turns: else who looks for a name would read a row that
 * another one is writing. Who reads it where a signal has stopped a writer waits for nobody: what a
 * row's state says is noted is whole. */
#include "io/unfinished.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "io/durable.h"

enum { MOST = 64 };
enum { FREE, NOTED };

static struct {
    atomic_int state, process;
    char path[ML_DURABLE_PATH];
} table[MOST];
static pthread_mutex_t writing = PTHREAD_MUTEX_INITIALIZER;

void ml_unfinished_begin(const char *path)
{
    int i = 0;
    pthread_mutex_lock(&writing);
    while (i < MOST && atomic_load(&table[i].state) != FREE) i++;
    if (i < MOST) {
        atomic_store(&table[i].process, (int)getpid());
        snprintf(table[i].path, sizeof table[i].path, "%s", path);
        atomic_store(&table[i].state, NOTED);
    }
    pthread_mutex_unlock(&writing);
}

void ml_unfinished_end(const char *path)
{
    int i = 0;
    pthread_mutex_lock(&writing);
    while (i < MOST && (atomic_load(&table[i].state) == FREE || strcmp(table[i].path, path) != 0))
        i++;
    if (i < MOST) atomic_store(&table[i].state, FREE);
    pthread_mutex_unlock(&writing);
}

void ml_unfinished_remove(void)
{
    for (int directories = 0; directories < 2; directories++)
        for (int i = 0; i < MOST; i++) {
            if (atomic_load(&table[i].state) != NOTED ||
                atomic_load(&table[i].process) != (int)getpid())
                continue;
            if (directories)
                (void)rmdir(table[i].path);
            else
                (void)unlink(table[i].path);
        }
}
