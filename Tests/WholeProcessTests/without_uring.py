"""Runs a command for which io_uring_setup(2) fails with EPERM, as under the seccomp profiles of container runtimes."""

import ctypes
import errno
import os
import struct
import sys

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
IO_URING_SETUP = 425  # On every architecture.


def instruction(code, constant, if_false=0):
    """One of seccomp's BPF program (linux/filter.h): code, jumps, constant."""
    return struct.pack("HBBI", code, 0, if_false, constant)


def refuse():
    program = b"".join([
        instruction(0x20, 0),  # Load the number of the system call.
        instruction(0x15, IO_URING_SETUP, if_false=1),
        instruction(0x06, 0x0005_0000 | errno.EPERM),  # SECCOMP_RET_ERRNO
        instruction(0x06, 0x7FFF_0000),  # SECCOMP_RET_ALLOW
    ])
    instructions = ctypes.create_string_buffer(program, len(program))
    head = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(instructions))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in [(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, head, 0, 0)]:
        if libc.prctl(*(each if isinstance(each, bytes) else ctypes.c_ulong(each) for each in arguments)) != 0:
            raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    refuse()
    os.execvp(sys.argv[1], sys.argv[1:])
