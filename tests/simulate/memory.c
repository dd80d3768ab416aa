/* Large memory is reserved but never touched: what would fill it is left out. Copies within it take
 * their time and are not made; small ones, of tokens, targets, names, are. Weights are not read,
 * and trained values stay 0, not drawn. */
#include <sys/prctl.h>

#include "mpilora/family.h"
#include "mpilora/peft.h"
#include "mpilora/store.h"
#include "simulate.h"

/* ---- blocks -------------------------------------------------------------------------------- */

/* Of this rank. */
enum { BLOCKS_MOST = 64, LEAST_BLOCK = 1 << 20 };
static struct {
    char *start, *end;
} block[BLOCKS_MOST];

void *__wrap_ml_memory_alloc(int64_t count, size_t size, ml_category category, const char *what);
void *__real_ml_memory_alloc(int64_t count, size_t size, ml_category category, const char *what);
void *__wrap_ml_memory_alloc_shareable(int64_t count, size_t size, ml_category category,
                                       const char *what);
void __wrap_ml_memory_free(void *pointer);
void __real_ml_memory_free(void *pointer);

/* The other category is of files, texts, tables: all of it is real. */
void *__wrap_ml_memory_alloc(int64_t count, size_t size, ml_category category, const char *what)
{
    char *own = __real_ml_memory_alloc(count, size, category, what);
    int64_t bytes = count * (int64_t)size;
    int i = 0;
    if (!own || bytes < LEAST_BLOCK || category == ML_MEM_OTHER) return own;
    while (i < BLOCKS_MOST && block[i].start) i++;
    if (i == BLOCKS_MOST) return own;
    block[i].start = own;
    block[i].end = own + bytes;
    return own;
}

void *__wrap_ml_memory_alloc_shareable(int64_t count, size_t size, ml_category category,
                                       const char *what)
{
    return __wrap_ml_memory_alloc(count, size, category, what);
}

void __wrap_ml_memory_free(void *pointer)
{
    for (int i = 0; pointer && i < BLOCKS_MOST; i++)
        if (block[i].start == pointer) block[i].start = block[i].end = NULL;
    __real_ml_memory_free(pointer);
}

/* Small pages: a large one is cleared whole for the few numbers that are written into it. */
void memory_start(void) { prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0); }

bool memory_is_empty(const void *at, int64_t bytes)
{
    const char *first = at;
    for (int i = 0; bytes >= LARGE_BYTES && i < BLOCKS_MOST; i++)
        if (first >= block[i].start && first < block[i].end) return true;
    return false;
}

/* ---- copies -------------------------------------------------------------------------------- */

void *__wrap_memcpy(void *to, const void *from, size_t bytes);
void *__wrap_memmove(void *to, const void *from, size_t bytes);
void *__wrap_memset(void *to, int value, size_t bytes);
void *__real_memcpy(void *to, const void *from, size_t bytes);
void *__real_memmove(void *to, const void *from, size_t bytes);
void *__real_memset(void *to, int value, size_t bytes);

static bool is_left_out(const void *to, size_t bytes)
{
    if (!memory_is_empty(to, (int64_t)bytes)) return false;
    kernels_move((double)bytes / sizeof(float));
    return true;
}

void *__wrap_memcpy(void *to, const void *from, size_t bytes)
{
    return is_left_out(to, bytes) ? to : __real_memcpy(to, from, bytes);
}

/* Onto itself: rows that are all predicted, which stay where they are. */
void *__wrap_memmove(void *to, const void *from, size_t bytes)
{
    return to == from || is_left_out(to, bytes) ? to : __real_memmove(to, from, bytes);
}

void *__wrap_memset(void *to, int value, size_t bytes)
{
    return is_left_out(to, bytes) ? to : __real_memset(to, value, bytes);
}

/* ---- pages that nobody takes --------------------------------------------------------------- */

void __wrap_ml_memory_take_pages(void *pointer);
void __wrap_ml_memory_take_pages(void *pointer) { (void)pointer; }

/* ---- the base, and the values that training starts from ------------------------------------ */

ml_status __wrap_ml_base_open(ml_base **out, const char *path);
ml_status __wrap_ml_base_load(ml_base *base, const ml_base_request *requests, int64_t count,
                              const ml_base_division *division, int64_t *bytes);
void __wrap_ml_peft_initialise(ml_peft *peft);

/* config.base is a description. */
ml_status __wrap_ml_base_open(ml_base **out, const char *path)
{
    ml_model_spec spec;
    ml_status st = ml_model_spec_read(&spec, path);
    return st == ML_OK ? ml_base_describe(out, path, &spec) : st;
}

ml_status __wrap_ml_base_load(ml_base *base, const ml_base_request *requests, int64_t count,
                              const ml_base_division *division, int64_t *bytes)
{
    (void)base, (void)requests, (void)count, (void)division;
    *bytes = 0;
    return ML_OK;
}

void __wrap_ml_peft_initialise(ml_peft *peft) { (void)peft; }
