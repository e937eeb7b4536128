"""Digests of files that all ranks share: gigabytes of constants are read by all of them."""

from collections.abc import Sequence

from xfelmpi.core.file_digest import file_digest, known_digest
from xfelmpi.mpi.collectives import gather_objects


def digests_of(comm, paths: Sequence[str]) -> dict[str, str | None]:
    """Return the sha256 of files by path, None where there is none, on all ranks; collective.

    What any rank has worked out before is not read again.

    Parameters
    ----------
    comm : Intracomm
    paths : sequence of str
        The same ones on all ranks.
    """
    known = [(path, digest) for path in paths if (digest := known_digest(path))]
    found: dict[str, str | None] = dict(comm.bcast(gather_objects(comm, known)))
    new = [path for path in dict.fromkeys(paths) if path not in found]
    own = [(path, file_digest(path)) for path in new[comm.rank :: comm.size]]
    return found | dict(comm.bcast(gather_objects(comm, own)))
