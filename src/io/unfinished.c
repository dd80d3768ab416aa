/* A table without locks, since it is read where a signal has stopped whoever writes to it. */
#include "io/unfinished.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "io/durable.h"

enum { MOST = 64 };
enum { FREE, TAKEN, NOTED };

static struct {
    atomic_int state, process;
    char path[ML_DURABLE_PATH];
} table[MOST];

void ml_unfinished_begin(const char *path)
{
    for (int i = 0; i < MOST; i++) {
        int expected = FREE;
        if (!atomic_compare_exchange_strong(&table[i].state, &expected, TAKEN)) continue;
        atomic_store(&table[i].process, (int)getpid());
        snprintf(table[i].path, sizeof table[i].path, "%s", path);
        atomic_store(&table[i].state, NOTED);
        return;
    }
}

void ml_unfinished_end(const char *path)
{
    for (int i = 0; i < MOST; i++) {
        if (atomic_load(&table[i].state) != NOTED || strcmp(table[i].path, path) != 0) continue;
        atomic_store(&table[i].state, FREE);
        return;
    }
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
