/* node_memory: what a node still has for this job. Local; private to analyze/. */
#ifndef MPILORA_ANALYZE_NODE_MEMORY_H
#define MPILORA_ANALYZE_NODE_MEMORY_H

#include "mpilora/base.h"

/* Bytes: the kernel's estimate of what can be had without swapping, or what the cgroup (version 2)
 * of the job has left where that is less; INT64_MAX where neither is known. */
int64_t node_memory_available(void);

#endif
