/* What the files of training together share: together.c makes it, together_pass.c uses it. */
#ifndef MPILORA_SESSION_TOGETHER_PRIVATE_H
#define MPILORA_SESSION_TOGETHER_PRIVATE_H

#include "peft/exchange.h"
#include "session/together.h"

/* The micro-batches of all members, one behind the other. */
typedef struct joined {
    int32_t *token, *target;                               /* [tokens] */
    float *weight, *log_p;                                 /* [tokens] of a target */
    uint8_t *type;                                         /* [tokens] NULL: there are none */
    int64_t *row, *target_start, *token_owner, *row_owner; /* [tokens + 1] */
    int64_t *start, *shared, *key_sequence, *length;       /* [sequences + 1] */
    double *row_loss;                                      /* [tokens] */
    int64_t targets;
    ml_batch batch;
} joined;

/* Where a member's targets lie among those of all, and what it makes of their log p. */
typedef struct joined_part {
    int64_t first, count, row, sequence; /* rows and sequences: the first ones */
    pair_batch batch;
    comparison comparison; /* of log p */
    scoring scoring;       /* of scores of labels */
} joined_part;

struct ml_together {
    int64_t count, tokens, sequences; /* the most of all members' micro-batches together */
    session *const *member;           /* borrowed */
    ml_exchange *exchange;
    joined all;
    joined_part *joined;   /* [count] */
    ml_scored_part *parts; /* [count] */
};

#endif
