/* launch: runs of this program under a launcher, as child processes. */
#ifndef MPILORA_CLI_SUPPORT_LAUNCH_H
#define MPILORA_CLI_SUPPORT_LAUNCH_H

#include "mpilora/config.h"

enum { LAUNCH_WORDS = 128, LAUNCH_PATH = 4096, LAUNCH_TEXT = 256 };

typedef struct launch {
    char *words[LAUNCH_WORDS + 1];
    int count;
    bool full;
} launch;

/* srun inside a SLURM job, else mpirun; {ranks} stands for their number. */
const char *launch_default(void);
/* The launcher of the MPI that this was built for, with what allows more ranks than cores. */
const char *launch_mpirun(void);
/* Of a rank: as asked for where that is not 0; else OMP_NUM_THREADS, else the cores here divided
 * by the ranks. */
int64_t launch_threads(int64_t asked, int64_t ranks);
/* This program's own file. */
ml_status launch_find_program(char path[LAUNCH_PATH]) ML_NODISCARD;

void launch_add_word(launch *c, const char *format, ...) ML_PRINTF(2, 3);
void launch_add_set(launch *c, const char *format, ...) ML_PRINTF(2, 3); /* --set and its word */
/* method.name; one configuration serves all methods: method.init, an adapter of LoRA's or pissa, is
 * turned off for every method but lora. */
void launch_add_method(launch *c, const char *name);
/* The launcher's words, {ranks} replaced. */
void launch_add_launcher(launch *c, const char *launcher, int64_t ranks);
/* Its output goes to `log`. *code: how it ended, 128 + n by signal n. ML_USAGE where it cannot be
 * started. */
ml_status launch_run(const launch *c, const char *log, int64_t threads, int *code) ML_NODISCARD;
void launch_destroy(launch *c);
/* The last line of the log that begins like one of this program, behind the code. */
void launch_explain(const char *log, int code, char text[LAUNCH_TEXT]);

#endif
