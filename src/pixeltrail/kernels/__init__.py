"""Fast paths behind :mod:`pixeltrail.affinity`, each equal to the plain formula. Nobody else imports them.

``blocked`` is plain torch and runs on any device. A Triton kernel for CUDA tensors takes its place here: `propagate`
chooses by ``query.is_cuda``, and its arguments are all that such a kernel needs to know.
"""

from pixeltrail.kernels.blocked import propagate as propagate
from pixeltrail.kernels.blocked import window_scores as window_scores
