/* The losses of a pair, with u, v, n, m as pair_point has them, d = u − v, x = βd, σ logistic:
 *
 *   sigmoid       −log σ(x)                                  DPO, arXiv:2305.18290
 *     of cpo      −(1−ε) log σ(x) − ε log σ(−x)              arXiv:2401.08417
 *   hinge         max(0, 1 − x)                              SLiC, arXiv:2305.10425
 *   ipo           (u/n − v/m − 1/(2β))²                      arXiv:2310.12036
 *   sigmoid_norm  −log σ(β(u/n − v/m))
 *   robust        (−(1−ε) log σ(x) + ε log σ(−x)) / (1−2ε)   arXiv:2403.00409
 *   exo_pair      σ(x)(log σ(x) − log(1−ε)) + σ(−x)(log σ(−x) − log ε)   arXiv:2402.00856
 *   nca_pair      −log σ(βu) − ½ log σ(−βu) − ½ log σ(−βv)   arXiv:2402.05369
 *   bco_pair      −log σ(βu) − log σ(−βv)                    arXiv:2404.04656
 *   sppo_hard     (u − 1/(2β))² + (v + 1/(2β))²              arXiv:2405.00675
 *   apo_zero      1 − σ(βu) + σ(βv)                          arXiv:2408.06266
 *   apo_down      σ(βu) + 1 − σ(x)
 *   discopop      −log σ(x)(1 − σ(x/τ)) + e^(−x) σ(x/τ), τ = 0.05   arXiv:2406.08414
 *   simpo         −(1−ε) log σ(y) − ε log σ(−y), y = β(u/n − v/m) − γ   arXiv:2405.14734
 *   orpo          −β log σ(odds(u/n) − odds(v/m)), odds(t) = t − log(1 − e^t)   arXiv:2403.07691 */
#include <math.h>

#include "session/pair_loss.h"

static double sigmoid(double x)
{
    return x >= 0.0 ? 1.0 / (1.0 + exp(-x)) : exp(x) / (1.0 + exp(x));
}

static double log_sigmoid(double x) { return fmin(x, 0.0) - log1p(exp(-fabs(x))); }

static double slope_of_sigmoid(double x) { return sigmoid(x) * sigmoid(-x); }

/* A loss f of x = βd, from f and its derivative. */
static pair_value of_difference(double beta, double f, double slope)
{
    return (pair_value){f, beta * slope, -beta * slope};
}

static pair_value of_means(const pair_point *at, double f, double slope)
{
    return (pair_value){f, slope / at->n, -slope / at->m};
}

/* −log σ(x) where labels are the wrong way round with probability e, and its derivative. */
static double smoothed(double x, double e)
{
    return -(1.0 - e) * log_sigmoid(x) - e * log_sigmoid(-x);
}

static double slope_of_smoothed(double x, double e)
{
    return -(1.0 - e) * sigmoid(-x) + e * sigmoid(x);
}

pair_value ml_pair_smoothed(double beta, double t, double e)
{
    return of_difference(beta, smoothed(beta * t, e), slope_of_smoothed(beta * t, e));
}

pair_value ml_unpaired_loss(double beta, double t)
{
    return (pair_value){sigmoid(-beta * t), -beta * slope_of_sigmoid(beta * t), 0.0};
}

static pair_value robust(double beta, double x, double e)
{
    double f = -(1.0 - e) * log_sigmoid(x) + e * log_sigmoid(-x),
           slope = -(1.0 - e) * sigmoid(-x) - e * sigmoid(x);
    return of_difference(beta, f / (1.0 - 2.0 * e), slope / (1.0 - 2.0 * e));
}

static pair_value exo(double beta, double x, double e)
{
    double right = log_sigmoid(x) - log1p(-e), wrong = log_sigmoid(-x) - log(e);
    return of_difference(beta, sigmoid(x) * right + sigmoid(-x) * wrong,
                         slope_of_sigmoid(x) * (right - wrong));
}

static pair_value discopop(double beta, double x)
{
    static const double tau = 0.05;
    double s = sigmoid(x / tau), ds = slope_of_sigmoid(x / tau) / tau, e = exp(-x);
    double f = -log_sigmoid(x) * (1.0 - s) + e * s,
           slope = -sigmoid(-x) * (1.0 - s) + log_sigmoid(x) * ds - e * s + e * ds;
    return of_difference(beta, f, slope);
}

/* The mean log p of an answer; of one that is certain a little less, since its odds are infinite.
 */
static double mean_of(double sum, double tokens) { return fmin(sum / tokens, -1e-7); }

