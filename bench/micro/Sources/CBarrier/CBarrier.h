// What a benchmark computes would be optimised away if nobody looked at it. These look, as far as the compiler knows,
// and are no instructions.
#pragma once
#include <stdint.h>

// All memory that `pointer` or any other known pointer leads to is read and changed here.
static inline void barrier_memory(void *pointer) { __asm__ volatile("" : : "r"(pointer) : "memory"); }

// `value` is read here.
static inline void barrier_value(int64_t value) { __asm__ volatile("" : : "r"(value)); }
