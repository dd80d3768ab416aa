/* What a step or an evaluation says of what its objective compared, by name: in metrics.jsonl and
 * evaluations.jsonl, and as TRL calls it in TensorBoard; and what a step left out. */
#include "train/run.h"

static void add(run_figures *out, const char *key, const char *tag, double value)
{
    out->item[out->count++] = (run_figure){key, tag, value};
}

/* Means over pairs. TRL's RewardTrainer has names of its own for what it says. */
static void add_compared(run_figures *out, const ml_run_config *c, const double sums[PAIR_SUMS])
{
    bool scores = ml_run_config_scores_labels(c);
    double n = sums[PAIRS], up = sums[PAIR_REWARD_CHOSEN] / n,
           down = sums[PAIR_REWARD_REJECTED] / n;
    add(out, "rewards_accuracy", scores ? "accuracy" : "rewards/accuracies", sums[PAIR_RIGHT] / n);
    add(out, "rewards_chosen", "rewards/chosen", up);
    add(out, "rewards_rejected", "rewards/rejected", down);
    add(out, "rewards_margin", scores ? "margin" : "rewards/margins", up - down);
    if (scores) return; /* nobody's log-probability */
    add(out, "logps_chosen", "logps/chosen", sums[PAIR_LOG_P_CHOSEN] / n);
    add(out, "logps_rejected", "logps/rejected", sums[PAIR_LOG_P_REJECTED] / n);
}

/* Means over the answers that are wanted, and those that are not; where there are none of the one
 * or the other nothing is said of them. */
static void add_judged(run_figures *out, const double sums[PAIR_SUMS])
{
    double wanted = sums[PAIR_WANTED], others = sums[PAIRS] - wanted,
           up = sums[PAIR_REWARD_CHOSEN] / wanted, down = sums[PAIR_REWARD_REJECTED] / others;
    if (wanted > 0.0) {
        add(out, "rewards_chosen", "rewards/chosen", up);
        add(out, "logps_chosen", "logps/chosen", sums[PAIR_LOG_P_CHOSEN] / wanted);
    }
    if (others > 0.0) {
        add(out, "rewards_rejected", "rewards/rejected", down);
        add(out, "logps_rejected", "logps/rejected", sums[PAIR_LOG_P_REJECTED] / others);
    }
    if (wanted > 0.0 && others > 0.0) add(out, "rewards_margin", "rewards/margins", up - down);
    add(out, "kl", "kl", sums[PAIR_MOVED] / sums[PAIRS]);
}

/* Whether answers are compared or judged, not labels or vectors. */
static bool is_preference(const ml_run_config *c)
{
    bool pairs = ml_run_config_unit(c) == 2 && !ml_run_config_contrasts(c);
    return ml_run_config_has_figures(c) && (pairs || c->objective.name == ML_OBJECTIVE_KTO);
}

run_figures preference_figures(const ml_run_config *c, const double sums[PAIR_SUMS])
{
    run_figures out = {.count = 0};
    if (!is_preference(c)) return out;
    if (c->objective.name == ML_OBJECTIVE_KTO)
        add_judged(&out, sums);
    else
        add_compared(&out, c, sums);
    return out;
}

run_figures step_figures(const ml_run_config *c, const step_result *step)
{
    const double *sums = step->compared;
    run_figures out = preference_figures(c, sums);
    bool right = ml_run_config_has_figures(c) && !is_preference(c) &&
                 c->objective.name != ML_OBJECTIVE_REGRESS;
    if (right) add(&out, "accuracy", "accuracy", sums[PAIR_RIGHT] / sums[PAIRS]);
    if (c->loss.filter == 0.0) return out;
    add(&out, "filtered", "filtered", step->filtered);
    add(&out, "filtered_most", "filtered_most", step->filtered_most);
    return out;
}
