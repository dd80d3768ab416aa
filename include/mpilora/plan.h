/* plan: memory and time of a run before it is run: memory by the sizing functions that training
 * allocates with, time from what was measured of a machine. Nothing large is allocated, no weights
 * are read. */
#ifndef MPILORA_PLAN_H
#define MPILORA_PLAN_H

#include "mpilora/base.h"
#include "mpilora/config.h"
#include "mpilora/kernels.h"
#include "mpilora/model.h"
#include "mpilora/optim.h"
#include "mpilora/peft.h"

ML_BEGIN_DECLS

/* ---- machines ------------------------------------------------------------------------------ */

/* What a machine has a rate for. Products with a weight W[m, n] of T rows, by the weight's type; a
 * weight's own gradient; the narrow products of an adapter; attention, by the numbers that it
 * takes, which a path of bf16 may multiply as such. */
typedef enum ml_cost_kind {
    ML_COST_BF16_FORWARD,
    ML_COST_BF16_BACKWARD,
    ML_COST_FP32_FORWARD,
    ML_COST_FP32_BACKWARD,
    ML_COST_WEIGHT_GRADIENT,
    ML_COST_ADAPTER_FORWARD,
    ML_COST_ADAPTER_BACKWARD,
    ML_COST_ATTENTION_FORWARD,
    ML_COST_ATTENTION_BACKWARD,
    ML_COST_FP32_ATTENTION_FORWARD,
    ML_COST_FP32_ATTENTION_BACKWARD,
    ML_COSTS
} ml_cost_kind;

/* Seconds of one core: 1e-9·(flops / gflops + weight_ns·(numbers of W) + row_ns·(numbers that go
 * in and come out)). So thin slices, few tokens and small models come out slower than large
 * products, as they are. */
typedef struct ml_cost {
    double gflops, weight_ns, row_ns;
} ml_cost;

/* What goes over numbers once: nanoseconds of one core a number. */
typedef enum ml_element_kind {
    ML_ELEMENT_NORM_FORWARD,
    ML_ELEMENT_NORM_BACKWARD,
    ML_ELEMENT_ACTIVATION_FORWARD,
    ML_ELEMENT_ACTIVATION_BACKWARD,
    ML_ELEMENT_GATED_FORWARD,
    ML_ELEMENT_GATED_BACKWARD,
    ML_ELEMENT_CROSS_ENTROPY, /* a logit, forward and backward */
    ML_ELEMENT_MOVE,          /* a sum of two arrays, a change of type, a copy */
    ML_ELEMENT_OPTIMIZER,     /* a trained number: AdamW, norm, clearing */
    ML_ELEMENT_DROPOUT,
    ML_ELEMENT_DATA, /* a token that is read and packed */
    ML_ELEMENTS
} ml_element_kind;

/* configs/machines/NAME.yaml. Rates are those of one core while all cores of the node work. */
typedef struct ml_machine {
    char *name;                     /* owned */
    int64_t cores, domains, memory; /* of a node: cores, memory domains, bytes (0: not said) */
    int64_t threads;    /* of a rank that measured, which rates depend on (0: not said) */
    double memory_rate; /* bytes a second that all cores of a node read together */
    double peak_gflops; /* fp32 multiply-adds of one core; for comparison, not computed with */
    ml_cost cost[ML_COSTS];
    double element_ns[ML_ELEMENTS];
    double inside_latency, inside_bandwidth;   /* between ranks of a node: seconds of a smallest sum
                                                  of two ranks, bytes/s a rank */
    double between_latency, between_bandwidth; /* between nodes, bytes/s a node */
} ml_machine;

/* Reads configs/machines/NAME.yaml.
 * Shapes: as ml_machine says.
 * Ownership: the caller ends *out with ml_machine_destroy.
 * Local.
 * Errors: ML_USAGE naming file, line and key; ML_RESOURCE. */
ml_status ml_machine_read(ml_machine *out, const char *path) ML_NODISCARD;

