/* Memory that other processes of the user can map: a memory file (memfd) each, without a name. */
#ifndef MPILORA_BASE_SHAREABLE_H
#define MPILORA_BASE_SHAREABLE_H

#include "mpilora/base.h"

enum {
    SHAREABLE_UNIT = 2 << 20,
    SHAREABLE_PAGE = 4096
}; /* a huge page; what lies before a block */

/* Zero pages at a multiple of SHAREABLE_UNIT, with a private page before them; *fd: the file. NULL
 * where the kernel has none, or where there are too many: the caller then takes other memory. From
 * one thread alone, as the other. */
char *shareable_map(int64_t bytes, int *fd);
void shareable_unmap(char *block, int64_t bytes, int fd);

/* Its whole huge pages, where the kernel has some; the rest comes when it is touched. */
void shareable_take_pages(char *block, int64_t bytes);

#endif
