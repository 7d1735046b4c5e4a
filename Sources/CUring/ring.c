#include "CUring.h"

#include <liburing.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

// Flags of io_uring_buf_reg, which liburing 2.3 (Debian 12) calls `pad`: linux/io_uring.h, Linux 6.12.
static const uint16_t incremental = 2;

struct curing {
    struct io_uring uring;
    struct io_uring_buf_ring *buffers;
    char *storage;
    uint32_t buffer_count, buffer_bytes;
};

_Static_assert(sizeof(struct curing_completion) == sizeof(struct io_uring_cqe), "one layout");
_Static_assert(offsetof(struct curing_completion, result) == offsetof(struct io_uring_cqe, res), "one layout");
_Static_assert(offsetof(struct curing_completion, flags) == offsetof(struct io_uring_cqe, flags), "one layout");
_Static_assert(IORING_CQE_BUFFER_SHIFT == 16, "another place for the number of the buffer");

struct curing *curing_create(uint32_t submissions, uint32_t completions, int32_t *error) {
    struct curing *ring = calloc(1, sizeof *ring);
    if (!ring) {
        *error = -ENOMEM;
        return NULL;
    }
    struct io_uring_params parameters = {
        .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG |
                 IORING_SETUP_R_DISABLED | IORING_SETUP_CQSIZE | IORING_SETUP_SUBMIT_ALL,
        .cq_entries = completions,
    };
    *error = io_uring_queue_init_params(submissions, &ring->uring, &parameters);
    if (*error == 0) return ring;
    free(ring);
    return NULL;
}

void curing_destroy(struct curing *ring) {
    io_uring_queue_exit(&ring->uring);
    free(ring->buffers);
    free(ring);
}

