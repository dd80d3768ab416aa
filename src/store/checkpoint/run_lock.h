/* run_lock: who holds a run's directory. An internal module.
 *
 * RUN/lock holds one record: host, pid and job for people; kernel's boot, process space and the
 * process's start time, by which a pid that was given out again is told from its first owner; and
 * a beat, which the holder raises every some seconds. Where flock can be trusted (a local file
 * system: one kernel sees all) it alone decides. Elsewhere it may be missing, or reach no further
 * than a node; there a record without a new beat for `stale_s` is a dead one's, and of those who
 * then write theirs, the one whose record stands after `wait_s` wins (Fischer's mutual
 * exclusion: the last writer is the only one who finds himself).
 */
#ifndef MPILORA_STORE_CHECKPOINT_RUN_LOCK_H
#define MPILORA_STORE_CHECKPOINT_RUN_LOCK_H

#include "store/checkpoint/run_directory.h"

typedef struct ml_lock_owner {
    char host[128], job[64], boot[40], space[40];
    long pid;
    long long start; /* of the process, in clock ticks since the boot */
    long long beat;
} ml_lock_owner;

typedef struct ml_lock_times {
    double heartbeat_s, stale_s, wait_s;
} ml_lock_times;
extern ml_lock_times ml_lock_clock; /* 15, 60 and 2 s; only tests change it */

/* ---- the record ---------------------------------------------------------------------------- */

/* lock_record.c. A file's record is empty where nobody holds the lock: *named false. */
ml_lock_owner ml_lock_myself(void);
ml_status ml_lock_read(const char *path, ml_lock_owner *found, bool *named) ML_NODISCARD;
ml_status ml_lock_write(int fd, const char *path, const ml_lock_owner *owner) ML_NODISCARD;
bool ml_lock_is_same(const ml_lock_owner *a,
                     const ml_lock_owner *b); /* the same process, whatever its beat */
/* Whether the process lives, as far as this kernel knows it. */
typedef enum ml_lock_life { ML_LOCK_DEAD, ML_LOCK_ALIVE, ML_LOCK_UNKNOWN } ml_lock_life;
ml_lock_life ml_lock_ask_kernel(const ml_lock_owner *by, const ml_lock_owner *me);

/* ---- the heartbeat ------------------------------------------------------------------------- */

/* A thread that raises the beat until the record is another's. */
typedef struct ml_lock_heartbeat ml_lock_heartbeat;
ml_status ml_lock_heartbeat_start(ml_lock_heartbeat **out, int fd, const char *path,
                                  const ml_lock_owner *me) ML_NODISCARD;
const ml_lock_owner *ml_lock_heartbeat_owner(
    const ml_lock_heartbeat *heartbeat);                   /* borrowed; its beat is the thread's */
void ml_lock_heartbeat_stop(ml_lock_heartbeat *heartbeat); /* once; waits for the thread */
int64_t ml_lock_heartbeat_bytes(void);                     /* accounted, of one */
void ml_lock_heartbeat_destroy(ml_lock_heartbeat *heartbeat); /* after it was stopped */

#endif
