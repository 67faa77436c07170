// Time. Any thread may call.
#ifndef LS_BASE_CLOCK_H
#define LS_BASE_CLOCK_H

#include <stdint.h>

// Nanoseconds of a clock that never goes back, for durations.
int64_t ls_clock_ns(void);
// Microseconds since 1970, UTC, for people.
int64_t ls_time_us(void);

#endif
