/* Ranks that wait for others sleep: loaded with LD_PRELOAD, it replaces what Open MPI calls while it
   waits. More ranks than processors, of several tests at a time, otherwise spend most of the time
   on asking whether there is a message. */

#define _POSIX_C_SOURCE 199309L

#include <time.h>

int sched_yield(void);

int sched_yield(void)
{
    const struct timespec pause = {0, 50000};
    nanosleep(&pause, NULL);
    return 0;
}
