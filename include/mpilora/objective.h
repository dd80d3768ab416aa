/* objective: what a run minimises (config.h's objective): the objectives, and losses of pairs. */
#ifndef MPILORA_OBJECTIVE_H
#define MPILORA_OBJECTIVE_H

#include "mpilora/base.h"

ML_BEGIN_DECLS

/* What a run minimises. Those from dpo to reward compare two answers to a prompt: dpo and ipo by
 * how far each has moved from the model as it was before the first step, cpo, simpo and orpo
 * without that, reward by what a head with one label gives them. kto has answers of which each is
 * wanted or not, and asks how far they have moved, too. */
typedef enum ml_objective {
    ML_OBJECTIVE_SFT, /* the targets' cross-entropy */
    ML_OBJECTIVE_DPO,
    ML_OBJECTIVE_IPO, /* dpo with loss_type ipo */
    ML_OBJECTIVE_CPO,
    ML_OBJECTIVE_SIMPO,
    ML_OBJECTIVE_ORPO,
    ML_OBJECTIVE_KTO,
    ML_OBJECTIVE_REWARD,   /* −log σ of the difference of two rewards (Bradley and Terry 1952) */
    ML_OBJECTIVE_CLASSIFY, /* by scores of labels: cross-entropy of classes, of each bit apart */
    ML_OBJECTIVE_REGRESS,  /* the square of a score less the label */
    ML_OBJECTIVE_TOKENS,   /* cross-entropy of classes of tokens */
    ML_OBJECTIVE_CONTRASTIVE, /* vectors of texts: which of a step's texts belongs to which */
    ML_OBJECTIVE_MLM          /* cross-entropy of some tokens, which are hidden from an encoder */
} ml_objective;

/* Of objective kto on pairs: how their answers follow each other. */
typedef enum ml_pair_order {
    ML_PAIRS_MIXED, /* a pair's chosen answer, then its rejected one */
    ML_PAIRS_BLOCKS /* the chosen ones of ML_PAIR_BLOCK pairs, then the rejected ones of these */
} ml_pair_order;

/* How hidden states become one vector: their mean over all tokens of the text, special ones
 * included; that of the first token; that of the last. */
typedef enum ml_pooling {
    ML_POOLING_GIVEN, /* as the base's directory says it (sentence-transformers: modules.json); mean
                         where it says nothing */
    ML_POOLING_MEAN,
    ML_POOLING_CLS,
    ML_POOLING_LAST
} ml_pooling;

/* The loss of a pair; formulas: src/session/pair_loss.c. */
typedef enum ml_pair_loss {
    ML_PAIR_SIGMOID,
    ML_PAIR_HINGE,
    ML_PAIR_IPO,
    ML_PAIR_SIGMOID_NORM,
    ML_PAIR_ROBUST,
    ML_PAIR_EXO,
    ML_PAIR_NCA,
    ML_PAIR_BCO,
    ML_PAIR_SPPO_HARD,
    ML_PAIR_APO_ZERO,
    ML_PAIR_APO_DOWN,
    ML_PAIR_DISCOPOP,
    ML_PAIR_AOT, /* compares the sorted values of a whole batch, as does the next */
    ML_PAIR_AOT_UNPAIRED,
    ML_PAIR_SFT, /* the chosen answers' cross-entropy, over the tokens of a batch */
    ML_PAIR_KTO, /* objective kto's, as is the next */
    ML_PAIR_APO_ZERO_UNPAIRED,
    ML_PAIR_SIMPO, /* objective simpo's, not a loss_type; as is orpo's */
    ML_PAIR_ORPO
} ml_pair_loss;

/* The name of an objective, "dpo", and of a loss_type, "sigmoid".
 * Shapes: none.
 * Ownership: static.
 * Local.
 * Errors: none. */
const char *ml_objective_name(ml_objective objective);
const char *ml_pair_loss_name(ml_pair_loss loss);

ML_END_DECLS

#endif
