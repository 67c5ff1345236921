"""The space: distributed's packaged configuration, with candidates for what cannot be guessed from type and default."""

from __future__ import annotations

from zebra.agent.adapters.dask import Dask
from zebra.params import Param

CIPHERS = "ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES128-GCM-SHA256"
OTHER_CIPHERS = "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES256-GCM-SHA384"

PARAMS = {
    "distributed.scheduler.locks.lease-timeout": Param("750ms", unit="s"),
    "distributed.comm.default-scheme": Param("ws"),
    "distributed.comm.compression": Param("zlib", "auto"),
    "distributed.worker.memory.spill-compression": Param("zlib", "false"),
    "distributed.comm.tls.ciphers": Param(CIPHERS, OTHER_CIPHERS),
    "distributed.comm.tls.min-version": Param(why="invalid under a maximum of 1.2, as the test of TLS has"),
    "distributed.comm.timeouts.connect": Param("10s", unit="s"),
    "distributed.comm.timeouts.tcp": Param("15s", unit="s"),
    "distributed.comm.retry.count": Param(0, 3),
    "distributed.worker.memory.max-spill": Param(why="a size or false"),
    "distributed.worker.multiprocessing-method": Param(why="only nannies read it, which start processes"),
    "distributed.version": Param(why="the version of the configuration's format"),
}
"""By key. A semaphore's lease of 30 s would need a test of a minute; connections are made at once or not at all."""


class Packaged(Dask):
    """The configuration as it is packaged, with these candidates."""


ADAPTER = Packaged(PARAMS)
