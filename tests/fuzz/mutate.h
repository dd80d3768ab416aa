/* mutate: damages bytes in ways that readers of text, of binary heads and of safetensors have to
 * survive. The same number gives the same damage. */
#ifndef MPILORA_TESTS_MUTATE_H
#define MPILORA_TESTS_MUTATE_H

#include <stddef.h>
#include <stdint.h>

enum { MUTATE_ROOM = 1 << 20 }; /* bytes that an input may grow by */

typedef enum mutate_kind { MUTATE_TEXT, MUTATE_BINARY, MUTATE_SAFETENSORS } mutate_kind;

/* Changes `bytes` ([size + MUTATE_ROOM]) in place; the new size. */
size_t mutate(mutate_kind kind, uint64_t number, unsigned char *bytes, size_t size);

#endif
