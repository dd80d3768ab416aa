/* The loss of one pair of answers, and its derivatives. */
#ifndef MPILORA_SESSION_PAIR_LOSS_H
#define MPILORA_SESSION_PAIR_LOSS_H

#include "mpilora/config.h"
#include "session/session.h"

/* u and v: what is compared of the chosen and of the rejected answer, sums over their n and m
 * tokens of log p, less the reference's where there is one. Nats. */
typedef struct pair_point {
    double u, v, n, m;
} pair_point;

typedef struct pair_value {
    double loss, du, dv;
} pair_value;

/* −(1−e) log σ(βt) − e log σ(−βt) of a difference t = u − v. Local; no errors. */
pair_value ml_pair_smoothed(double beta, double t, double e);
/* 1 − σ(βt), and its derivative in du. Local; no errors. */
pair_value ml_unpaired_loss(double beta, double t);
/* Without what AOT and SFT add, which are of a batch. Local; no errors. */
pair_value ml_pair_loss_at(const ml_run_config *config, const pair_point *at);
/* Whether u/n and v/m are what an answer is worth, not u and v: SimPO, ORPO, and IPO without
 * a reference. */
bool ml_pair_loss_is_mean(const ml_run_config *config);

/* A comparison with the sums that its figures go to: of ranks that share the tokens out only the
 * first one's are heard. */
comparison ml_comparison_counted(const comparison *c, double unheard[PAIR_SUMS]);

#endif
