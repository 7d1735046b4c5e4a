// io_uring(7) through liburing: one ring and one ring of receive buffers, in the terms of the event loop. liburing.h is
// included by ring.c alone, because its feature macros give glibc's types another look than Swift's Glibc module has.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct curing;

// What completed: the kernel's io_uring_cqe.
struct curing_completion {
    uint64_t name; // As it was submitted.
    int32_t result; // Negative: an errno.
    uint32_t flags; // CURING_MORE and the two below it.
};

// The operation stays armed.
static const uint32_t CURING_MORE = 1u << 1;
// A buffer was used: its number is in the flags' upper half.
static const uint32_t CURING_BUFFER = 1u << 0;
// And it will get more completions.
static const uint32_t CURING_BUFFER_MORE = 1u << 4;

// A ring that is submitted to by one thread, and completes within `curing_enter` only (IORING_SETUP_SINGLE_ISSUER and
// DEFER_TASKRUN, Linux 6.1). NULL and a negative errno in `error` where the kernel has or allows no such ring.
struct curing *curing_create(uint32_t submissions, uint32_t completions, int32_t *error);
void curing_destroy(struct curing *ring);

// Makes the calling thread the one that submits. 0 or a negative errno.
int32_t curing_enable(struct curing *ring);

// Submissions. `name` comes back with the completion. False where the queue is full: enter first, then try again.
// Once; at most so many bytes, or with 0 as many as a buffer holds.
bool curing_receive(struct curing *ring, int32_t descriptor, uint32_t bytes, uint64_t name);
bool curing_accept(struct curing *ring, int32_t descriptor, uint64_t name); // Until it is cancelled.
bool curing_poll(struct curing *ring, int32_t descriptor, uint64_t name); // For input, until it is cancelled.
bool curing_watch(struct curing *ring, int32_t descriptor, uint64_t name); // For errors and hang-ups, once.
bool curing_send(struct curing *ring, int32_t descriptor, const void *bytes, size_t count, bool ends_record,
                 uint64_t name);
// `message` is a struct msghdr; it is read when it is submitted and may go then, the bytes may not.
bool curing_send_message(struct curing *ring, int32_t descriptor, const void *message, bool ends_record,
                         uint64_t name);
// Cancels the operation of that name. Completes, as `name`, only where it failed.
bool curing_cancel(struct curing *ring, uint64_t operation, uint64_t name);
// Closes the descriptor, behind all that was submitted before. Completes only where it failed.
bool curing_close(struct curing *ring, int32_t descriptor, uint64_t name);

// Submits, runs what completed, and waits for a completion: so many milliseconds, -1 for no limit, 0 not at all. Then
// goes on for as long as more complete at once, until `wanted` are there. 0 or a negative errno.
int32_t curing_enter(struct curing *ring, int32_t milliseconds, uint32_t wanted);
// Submissions that the kernel has not taken yet.
uint32_t curing_unsubmitted(const struct curing *ring);

// Completions lie in a ring of 2^n entries: `ready` of them from `head` on, until `curing_advance` frees the first.
struct curing_completions {
    const struct curing_completion *entries;
    uint32_t mask, head, ready;
};
struct curing_completions curing_completions(const struct curing *ring);
void curing_advance(struct curing *ring, uint32_t count);

// Registers `count` receive buffers (a power of two) of `bytes` each, at `storage`. Incremental ones are used up piece
// by piece (Linux 6.12), others by one receive each. 0 or a negative errno.
int32_t curing_register_buffers(
    struct curing *ring, void *storage, uint32_t count, uint32_t bytes, bool is_incremental);
// The kernel may use the buffer anew.
void curing_give_back(struct curing *ring, uint16_t buffer);
