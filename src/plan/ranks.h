/* ranks: the bytes of a job's ranks, stage after stage, on their nodes. An internal module. */
#ifndef MPILORA_PLAN_RANKS_H
#define MPILORA_PLAN_RANKS_H

#include "mpilora/plan.h"

/* What ranks of a stage hold together, beside what each holds for itself. */
typedef struct plan_common {
    bool frozen;    /* replicas of a node share the frozen weights */
    int writers;    /* the first ranks of the stage, which write checkpoints */
    int64_t writer; /* bytes that they hold for it, and the others do not */
} plan_common;

/* Nodes are counted as stages go through them: one may have the last ranks of a stage and the first
 * of the next. */
typedef struct plan_node_walk {
    int node;
    int64_t bytes; /* of its ranks so far */
} plan_node_walk;

/* One stage of the job, whose ranks need no more than its first one: into the sums of `m`, and,
 * where it is the largest so far, as m's rank. ML_USAGE where 64 bits cannot count the job's bytes.
 */
ml_status plan_ranks_add(ml_plan_method *m, const ml_plan *plan, plan_node_walk *w, int stage,
                         const int64_t per_rank[ML_MEM_CATEGORIES],
                         const plan_common *c) ML_NODISCARD;

#endif
