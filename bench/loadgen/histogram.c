#include "histogram.h"

#include <math.h>
#include <stdio.h>

// Buckets are laid out as in an HDR histogram. Values below 2^SUB_BITS have a bucket each; from there on every power of
// two is cut into 2^SUB_BITS equal buckets:
//
//   value:   0 … 63 | 64 … 127 | 128, 130, … 254 | 256, 260, … 508 | …
//   width:      1         1            2                 4           …

static uint32_t bucket_of(uint64_t value) {
    if (value >= (uint64_t)1 << HISTOGRAM_MAXIMUM_BITS) value = ((uint64_t)1 << HISTOGRAM_MAXIMUM_BITS) - 1;
    if (value < (uint64_t)1 << HISTOGRAM_SUB_BITS) return (uint32_t)value;
    uint32_t shift = 63 - (uint32_t)__builtin_clzll(value) - HISTOGRAM_SUB_BITS;
    uint32_t within = (uint32_t)(value >> shift) - (1u << HISTOGRAM_SUB_BITS);
    return ((shift + 1) << HISTOGRAM_SUB_BITS) + within;
}

static uint64_t upper_edge_of(uint32_t bucket) {
    uint32_t group = bucket >> HISTOGRAM_SUB_BITS, within = bucket & ((1u << HISTOGRAM_SUB_BITS) - 1);
    if (group == 0) return within;
    uint32_t shift = group - 1;
    return (((uint64_t)(1u << HISTOGRAM_SUB_BITS) + within + 1) << shift) - 1;
}

void histogram_record(struct histogram *histogram, int64_t nanoseconds) {
    uint64_t value = nanoseconds < 0 ? 0 : (uint64_t)nanoseconds;
    if (value > histogram->maximum) histogram->maximum = value;
    histogram->count += 1;
    histogram->buckets[bucket_of(value)] += 1;
}

uint64_t histogram_quantile(const struct histogram *histogram, double fraction) {
    if (histogram->count == 0) return 0;
    uint64_t rank = (uint64_t)ceil(fraction * (double)histogram->count), seen = 0;
    for (uint32_t bucket = 0; bucket < HISTOGRAM_BUCKETS; bucket++) {
        seen += histogram->buckets[bucket];
        if (seen >= rank && seen > 0) {
            uint64_t edge = upper_edge_of(bucket);
            return edge < histogram->maximum ? edge : histogram->maximum;
        }
    }
    return histogram->maximum;
}

void histogram_print_json(const struct histogram *histogram) {
    static const struct { const char *name; double fraction; } quantiles[] = {
        {"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p999", 0.999}, {"maximum", 1}};
    printf("{\"count\": %llu", (unsigned long long)histogram->count);
    for (size_t i = 0; i < sizeof quantiles / sizeof *quantiles; i++) {
        if (histogram->count == 0) {
            printf(", \"%s\": null", quantiles[i].name);
        } else {
            printf(", \"%s\": %.1f", quantiles[i].name,
                   (double)histogram_quantile(histogram, quantiles[i].fraction) / 1e3);
        }
    }
    printf("}");
}
