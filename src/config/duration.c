/* Lengths of time as people and batch systems write them: 90, 90s, 15m, 1.5h, 2d, 30:00, 11:30:00,
 * 1-12:00:00. */
#include <stdlib.h>

#include "config/table.h"

/* A number with digits and a point only; what follows it in *end. */
static bool read_number(const char *text, double *value, const char **end)
{
    size_t digits = strspn(text, ".0123456789");
    char *stop;
    *value = strtod(text, &stop);
    *end = text + digits;
    return digits > 0 && stop == *end;
}

static bool read_unit(const char *unit, double *seconds)
{
    static const char units[] = "smhd";
    static const double sizes[] = {1, 60, 3600, 86400};
    const char *found = *unit ? strchr(units, *unit) : NULL;
    if (*unit && (!found || unit[1])) return false;
    *seconds *= found ? sizes[found - units] : 1;
    return true;
}

/* [days-]hours:minutes:seconds, or minutes:seconds; the first part may be of any size. */
static bool read_clock(const char *text, double *seconds)
{
    unsigned days = 0, part[3] = {0};
    int used = 0, parts = 0;
    if (strchr(text, '-') && (sscanf(text, "%5u-%n", &days, &used) != 1 || used == 0)) return false;
    for (const char *at = text + used;;) {
        int length = 0;
        if (parts == 3 || strspn(at, "0123456789") == 0 ||
            sscanf(at, "%7u%n", &part[parts], &length) != 1)
            return false;
        if (parts > 0 && (length != 2 || part[parts] > 59)) return false;
        parts++;
        at += length;
        if (!*at) break;
        if (*at++ != ':') return false;
    }
    if (parts < 2 || (used && parts != 3)) return false;
    *seconds = 86400.0 * days;
    for (int i = 0, unit = parts == 3 ? 3600 : 60; i < parts; i++, unit /= 60)
        *seconds += (double)part[i] * unit;
    return true;
}

bool duration_read(const char *text, double *seconds)
{
    const char *end;
    if (strchr(text, ':')) return read_clock(text, seconds);
    return read_number(text, seconds, &end) && read_unit(end, seconds);
}
