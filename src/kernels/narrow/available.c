/* Whether the processor and the system let a process use the instructions of this set. */
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kernels/native/native.h"

#if defined(__AMX_BF16__)

/* Linux hands out the tiles' registers only to a process that asks for them; threads have what
 * their process has. GCC 12 has no name for these instructions in __builtin_cpu_supports. */
static bool has_tiles(void)
{
    enum { ASK_FOR_STATE = 0x1023, TILE_DATA = 18, TILES_OF_BF16 = 1 << 22, TILES = 1 << 24 };
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & TILES_OF_BF16) && (d & TILES) &&
           syscall(SYS_arch_prctl, ASK_FOR_STATE, TILE_DATA) == 0;
}

#else

static bool has_tiles(void) { return true; }

#endif

bool ML_NATIVE(narrow_available)(void)
{
    return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512f") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl") && has_tiles();
}
