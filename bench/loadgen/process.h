// What a process has used, read from the kernel's own accounting.

#pragma once

#include <stdint.h>
#include <sys/types.h>

struct usage {
    int64_t cpu;  // Nanoseconds on a core, all threads, user and system (CPU clock of the process: exact).
    int64_t user, system;  // Nanoseconds each; the kernel splits by sampling at its tick, so only the ratio is good.
    int64_t waited;  // Nanoseconds that its threads were runnable but had no core: the neighbours' noise.
    int64_t residentKiB, peakResidentKiB;
};

/// Reads the usage of `process`. Ends the run where the process does not exist.
struct usage usage_of(pid_t process);
