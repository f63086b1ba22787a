"""Sockets are files, and a process may have only so many open: 1,024 where nobody asked for more.

Eight servers with 256 rows each want 2,048 at once. vLLM raises the limit in its own process; ours is the client.
"""

from __future__ import annotations

import resource

_RESERVED = 200  # for everything else: files of the run, children, libraries


def connections_per_server(wanted: int, *, servers: int) -> int:
    """Returns how many connections to each of `servers` may be open at once, at most `wanted`.

    Raises the soft limit as far as that needs and the hard limit allows. Raises OSError naming the limit when not even
    one connection for each is left.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted * servers + _RESERVED
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    each = (soft - _RESERVED) // servers
    if each < 1:
        raise OSError(
            f"this process may have {soft} files open (ulimit -n), which leaves no connection for each of {servers} "
            f"servers: raise the hard limit to {needed}, or lower engine.host.replicas"
        )
    return each
