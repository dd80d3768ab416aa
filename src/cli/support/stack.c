/* Libraries put arrays on the stack: MPI, HDF5 and BLAS work with some hundreds of kilobytes, in
 * threads as well, whose stacks are as large as the limit was when the program began. Where that is
 * used up, the process ends with a signal in the midst of its work. */
#include "cli/support/stack.h"

#include <sys/resource.h>

#include "cli/support/again.h"

enum { LEAST_KIB = 1024, USUAL_KIB = 8192 };

ml_status stack_settle(char **argv)
{
    struct rlimit limit;
    const rlim_t least = (rlim_t)LEAST_KIB << 10, usual = (rlim_t)USUAL_KIB << 10;
    if (getrlimit(RLIMIT_STACK, &limit) || limit.rlim_cur == RLIM_INFINITY ||
        limit.rlim_cur >= least)
        return ML_OK;
    const unsigned long found = (unsigned long)(limit.rlim_cur >> 10);
    const bool free = limit.rlim_max == RLIM_INFINITY || limit.rlim_max >= usual;
    limit.rlim_cur = free ? usual : limit.rlim_max;
    if (limit.rlim_cur >= least && setrlimit(RLIMIT_STACK, &limit) == 0) again_start(argv);
    return ml_fail(ML_RESOURCE,
                   "the stack may have %lu KiB (ulimit -s), at least %d are needed, and the limit "
                   "cannot be raised from here: ulimit -s %d before the start",
                   found, LEAST_KIB, USUAL_KIB);
}
