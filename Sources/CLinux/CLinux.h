// What Glibc's Swift module leaves out: epoll, eventfd, signalfd, inotify, accept4, and macros that do not import.
#pragma once
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

// accept4(2) is a GNU extension; a C++-style redeclaration keeps it visible whatever feature macros the importer sets.
extern int accept4(int, struct sockaddr *, socklen_t *, int);

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
