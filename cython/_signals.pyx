"""Waiting for signals without the interpreter's lock."""

cdef extern from "<signal.h>" nogil:
    ctypedef struct sigset_t:
        pass
    int sigemptyset(sigset_t *)
    int sigaddset(sigset_t *, int)
    int sigwait(const sigset_t *, int *)

cdef extern from "<unistd.h>" nogil:
    unsigned int alarm(unsigned int)


def wait(numbers, unsigned int seconds):
    """Wait for one of some signals, which all threads block, and return its number.

    The process is ended after `seconds` from then on (SIGALRM), whatever its threads are doing:
    one that waits inside the MPI library may never give back the interpreter's lock.
    """
    cdef sigset_t wanted
    cdef int number = 0
    sigemptyset(&wanted)
    for one in numbers:
        sigaddset(&wanted, one)
    with nogil:
        sigwait(&wanted, &number)
        alarm(seconds)
    return number
