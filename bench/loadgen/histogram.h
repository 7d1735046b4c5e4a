// A histogram of durations with a bounded relative error, in constant memory.

#pragma once

#include <stdint.h>

enum {
    HISTOGRAM_SUB_BITS = 6,  // 64 buckets per power of two: a value is reported at most 1.6 % too high.
    HISTOGRAM_MAXIMUM_BITS = 40,  // 2^40 ns = 18 minutes; anything longer counts as that.
    HISTOGRAM_BUCKETS = (HISTOGRAM_MAXIMUM_BITS - HISTOGRAM_SUB_BITS + 1) << HISTOGRAM_SUB_BITS,
};

struct histogram {
    uint64_t count;
    uint64_t maximum;  // Exact, in nanoseconds.
    uint64_t buckets[HISTOGRAM_BUCKETS];
};

/// Counts one duration; a negative one counts as zero.
void histogram_record(struct histogram *histogram, int64_t nanoseconds);

/// The upper edge, in nanoseconds, of the bucket that holds the `fraction` quantile (0 < fraction <= 1), never above
/// the exact maximum. 0 where nothing was recorded.
uint64_t histogram_quantile(const struct histogram *histogram, double fraction);

/// Prints `{"count": …, "p50": …, "p90": …, "p99": …, "p999": …, "maximum": …}` in microseconds; the quantiles are null
/// where nothing was recorded.
void histogram_print_json(const struct histogram *histogram);
