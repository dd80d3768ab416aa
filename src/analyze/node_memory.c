/* Reads /proc/meminfo and the limits of the cgroups that this process is in. */
#include "analyze/node_memory.h"

#include <inttypes.h>

/* The number in a file of one line; −1 where there is none ("max", no such file). */
static int64_t read_number(const char *group, const char *name)
{
    char path[1200];
    int64_t value = -1;
    snprintf(path, sizeof path, "/sys/fs/cgroup%s/%s", group, name);
    FILE *file = fopen(path, "r");
    if (!file) return -1;
    if (fscanf(file, "%" SCNd64, &value) != 1) value = -1;
    fclose(file);
    return value;
}

/* What the tightest of this process's cgroup and those above it leaves. */
static int64_t left_in_cgroup(void)
{
    char line[1024], *group = NULL;
    int64_t least = INT64_MAX;
    FILE *file = fopen("/proc/self/cgroup", "r");
    while (file && !group && fgets(line, sizeof line, file))
        if (!strncmp(line, "0::", 3)) group = line + 3;
    if (file) fclose(file);
    if (!group) return least;
    group[strcspn(group, "\n")] = '\0';
    for (char *end = group + strlen(group); end; end = strrchr(group, '/')) {
        *end = '\0';
        int64_t limit = read_number(group, "memory.max"),
                used = read_number(group, "memory.current");
        if (limit >= 0 && used >= 0) least = ml_min(least, ml_max(0, limit - used));
    }
    return least;
}

static int64_t available_to_kernel(void)
{
    char line[256];
    int64_t kib = -1;
    FILE *file = fopen("/proc/meminfo", "r");
    while (file && kib < 0 && fgets(line, sizeof line, file))
        if (sscanf(line, "MemAvailable: %" SCNd64, &kib) != 1) kib = -1;
    if (file) fclose(file);
    return kib < 0 ? INT64_MAX : kib << 10;
}

int64_t node_memory_available(void) { return ml_min(available_to_kernel(), left_in_cgroup()); }