static pair_value orpo(double beta, const pair_point *at)
{
    double c = mean_of(at->u, at->n), r = mean_of(at->v, at->m),
           odds = c - r - (log(-expm1(c)) - log(-expm1(r))), slope = -beta * sigmoid(-odds);
    return (pair_value){-beta * log_sigmoid(odds), slope / (-expm1(c) * at->n),
                        -slope / (-expm1(r) * at->m)};
}

/* Of an objective with one loss; dpo has a list. */
static ml_pair_loss loss_of(const ml_run_config *c)
{
    return c->objective.name == ML_OBJECTIVE_IPO     ? ML_PAIR_IPO
           : c->objective.name == ML_OBJECTIVE_SIMPO ? ML_PAIR_SIMPO
           : c->objective.name == ML_OBJECTIVE_ORPO  ? ML_PAIR_ORPO
                                                     : (ml_pair_loss)c->objective.loss_type.item[0];
}

bool ml_pair_loss_is_mean(const ml_run_config *c)
{
    ml_pair_loss loss = loss_of(c);
    return loss == ML_PAIR_SIMPO || loss == ML_PAIR_ORPO ||
           (loss == ML_PAIR_IPO && c->objective.name == ML_OBJECTIVE_CPO);
}

static pair_value value_of(const ml_run_config *c, ml_pair_loss loss, const pair_point *at)
{
    double b = c->objective.beta, e = c->objective.label_smoothing, half = 0.5 / b;
    double u = at->u, v = at->v, x = b * (u - v), means = u / at->n - v / at->m,
           y = b * means - (loss == ML_PAIR_SIMPO ? c->objective.gamma : 0.0);
    switch (loss) {
    case ML_PAIR_SIGMOID: /* dpo's reads no smoothing, as in TRL */
        return ml_pair_smoothed(b, u - v, c->objective.name == ML_OBJECTIVE_CPO ? e : 0.0);
    case ML_PAIR_HINGE:
        return of_difference(b, fmax(0.0, 1.0 - x), x < 1.0 ? -1.0 : 0.0);
    case ML_PAIR_IPO:
        return of_means(at, (means - half) * (means - half), 2.0 * (means - half));
    case ML_PAIR_SIGMOID_NORM:
        return of_means(at, -log_sigmoid(y), -b * sigmoid(-y));
    case ML_PAIR_SIMPO:
        return of_means(at, smoothed(y, e), b * slope_of_smoothed(y, e));
    case ML_PAIR_ROBUST:
        return robust(b, x, e);
    case ML_PAIR_EXO:
        return exo(b, x, e);
    case ML_PAIR_NCA:
        return (pair_value){-log_sigmoid(b * u) - 0.5 * (log_sigmoid(-b * u) + log_sigmoid(-b * v)),
                            b * (0.5 * sigmoid(b * u) - sigmoid(-b * u)), 0.5 * b * sigmoid(b * v)};
    case ML_PAIR_BCO:
        return (pair_value){-log_sigmoid(b * u) - log_sigmoid(-b * v), -b * sigmoid(-b * u),
                            b * sigmoid(b * v)};
    case ML_PAIR_SPPO_HARD:
        return (pair_value){(u - half) * (u - half) + (v + half) * (v + half), 2.0 * (u - half),
                            2.0 * (v + half)};
    case ML_PAIR_APO_ZERO:
        return (pair_value){sigmoid(-b * u) + sigmoid(b * v), -b * slope_of_sigmoid(b * u),
                            b * slope_of_sigmoid(b * v)};
    case ML_PAIR_APO_DOWN:
        return (pair_value){sigmoid(b * u) + sigmoid(-x),
                            b * (slope_of_sigmoid(b * u) - slope_of_sigmoid(x)),
                            b * slope_of_sigmoid(x)};
    case ML_PAIR_DISCOPOP:
        return discopop(b, x);
    case ML_PAIR_ORPO:
        return orpo(b, at);
    case ML_PAIR_AOT:
    case ML_PAIR_AOT_UNPAIRED:
    case ML_PAIR_SFT:
    case ML_PAIR_KTO:
    case ML_PAIR_APO_ZERO_UNPAIRED:
        break;
    }
    return (pair_value){0.0, 0.0, 0.0};
}

pair_value ml_pair_loss_at(const ml_run_config *c, const pair_point *at)
{
    pair_value sum = {0.0, 0.0, 0.0};
    const ml_words *types = &c->objective.loss_type;
    if (c->objective.name != ML_OBJECTIVE_DPO) return value_of(c, loss_of(c), at);
    for (int64_t i = 0; i < types->count; i++) {
        ml_pair_loss loss = (ml_pair_loss)types->item[i];
        double weight = ml_run_config_loss_weight(c, loss);
        const pair_value value = value_of(c, loss, at);
        sum.loss += weight * value.loss;
        sum.du += weight * value.du;
        sum.dv += weight * value.dv;
    }
    return sum;
}