/* Ends a machine; {0} is fine.
 * Shapes: none.
 * Ownership: takes what `machine` owns.
 * Local.
 * Errors: none. */
void ml_machine_destroy(ml_machine *machine);

/* Appends the YAML that ml_machine_read reads as the same machine.
 * Shapes: none.
 * Ownership: borrows `machine`; `out` is the caller's.
 * Local.
 * Errors: ML_RESOURCE. */
ml_status ml_machine_write(const ml_machine *machine, ml_text *out) ML_NODISCARD;

/* 1e-9·(flops / gflops + weight_ns·weights + row_ns·numbers), as ml_cost says.
 * Shapes: seconds of one core.
 * Ownership: borrows `cost`.
 * Local.
 * Errors: none. */
double ml_cost_seconds(const ml_cost *cost, double flops, double weights, double numbers);

/* The cost that comes nearest to the measurements in the sum of squared relative errors, no part
 * of it negative. What no measurement has stays 0.
 * Shapes: x[count][3]: flops, weights and numbers; seconds[count] of one core.
 * Ownership: all borrowed.
 * Local.
 * Errors: none. */
ml_cost ml_cost_fit(int64_t count, const double x[][3], const double *seconds);

/* Ranks that sum, and what they have in common with others. */
typedef struct ml_sum_group {
    double ranks, nodes; /* members, and nodes that they lie on */
    double beside;       /* groups of a node that sum at the same time */
    double crowd;        /* threads of a node for each of its cores where these are more; else 1 */
} ml_sum_group;

/* Time of `calls` sums of `bytes` altogether: ⌈log2⌉ latencies a call inside and between nodes,
 * and of the bytes 2·(i − 1)/i at the bandwidth inside, for the i members on a node, and then
 * 2·(n − 1)/n at a node's share of the one between its n nodes: by halving and doubling neighbours
 * exchange first (Thakur, Rabenseifner and Gropp 2005). 0 of one rank.
 * Shapes: seconds.
 * Ownership: all borrowed.
 * Local.
 * Errors: none. */
double ml_sum_seconds(const ml_machine *machine, const ml_sum_group *group, double calls,
                      double bytes);

/* ---- plans --------------------------------------------------------------------------------- */

/* One step as its slowest rank sees it. forward and backward as in metrics.jsonl: what is computed
 * again and the head's gradient are backward. bubble: what the slowest stage of a pipeline waits
 * for the others in the order of session/pipeline_order.c, which in metrics.jsonl is part of comm.
 */
typedef struct ml_plan_time {
    double forward_s, backward_s, comm_s, bubble_s, optimizer_s, data_s, step_s, tokens_per_s;
} ml_plan_time;

typedef struct ml_plan_method {
    const char *name; /* of the configuration's method, or "lora" where that is full; "full" */
    int64_t params_total, params_trainable;
    int64_t checkpoint_bytes, allreduce_bytes_per_step;
    int64_t piped_bytes_per_step;   /* that the busiest rank sends to neighbouring stages, of data
                                       without common beginnings; 0: one stage */
    int64_t adapter_bytes_16bit;    /* the trained tensors in 16 bit, as the paper counts them */
    ml_activation_mode activations; /* chosen, and what per_rank is for */
    bool fits;                      /* into memory.limit */
    int64_t need[ML_ACTIVATION_MODES];   /* of a process, MPI and libraries included */
    int64_t per_rank[ML_MEM_CATEGORIES]; /* of the stage that needs most, number `stage` */
    int64_t total_bytes_per_rank;
    int stage;
    int frozen_shared_by; /* ranks of a node that hold one copy of the frozen weights; 1: none share
                           */
    int64_t node_bytes,
        total_bytes;   /* the fullest node; all ranks. What ranks share is counted once */
    ml_plan_time time; /* 0 without a machine */
} ml_plan_method;

enum { ML_PLAN_METHODS = 2 };

