"""How :mod:`pixeltrail.affinity` is computed. Nobody else imports these modules.

``plain`` holds every weight and serves what is to be looked at; ``blocked`` is the hot path, in plain torch on any device.
A Triton kernel for CUDA tensors takes its place here, behind the same `propagate`, chosen by ``query.is_cuda``.
"""

from pixeltrail.kernels.blocked import propagate as propagate
from pixeltrail.kernels.blocked import window_scores as window_scores
from pixeltrail.kernels.plain import attend as attend