int32_t curing_enable(struct curing *ring) {
    // liburing 2.3 declares io_uring_enable_rings and does not export it.
    int code = io_uring_register(ring->uring.ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
    // Saves the kernel a look-up per call; without it everything works as well.
    if (code == 0) (void)io_uring_register_ring_fd(&ring->uring);
    return code;
}

bool curing_receive(struct curing *ring, int32_t descriptor, uint32_t bytes, uint64_t name) {
    struct io_uring_sqe *entry = io_uring_get_sqe(&ring->uring);
    if (!entry) return false;
    io_uring_prep_recv(entry, descriptor, NULL, bytes, 0);
    // As a rule nothing has come yet: wait first, then try.
    entry->ioprio |= IORING_RECVSEND_POLL_FIRST;
    entry->flags |= IOSQE_BUFFER_SELECT;
    entry->buf_group = 0;
    io_uring_sqe_set_data64(entry, name);
    return true;
}

bool curing_accept(struct curing *ring, int32_t descriptor, uint64_t name) {
    struct io_uring_sqe *entry = io_uring_get_sqe(&ring->uring);
    if (!entry) return false;
    io_uring_prep_multishot_accept(entry, descriptor, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    io_uring_sqe_set_data64(entry, name);
    return true;
}

bool curing_poll(struct curing *ring, int32_t descriptor, uint64_t name) {
    struct io_uring_sqe *entry = io_uring_get_sqe(&ring->uring);
    if (!entry) return false;
    io_uring_prep_poll_multishot(entry, descriptor, POLLIN);
    io_uring_sqe_set_data64(entry, name);
    return true;
}

bool curing_watch(struct curing *ring, int32_t descriptor, uint64_t name) {
    struct io_uring_sqe *entry = io_uring_get_sqe(&ring->uring);
    if (!entry) return false;
    io_uring_prep_poll_add(entry, descriptor, 0); // POLLERR and POLLHUP always count (poll(2)), here POLLRDHUP too.
    io_uring_sqe_set_data64(entry, name);
    return true;
}

bool curing_send(struct curing *ring, int32_t descriptor, const void *bytes, size_t count, bool ends_record,
                 uint64_t name) {
    struct io_uring_sqe *entry = io_uring_get_sqe(&ring->uring);
    if (!entry) return false;
    io_uring_prep_send(entry, descriptor, bytes, count, MSG_NOSIGNAL | (ends_record ? MSG_EOR : 0));
    io_uring_sqe_set_data64(entry, name);
    return true;
}

bool curing_send_message(struct curing *ring, int32_t descriptor, const void *message, bool ends_record,
                         uint64_t name) {
    struct io_uring_sqe *entry = io_uring_get_sqe(&ring->uring);
    if (!entry) return false;
    io_uring_prep_sendmsg(entry, descriptor, message, MSG_NOSIGNAL | (ends_record ? MSG_EOR : 0));
    io_uring_sqe_set_data64(entry, name);
    return true;
}

bool curing_cancel(struct curing *ring, uint64_t operation, uint64_t name) {
    struct io_uring_sqe *entry = io_uring_get_sqe(&ring->uring);
    if (!entry) return false;
    io_uring_prep_cancel64(entry, operation, 0);
    entry->flags |= IOSQE_CQE_SKIP_SUCCESS;
    io_uring_sqe_set_data64(entry, name);
    return true;
}

bool curing_close(struct curing *ring, int32_t descriptor, uint64_t name) {
    struct io_uring_sqe *entry = io_uring_get_sqe(&ring->uring);
    if (!entry) return false;
    io_uring_prep_close(entry, descriptor);
    entry->flags |= IOSQE_CQE_SKIP_SUCCESS;
    io_uring_sqe_set_data64(entry, name);
    return true;
}

// Whether operations wait for a call to complete them.
static bool is_behind(const struct curing *ring) {
    return (__atomic_load_n(ring->uring.sq.kflags, __ATOMIC_RELAXED) & IORING_SQ_TASKRUN) != 0;
}

int32_t curing_enter(struct curing *ring, int32_t milliseconds, uint32_t wanted) {
    int code;
    if (milliseconds == 0) {
        code = io_uring_submit_and_get_events(&ring->uring);
    } else if (milliseconds < 0) {
        code = io_uring_submit_and_wait(&ring->uring, 1);
    } else {
        struct __kernel_timespec limit = {
            .tv_sec = milliseconds / 1000, .tv_nsec = (long long)(milliseconds % 1000) * 1000000};
        struct io_uring_cqe *first;
        code = io_uring_submit_and_wait_timeout(&ring->uring, &first, 1, &limit, NULL);
    }
    if (code < 0) return code;
    // One call completes some twenty operations and leaves the others waiting (Linux 6.14 and later).
    uint32_t before = 0;
    uint32_t ready = io_uring_cq_ready(&ring->uring);
    while (is_behind(ring) && ready < wanted && ready != before) {
        code = io_uring_get_events(&ring->uring);
        if (code < 0) return code;
        before = ready;
        ready = io_uring_cq_ready(&ring->uring);
    }
    return 0;
}

uint32_t curing_unsubmitted(const struct curing *ring) { return io_uring_sq_ready(&ring->uring); }

struct curing_completions curing_completions(const struct curing *ring) {
    return (struct curing_completions){
        .entries = (const struct curing_completion *)ring->uring.cq.cqes,
        .mask = ring->uring.cq.ring_mask,
        .head = *ring->uring.cq.khead,
        .ready = io_uring_cq_ready(&ring->uring),
    };
}

void curing_advance(struct curing *ring, uint32_t count) { io_uring_cq_advance(&ring->uring, count); }

int32_t curing_register_buffers(
    struct curing *ring, void *storage, uint32_t count, uint32_t bytes, bool is_incremental
) {
    void *entries;
    if (posix_memalign(&entries, 4096, count * sizeof(struct io_uring_buf)) != 0) return -ENOMEM;
    struct io_uring_buf_reg request = {.ring_addr = (uintptr_t)entries, .ring_entries = count};
    uint16_t flags = is_incremental ? incremental : 0;
    // The field of flags follows `bgid`, whatever its name.
    memcpy((char *)&request.bgid + sizeof request.bgid, &flags, sizeof flags);
    int code = io_uring_register_buf_ring(&ring->uring, &request, 0);
    if (code != 0) {
        free(entries);
        return code;
    }
    ring->buffers = entries;
    ring->storage = storage;
    ring->buffer_count = count;
    ring->buffer_bytes = bytes;
    io_uring_buf_ring_init(ring->buffers);
    for (uint32_t index = 0; index < count; index++) curing_give_back(ring, (uint16_t)index);
    return 0;
}

void curing_give_back(struct curing *ring, uint16_t buffer) {
    io_uring_buf_ring_add(
        ring->buffers, ring->storage + (size_t)buffer * ring->buffer_bytes, ring->buffer_bytes, buffer,
        io_uring_buf_ring_mask(ring->buffer_count), 0);
    io_uring_buf_ring_advance(ring->buffers, 1);
}
