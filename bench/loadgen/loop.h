// One epoll loop under all connections: delivers what came, then sends what was written, once per connection and turn.

#pragma once

#include <stdint.h>

struct connection;

/// Monotonic time in nanoseconds.
int64_t now(void);

/// `now` when it was first asked for since the loop turned to the connection that is being read: for what happens to
/// messages that came together.
int64_t loop_time(void);

/// A fast generator of numbers for masking keys; not for secrets.
uint32_t next_random(void);

/// Creates the epoll instance and raises the limit of open files as far as it goes.
void loop_start(void);

/// Waits up to `timeout` nanoseconds (0: does not wait; negative: for ever), delivers what came, then sends what was
/// written, once per connection. The longest time spent between two calls is kept for `loop_longest_turn`.
void loop_turn(int64_t timeout);

/// The longest time in nanoseconds between two looks at the sockets since the last call: what the generator itself, or
/// whoever took its core away, may have added to a latency. Waiting for input does not count.
int64_t loop_longest_turn(void);

// What connections ask of the loop.

/// Adds the connection's socket (`isNew`) or changes what it is watched for: EPOLLIN, EPOLLOUT.
void loop_watch(struct connection *connection, int isNew, uint32_t interest);

/// `connection_flush` at the end of the turn.
void loop_flush_later(struct connection *connection);

/// Frees the memory of a closed connection when nothing in this turn can mean it any more.
void loop_free_later(struct connection *connection);
