// What Glibc's Swift module leaves out: epoll, eventfd, signalfd, inotify, accept4, malloc_trim, and macros that do not
// import.
#pragma once
// Only these: a header that Glibc's module has too would belong to this one instead, and every file that uses it would
// have to import CLinux.
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/signalfd.h>

// GNU extensions that the importer's feature macros hide, or whose header Glibc's module lacks. The address is declared
// as bytes, so that this header needs no socket types.
extern int accept4(int descriptor, void *address, uint32_t *length, int flags);
extern int pthread_setname_np(unsigned long thread, const char *name);
extern int malloc_trim(unsigned long pad);

// epoll_event.data is a union; Swift sees one field of it. These two make the 64-bit use plain.
static inline struct epoll_event clinux_epoll_event(uint32_t events, uint64_t token) {
    struct epoll_event event = {.events = events, .data = {.u64 = token}};
    return event;
}
static inline uint64_t clinux_epoll_token(const struct epoll_event *event) { return event->data.u64; }

// EPOLL* are enum constants with values outside Int32; as plain integers they combine without casts.
static const uint32_t CLINUX_EPOLLIN = 0x001u;
static const uint32_t CLINUX_EPOLLOUT = 0x004u;
static const uint32_t CLINUX_EPOLLERR = 0x008u;
static const uint32_t CLINUX_EPOLLHUP = 0x010u;
static const uint32_t CLINUX_EPOLLRDHUP = 0x2000u;
static const uint32_t CLINUX_EPOLLET = 1u << 31;
