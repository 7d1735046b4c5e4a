// What a process has used, read from the kernel's own accounting.

#pragma once

#include <stdint.h>
#include <sys/types.h>

struct usage {
    int64_t cpu;  // Nanoseconds on a core, all threads, user and system (CPU clock of the process: exact).
    int64_t user, system;  // Nanoseconds each; the kernel splits by sampling at its tick, so only the ratio is good.
    // Nanoseconds that its busiest thread was runnable but had no core: what neighbours took. The other threads' waits
    // are left out, for on a pinned process they wait for the busiest one most of the time.
    int64_t waited;
    int64_t residentKiB, peakResidentKiB;
};

/// Reads the usage of `process`. Ends the run where the process does not exist.
struct usage usage_of(pid_t process);

/// Of several processes: their times and memory together, and the longest wait of one.
struct usage usage_of_all(const pid_t *processes, int count);