typedef struct ml_plan {
    int ranks, nodes, dp, tp, cp, pp;
    ml_numerics numerics;
    int threads;                 /* of a rank, where a machine is given */
    int64_t measured_threads;    /* of a rank of the machine's measurements; 0: not said */
    int64_t tokens;              /* of the largest micro-batch */
    int64_t runtime_floor_bytes; /* of this process before anything was read: MPI and libraries; not
                                    part of the totals */
    ml_plan_method method[ML_PLAN_METHODS];
} ml_plan;

/* Memory of a run. config->base may be a base file or a model description (*.yaml). Micro-batches
 * are as long as the data sets make them where these can be read, else batch.micro × data.max_len.
 * The ranks lie on `nodes` nodes in equal runs, one after the other.
 * Shapes: bytes.
 * Ownership: all borrowed; names in *out are static.
 * Local.
 * Errors: ML_USAGE, ML_INPUT as training would give them; ML_RESOURCE. */
ml_status ml_plan_create(ml_plan *out, const ml_run_config *config, int ranks,
                         int nodes) ML_NODISCARD;

/* Memory of several runs in one job (ml_train_together): method[0] is all of them, method[1] full
 * fine-tuning of the first alone. `model` as in ml_plan_create_on.
 * Shapes: config[count], bytes.
 * Ownership: all borrowed; names in *out are static.
 * Local.
 * Errors: as ml_plan_create; ML_USAGE where two cannot be together. */
ml_status ml_plan_create_together(ml_plan *out, int64_t count, const ml_run_config *config,
                                  int ranks, int nodes, const ml_model_spec *model) ML_NODISCARD;

/* The same with the time of a step on `machine` (NULL: none) and `threads` of a rank (0: the cores
 * of a node shared out). `model`: what the base of a description is to be, with formats that an
 * import gave it; NULL: what config->base says.
 * Shapes: bytes, seconds.
 * Ownership: all borrowed; names in *out are static.
 * Local.
 * Errors: as ml_plan_create. */
ml_status ml_plan_create_on(ml_plan *out, const ml_run_config *config, int ranks, int nodes,
                            const ml_machine *machine, int threads,
                            const ml_model_spec *model) ML_NODISCARD;

/* ---- search -------------------------------------------------------------------------------- */

typedef struct ml_plan_module {
    int nodes, ranks_per_node;
    int64_t memory_per_node; /* bytes */
    const ml_machine *machine;
    const ml_model_spec *model; /* as in ml_plan_create_on */
} ml_plan_module;

enum { ML_PLAN_WHY = 160 };

/* One grid. */
typedef struct ml_plan_candidate {
    int tp, dp, cp, pp;
    int64_t micro;
    ml_activation_mode activations;
    bool fits;
    int64_t node_bytes;
    double step_s, tokens_per_s;
    double bubble_s;       /* of step_s */
    char why[ML_PLAN_WHY]; /* it does not fit; "" where it does */
} ml_plan_candidate;

typedef struct ml_plan_list {
    int64_t count, capacity;
    ml_plan_candidate *items; /* owned: those that fit, fastest first, then the others */
} ml_plan_list;

/* Every tp and pp that divide the ranks, pp up to the model's layers, with cp 1, 2, 4 … until
 * something fits, every activation mode that config.memory.activations allows, and micro-batches of
 * 1, 2, 4 … up to batch.micro, for config's method. Each process counts with what this one has
 * beside accounted memory (MPI and libraries). Lists start from {0}.
 * Shapes: bytes, seconds.
 * Ownership: the caller ends *out with ml_plan_list_destroy.
 * Local.
 * Errors: as ml_plan_create. */
ml_status ml_plan_search(ml_plan_list *out, const ml_run_config *config,
                         const ml_plan_module *module) ML_NODISCARD;

/* Ends a list; {0} is fine.
 * Shapes: none.
 * Ownership: takes what `list` owns.
 * Local.
 * Errors: none. */
void ml_plan_list_destroy(ml_plan_list *list);

ML_END_DECLS

#endif
