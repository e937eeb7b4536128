/* Between these two calls, a process under callgrind has its instructions counted. */
#include <valgrind/callgrind.h>

void begin_count(void);
void end_count(const char *what);

void begin_count(void)
{
    CALLGRIND_ZERO_STATS;
    CALLGRIND_START_INSTRUMENTATION;
}

void end_count(const char *what)
{
    CALLGRIND_DUMP_STATS_AT(what);
    CALLGRIND_STOP_INSTRUMENTATION;
}
