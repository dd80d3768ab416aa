/* As much of cmocka's interface as the tests of kernels use, where the library is not there for the
 * processor: a failure ends the program. */
#ifndef MPILORA_TESTS_ARM_CMOCKA_H
#define MPILORA_TESTS_ARM_CMOCKA_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct CMUnitTest {
    const char *name;
    void (*run)(void **state);
};

static jmp_buf stand_in_skip;

#define cmocka_unit_test(function) \
    {                              \
#function, function        \
    }
#define print_message(...) ((void)printf(__VA_ARGS__))
#define skip() longjmp(stand_in_skip, 1)
#define fail_msg(...)                              \
    do {                                           \
        (void)fprintf(stderr, __VA_ARGS__);        \
        (void)fprintf(stderr, "\n[  FAILED  ]\n"); \
        exit(1);                                   \
    } while (0)
#define stand_in_check(yes)                                               \
    do {                                                                  \
        if (!(yes)) fail_msg("%s:%d: not: %s", __FILE__, __LINE__, #yes); \
    } while (0)
#define assert_true(yes) stand_in_check(yes)
#define assert_null(pointer) stand_in_check((pointer) == NULL)
#define assert_non_null(pointer) stand_in_check((pointer) != NULL)
#define assert_int_equal(a, b) stand_in_check((long long)(a) == (long long)(b))
#define assert_string_equal(a, b) stand_in_check(strcmp((a), (b)) == 0)
#define assert_memory_equal(a, b, size) stand_in_check(memcmp((a), (b), (size)) == 0)
#define cmocka_run_group_tests(tests, setup, teardown) \
    stand_in_run((tests), sizeof(tests) / sizeof *(tests))

static int stand_in_run(const struct CMUnitTest *tests, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        void *state = NULL;
        if (setjmp(stand_in_skip) != 0) {
            printf("[  SKIPPED ] %s\n", tests[i].name);
            continue;
        }
        tests[i].run(&state);
        printf("[       OK ] %s\n", tests[i].name);
    }
    return 0;
}

#endif
