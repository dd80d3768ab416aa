/* Rates from measurements: least squares with no negative part, in relative errors, by going
 * through the parts one by one until they rest. */
#include "mpilora/plan.h"

enum { PARTS = 3, SWEEPS = 4000 };

ml_cost ml_cost_fit(int64_t count, const double x[][PARTS], const double *seconds)
{
    double normal[PARTS][PARTS] = {{0}}, right[PARTS] = {0}, part[PARTS] = {0};
    for (int64_t i = 0; i < count; i++)
        for (int a = 0; a < PARTS; a++) {
            right[a] += 1e-9 * x[i][a] / seconds[i];
            for (int b = 0; b < PARTS; b++)
                normal[a][b] += 1e-18 * x[i][a] / seconds[i] * (x[i][b] / seconds[i]);
        }
    for (int sweep = 0; sweep < SWEEPS; sweep++)
        for (int a = 0; a < PARTS; a++) {
            double rest = right[a];
            for (int b = 0; b < PARTS; b++)
                if (b != a) rest -= normal[a][b] * part[b];
            part[a] = normal[a][a] > 0.0 && rest > 0.0 ? rest / normal[a][a] : 0.0;
        }
    return (ml_cost){part[0] > 0.0 ? 1.0 / part[0] : 1e12, part[1], part[2]};
}
