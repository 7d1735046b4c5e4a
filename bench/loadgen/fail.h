// How a run ends early.

#pragma once

enum {
    EXIT_LOST = 1,  // A check failed: lost, reordered, duplicated, refused, closed.
    EXIT_USAGE = 2,
    EXIT_UNREACHABLE = 3,
};

/// Prints one sentence on standard error and ends the process with `status`.
_Noreturn void fail(int status, const char *format, ...) __attribute__((format(printf, 2, 3)));
